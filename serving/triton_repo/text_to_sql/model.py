"""The Python model `text_to_sql`: Triton's tensors in, `nlq.served.ServedDecoder` asked, tensors out.

It runs in the model server's own environment (NumPy 1, ONNX Runtime), with `nlq` and `contracts` from the folder REGULARS_CODE, which our
launcher (serving/triton.py) and Dockerfile.gpu set to the checkout; PYTHONPATH does not reach this interpreter, Triton embeds it isolated.
A request that is wrong, or fails, gets an error of its own; the model stays.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

sys.path.append(os.environ["REGULARS_CODE"])  # last, so that it hides none of the server's own packages

from contracts.errors import ContractError
from nlq.served import ServedDecoder


class TritonPythonModel:
    """One instance: one process, one question at a time."""

    def initialize(self, args):
        threads = json.loads(args["model_config"])["parameters"]["intra_op_thread_count"]["string_value"]
        self.decoder = ServedDecoder(Path(args["model_repository"]) / args["model_version"], int(threads))

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        if request.is_cancelled():  # its caller has given up while it waited: work on those that still do
            return _error("the caller gave up before it was this question's turn", pb.TritonError.CANCELLED)
        try:
            ids, mask, slots, width = (pb.get_input_tensor_by_name(request, name).as_numpy() for name in ("ids", "mask", "slots", "width"))
            programs, scores = self.decoder.answer(ids, mask, slots[0].decode("utf-8"), int(width[0]))
        except (ContractError, UnicodeDecodeError) as exc:
            return _error(str(exc), pb.TritonError.INVALID_ARG)
        except Exception as exc:  # whatever it is, it is this request's
            return _error(f"decoding failed: {type(exc).__name__}: {exc}", pb.TritonError.INTERNAL)
        return pb.InferenceResponse([pb.Tensor("programs", np.array(programs, np.object_)), pb.Tensor("scores", scores)])

    def finalize(self):
        self.decoder = None


def _error(message, code):
    return pb.InferenceResponse(error=pb.TritonError(message, code))
