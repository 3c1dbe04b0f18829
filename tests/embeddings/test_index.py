"""embeddings/index.py: what leaves the index is allowed, complete and in order, whatever the index type."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactError, ConfigError, ContractError, ShapeError
from embeddings import archive
from embeddings import index as module
from embeddings.index import Filter, Found, IndexSettings, RewardIndex, RewardTable, exact_search
from embeddings.recall import recall_at_k

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("exact", "ivf", "hnsw")
TIE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def unit(rng: np.random.Generator, n: int, dim: int = 8) -> np.ndarray:
    x = rng.standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_settings(kind: str, **more: object) -> IndexSettings:
    """Approximate on purpose: few cells probed, and no shortcut through exact search for small businesses."""
    return IndexSettings(kind=kind, exact_below=0, nprobe=2, ef=8, links=4, **more)  # type: ignore[arg-type]


def table_of(rng: np.random.Generator, n: int, businesses: int) -> RewardTable:
    """Ids repeat across businesses on purpose; some vectors will too."""
    starts = rng.choice([-np.inf, 0.0, 10.0, 20.0], n)
    return RewardTable.build(
        reward_ids=[f"r{i // businesses}" for i in range(n)],
        business=[f"b{i % businesses}" for i in range(n)],
        valid_from=starts,
        valid_to=np.maximum(starts, rng.choice([5.0, 10.0, 25.0, np.inf], n)),
        inventory=rng.choice([-1, 0, 1, 7], n),
        reward_types=rng.choice(["discount", "experience", "upgrade", "cashback"], n).tolist(),
    )


def vectors_of(rng: np.random.Generator, n: int, dim: int = 8) -> np.ndarray:
    """Unit vectors, a third of them copies of others, so that ties are common."""
    x = unit(rng, n, dim)
    copies = rng.random(n) < 0.33
    x[copies] = x[rng.integers(0, n, int(copies.sum()))]
    return x


def filter_of(rng: np.random.Generator, n: int, businesses: int) -> Filter:
    ids = [f"r{i}" for i in range(n // businesses + 2)]
    take = lambda share: {i for i in ids if rng.random() < share}  # noqa: E731
    return Filter(
        business_id=f"b{rng.integers(0, businesses + 1)}",  # the last one does not exist
        now=float(rng.choice([-1.0, 0.0, 5.0, 10.0, 12.0, 20.0, 25.0, 1e9])),
        dismissed=take(0.2),
        redeemed=take(0.4),
        excluded_rows={int(r) for r in rng.integers(-2, n + 2, rng.integers(0, 6))},
    )


def violations(table: RewardTable, row: int, query: Filter) -> list[str]:
    """The rules once more, written apart from the code under test."""
    if not 0 <= row < len(table):
        return [f"padding {row}"]
    said = []
    if table.business_ids[table.business[row]] != query.business_id:
        said.append("foreign")
    if not table.valid_from[row] <= query.now <= table.valid_to[row]:
        said.append("not valid now")
    if table.inventory[row] == 0:
        said.append("sold out")
    if table.reward_ids[row] in query.dismissed:
        said.append("dismissed")
    if table.reward_types[row] in ("experience", "upgrade") and table.reward_ids[row] in query.redeemed:
        said.append("single use, redeemed")
    if row in query.excluded_rows:
        said.append("excluded")
    return said


def brute_force(table: RewardTable, query: Filter) -> list[int]:
    return [r for r in range(len(table)) if not violations(table, r, query)]


def check(index: RewardIndex, vector: np.ndarray, query: Filter, k: int, found: Found, exact: bool) -> None:
    rows, scores = found
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    bad = {r: v for r in rows.tolist() if (v := violations(index.table, r, query))}
    assert not bad, f"leaked {bad}"
    allowed = brute_force(index.table, query)
    assert len(rows) == min(k, len(allowed))
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_allclose(scores, index.vectors[rows] @ vector, atol=TIE)
    assert all(a >= b for a, b in itertools.pairwise(scores.tolist()))
    if exact and len(rows):
        best = np.sort(index.vectors[allowed] @ vector)[::-1][: len(rows)]
        np.testing.assert_allclose(scores, best, atol=TIE)  # the same scores: equal ones may belong to other rows


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 150), businesses=st.integers(1, 4), k=st.integers(1, 60))
def test_nothing_forbidden_leaves_and_nothing_owed_is_missing(kind: str, seed: int, n: int, businesses: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    index = RewardIndex(vectors_of(rng, n), table_of(rng, n, businesses), make_settings(kind))
    for size in (1, 5):
        queries = [filter_of(rng, n, businesses) for _ in range(size)]
        users = unit(rng, size)
        found = index.search(users, k, queries)
        assert len(found) == size
        for vector, query, answer in zip(users, queries, found, strict=True):
            check(index, vector, query, k, answer, exact=kind == "exact")
            assert index.allowed_rows(query).tolist() == brute_force(index.table, query)


def ignore_selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS searches everything, as it did with selectors in some versions."""
    honest = module._Selector.__init__

    def everything(self: module._Selector, bits: np.ndarray, size: int, make: object) -> None:
        honest(self, np.packbits(np.ones(size, dtype=bool), bitorder="little"), size, make)

    monkeypatch.setattr(module._Selector, "__init__", everything)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_property_is_lost_without_the_filters(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: selectors and check off, the property above must fail; on again, it holds."""
    rng = np.random.default_rng(seed)
    index = RewardIndex(vectors_of(rng, 120), table_of(rng, 120, 1), make_settings(kind))
    query, user = Filter("b0", 12.0, dismissed={"r1", "r2"}), unit(rng, 1)
    with monkeypatch.context() as patch:
        ignore_selectors(patch)
        patch.setattr(RewardTable, "passes", lambda self, rows, query: rows >= 0)
        with pytest.raises(AssertionError, match="leaked"):
            check(index, user[0], query, 20, index.search(user, 20, [query])[0], exact=False)
    index = RewardIndex(index.vectors, index.table, index.settings)
    check(index, user[0], query, 20, index.search(user, 20, [query])[0], exact=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_alone_keeps_the_promise_where_faiss_ignores_the_selector(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    index = RewardIndex(vectors_of(rng, 120), table_of(rng, 120, 2), make_settings(kind))
    ignore_selectors(monkeypatch)
    for _ in range(20):
        query, user = filter_of(rng, 120, 2), unit(rng, 1)
        check(index, user[0], query, 30, index.search(user, 30, [query])[0], exact=kind == "exact")


@pytest.mark.parametrize("kind", KINDS)
def test_every_order_of_a_batch_gives_every_customer_the_same_answer(kind: str) -> None:
    rng = np.random.default_rng(11)
    index = RewardIndex(vectors_of(rng, 90), table_of(rng, 90, 2), make_settings(kind))
    users, queries = unit(rng, 4), [filter_of(rng, 90, 2) for _ in range(4)]
    alone = [index.search(users[i : i + 1], 10, [queries[i]])[0] for i in range(4)]
    for order in itertools.permutations(range(4)):
        together = index.search(users[list(order)], 10, [queries[i] for i in order])
        for i, answer in zip(order, together, strict=True):
            assert answer.rows.tolist() == alone[i].rows.tolist()
            assert answer.scores.tolist() == alone[i].scores.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_everything_filtered_gives_an_empty_answer(kind: str) -> None:
    rng = np.random.default_rng(0)
    table = RewardTable.build([f"r{i}" for i in range(50)], ["b"] * 50, reward_types=["upgrade"] * 50)
    index = RewardIndex(unit(rng, 50), table, make_settings(kind))
    all_ids = set(table.reward_ids)
    queries = [Filter("b", 0.0, dismissed=all_ids), Filter("b", 0.0, redeemed=all_ids), Filter("b", 0.0, excluded_rows=range(50))]
    queries += [Filter("nobody", 0.0), Filter("b", float("nan"))]
    for rows, scores in index.search(unit(rng, 5), 5, queries):
        assert len(rows) == len(scores) == 0
    assert len(index.allowed_rows(queries[-1])) == len(index.allowed_rows(queries[-2])) == 0


@pytest.mark.parametrize("n", [40, 700])
def test_equal_scores_come_in_the_order_of_their_rows(n: int) -> None:
    vectors = np.tile(np.array([[1, 0, 0, 0]], dtype=np.float32), (n, 1))
    vectors[: n // 2] = [0, 1, 0, 0]
    index = RewardIndex(vectors, RewardTable.build([f"r{i}" for i in range(n)], ["b"] * n), make_settings("exact"))
    user = np.array([[0.8, 0.6, 0, 0]], dtype=np.float32)
    (found,) = index.search(user, 7, [Filter("b", 0.0)])
    assert found.rows.tolist() == list(range(n // 2, n // 2 + 7))
    assert exact_search(vectors, np.arange(n), user[0], n // 2 + 3).rows.tolist() == [*range(n // 2, n), 0, 1, 2]


def test_valid_window_is_inclusive_and_followed_as_time_passes() -> None:
    table = RewardTable.build(["a", "b"], ["x", "x"], valid_from=[10.0, -np.inf], valid_to=[20.0, 10.0])
    index = RewardIndex(unit(np.random.default_rng(0), 2), table, make_settings("exact"))
    seen = {now: sorted(index.allowed_rows(Filter("x", now)).tolist()) for now in (9.0, 10.0, 10.5, 20.0, 20.5, 5.0, -np.inf, np.inf)}
    assert seen == {9.0: [1], 10.0: [0, 1], 10.5: [0], 20.0: [0], 20.5: [], 5.0: [1], -np.inf: [1], np.inf: []}


def test_repeatable_rewards_stay_after_redemption() -> None:
    table = RewardTable.build(["a", "b"], ["x", "x"], reward_types=["discount", "experience"])
    index = RewardIndex(unit(np.random.default_rng(0), 2), table, make_settings("exact"))
    assert index.allowed_rows(Filter("x", 0.0, redeemed={"a", "b"})).tolist() == [0]


def test_auto_is_exact_for_small_businesses_and_ivf_for_large_ones() -> None:
    rng = np.random.default_rng(0)
    vectors, ids = unit(rng, 100), [f"r{i}" for i in range(100)]
    one = RewardTable.build(ids, ["b"] * 100)
    two = RewardTable.build(ids, ["b"] * 50 + ["c"] * 50)
    settings = IndexSettings(exact_up_to=60)
    assert RewardIndex(vectors, two, settings).kind == "exact"
    assert RewardIndex(vectors, one, settings).kind == "ivf"


def test_small_business_beside_an_approximate_index_is_searched_exactly() -> None:
    rng = np.random.default_rng(3)
    vectors = unit(rng, 400)
    table = RewardTable.build([f"r{i}" for i in range(400)], ["big"] * 360 + ["small"] * 40)
    index = RewardIndex(vectors, table, IndexSettings(kind="ivf", nprobe=1, exact_below=40))
    user, query = unit(rng, 1), Filter("small", 0.0)
    assert index.search(user, 10, [query])[0].rows.tolist() == exact_search(vectors, index.rows_of("small"), user[0], 10).rows.tolist()


def test_rows_by_business_and_id() -> None:
    table = RewardTable.build(["a", "b", "a"], ["x", "y", "y"])
    index = RewardIndex(unit(np.random.default_rng(0), 3), table, make_settings("exact"))
    assert (index.row("x", "a"), index.row("y", "a"), index.row("x", "b"), index.row("z", "a")) == (0, 2, None, None)
    assert index.rows_of("y").tolist() == [1, 2]
    assert index.rows_of("z").tolist() == []
    assert (len(index), index.dim) == (3, 8)


def test_an_empty_catalogue_answers_with_nothing() -> None:
    index = RewardIndex(np.empty((0, 8), dtype=np.float32), RewardTable.build([], []))
    assert index.search(unit(np.random.default_rng(0), 1), 3, [Filter("b", 0.0)])[0].rows.tolist() == []


# --- what is refused ---


@pytest.fixture(scope="module")
def small() -> RewardIndex:
    return RewardIndex(unit(np.random.default_rng(0), 3), RewardTable.build(["a", "b", "c"], ["x"] * 3), make_settings("exact"))


def test_wrong_dim_is_named_with_the_way_out(small: RewardIndex) -> None:
    with pytest.raises(ShapeError, match=r"index has dim 8, user tower emits 4\. Rebuild it: regulars export"):
        small.search(np.ones((1, 4), dtype=np.float32), 1, [Filter("x", 0.0)])


@pytest.mark.parametrize("users", [np.ones((1, 8)), np.ones(8, dtype=np.float32), np.full((1, 8), np.nan, dtype=np.float32)])
def test_vectors_that_are_not_finite_float32_rows_are_refused(small: RewardIndex, users: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"float32|finite"):
        small.search(users, 1, [Filter("x", 0.0)])


def test_one_filter_per_customer(small: RewardIndex) -> None:
    with pytest.raises(ShapeError, match="2 user vectors came with 1 filters"):
        small.search(np.ones((2, 8), dtype=np.float32), 1, [Filter("x", 0.0)])


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_out_of_range(small: RewardIndex, k: int) -> None:
    with pytest.raises(ContractError, match=f"k is {k}"):
        small.search(np.ones((1, 8), dtype=np.float32), k, [Filter("x", 0.0)])


@pytest.mark.parametrize("vectors", [np.ones((2, 8), dtype=np.float32), np.ones((3, 8)), np.full((3, 8), np.inf, dtype=np.float32)])
def test_item_vectors_that_do_not_fit_the_table(vectors: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="item vectors"):
        RewardIndex(vectors, RewardTable.build(["a", "b", "c"], ["x"] * 3))


def test_an_id_twice_in_one_business_is_refused() -> None:
    with pytest.raises(ContractError, match="business x has 2 rewards but 1 different ids"):
        RewardIndex(unit(np.random.default_rng(0), 2), RewardTable.build(["a", "a"], ["x", "x"]))


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this FAISS has a GPU")
def test_gpu_without_a_gpu_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match="faiss-gpu-cu12"):
        RewardIndex(unit(np.random.default_rng(0), 2), RewardTable.build(["a", "b"], ["x", "x"]), IndexSettings(gpu=True))


class _FakeGpu:
    """What of faiss-gpu our code touches, on the CPU: like the real one it refuses selectors."""

    class Index:
        def __init__(self, inner: object) -> None:
            self.inner, self.nprobe = inner, 0

        def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            return self.inner.search(vector, k)  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, index: _FakeGpu.Index(index), raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index.inner, raising=False)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_an_index_without_selectors_leaks_nothing_either(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    index = RewardIndex(vectors_of(rng, 150), table_of(rng, 150, 3), make_settings(kind, gpu=True))
    for _ in range(30):
        user, query = unit(rng, 1), filter_of(rng, 150, 3)
        check(index, user[0], query, 20, index.search(user, 20, [query])[0], exact=kind == "exact")
    index.save(tmp_path / "i")
    assert RewardIndex.load(tmp_path / "i")._index is not None


@pytest.mark.usefixtures("fake_gpu")
def test_hnsw_on_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="no HNSW on a GPU"):
        RewardIndex(unit(np.random.default_rng(0), 2), RewardTable.build(["a", "b"], ["x", "x"]), IndexSettings(kind="hnsw", gpu=True))


# --- files ---


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 100))
def test_save_and_load_round_trip(kind: str, seed: int, n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    index = RewardIndex(vectors_of(rng, n), table_of(rng, n, 2), make_settings(kind))
    index.save(tmp_path / "rewards.index")
    again = RewardIndex.load(tmp_path / "rewards.index")
    users, queries = unit(rng, 3), [filter_of(rng, n, 2) for _ in range(3)]
    for a, b in zip(index.search(users, 9, queries), again.search(users, 9, queries), strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert a.scores.tolist() == b.scores.tolist()
    assert (again.table.reward_ids, again.settings, again.kind) == (index.table.reward_ids, index.settings, index.kind)
    assert [p.name for p in tmp_path.iterdir()] == ["rewards.index"]


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "garbage"])
def test_a_damaged_file_is_an_artifact_error(small: RewardIndex, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rewards.index"
    small.save(path)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    else:
        path.write_bytes(b"not an index")
    with pytest.raises(ArtifactError, match="Rebuild it: regulars export"):
        RewardIndex.load(path)


def clustered(rng: np.random.Generator, centres: np.ndarray, n: int) -> np.ndarray:
    """Unit vectors around centres, as a trained model's lie: half of the length is noise."""
    x = centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, centres.shape[1])) * 0.15
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("centre_count", [40, 400])
def test_auto_finds_what_exact_search_finds_and_one_cell_does_not(centre_count: int) -> None:
    rng, n = np.random.default_rng(11), 8_000
    centres = rng.standard_normal((centre_count, 64)) / 8
    vectors, users = clustered(rng, centres, n), clustered(rng, centres, 100)
    table = RewardTable.build([f"r{i}" for i in range(n)], ["b"] * n, inventory=np.where(rng.random(n) < 0.1, 0, -1))
    filters = [Filter("b", 10.0, dismissed={f"r{r}" for r in rng.integers(0, n, 3)}) for _ in users]
    auto = RewardIndex(vectors, table, IndexSettings(exact_up_to=1000, exact_below=0))
    assert auto.kind == "ivf"
    assert recall_at_k(auto, users, 10, filters).mean >= 0.99
    careless = RewardIndex(vectors, table, IndexSettings(exact_up_to=1000, exact_below=0, nprobe=1))
    assert recall_at_k(careless, users, 10, filters).mean < 0.99, "the measure must be able to fail"


def test_cells_follow_the_structure_and_are_stored(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(12), 4_000
    table = RewardTable.build([f"r{i}" for i in range(n)], ["b"] * n)
    wanted = IndexSettings(kind="ivf", lists=64, exact_below=0)
    near = RewardIndex(clustered(rng, rng.standard_normal((16, 16)) / 2, n), table, wanted)
    nowhere = RewardIndex(unit(rng, n, 16), table, wanted)
    assert 1 <= near.nprobe < nowhere.nprobe <= 64
    near.save(tmp_path / "i")
    assert RewardIndex.load(tmp_path / "i").nprobe == near.nprobe
    empty = RewardIndex(np.empty((0, 16), np.float32), RewardTable.build([], []), wanted)
    assert empty.nprobe == 1


def _tamper(path: Path, change: object, redo_checksum: bool) -> None:
    with np.load(path) as file:
        arrays = {n: file[n] for n in file.files}
    meta = module.json.loads(arrays.pop("meta").tobytes())
    change(arrays, meta)  # type: ignore[operator]
    if redo_checksum:
        meta["sha256"] = archive.digest(arrays)
    with path.open("wb") as f:
        np.savez(f, **arrays, meta=archive.as_bytes(meta))


@pytest.mark.parametrize(
    ("change", "redo", "says"),
    [
        (lambda arrays, meta: arrays.update(vectors=arrays["vectors"] * 2), False, "checksum"),
        (lambda arrays, meta: meta.update(format=99), False, "format 99"),
        (lambda arrays, meta: arrays.update(vectors=arrays["vectors"][:1]), True, "one row per reward"),
        (lambda arrays, meta: arrays.update(faiss=np.zeros(8, dtype=np.uint8)), True, "cannot use index"),
        (lambda arrays, meta: arrays.pop("text"), True, "text"),
    ],
)
def test_a_file_that_does_not_match_itself_is_refused(small: RewardIndex, tmp_path: Path, change: object, redo: bool, says: str) -> None:
    path = tmp_path / "rewards.index"
    small.save(path)
    _tamper(path, change, redo)
    with pytest.raises(ArtifactError, match=says):
        RewardIndex.load(path)


def test_a_failed_save_leaves_the_old_file(small: RewardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rewards.index"
    small.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(module.np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        small.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_importing_the_index_imports_no_torch() -> None:
    imports = "embeddings.index, embeddings.snapshot, embeddings.recall, embeddings.text"
    code = f"import sys, {imports}; print(sorted(set(sys.modules) & set(('torch', 'transformers'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_gpu_index_finds_what_exact_search_finds(kind: str) -> None:
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        pytest.skip("FAISS sees no NVIDIA GPU here: install faiss-gpu-cu12 in place of faiss-cpu on a GPU machine")
    rng = np.random.default_rng(3)
    vectors, table = vectors_of(rng, 400), table_of(rng, 400, 2)
    rules = [Filter("b0", 15.0)]
    gpu = RewardIndex(vectors, table, IndexSettings(kind=kind, gpu=True, exact_below=0, nprobe=64))  # type: ignore[arg-type]
    cpu = RewardIndex(vectors, table, IndexSettings(kind="exact"))
    for user in unit(rng, 5):
        found, expected = (index.search(user[None, :], 10, rules)[0] for index in (gpu, cpu))
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)  # ties may change places
