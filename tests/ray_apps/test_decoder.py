"""The client of text_to_sql against a server that answers what it is told to; tests/serving/test_text_to_sql.py asks the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contracts.errors import ArtifactError, ContractError, Overloaded, UpstreamError, UpstreamTimeout
from nlq.decode import Hypothesis
from nlq.program import Slots
from nlq.served import read_slots
from nlq.translate import ARTIFACT, LocalDecoder
from ray_apps.decoder import TritonDecoder, open_decoder
from ray_apps.settings import ServeSettings
from ray_apps.tuning import QuestionSettings

IDS = np.array([[101, 7, 102]])
MASK = np.ones_like(IDS)
SLOTS = Slots(2, (frozenset({"customers.location"}),), 1, frozenset({0}))


class Server:
    """`answer(request, context)` is called for each inference; `url` is where."""

    def __init__(self) -> None:
        self.answer: Callable = lambda request, context: good()
        self.requests: list[service_pb2.ModelInferRequest] = []
        outer = self

        class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
            def ModelInfer(self, request, context):  # noqa: N802 - gRPC's name
                outer.requests.append(request)
                return outer.answer(request, context)

        self._threads = ThreadPoolExecutor(4)
        self._server = grpc.server(self._threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._threads.shutdown()


def packed(*texts: bytes) -> bytes:
    return b"".join(len(t).to_bytes(4, "little") + t for t in texts)


def good() -> service_pb2.ModelInferResponse:
    return response(
        programs=packed(b"list customers end", b"refuse end"), scores=np.array([[-1, -2, 0.5], [-3, -4, 0.25]], np.float32).tobytes()
    )


def response(**outputs: bytes) -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse()
    for name, content in outputs.items():
        made.outputs.add(name=name)
        made.raw_output_contents.append(content)
    return made


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def decoder(server: Server) -> Iterator[TritonDecoder]:
    decoder = TritonDecoder(server.url, 10.0, at_once=1, version="3")
    yield decoder
    decoder.close()


def test_a_request_holds_the_question_and_the_answer_becomes_hypotheses(server, decoder):
    found = decoder.decode(IDS, MASK, SLOTS, 5)
    assert found == [Hypothesis(("list", "customers", "end"), -1, -2, 0.5), Hypothesis(("refuse", "end"), -3, -4, 0.25)]
    (request,) = server.requests
    assert (request.model_name, request.model_version) == ("text_to_sql", "3")
    sent = {i.name: (i.datatype, list(i.shape), raw) for i, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
    assert sent["ids"] == ("INT64", [3], IDS.tobytes())
    assert sent["mask"] == ("INT64", [3], MASK.tobytes())
    assert sent["width"] == ("INT32", [1], np.array([5], np.int32).tobytes())
    assert sent["slots"][:2] == ("BYTES", [1])
    assert read_slots(sent["slots"][2][4:].decode()) == SLOTS


def test_a_question_that_cannot_be_decoded_is_not_sent(server, decoder):
    with pytest.raises(ContractError, match="width is 0"):
        decoder.decode(IDS, MASK, SLOTS, 0)
    assert server.requests == []


def test_a_slow_server_is_waited_for_until_the_deadline(server):
    done = threading.Event()
    server.answer = lambda request, context: (done.wait(20), good())[1]
    decoder = TritonDecoder(server.url, 0.2)
    try:
        with pytest.raises(UpstreamTimeout, match="text_to_sql version newest within 200 ms"):
            decoder.decode(IDS, MASK, SLOTS, 4)
    finally:
        done.set()
        decoder.close()


def test_more_questions_than_allowed_at_once_are_refused_and_the_next_is_answered(server, decoder):
    began, done = threading.Event(), threading.Event()
    server.answer = lambda request, context: (began.set(), done.wait(20), good())[2]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(decoder.decode, IDS, MASK, SLOTS, 4)
        assert began.wait(20)
        with pytest.raises(Overloaded, match="at most 1 are allowed"):
            decoder.decode(IDS, MASK, SLOTS, 4)
        done.set()
        assert len(first.result()) == 2
    assert len(decoder.decode(IDS, MASK, SLOTS, 4)) == 2


def test_a_refusal_of_the_server_is_told_and_frees_the_place(server, decoder):
    server.answer = lambda request, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "slots names customers.hat")
    for _ in range(2):
        with pytest.raises(UpstreamError, match=r"customers\.hat"):
            decoder.decode(IDS, MASK, SLOTS, 4)


def test_a_server_that_is_away_is_an_upstream_error(server, decoder):
    server.stop()
    with pytest.raises(UpstreamError, match="cannot be reached"):
        decoder.decode(IDS, MASK, SLOTS, 4)
    assert not decoder.ready()


SCORES = np.zeros((1, 3), np.float32).tobytes()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"programs": packed(b"refuse end")}, "in another form"),
        ({"programs": packed(b"refuse end")[:2], "scores": SCORES}, "in another form"),
        ({"programs": packed(b"\xff"), "scores": SCORES}, "in another form"),
        ({"programs": packed(b"refuse end"), "scores": SCORES[:8]}, "in another form"),
        ({"programs": packed(b"refuse end"), "scores": b""}, "N >= 1 finite rows"),
        ({"programs": b"", "scores": b""}, "NumPy 2"),
    ],
)
def test_an_answer_of_another_form_is_refused(server, decoder, outputs, message):
    server.answer = lambda request, context: response(**outputs)
    with pytest.raises(UpstreamError, match=message):
        decoder.decode(IDS, MASK, SLOTS, 4)


def test_without_a_model_nothing_is_opened(tmp_path):
    with pytest.raises(ArtifactError, match=r"model\.json"):
        open_decoder(ServeSettings(home=tmp_path), QuestionSettings(), tmp_path)


@pytest.mark.skipif(not (ARTIFACT / "model.json").is_file(), reason="no nlq/artifact: regulars train text-to-sql")
def test_without_a_model_server_questions_are_decoded_here(tmp_path, server):
    server.stop()
    for url in (None, server.url):
        found = open_decoder(ServeSettings(home=tmp_path, triton_url=url), QuestionSettings(), ARTIFACT)
        assert isinstance(found, LocalDecoder)
