"""The decoding loop of plain-English questions, run by the model server: one request a question, no hop per token."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from contracts.errors import Overloaded, UpstreamError
from contracts.questions import INPUTS, SCORES, TENSORS, TEXT_TO_SQL, fingerprint
from nlq.decode import Hypothesis
from nlq.program import Slots
from nlq.served import check_question, from_outputs, written
from nlq.translate import Decoder, LocalDecoder, Model
from ray_apps.networks import Served, remote_or_local
from ray_apps.settings import ServeSettings
from ray_apps.tuning import QuestionSettings
from serving import repository

_LENGTH = struct.Struct("<I")  # Triton's BYTES: each element after its length


def open_decoder(settings: ServeSettings, tuning: QuestionSettings, folder: Path) -> Decoder:
    """The model server's decoder of a model folder, loaded there when it is not yet; one in this process when that cannot be had.

    So a model trained in a running stack's home is served from the next look on, and a model server of somebody else, whose
    repository is not ours, costs only speed.

    Raises:
        ArtifactError: the folder holds no model, or a damaged one.
    """
    wanted = fingerprint(Model.read(folder).sha256)
    if not settings.triton_url:
        return LocalDecoder(folder)
    remote = TritonDecoder(settings.triton_url, tuning.decode_deadline_s, tuning.threads)
    return remote_or_local(
        remote, partial(LocalDecoder, folder), wanted, partial(repository.build_questions, folder), settings.folder.triton_repo,
        "questions are decoded",
    )  # fmt: skip


class TritonDecoder:
    """`nlq.translate.Decoder` behind gRPC. Safe from several threads.

    Nothing is sent again: who asks may, and a decoding that took too long would only take longer beside its own repetition.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        deadline_s: longest time one question may take, waiting for the model's other questions included.
        at_once: questions under way from here, those that wait in the server included; more are refused.
        version: the version to ask; empty for the one that is served.
    """

    def __init__(self, url: str, deadline_s: float = 5.0, at_once: int = 16, version: str = "") -> None:
        self.served = Served(url, deadline_s, (TEXT_TO_SQL,), version)
        self._client = self.served.client
        self._version, self._at_once = version, at_once
        self._free = threading.BoundedSemaphore(at_once)

    def decode(self, ids: np.ndarray, mask: np.ndarray, slots: Slots, width: int) -> list[Hypothesis]:
        """The best programs, best first; at least one.

        Args:
            ids, mask: int64 (1, L).
            slots: what operands the question offers.
            width: beams.

        Raises:
            ContractError: the question cannot be decoded; nothing was sent.
            UpstreamTimeout: no answer within the deadline.
            Overloaded: `at_once` questions are under way.
            UpstreamError: the server is away, has no such model, refused, or answered something else.
        """
        check_question(ids[0], mask[0], width)
        request = _request(ids[0], mask[0], written(slots), width, self._version)
        if not self._free.acquire(blocking=False):
            raise Overloaded(f"{self._at_once} questions are being decoded, at most {self._at_once} are allowed. Try again in a second")
        try:
            response = self._client.send(request, f"{TEXT_TO_SQL} version {self._version or 'newest'}")
        finally:
            self._free.release()
        return _hypotheses(response)

    def ready(self) -> bool:
        """Whether the server has the model; False as well where it cannot be reached."""
        return self._client.ready(TEXT_TO_SQL, self._version)

    def close(self) -> None:
        """Close the connection for good."""
        self.served.close()


def _request(ids: np.ndarray, mask: np.ndarray, slots: str, width: int, version: str) -> service_pb2.ModelInferRequest:
    text = slots.encode()
    contents = {
        "ids": ids.astype(np.int64).tobytes(), "mask": mask.astype(np.int64).tobytes(), "slots": _LENGTH.pack(len(text)) + text,
        "width": np.array([width], np.int32).tobytes(),
    }  # fmt: skip
    request = service_pb2.ModelInferRequest(model_name=TEXT_TO_SQL, model_version=version)
    for name in INPUTS:
        dtype, shape = TENSORS[name]
        request.inputs.add(name=name, datatype="BYTES" if dtype == "STRING" else dtype, shape=[ids.size if d < 0 else d for d in shape])
        request.raw_input_contents.append(contents[name])
    return request


def _hypotheses(response: service_pb2.ModelInferResponse) -> list[Hypothesis]:
    raw = dict(zip((o.name for o in response.outputs), response.raw_output_contents, strict=False))
    try:
        programs = [text.decode() for text in _elements(raw["programs"])]
        scores = np.frombuffer(raw["scores"], np.float32).reshape(-1, len(SCORES))
    except (KeyError, ValueError, struct.error) as exc:
        raise UpstreamError(
            f"{TEXT_TO_SQL} answered {sorted(raw)} in another form than contracts/questions.py says ({exc}). "
            "Start the stack again: regulars serve"
        ) from exc
    return from_outputs(programs, scores)


def _elements(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size + length
        yield content[at - length : at]
