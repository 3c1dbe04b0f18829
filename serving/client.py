"""The typed clients of the model server: async gRPC on the request path, and a blocking one for whoever starts and checks the server.

Requests are built straight from Triton's protobuf classes with raw contents (7 µs for one row); every array is checked against
its TensorSpec on the way out and on the way back, because a server that is READY can still answer with empty tensors (its Python stub
under NumPy 2 does).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contracts.errors import Overloaded, ShapeError, StackError, UpstreamError, UpstreamTimeout
from contracts.tensors import ModelSpec, TensorSpec

MAX_MESSAGE_BYTES = 64 * 2**20
RETRY_PAUSE_S = 0.01
LOAD_DEADLINE_S = 60.0

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A restarted server is found again within a quarter of a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),  # in truth the limit of one connection attempt: a busy server needs its time
    ("grpc.max_reconnect_backoff_ms", 250),
    # Two servers of one process's life may share an address; without this a new channel would take over the old one's broken connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


def build_request(spec: ModelSpec, inputs: Mapping[str, np.ndarray], version: str = "") -> tuple[service_pb2.ModelInferRequest, int]:
    """The protobuf of one inference request and its batch size.

    Args:
        spec: the model and its tensors.
        inputs: one array (B, *shape) for each input of the spec, by name.
        version: the version to ask; empty for the server's choice (the newest).

    Raises:
        ShapeError: a name is missing or unknown, a shape or dtype is wrong, or B is not 1..max_batch_size.
    """
    if inputs.keys() != {t.name for t in spec.inputs}:
        raise ShapeError(f"{spec.name} was given {sorted(inputs)}, must be {[t.name for t in spec.inputs]}. Send every input by its name")
    request = service_pb2.ModelInferRequest(model_name=spec.name, model_version=version)
    rows = -1
    for tensor in spec.inputs:
        array = inputs[tensor.name]
        tensor.check(array)
        if rows not in (-1, array.shape[0]):
            raise ShapeError(f"{spec.name}: {tensor.name} has {array.shape[0]} rows, other inputs have {rows}. Send as many rows in each")
        rows = array.shape[0]
        request.inputs.add(name=tensor.name, datatype=tensor.triton_dtype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    if not 1 <= rows <= spec.max_batch_size:
        raise ShapeError(f"{spec.name} was given {rows} rows, must be 1 to {spec.max_batch_size}. Split the batch")
    return request, rows


def parse_response(spec: ModelSpec, response: service_pb2.ModelInferResponse, rows: int) -> dict[str, np.ndarray]:
    """The outputs by name, each (rows, *shape) of its spec's dtype; read-only views of the message.

    Raises:
        UpstreamError: an output is missing, empty, of another shape or type, or not finite.
    """
    raw = {o.name: (o, c) for o, c in zip(response.outputs, response.raw_output_contents, strict=False)}
    return {t.name: _parse_output(spec, t, raw.get(t.name), rows) for t in spec.outputs}


def _parse_output(spec: ModelSpec, tensor: TensorSpec, found: tuple[Any, bytes] | None, rows: int) -> np.ndarray:
    if found is None:
        raise UpstreamError(f"{spec.name} answered without {tensor.name}. Compare its config.pbtxt with contracts/tensors.py")
    output, content = found
    found_shape = tuple(output.shape)
    shape = found_shape if found_shape[:1] == (rows,) and tensor.fits(found_shape[1:]) else (rows, *tensor.shape)
    dtype = np.dtype(tensor.dtype)
    expected = abs(int(np.prod(shape))) * dtype.itemsize
    if output.datatype != tensor.triton_dtype or found_shape != shape or len(content) != expected:
        raise UpstreamError(
            f"{spec.name} answered {tensor.name} as {output.datatype} {tuple(output.shape)} of {len(content)} bytes, must be "
            f"{tensor.triton_dtype} {shape} of {expected} bytes. An empty one means NumPy 2 in the model server's environment: make setup"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise UpstreamError(f"{spec.name} answered {tensor.name} with values that are not finite. Export it again: regulars export")
    return array


def to_stack_error(exc: grpc.RpcError, what: str, deadline_s: float) -> StackError:
    """Our error for a failed gRPC call: deadline, full queue, or anything else that is the server's."""
    code, details = exc.code(), exc.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UpstreamTimeout(f"the model server gave no answer to {what} within {deadline_s * 1000:.0f} ms. Try again")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or "maximum queue size" in details:
        return Overloaded(f"the model server's queue is full ({what}: {details}). Try again in a second")
    if code is grpc.StatusCode.UNAVAILABLE:
        return UpstreamError(f"the model server cannot be reached for {what} ({details}). It is restarted when it died; try again")
    return UpstreamError(f"the model server refused {what}: {code.name}: {details}. Compare the loaded models with the deployed version")


def _may_retry(exc: grpc.RpcError) -> bool:
    """Only a connection that was refused or broke; a full queue would only get fuller."""
    return exc.code() is grpc.StatusCode.UNAVAILABLE and "maximum queue size" not in (exc.details() or "")


class TritonClient:
    """Async client for one model server.

    Inference has no side effect, so a request whose connection was refused or broke is sent once more while its deadline allows.
    Use it from one event loop; the connection is opened by the first call.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        deadline_s: longest time one inference may take, retry included.
    """

    def __init__(self, url: str, deadline_s: float = 0.2) -> None:
        self.url = url
        self.deadline_s = deadline_s
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def infer(
        self, spec: ModelSpec, inputs: Mapping[str, np.ndarray], version: str = "", deadline_s: float | None = None
    ) -> dict[str, np.ndarray]:
        """Run one batch of 1..max_batch_size rows.

        Returns:
            each output by name, (B, *shape); read-only.

        Raises:
            ShapeError: the inputs are not what the spec says; nothing was sent.
            UpstreamTimeout: no answer within the deadline.
            Overloaded: the server's queue is full.
            UpstreamError: the server is away, refused the request, or its answer is not what the spec says.
        """
        request, rows = build_request(spec, inputs, version)
        limit = self.deadline_s if deadline_s is None else deadline_s
        started = time.monotonic()
        try:
            response = await self._service().ModelInfer(request, timeout=limit)
        except grpc.aio.AioRpcError as exc:
            response = await self._once_more(request, exc, started, limit)
        return parse_response(spec, response, rows)

    async def _once_more(self, request: Any, failed: grpc.aio.AioRpcError, started: float, limit: float) -> Any:
        what = f"{request.model_name} version {request.model_version or 'newest'}"
        left = limit - (time.monotonic() - started) - RETRY_PAUSE_S
        if not _may_retry(failed) or left <= 0:
            raise to_stack_error(failed, what, limit) from failed
        await asyncio.sleep(RETRY_PAUSE_S)
        try:
            return await self._service().ModelInfer(request, timeout=left)
        except grpc.aio.AioRpcError as exc:
            raise to_stack_error(exc, what, limit) from exc

    async def load(self, model: str, deadline_s: float = LOAD_DEADLINE_S) -> None:
        """Load a model's versions from the repository; versions already loaded go on answering meanwhile.

        Raises:
            UpstreamError: the server is away or could not load it.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._call("RepositoryModelLoad", request, f"load of {model}", deadline_s)

    async def unload(self, model: str, deadline_s: float = LOAD_DEADLINE_S) -> None:
        """Unload every version of a model.

        Raises:
            UpstreamError: the server is away or refused.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._call("RepositoryModelUnload", request, f"unload of {model}", deadline_s)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server (or one model, or one version of it) says it is ready; False as well where it cannot be reached."""
        name, request = _ready_request(model, version)
        try:
            return bool((await self._call(name, request, "readiness", self.deadline_s)).ready)
        except UpstreamError:
            return False

    async def server_id(self) -> str:
        """The `--id` that the server was started with.

        Raises:
            UpstreamError: the server is away.
        """
        return str((await self._call("ServerMetadata", service_pb2.ServerMetadataRequest(), "server id", self.deadline_s)).name)

    async def close(self) -> None:
        """Close the connection; the next call opens another."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def _call(self, method: str, request: Any, what: str, deadline_s: float) -> Any:
        try:
            return await getattr(self._service(), method)(request, timeout=deadline_s)
        except grpc.aio.AioRpcError as exc:
            raise to_stack_error(exc, what, deadline_s) from exc

    def _service(self) -> Any:
        if self._stub is None:
            self._channel = grpc.aio.insecure_channel(self.url, options=CHANNEL_OPTIONS)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._stub

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def _ready_request(model: str, version: str) -> tuple[str, Any]:
    if model:
        return "ModelReady", service_pb2.ModelReadyRequest(name=model, version=version)
    return "ServerReady", service_pb2.ServerReadyRequest()


class BlockingTritonClient:
    """The same calls without an event loop, for the launcher, the exporter and tests. Never retries.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        deadline_s: longest time one call may take.
    """

    def __init__(self, url: str, deadline_s: float = 2.0) -> None:
        self.url = url
        self.deadline_s = deadline_s
        self._channel = grpc.insecure_channel(url, options=CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, spec: ModelSpec, inputs: Mapping[str, np.ndarray], version: str = "") -> dict[str, np.ndarray]:
        """See TritonClient.infer."""
        request, rows = build_request(spec, inputs, version)
        return parse_response(spec, self._call("ModelInfer", request, f"{spec.name} version {version or 'newest'}"), rows)

    def infer_all(self, spec: ModelSpec, batches: Sequence[Mapping[str, np.ndarray]], version: str = "") -> list[dict[str, np.ndarray]]:
        """`infer` of several batches that are sent at once, answers in their order; the deadline is for all of them together.

        Raises:
            as `infer`, of the first that failed; the others are given up.
        """
        requests = [build_request(spec, inputs, version) for inputs in batches]
        until = time.monotonic() + self.deadline_s
        calls = [(self._stub.ModelInfer.future(request, timeout=self.deadline_s), rows) for request, rows in requests]
        try:
            return [parse_response(spec, call.result(timeout=max(0.0, until - time.monotonic()) + 1), rows) for call, rows in calls]
        except (grpc.RpcError, grpc.FutureTimeoutError) as exc:
            what = f"{spec.name} version {version or 'newest'}"
            if isinstance(exc, grpc.RpcError):
                raise to_stack_error(exc, what, self.deadline_s) from exc
            raise UpstreamTimeout(f"the model server gave no answer to {what} within {self.deadline_s * 1000:.0f} ms. Try again") from exc
        finally:
            for call, _ in calls:
                call.cancel()

    def send(self, request: service_pb2.ModelInferRequest, what: str) -> service_pb2.ModelInferResponse:
        """One inference of a model whose tensors are not a ModelSpec's: built and read by the caller. Raises as `infer` does."""
        return self._call("ModelInfer", request, what)

    def parameter(self, model: str, name: str, version: str = "") -> str:
        """A parameter of a loaded model's config; empty where it has none of that name.

        Raises:
            UpstreamError: the server is away, or has no such model.
        """
        request = service_pb2.ModelConfigRequest(name=model, version=version)
        parameters = self._call("ModelConfig", request, f"config of {model}").config.parameters
        return str(parameters[name].string_value) if name in parameters else ""

    def load(self, model: str) -> None:
        """See TritonClient.load."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        self._call("RepositoryModelLoad", request, f"load of {model}", LOAD_DEADLINE_S)

    def unload(self, model: str) -> None:
        """See TritonClient.unload."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._call("RepositoryModelUnload", request, f"unload of {model}", LOAD_DEADLINE_S)

    def ready(self, model: str = "", version: str = "") -> bool:
        """See TritonClient.ready."""
        name, request = _ready_request(model, version)
        try:
            return bool(self._call(name, request, "readiness").ready)
        except UpstreamError:
            return False

    def server_id(self) -> str:
        """See TritonClient.server_id."""
        return str(self._call("ServerMetadata", service_pb2.ServerMetadataRequest(), "server id").name)

    def close(self) -> None:
        """Close the connection for good."""
        self._channel.close()

    def _call(self, method: str, request: Any, what: str, deadline_s: float | None = None) -> Any:
        limit = self.deadline_s if deadline_s is None else deadline_s
        try:
            return getattr(self._stub, method)(request, timeout=limit)
        except grpc.RpcError as exc:
            raise to_stack_error(exc, what, limit) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
