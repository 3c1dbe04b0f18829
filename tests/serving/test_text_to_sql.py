"""text_to_sql: its config, its place in the repository, and the decoding loop inside a real Triton against the same loop here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from contracts import questions
from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, UpstreamError
from contracts.paths import Home
from contracts.questions import INPUTS, TENSORS, TEXT_TO_SQL
from nlq.decode import Hypothesis
from nlq.program import Slots, parse
from nlq.served import written
from nlq.translate import ARTIFACT, LocalDecoder, Model
from ray_apps import decoder as over_grpc
from ray_apps.decoder import TritonDecoder, open_decoder
from ray_apps.settings import ServeSettings
from ray_apps.tuning import QuestionSettings
from serving.repository import TEMPLATES, build_questions, read_config, remove_questions, versions
from serving.triton import TritonServer, TritonSettings, models_in

from .toy_text_to_sql import toy_folder, toy_questions

PATIENT_S = 60.0
COUNT = 20
SLOTS = (
    Slots(),
    Slots(1, (frozenset({"customers.location"}),), 1, frozenset({0})),
    Slots(4, (frozenset({"products.category", "rewards.category"}), frozenset({"transactions.store"})), 3, frozenset({1, 2})),
)


def same(found: list[Hypothesis], wanted: list[Hypothesis], tolerance: float = 1e-4) -> bool:
    """Programs are equal; scores of two releases of ONNX Runtime differ in the last digits."""
    rows = [[(h.score, h.raw, h.least) for h in side] for side in (found, wanted)]
    return [h.program for h in found] == [h.program for h in wanted] and bool(np.allclose(*rows, atol=tolerance))


# --- config and repository ---


def test_the_committed_config_has_the_tensors_of_the_contract():
    config = read_config(TEMPLATES / TEXT_TO_SQL / "config.pbtxt")
    sides = {t.name: (t.data_type, tuple(t.dims)) for t in (*config.input, *config.output)}
    types = {"INT64": 9, "INT32": 8, "FP32": 11, "STRING": 13}  # of Triton's model_config.proto
    assert sides == {name: (types[dtype], shape) for name, (dtype, shape) in TENSORS.items()}
    assert [t.name for t in config.input] == list(INPUTS)
    assert (config.name, config.backend, config.max_batch_size) == (TEXT_TO_SQL, "python", 0)
    assert [g.kind for g in config.instance_group] == [2], "KIND_CPU"
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_build_places_one_version_with_its_program(tmp_path):
    root = tmp_path / "repo"
    made = build_questions(toy_folder(tmp_path / "a", "text-to-sql/3"), root, instances=2)
    assert made == root / TEXT_TO_SQL / "3"
    assert {f.name for f in made.iterdir()} == {"model.py", *questions.SERVED_FILES}
    assert read_config(root / TEXT_TO_SQL / "config.pbtxt").instance_group[0].count == 2
    assert models_in(root) == [TEXT_TO_SQL]
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    build_questions(tmp_path / "a", root, instances=2)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_build_is_independent_of_the_folder_it_was_made_from(tmp_path):
    """Training writes its folder in place."""
    folder = toy_folder(tmp_path / "a")
    made = build_questions(folder, tmp_path / "repo")
    content = (made / "step.onnx").read_bytes()
    with (folder / "step.onnx").open("r+b") as file:
        file.write(b"changed")
    assert (made / "step.onnx").read_bytes() == content


def test_build_replaces_what_was_there(tmp_path):
    root = tmp_path / "repo"
    build_questions(toy_folder(tmp_path / "a", "text-to-sql/2"), root)
    for name, version in (("b", 2), ("c", 1)):  # other content under the number, and an older number
        folder = toy_folder(tmp_path / name, f"text-to-sql/{version}", nudge=float(version))
        made = build_questions(folder, root)
        assert versions(root, TEXT_TO_SQL) == [version]
        assert (made / "step.onnx").read_bytes() == (folder / "step.onnx").read_bytes()
    (made / "model.py").write_text("an older program")
    build_questions(folder, root)
    assert (made / "model.py").read_bytes() == (TEMPLATES / TEXT_TO_SQL / "model.py").read_bytes()


def test_instances_follow_the_setting_and_the_cores(tmp_path, monkeypatch):
    folder = toy_folder(tmp_path / "a")
    for cores, variable, wanted in ((2, "", 1), (64, "", 8), (2, "3", 3)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setenv("REGULARS_REPOSITORY_QUESTION_INSTANCES", variable or "0")
        build_questions(folder, tmp_path / "repo")
        assert read_config(tmp_path / "repo" / TEXT_TO_SQL / "config.pbtxt").instance_group[0].count == wanted


def test_a_folder_that_is_not_as_its_record_says_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="cannot read the text-to-SQL model"):
        build_questions(tmp_path / "nothing", tmp_path / "repo")
    folder = toy_folder(tmp_path / "damaged")
    (folder / "encoder.onnx").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"encoder.onnx has another checksum"):
        build_questions(folder, tmp_path / "repo")
    for number, version in enumerate(("text-to-sql/0", "text-to-sql/01", "two-tower/1", "1", "text-to-sql/x")):
        with pytest.raises(ArtifactError, match="must be text-to-sql/N"):
            build_questions(toy_folder(tmp_path / str(number), version), tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_remove_takes_only_this_model_out(tmp_path):
    root = tmp_path / "repo"
    remove_questions(root)
    build_questions(toy_folder(tmp_path / "a"), root)
    (root / "ranker").mkdir()
    (root / "ranker" / "config.pbtxt").touch()
    remove_questions(root)
    assert models_in(root) == ["ranker"]


# --- a real Triton ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("questions") / "model")


@pytest.fixture(scope="module")
def server(folder: Path, quick_settings: Callable[..., TritonSettings]) -> Iterator[TritonServer]:
    """Serves the toy with two instances, so that two questions are decoded at once."""
    build_questions(folder, folder.parent / "repository", instances=2)
    server = TritonServer(quick_settings(), folder.parent / "repository", folder.parent / "run")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def remote(server: TritonServer) -> Iterator[TritonDecoder]:
    decoder = TritonDecoder(server.url, PATIENT_S)
    yield decoder
    decoder.close()


def test_programs_and_scores_are_those_of_the_loop_here(remote, folder, tmp_path):
    """20 questions; and negative controls: other slots, or one weight nudged, give other ones nearly always."""
    local = LocalDecoder(folder)
    nudged = LocalDecoder(toy_folder(tmp_path / "nudged", nudge=4))
    others = nudges = 0
    for number, (ids, mask) in enumerate(toy_questions(COUNT)):
        slots, other = SLOTS[number % 3], SLOTS[(number + 1) % 3]
        wanted = local.decode(ids, mask, slots, 4)
        found = remote.decode(ids, mask, slots, 4)
        assert same(found, wanted), (found, wanted)
        parse(found[0].program, slots)
        others += not same(found, local.decode(ids, mask, other, 4))
        nudges += not same(found, nudged.decode(ids, mask, slots, 4))
    assert nudges >= COUNT * 3 // 4
    assert others >= COUNT // 5  # few programs have operands


def test_the_shipped_model_reads_as_it_does_here(quick_settings, tmp_path):
    """The weights of the product: quantized, so that the last digits of one step move those of the next."""
    if not (ARTIFACT / "model.json").is_file():
        pytest.skip("no nlq/artifact: regulars train text-to-sql")
    from nlq.tokens import Tokens

    version = Model.read(ARTIFACT).version.split("/")[1]
    home = Home(tmp_path)
    assert build_questions(ARTIFACT, home.triton_repo).name == version
    tokens, local = Tokens(ARTIFACT / "tokenizer.json"), LocalDecoder(ARTIFACT)
    with TritonServer(quick_settings(), home.triton_repo, tmp_path / "run") as server:
        settings = ServeSettings(home=tmp_path, triton_url=server.url)
        remote = open_decoder(settings, QuestionSettings(decode_deadline_s=PATIENT_S), ARTIFACT)
        assert isinstance(remote, TritonDecoder)
        for text in QUESTIONS:
            ids, mask = tokens.batch([text])
            found, wanted = (d.decode(ids, mask, SLOTS[1], 4)[0] for d in (remote, local))
            assert found.program == wanted.program, text
            assert found.score == pytest.approx(wanted.score, abs=0.05), text
        remote.close()
        repository_lost = settings.model_copy(update={"home": tmp_path / "elsewhere"})
        other = _retrained(tmp_path / "other")
        assert isinstance(open_decoder(repository_lost, QuestionSettings(), other), LocalDecoder), (
            "the server looks into another repository"
        )
        loaded = open_decoder(settings, QuestionSettings(), other)
        assert isinstance(loaded, TritonDecoder), "brought in and loaded"
        loaded.close()


def _retrained(folder: Path) -> Path:
    """The shipped model as another training under the same version would be: other files, other checksums."""
    shutil.copytree(ARTIFACT, folder)
    graph = onnx.load(folder / "step.onnx")
    graph.doc_string = "trained again"
    onnx.save(graph, folder / "step.onnx")
    record = json.loads((folder / questions.RECORD).read_text())
    record["sha256"]["step.onnx"] = file_sha256(folder / "step.onnx")
    (folder / questions.RECORD).write_text(json.dumps(record))
    return folder


QUESTIONS = (
    "how many customers are there", "how many customers are there by membership tier", "which stores sold most [T0]", "revenue by month",
    "top [N0] customers by spend", "customers in [V0] who never bought", "who is at risk of churn", "tickets by issue type [T0]",
    "redemption rate by reward type", "how many gold members joined [T0]", "average basket value by channel", "most popular rewards",
    "customers who have not bought [T0]", "share of customers who redeemed a reward", "average rating of tickets", "discount by store",
    "how many orders [T0]", "customers with more than [N0] tickets", "which campaigns are running", "what is the weather in paris",
)  # fmt: skip


def test_many_at_once_are_each_answered_as_alone(remote, folder):
    local, asked = LocalDecoder(folder), toy_questions(12)
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda q: remote.decode(*q, SLOTS[2], 4), asked))
    assert all(same(f, local.decode(*q, SLOTS[2], 4)) for f, q in zip(found, asked, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": b"{"}, "INVALID_ARGUMENT: slots is not JSON"),
        ({"slots": b"[]"}, "INVALID_ARGUMENT: slots is .* not of its form"),
        ({"slots": b"\xff"}, "INVALID_ARGUMENT: .*utf-8"),
        ({"slots": written(Slots(0, (frozenset({"customers.shoe_size"}),))).encode()}, "customers.shoe_size, which is no column"),
        ({"width": 99}, "INVALID_ARGUMENT: width is 99, must be 1 to 16"),
        ({"ids": np.arange(200), "mask": np.ones(200, np.int64)}, "INVALID_ARGUMENT: ids has shape .200,., must be .* 2 to 96"),
        ({"mask": np.zeros(3, np.int64)}, "INVALID_ARGUMENT: mask has shape"),
        ({"ids": np.array([5, 6, 10**9])}, "INTERNAL: decoding failed"),
    ],
)
def test_a_wrong_request_gets_its_own_error_and_the_model_stays(remote, folder, changes, message):
    """Sent past the client's own checks; the next question is answered."""
    given = {"ids": np.array([5, 6, 7]), "mask": np.ones(3, np.int64), "slots": written(SLOTS[1]).encode(), "width": 4} | changes
    request = over_grpc._request(given["ids"], given["mask"], given["slots"].decode("latin-1"), given["width"], "")
    place = list(INPUTS).index("slots")
    request.raw_input_contents[place] = over_grpc._LENGTH.pack(len(given["slots"])) + given["slots"]
    with pytest.raises(UpstreamError, match=message):
        remote._client.send(request, TEXT_TO_SQL)
    assert remote.ready()
    (ids, mask), *_ = toy_questions(1)
    assert same(remote.decode(ids, mask, SLOTS[1], 4), LocalDecoder(folder).decode(ids, mask, SLOTS[1], 4))


def test_a_question_whose_caller_gave_up_is_not_worked_on(server, remote):
    """32 callers that wait 1 ms each leave nothing behind them that the next caller would wait for."""
    hasty = TritonDecoder(server.url, deadline_s=0.001, at_once=32)
    (ids, mask), *_ = toy_questions(1)

    def ask(_: int) -> str:
        try:
            hasty.decode(ids, mask, SLOTS[2], 4)
        except UpstreamError as exc:
            return type(exc).__name__
        return "answered"

    with ThreadPoolExecutor(32) as threads:
        found = set(threads.map(ask, range(32)))
    assert "UpstreamTimeout" in found
    assert remote.decode(ids, mask, SLOTS[2], 4)
    hasty.close()


def test_another_version_is_not_the_one_that_is_served(server):
    decoder = TritonDecoder(server.url, PATIENT_S, version="9")
    (ids, mask), *_ = toy_questions(1)
    assert not decoder.ready()
    with pytest.raises(UpstreamError, match="version 9"):
        decoder.decode(ids, mask, SLOTS[0], 4)
    decoder.close()


def test_a_new_version_comes_in_without_a_restart(server, remote, folder, tmp_path):
    """As `regulars train text-to-sql` would bring it."""
    newer = toy_folder(tmp_path / "newer", "text-to-sql/2", nudge=4)
    build_questions(newer, server.repository, instances=2)
    wanted = questions.fingerprint(json.loads((newer / questions.RECORD).read_text())["sha256"])
    assert not remote.served.serves(wanted)
    remote.served.load()
    assert remote.served.serves(wanted)
    (ids, mask), *_ = toy_questions(1)
    assert same(remote.decode(ids, mask, SLOTS[1], 4), LocalDecoder(newer).decode(ids, mask, SLOTS[1], 4))
    build_questions(folder, server.repository, instances=2)
    remote.served.load()
    assert not remote.served.serves(wanted)
    assert same(remote.decode(ids, mask, SLOTS[1], 4), LocalDecoder(folder).decode(ids, mask, SLOTS[1], 4))
