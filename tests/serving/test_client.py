"""The typed client against a real Triton, and against answers that no healthy server gives."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

import serving.client
from contracts.errors import Overloaded, ShapeError, UpstreamError, UpstreamTimeout
from contracts.tensors import MODELS, RANKER, USER_TOWER
from serving.client import BlockingTritonClient, TritonClient, build_request, parse_response

from .conftest import toy_answer, toy_inputs, write_version

PATIENT_S = 20.0


def good_response(rows: int = 1) -> service_pb2.ModelInferResponse:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="user_vector", datatype="FP32", shape=[rows, 64])
    response.raw_output_contents.append(np.full((rows, 64), 0.125, np.float32).tobytes())
    return response


@asynccontextmanager
async def fake_server(answer: Callable) -> AsyncIterator[str]:
    """A gRPC server whose ModelInfer is `answer(request, context)`."""

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        async def ModelInfer(self, request, context):  # noqa: N802 - gRPC's name
            return await answer(request, context)

    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("rows", [1, 7, 256])
async def test_infer_gives_what_the_model_computes(triton, spec, rows):
    inputs = toy_inputs(spec, rows)
    async with TritonClient(triton.url, PATIENT_S) as client:
        answer = await client.infer(spec, inputs, "1")
    np.testing.assert_allclose(answer[spec.outputs[0].name], toy_answer(spec, inputs), atol=1e-5)


async def test_one_call_ranks_512_candidates_of_one_customer(triton):
    """The customer's own tensors are one row repeated, not copied before they are sent."""
    inputs = toy_inputs(RANKER, 512)
    for name in ("user_vector", "features"):
        inputs[name] = np.broadcast_to(inputs[name][:1], inputs[name].shape)
    async with TritonClient(triton.url, PATIENT_S) as client:
        answer = await client.infer(RANKER, inputs, "1")
        with pytest.raises(ShapeError, match="513 rows"):
            await client.infer(RANKER, toy_inputs(RANKER, 513), "1")
    np.testing.assert_allclose(answer["logits"], toy_answer(RANKER, inputs), atol=1e-5)


async def test_infer_asks_the_named_version_and_the_newest_without_a_name(triton):
    inputs = toy_inputs(USER_TOWER, 2)
    async with TritonClient(triton.url, PATIENT_S) as client:
        for version, scale in (("1", 1.0), ("2", 2.0), ("", 2.0)):
            answer = await client.infer(USER_TOWER, inputs, version)
            np.testing.assert_allclose(answer["user_vector"], toy_answer(USER_TOWER, inputs, scale), atol=1e-5)


async def test_requests_batched_together_get_their_own_answers(triton):
    async with TritonClient(triton.url, PATIENT_S) as client:
        many = [toy_inputs(USER_TOWER, 1 + seed % 3, seed) for seed in range(40)]
        answers = await asyncio.gather(*(client.infer(USER_TOWER, inputs, "1") for inputs in many))
    for inputs, answer in zip(many, answers, strict=True):
        np.testing.assert_allclose(answer["user_vector"], toy_answer(USER_TOWER, inputs), atol=1e-5)


async def test_readiness_and_server_id(triton):
    async with TritonClient(triton.url, PATIENT_S) as client:
        assert await client.ready()
        assert await client.ready("user_tower", "2")
        assert not await client.ready("user_tower", "3")
        assert await client.server_id() == triton.server_id
    with BlockingTritonClient(triton.url, PATIENT_S) as blocking:
        assert blocking.ready("item_tower", "1")
        assert not blocking.ready("churn")


async def test_an_unknown_version_or_model_is_an_upstream_error(triton):
    async with TritonClient(triton.url, PATIENT_S) as client:
        with pytest.raises(UpstreamError, match="version 9"):
            await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1), "9")
        with pytest.raises(UpstreamError, match="load of churn"):
            await client.load("churn")
    with BlockingTritonClient(triton.url, PATIENT_S) as blocking, pytest.raises(UpstreamError, match="version 9"):
        blocking.infer(USER_TOWER, toy_inputs(USER_TOWER, 1), "9")


def _wrong_inputs() -> dict[str, dict[str, np.ndarray]]:
    good = toy_inputs(USER_TOWER, 2)
    return {
        "missing": {k: v for k, v in good.items() if k != "features"},
        "unknown": {**good, "more": good["features"]},
        "dtype": {**good, "features": good["features"].astype(np.float64)},
        "shape": {**good, "features": good["features"][:, :43]},
        "rows": {**good, "features": good["features"][:1]},
        "empty": {k: v[:0] for k, v in good.items()},
        "too many": toy_inputs(USER_TOWER, USER_TOWER.max_batch_size + 1),
    }


@pytest.mark.parametrize("name", _wrong_inputs())
async def test_wrong_inputs_are_refused_before_anything_is_sent(name):
    with pytest.raises(ShapeError):
        await TritonClient("127.0.0.1:1").infer(USER_TOWER, _wrong_inputs()[name])


async def test_the_server_refuses_a_wrong_shape_with_a_message(triton):
    """What the client's own check would have caught: the server's config holds too."""
    request, _ = build_request(USER_TOWER, toy_inputs(USER_TOWER, 1), "1")
    request.inputs[2].shape[1] = 43
    request.raw_input_contents[2] = request.raw_input_contents[2][: 43 * 4]
    async with grpc.aio.insecure_channel(triton.url) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="unexpected shape"):
            await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENT_S)


async def test_no_answer_within_the_deadline_is_a_timeout():
    async def never(request, context):
        await asyncio.sleep(60)

    async with fake_server(never) as url, TritonClient(url, deadline_s=0.2) as client:
        with pytest.raises(UpstreamTimeout, match="200 ms"):
            await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1))


async def test_a_server_that_is_away_is_an_upstream_error_at_once(free_port):
    async with TritonClient(f"127.0.0.1:{free_port()}", deadline_s=PATIENT_S) as client:
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1))
        assert not await client.ready()
    with BlockingTritonClient(f"127.0.0.1:{free_port()}") as blocking:
        assert not blocking.ready()


async def test_a_broken_connection_is_tried_once_more():
    calls = []

    async def second_time(request, context):
        calls.append(request.model_name)
        if len(calls) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return good_response()

    async with fake_server(second_time) as url, TritonClient(url, PATIENT_S) as client:
        assert (await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1)))["user_vector"].shape == (1, 64)
    assert len(calls) == 2


@pytest.mark.parametrize(("pause_s", "tries"), [(0.0, 2), (2 * PATIENT_S, 1)])
async def test_a_second_try_is_the_last_and_only_where_the_deadline_allows_it(monkeypatch, pause_s, tries):
    calls = []
    monkeypatch.setattr(serving.client, "RETRY_PAUSE_S", pause_s)

    async def away(request, context):
        calls.append(1)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async with fake_server(away) as url, TritonClient(url, PATIENT_S) as client:
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1))
    assert len(calls) == tries


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
async def test_a_full_queue_is_overload_and_is_not_tried_again(code):
    calls = []

    async def full(request, context):
        calls.append(1)
        await context.abort(code, "Exceeds maximum queue size")

    async with fake_server(full) as url, TritonClient(url, PATIENT_S) as client:
        with pytest.raises(Overloaded) as caught:
            await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1))
    assert caught.value.retry_after_s >= 1
    assert len(calls) == 1


def _wrong_responses() -> dict[str, service_pb2.ModelInferResponse]:
    wrong = {
        n: good_response() for n in ("numpy 2: empty bytes", "empty shape", "no contents", "no output", "dtype", "rows", "not a number")
    }
    wrong["numpy 2: empty bytes"].raw_output_contents[0] = b""
    wrong["empty shape"].outputs[0].shape[1] = 0
    wrong["no contents"].ClearField("raw_output_contents")
    wrong["no output"].outputs[0].name = "other"
    wrong["dtype"].outputs[0].datatype = "FP16"
    wrong["rows"].outputs[0].shape[0] = 2
    wrong["not a number"].raw_output_contents[0] = np.full(64, np.nan, np.float32).tobytes()
    return wrong


@pytest.mark.parametrize("name", _wrong_responses())
async def test_a_wrong_answer_is_an_upstream_error_not_a_vector(name):
    """READY servers gave each of these; under NumPy 2 the stub's outputs are silently empty."""

    async def answer(request, context):
        return _wrong_responses()[name]

    async with fake_server(answer) as url, TritonClient(url, PATIENT_S) as client:
        with pytest.raises(UpstreamError, match="user_vector"):
            await client.infer(USER_TOWER, toy_inputs(USER_TOWER, 1))


def test_a_right_answer_passes_the_same_check():
    assert parse_response(USER_TOWER, good_response(3), 3)["user_vector"].shape == (3, 64)


async def test_the_next_version_loads_while_this_one_answers(triton):
    """No request of version 1 may fail while the model is loaded again."""
    inputs = toy_inputs(USER_TOWER, 1)
    loaded = asyncio.Event()

    async def ask(client: TritonClient) -> int:
        count = 0
        while not loaded.is_set():
            answer = await client.infer(USER_TOWER, inputs, "1")
            np.testing.assert_allclose(answer["user_vector"], toy_answer(USER_TOWER, inputs), atol=1e-5)
            count += 1
        return count

    async with TritonClient(triton.url, PATIENT_S) as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(2)]
        await asyncio.to_thread(write_version, triton.repository, "3", 3.0)
        await client.load("user_tower")
        answer = await client.infer(USER_TOWER, inputs, "3")
        loaded.set()
        assert min(await asyncio.gather(*asking)) > 0
        np.testing.assert_allclose(answer["user_vector"], toy_answer(USER_TOWER, inputs, 3.0), atol=1e-5)
        await client.unload("item_tower")
        assert not await client.ready("item_tower", "1")
        await client.load("item_tower")
        assert await client.ready("item_tower", "1")


def test_the_client_does_not_import_torch():
    code = "import sys, serving.client, serving.triton, serving.repository; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
