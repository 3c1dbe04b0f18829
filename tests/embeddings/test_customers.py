"""embeddings/customers.py: the nearest customers, of one's own business only, and always of the newest vector."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactError, ContractError, ShapeError
from embeddings import archive
from embeddings.customers import CustomerIndex

DIM = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def unit(seed: int, n: int, dim: int = DIM) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def names(n: int, prefix: str = "c") -> list[str]:
    return [f"{prefix}{i:05d}" for i in range(n)]


def filled(n: int = 50, exact_up_to: int = 1_000_000) -> tuple[CustomerIndex, np.ndarray]:
    index, vectors = CustomerIndex("7", DIM, exact_up_to), unit(1, n)
    index.upsert("b", names(n), vectors, 100.0, range(n))
    return index, vectors


def best(vectors: dict[str, np.ndarray], query: np.ndarray, k: int) -> list[str]:
    """Exact search, written again."""
    return sorted(vectors, key=lambda c: (-round(float(vectors[c] @ query), 6), c))[:k]


def test_search_gives_the_nearest_without_the_asked_one() -> None:
    index, vectors = filled()
    known = dict(zip(names(50), vectors, strict=True))
    found = index.search(vectors[3], 10, "b", exclude=("c00003",))
    del known["c00003"]
    assert [n.customer_id for n in found] == best(known, vectors[3], 10)
    assert all(a.cosine >= b.cosine for a, b in itertools.pairwise(found))
    assert found[0].cosine == pytest.approx(float(known[found[0].customer_id] @ vectors[3]), abs=1e-6)
    assert found[0].as_of == 100.0


def test_a_newer_vector_takes_the_place_and_an_older_one_does_not() -> None:
    index, vectors = filled()
    assert index.upsert("b", ["c00001"], vectors[:1], 200.0, [9]) == 1
    assert index.upsert("b", ["c00001"], vectors[5:6], 150.0) == 0
    row = index.get("b", "c00001")
    assert row is not None
    assert (row.as_of, row.touches, len(index)) == (200.0, 9, 50)
    assert index.search(vectors[0], 1, "b", exclude=("c00000",))[0] == ("c00001", pytest.approx(1.0), 200.0)


def test_nothing_of_another_business_comes_back() -> None:
    index, vectors = filled()
    index.upsert("other", names(50, "o"), vectors, 100.0)
    assert {n.customer_id[0] for n in index.search(vectors[0], 50, "b")} == {"c"}
    assert {n.customer_id[0] for n in index.search(vectors[0], 50, "other")} == {"o"}
    assert index.search(vectors[0], 5, "nobody") == []
    assert (index.count("b"), index.count("nobody"), index.customers("nobody"), index.get("nobody", "c00001")) == (50, 0, [], None)


def test_fewer_customers_than_asked_for_is_a_shorter_answer() -> None:
    index, vectors = filled(3)
    assert len(index.search(vectors[0], 10, "b", exclude=("c00000", "never-seen"))) == 2
    assert index.search(vectors[0], 10, "b", exclude=names(3)) == []


def test_a_removed_customer_stays_away() -> None:
    index, vectors = filled()
    assert index.remove("b", "c00007", 150.0)
    assert not index.remove("b", "c00007", 150.0)
    assert not index.remove("nobody", "c00007", 150.0)
    assert (index.removed_at("b", "c00007"), index.removed_at("b", "c00008")) == (150.0, float("-inf"))
    assert "c00007" not in {n.customer_id for n in index.search(vectors[7], 50, "b")}
    assert index.upsert("b", ["c00007"], vectors[7:8], 150.0) == 0, "an old vector must not bring an erased customer back"
    assert index.upsert("b", ["c00007"], vectors[7:8], 151.0) == 1, "a customer who comes again later is a customer again"


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        (unit(1, 2).astype(np.float64), "float32"),
        (unit(1, 2, 9), "must be float32"),
        (unit(1, 3), "must be float32"),
        (unit(1, 2) * 2, "norm 1"),
        (np.full((2, DIM), np.nan, dtype=np.float32), "finite"),
        (np.full((2, DIM), np.inf, dtype=np.float32), "finite"),
    ],
)
def test_vectors_that_are_not_unit_vectors_are_refused(vectors: np.ndarray, says: str) -> None:
    index, known = filled()
    with pytest.raises(ShapeError, match=says):
        index.upsert("b", ["c00000", "x"], vectors, 200.0)
    with pytest.raises(ShapeError):
        index.search(vectors[0] if vectors.shape != (3, DIM) else vectors, 1, "b")
    assert index.count("b") == 50
    assert np.array_equal(index.get("b", "c00000").vector, known[0])  # type: ignore[union-attr]


def test_times_and_counts_must_fit() -> None:
    index, vectors = filled()
    for times, touches in ((float("nan"), None), (1.0, [1, 2])):
        with pytest.raises(ShapeError, match="touch counts and finite times"):
            index.upsert("b", ["x"], vectors[:1], times, touches)


@pytest.mark.parametrize("k", [0, 1001])
def test_k_out_of_range_is_refused(k: int) -> None:
    index, vectors = filled()
    with pytest.raises(ContractError, match=f"k is {k}"):
        index.search(vectors[0], k, "b")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 200)), max_size=120), st.booleans())
def test_any_history_of_changes_leaves_what_a_dictionary_would(acts: list[tuple[bool, int, int]], approximate: bool) -> None:
    pool, model, index = unit(3, 201), {}, CustomerIndex("7", DIM, exact_up_to=0 if approximate else 1000)
    for step, (add, customer, vector) in enumerate(acts):
        if add:
            index.upsert("b", [f"c{customer}"], pool[vector : vector + 1], float(step))
            model[f"c{customer}"] = pool[vector]
        else:
            assert index.remove("b", f"c{customer}", float(step)) == (model.pop(f"c{customer}", None) is not None)
        if approximate and step % 17 == 0:
            index.optimise("b")
    assert sorted(index.customers("b")) == sorted(model)
    found = index.search(pool[200], 1000, "b")
    assert {n.customer_id for n in found} == set(model)
    for n in found:
        assert n.cosine == pytest.approx(float(model[n.customer_id] @ pool[200]), abs=1e-5)


def test_an_index_above_the_bound_is_approximate_right_and_follows_changes() -> None:
    index, vectors = filled(4000, exact_up_to=500)
    assert index.optimise("b")
    assert not index.optimise("b"), "it has not doubled"
    assert not index.optimise("nobody")
    moved, gone = unit(9, 1), "c00002"
    index.upsert("b", ["c00001"], moved, 200.0)
    index.remove("b", gone, 200.0)
    index.upsert("b", ["new"], moved, 200.0)
    assert [n.customer_id for n in index.search(moved[0], 2, "b")] == ["c00001", "new"]
    assert gone not in {n.customer_id for n in index.search(vectors[2], 50, "b")}
    exact, _ = filled(4000)
    wanted = [{n.customer_id for n in exact.search(v, 10, "b")} for v in unit(5, 50)]
    got = [{n.customer_id for n in index.search(v, 10, "b")} for v in unit(5, 50)]
    assert np.mean([len(a & b) / 10 for a, b in zip(wanted, got, strict=True)]) > 0.9


def test_changes_while_the_approximate_index_is_built_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    from embeddings import customers as module

    index, vectors = filled(300, exact_up_to=100)
    build, newcomer = module._ivf, unit(8, 1)

    def slow(rows: np.ndarray) -> object:
        index.upsert("b", ["new", "c00000"], np.repeat(newcomer, 2, axis=0), 200.0)
        for name in ("c00005", "c00006", "c00007"):
            index.remove("b", name, 200.0)
        return build(rows)

    monkeypatch.setattr(module, "_ivf", slow)
    assert index.optimise("b")
    assert {n.customer_id for n in index.search(newcomer[0], 2, "b")} == {"new", "c00000"}
    assert not {"c00005", "c00006", "c00007"} & {n.customer_id for n in index.search(vectors[5], 298, "b")}
    assert len(index.search(vectors[5], 1000, "b")) == 298


def test_reading_and_writing_threads_never_meet_half_a_vector() -> None:
    pair = unit(4, 2)
    index = CustomerIndex("7", DIM)
    index.upsert("b", ["a", "z"], pair, 0.0)
    stop, wrong = threading.Event(), []

    def write() -> None:
        for step in range(1, 3000):
            index.upsert("b", ["a"], pair[step % 2 : step % 2 + 1], float(step))
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    allowed = (1.0, float(pair[0] @ pair[1]))
    while not stop.is_set():
        cosine = index.search(pair[0], 1, "b", exclude=("z",))[0].cosine
        if min(abs(cosine - a) for a in allowed) > 1e-5:
            wrong.append(cosine)
    writer.join()
    assert not wrong


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    index, vectors = filled()
    index.upsert("other", ["x"], vectors[:1], 50.0)
    index.remove("b", "c00009", 300.0)
    index.save(tmp_path / "deep" / "c.npz", {"complete": True})
    again, note = CustomerIndex.load(tmp_path / "deep" / "c.npz", "7", dim=DIM)
    assert note == {"complete": True}
    assert again.search(vectors[0], 50, "b") == index.search(vectors[0], 50, "b")
    assert again.upsert("b", ["c00009"], vectors[:1], 299.0) == 0
    assert again.get("b", "c00008").touches == 8  # type: ignore[union-attr]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.npz"]


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    CustomerIndex("7", DIM).save(tmp_path / "c.npz")
    assert len(CustomerIndex.load(tmp_path / "c.npz", "7", dim=DIM)[0]) == 0


def test_vectors_of_a_later_instant_are_left_out(tmp_path: Path) -> None:
    index, vectors = filled(5)
    index.upsert("b", ["c00001"], vectors[1:2], 500.0)
    index.save(tmp_path / "c.npz")
    assert sorted(CustomerIndex.load(tmp_path / "c.npz", "7", not_after=400.0, dim=DIM)[0].customers("b")) == [
        "c00000", "c00002", "c00003", "c00004",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "version", "format", "rows", "text"])
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, damage: str) -> None:
    index, _ = filled()
    path = tmp_path / "c.npz"
    index.save(path)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    else:
        arrays, meta = archive.read(path, 1, "")
        meta.pop("sha256")
        changes = {"version": {}, "format": {"format": 9}, "rows": {}, "text": {}}[damage]
        if damage == "rows":
            arrays["vectors"] = arrays["vectors"][:-1]
        elif damage == "text":
            del arrays["text"]
        archive.write(path, arrays, meta | changes)
    with pytest.raises(ArtifactError):
        CustomerIndex.load(path, "8" if damage == "version" else "7", dim=DIM)


def test_more_vectors_than_customers_in_a_file_is_refused(tmp_path: Path) -> None:
    index, _ = filled()
    index.save(tmp_path / "c.npz")
    arrays, meta = archive.read(tmp_path / "c.npz", 1, "")
    meta.pop("sha256")
    for name in ("vectors", "as_of", "touches"):
        arrays[name] = np.concatenate([arrays[name], arrays[name][-1:]])
    archive.write(tmp_path / "c.npz", arrays, meta)
    with pytest.raises(ArtifactError, match="51 vectors of 50 customers"):
        CustomerIndex.load(tmp_path / "c.npz", "7", dim=DIM)


def test_merging_takes_what_is_newer_and_what_was_erased() -> None:
    mine, vectors = filled()
    theirs, _ = filled()
    mine.upsert("b", ["c00001"], vectors[9:10], 200.0)
    theirs.upsert("b", ["c00001", "c00002", "new"], vectors[[3, 4, 5]], np.array([150.0, 160.0, 170.0]))
    theirs.remove("b", "c00003", 180.0)
    mine.upsert("b", ["c00004"], vectors[4:5], 300.0)
    theirs.remove("b", "c00004", 250.0)
    mine.merge(theirs)
    rows = {c: mine.get("b", c) for c in ("c00001", "c00002", "c00003", "c00004", "new")}
    assert [rows[c].as_of if rows[c] else None for c in rows] == [200.0, 160.0, None, 300.0, 170.0]


def test_vectors_of_another_model_are_never_merged() -> None:
    index, _ = filled()
    with pytest.raises(ArtifactError, match="model version 8"):
        index.merge(CustomerIndex("8", DIM))
