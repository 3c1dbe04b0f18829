"""Runs of scores: one row per customer and run, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts.bundle import deploy
from contracts.errors import ArtifactError, ConfigError, UnknownItem
from contracts.tables import TIMESTAMP
from ray_apps.scoring import runner, runs
from ray_apps.scoring.runner import Silent, score
from ray_apps.scoring.runs import Run, RunFolder, default_as_of, latest_finished, read_run
from ray_apps.scoring.settings import ScoreSettings
from warehouse.store import Warehouse

ROOT = Path(__file__).resolve().parents[3]
ALL = 340
NOW = datetime(2025, 6, 15, tzinfo=UTC)
Rows = Callable[..., list[tuple[Any, ...]]]


def settings(home: Path, **more: Any) -> ScoreSettings:
    return ScoreSettings(home=home, **{"shards": 4, "workers": 2, "landing_rows": 1, **more})


class StopAfter(Silent):
    """Breaks a run off once so many customers are done, or so many shards landed."""

    def __init__(self, customers: int = 10**9, landed: int = 10**9) -> None:
        self.customers, self.landed = customers, landed

    def advance(self, customers: int) -> None:
        self.customers -= customers
        if self.customers < 0:
            raise KeyboardInterrupt

    def landing(self, shard: int) -> None:
        if shard > self.landed:
            raise KeyboardInterrupt


def test_a_run_has_one_row_for_every_customer(scorable: Path, scores: Rows) -> None:
    found = score(settings(scorable))
    assert (found["customers"], found["scored"], found["shards"], found["resumed"], found["engine"]) == (ALL, ALL, 4, 0, "local")
    rows = scores(scorable)
    assert Counter(r[1] for r in rows) == {"biz-1": 300, "biz-2": 40}
    assert len({(r[0], r[1]) for r in rows}) == ALL
    assert sum(found["levels"].values()) == ALL
    at_risk = sum(r[5] * float(r[10 + 1]) for r in rows)
    assert found["clv_at_risk"] == pytest.approx(at_risk, abs=0.05)
    assert {r[-1] for r in rows} == {"full", "sparse", "cold_start"}
    assert sorted(p.name for p in (scorable / "scores" / found["run"]).iterdir()) == ["run.json"], "what landed is not kept twice"


def test_the_same_run_again_changes_nothing_and_says_so(scorable: Path, scores: Rows) -> None:
    first = score(settings(scorable))
    manifest = (scorable / "warehouse" / "manifest.json").read_bytes()
    for again in (score(settings(scorable)), score(settings(scorable), run=first["run"])):
        assert again["repeated"]
        assert (again["run"], again["scored"], again["levels"]) == (first["run"], 0, first["levels"])
    assert (scorable / "warehouse" / "manifest.json").read_bytes() == manifest
    fresh = score(settings(scorable), fresh=True)
    assert (fresh["repeated"], fresh["scored"]) == (False, ALL)
    assert fresh["scored_at"] > first["scored_at"]
    assert len(scores(scorable)) == 2 * ALL
    assert len(set(scores(scorable, timeless=True))) == ALL, "the same data, moment and model give the same rows"


def test_new_data_or_another_model_make_a_new_run(scorable: Path) -> None:
    first = score(settings(scorable))
    late = pa.table(
        {
            "customer_id": ["late"],
            "business_id": ["biz-1"],
            "joined_at": pa.array([datetime(2025, 1, 1, tzinfo=UTC)], TIMESTAMP),
        }
    )
    Warehouse(scorable / "warehouse").land("customers", late, "late")
    second = score(settings(scorable))
    assert (second["repeated"], second["customers"]) == (False, ALL + 1)
    shutil.copytree(scorable / "models" / "sequence" / "1", scorable / "models" / "sequence" / "2")
    deploy(scorable / "models", "2", "sequence")
    third = score(settings(scorable))
    assert (third["repeated"], third["version"]) == (False, "sequence/2")
    assert len({first["run"], second["run"], third["run"]}) == 3


@pytest.mark.parametrize("shards", [3, 100])
def test_the_number_of_shards_and_threads_changes_no_score(scorable: Path, scores: Rows, shards: int) -> None:
    """But for the last bits: ONNX Runtime adds up in another order in a batch of another size."""
    score(settings(scorable, shards=1, workers=1))
    score(settings(scorable, shards=shards, landing_rows=200), fresh=True)
    rows = scores(scorable, timeless=True)
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one[:2] == other[:2]
        assert one[2:5] == pytest.approx(other[2:5], abs=1e-5)
        assert float(one[10]) == pytest.approx(float(other[10]), abs=0.02)  # type: ignore[arg-type]


def test_an_interrupted_run_goes_on_where_it_was(scorable: Path, scorable_template: Path, tmp_path: Path, scores: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable, workers=1), progress=StopAfter(customers=200))
    assert scores(scorable) == []
    resumed = score(settings(scorable))
    assert 0 < resumed["resumed"] < 4
    assert resumed["scored"] + 0 < ALL
    assert resumed["customers"] == ALL
    other = Path(shutil.copytree(scorable_template, tmp_path / "other"))
    whole = score(settings(other))
    assert (whole["run"], whole["levels"], whole["clv_at_risk"]) == (resumed["run"], resumed["levels"], resumed["clv_at_risk"])
    assert scores(scorable) == scores(other), "bit for bit"


def test_a_run_interrupted_while_it_lands_is_landed_once(scorable: Path, scores: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable), progress=StopAfter(landed=2))
    assert 0 < len(scores(scorable)) < ALL
    assert latest_finished(scorable, "biz-1") is None, "half a run is nobody's latest"
    found = score(settings(scorable))
    assert (found["scored"], found["state"]) == (0, "finished")
    assert len(scores(scorable)) == ALL


def test_a_fresh_run_leaves_no_half_of_an_earlier_one(scorable: Path, scores: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable), progress=StopAfter(landed=2))
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable, workers=1), fresh=True, progress=StopAfter(customers=200))
    score(settings(scorable), fresh=True)
    assert Counter(Counter(r[2] for r in scores(scorable)).values()) == {ALL: 2}
    assert [r.state for r in runs.runs(scorable)] == ["finished", "finished"]


def test_rows_that_land_meanwhile_do_not_count(scorable: Path, scorable_template: Path, tmp_path: Path, scores: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable, workers=1), progress=StopAfter(customers=200))
    late = pa.table(
        {
            "transaction_id": [f"late-{n}" for n in range(300)],
            "business_id": ["biz-1"] * 300,
            "customer_id": [f"cust-{n:04d}" for n in range(300)],
            "occurred_at": pa.array([datetime(2025, 6, 1, tzinfo=UTC)] * 300, TIMESTAMP),
            "amount": ["500"] * 300,
        }
    )
    Warehouse(scorable / "warehouse").land("transactions", late, "late")
    assert score(settings(scorable))["resumed"] > 0
    other = Path(shutil.copytree(scorable_template, tmp_path / "other"))
    score(settings(other))
    assert scores(scorable) == scores(other)


def _kill_when(home: Path, condition: Callable[[], bool]) -> None:
    command = [sys.executable, "-m", "regulars", "score", "--home", str(home), "--shards", "60", "--workers", "1"]
    environment = os.environ | {"REGULARS_SCORE_LANDING_ROWS": "20"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"


def test_a_killed_run_loses_and_doubles_nothing(scorable: Path, scorable_template: Path, tmp_path: Path, scores: Rows) -> None:
    """SIGKILL three times: while scoring, while scoring again, and while landing."""
    parts = scorable / "scores"
    _kill_when(scorable, lambda: len(list(parts.glob("*/part-*.parquet"))) >= 5)
    first = len(list(parts.glob("*/part-*.parquet")))
    _kill_when(scorable, lambda: len(list(parts.glob("*/part-*.parquet"))) >= first + 10)
    landed = scorable / "warehouse" / "customer_risk_scores"
    _kill_when(scorable, lambda: len(list(landed.rglob("*.parquet"))) >= 3)
    found = score(settings(scorable))
    assert (found["state"], found["customers"], found["repeated"]) == ("finished", ALL, False)
    other = Path(shutil.copytree(scorable_template, tmp_path / "other"))
    score(settings(other, shards=60, landing_rows=1000))
    assert scores(scorable) == scores(other)
    assert score(settings(scorable))["repeated"]


def test_a_damaged_part_is_scored_again(scorable: Path, scores: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable, workers=1), progress=StopAfter(customers=200))
    part = next((scorable / "scores").glob("*/part-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    score(settings(scorable))
    assert len(scores(scorable)) == ALL


def test_a_part_that_went_is_missed(scorable: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable), progress=StopAfter(landed=1))
    for part in (scorable / "scores").glob("*/part-*.parquet"):
        part.unlink()
    with pytest.raises(ArtifactError, match=r"cannot read part 0 of run .*--fresh"):
        score(settings(scorable))


def test_a_part_of_another_run_is_refused(scorable: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable), progress=StopAfter(landed=0))
    folder = next((scorable / "scores").glob("*/run.json")).parent
    (folder / "part-00000.parquet").unlink()
    shutil.copy(folder / "part-00001.parquet", folder / "part-00000.parquet")
    with pytest.raises(ArtifactError, match=r"parts 0 to 0 of run .* were planned"):
        score(settings(scorable))


def test_only_some_customers_are_scored_for_a_job(scorable: Path, scores: Rows) -> None:
    found = score(settings(scorable, business_id="biz-2", as_of=datetime(2025, 6, 15, tzinfo=UTC), shards=None), run="job-1",
                  customers=["cust-0003", "cust-0001", "cust-0003", "nobody"])  # fmt: skip
    assert (found["run"], found["customers"], found["unknown"]) == ("job-1", 2, 1)
    assert [(r[0], r[1]) for r in scores(scorable)] == [("cust-0001", "biz-2"), ("cust-0003", "biz-2")]
    assert latest_finished(scorable, "biz-2") is None, "some customers are not all"
    none = score(settings(scorable, business_id="biz-2", as_of=datetime(2025, 6, 15, tzinfo=UTC)), run="job-2", customers=["nobody"])
    assert (none["customers"], none["unknown"], none["state"]) == (0, 1, "finished")


def test_the_latest_run_of_a_business_is_its_own_or_of_all(scorable: Path) -> None:
    all_of_them = score(settings(scorable))
    later = datetime(2025, 7, 1, tzinfo=UTC)
    one = score(settings(scorable, business_id="biz-1", as_of=later))
    assert one["customers"] == 300
    assert [latest_finished(scorable, b).run for b in ("biz-1", "biz-2")] == [one["run"], all_of_them["run"]]  # type: ignore[union-attr]


def test_the_default_moment_is_now_unless_the_history_is_old(scorable: Path) -> None:
    warehouse = Warehouse(scorable / "warehouse")
    assert default_as_of(warehouse, "biz-1") == datetime(2025, 6, 15, tzinfo=UTC)
    assert warehouse.as_of("biz-1").date() == date(2025, 6, 14)
    fresh = pa.table(
        {
            "transaction_id": ["now"],
            "business_id": ["biz-1"],
            "customer_id": ["cust-0001"],
            "occurred_at": pa.array([datetime.now(UTC) - timedelta(days=1)], TIMESTAMP),
            "amount": ["1"],
        }
    )
    warehouse.land("transactions", fresh, "now")
    assert datetime.now(UTC) - default_as_of(warehouse, "biz-1") < timedelta(minutes=1)


def test_one_command_at_a_time_works_on_a_home(scorable: Path) -> None:
    with runner._alone(scorable, False), pytest.raises(ConfigError, match="one at a time"):
        score(settings(scorable))


def test_a_run_that_is_not_there_is_named(scorable: Path) -> None:
    with pytest.raises(UnknownItem, match=r"no scoring run nothing .* none"):
        score(settings(scorable), run="nothing")
    with pytest.raises(UnknownItem, match="no scoring run"):
        read_run(scorable, "nothing")


def test_nobody_to_score_says_what_to_do(scorable: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no customer of business biz-9.*regulars data generate"):
        score(settings(scorable, business_id="biz-9", as_of=datetime(2025, 6, 15, tzinfo=UTC)))


def test_a_model_that_is_missing_or_damaged_is_named(scorable: Path) -> None:
    onnx = scorable / "models" / "sequence" / "1" / "sequence.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="has checksum"):
        score(settings(scorable))
    shutil.rmtree(scorable / "models")
    with pytest.raises(ArtifactError, match="no deployed sequence"):
        score(settings(scorable), fresh=True)


def test_a_model_that_cannot_be_loaded_is_named(scorable: Path) -> None:
    from contracts.bundle import file_sha256

    folder = scorable / "models" / "sequence" / "1"
    before = file_sha256(folder / "sequence.onnx")
    (folder / "sequence.onnx").write_bytes(b"no model")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(before, file_sha256(folder / "sequence.onnx")))
    with pytest.raises(ArtifactError, match=r"cannot load .*regulars export --model sequence"):
        score(settings(scorable))


def test_a_run_whose_customers_are_gone_says_so(scorable: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable, workers=1), progress=StopAfter(customers=200))
    folder = RunFolder(scorable, next((scorable / "scores").glob("*/run.json")).parent.name)
    folder.customers_file.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"customers\.parquet.*--fresh"):
        score(settings(scorable))


def test_a_run_whose_acts_are_gone_says_so(scorable: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(settings(scorable, workers=1), progress=StopAfter(customers=200))
    shutil.rmtree(next((scorable / "scores").glob("*/acts")))
    with pytest.raises(ArtifactError, match="no acts by shard"):
        score(settings(scorable))


def test_shards_are_landed_together_up_to_a_number_of_rows() -> None:
    def groups(rows: tuple[int, ...], limit: int) -> list[tuple[int, int]]:
        run = Run(run="r", business_id=None, as_of=NOW, scored_at=NOW, version="1", data_version="d", shard_rows=rows, batch_size=1,
                  landing_rows=limit, risk_cuts=(0.4, 0.6, 0.8), began_at=NOW)  # fmt: skip
        return [(g.start, g.stop) for g in run.landings()]

    assert groups((5, 5, 5), 10) == [(0, 2), (2, 3)]
    assert groups((50, 1, 0, 9, 50), 10) == [(0, 1), (1, 4), (4, 5)]
    assert groups((0,), 10) == [(0, 1)]


def test_what_is_no_record_is_no_run(scorable: Path) -> None:
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"run": "c"}')):
        (scorable / "scores" / name).mkdir(parents=True)
        (scorable / "scores" / name / "run.json").write_text(text)
    assert runs.runs(scorable) == []


def test_the_engine_follows_the_size_unless_it_is_given(scorable: Path) -> None:
    assert runner._engine(settings(scorable, ray_from=100), 99) == "local"
    assert runner._engine(settings(scorable, ray_from=100), 100) == "ray"
    assert runner._engine(settings(scorable, engine="local", ray_from=100), 100) == "local"
    assert runner._engine(settings(scorable, ray_address="auto"), 1) == "ray"
