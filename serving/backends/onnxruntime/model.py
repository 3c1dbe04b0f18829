"""Triton *Python-based backend* that stands in for libtriton_onnxruntime.so, which the PyPI build of Triton does not carry.

It lies in `<backend directory>/onnxruntime/model.py`, so a model whose config.pbtxt says `backend: "onnxruntime"` and whose version
folder holds model.onnx is served unchanged; in the official container the C++ backend of the same name takes its place.

It runs in the model server's own environment (NumPy 1, ONNX Runtime), never in ours: nothing of the project is imported here.

- The requests of one dynamic batch become one `session.run`; when that fails, each is run alone, so one bad request fails alone.
- `model_warmup` of the config is not Triton's affair for Python backends: one run of one row and one of a full batch happen at load.
- Threads: parameter `intra_op_thread_count`; the environment variable REGULARS_TRITON_INSTANCE_THREADS (set by our launcher) wins.
"""

import json
import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb

DEFAULT_FILE = "model.onnx"
FREE_SIZE = 64
"""What a size that a request chooses (-1 in config.pbtxt) is in the warm-up: pictures are sent in multiples of 32."""


def _threads(config):
    parameter = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "1")
    return int(os.environ.get("REGULARS_TRITON_INSTANCE_THREADS", "") or parameter)


def _providers(kind, device):
    """CPU always; CUDA before it for a GPU instance, or for one of no given kind, where this ONNX Runtime can."""
    providers = ["CPUExecutionProvider"]
    if kind != "CPU" and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": max(0, int(device or 0))}))
    return providers


class TritonPythonModel:
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        name = config.get("default_model_filename") or DEFAULT_FILE
        if name == "model.py":  # Triton fills this in for Python-based backends
            name = DEFAULT_FILE
        path = os.path.join(args["model_repository"], args["model_version"], name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = _threads(config)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a spinning pool starves its neighbours on few cores
        self.session = ort.InferenceSession(path, options, providers=_providers(args["model_instance_kind"], args["model_instance_device_id"]))
        self.inputs = [i["name"] for i in config["input"]]
        self.outputs = [o["name"] for o in config["output"]]
        self.dtypes = [pb.triton_string_to_numpy(o["data_type"]) for o in config["output"]]
        self.max_batch_size = int(config["max_batch_size"])
        self._check_names(path)
        self._warm_up(config)

    def _check_names(self, path):
        inputs = {i.name for i in self.session.get_inputs()}
        outputs = {o.name for o in self.session.get_outputs()}
        if inputs != set(self.inputs) or not set(self.outputs) <= outputs:
            raise ValueError(
                f"{path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}, config.pbtxt says {sorted(self.inputs)} and "
                f"{sorted(self.outputs)}. Export the model again with the names of contracts/tensors.py"
            )

    def _warm_up(self, config):
        """The first run of a shape allocates; pay for it at load, not in a customer's request."""
        fixed = {i.name: i.shape for i in self.session.get_inputs()}  # a size that the configuration leaves open, the graph may not
        for rows in sorted({1, max(1, self.max_batch_size)}):
            head = [rows] if self.max_batch_size > 0 else []
            feed = {}
            for i in config["input"]:
                graph = fixed[i["name"]][len(head) :]
                sizes = [int(d) if int(d) > 0 else g if isinstance(g, int) and g > 0 else FREE_SIZE for d, g in zip(i["dims"], graph)]
                feed[i["name"]] = np.zeros(head + sizes, dtype=pb.triton_string_to_numpy(i["data_type"]))
            self.session.run(self.outputs, feed)

    def _run(self, arrays):
        results = self.session.run(self.outputs, dict(zip(self.inputs, arrays)))
        return [np.ascontiguousarray(r, dtype=t) for r, t in zip(results, self.dtypes)]

    def _alone(self, arrays):
        try:
            return self._response(self._run(arrays))
        except Exception as exc:  # the request's own error goes back to its sender; the server stays up
            return pb.InferenceResponse(error=pb.TritonError(str(exc)))

    def _response(self, results):
        return pb.InferenceResponse([pb.Tensor(n, r) for n, r in zip(self.outputs, results)])

    def execute(self, requests):
        arrays = [[pb.get_input_tensor_by_name(r, n).as_numpy() for n in self.inputs] for r in requests]
        if len(requests) == 1 or self.max_batch_size == 0:
            return [self._alone(a) for a in arrays]
        try:
            together = self._run([np.concatenate(column) for column in zip(*arrays)])
        except Exception:  # find out which of them it was
            return [self._alone(a) for a in arrays]
        cuts = np.cumsum([a[0].shape[0] for a in arrays])[:-1]
        return [self._response(parts) for parts in zip(*[np.split(r, cuts) for r in together])]

    def finalize(self):
        self.session = None
