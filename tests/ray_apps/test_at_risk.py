"""Who is at risk, against the same computed in Python; and what a spreadsheet gets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import UnknownItem
from contracts.tables import CLV_SEGMENTS, RISK_LEVELS, TABLES
from ray_apps.at_risk import AtRisk, Wanted, run_csv
from ray_apps.scoring.runs import Run, RunFolder
from warehouse.store import Warehouse

NOW = datetime(2025, 6, 15, 10, 30, tzinfo=UTC)
ODD = ("=HYPERLINK(1)", "+1", "-1", "@x", 'a"b,c', "é")


def made_up(business: str, scored_at: datetime, seed: int, count: int = 60) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    churn = np.round(rng.random(count), 4)
    ids = [*ODD, *(f"cust-{i:03d}" for i in range(count - len(ODD)))]
    return [
        {
            "customer_id": ids[i], "business_id": business, "scored_at": scored_at, "churn_30": 1.0, "churn_60": 1.0, "churn_90": churn[i],
            "risk_level": RISK_LEVELS[int(np.searchsorted((0.4, 0.6, 0.8), churn[i], side="right"))],
            "predicted_churn_date": date(2025, 9, 1), "days_until_churn": int(rng.integers(0, 9)) * 30,
            "top_factor": "recency" if i % 2 else None, "historical_clv": Decimal(i), "predicted_clv": Decimal(int(rng.integers(0, 500))),
            "clv_segment": CLV_SEGMENTS[i % 4], "model_version": "sequence/1", "coverage": "full",
        }
        for i in range(count)
    ]  # fmt: skip


def finished(home: Path, name: str, scored_at: datetime, **more: Any) -> Run:
    run = Run(
        **{"run": name, "business_id": None, "as_of": NOW, "scored_at": scored_at, "version": "1", "data_version": "d",
           "shard_rows": (1,), "batch_size": 1, "landing_rows": 1, "risk_cuts": (0.4, 0.6, 0.8), "began_at": NOW,
           "state": "finished", **more}
    )  # fmt: skip
    folder = RunFolder(home, name)
    folder.path.mkdir(parents=True)
    return folder.write(run)


def land(home: Path, rows: list[dict[str, Any]], source: str) -> None:
    report = Warehouse(home / "warehouse").land(
        "customer_risk_scores", pa.Table.from_pylist(rows, schema=TABLES["customer_risk_scores"].schema), source
    )
    assert report.rejected == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two runs of two businesses: the later one counts."""
    for hour, seed in ((0, 1), (1, 2)):
        at = NOW + timedelta(hours=hour)
        land(tmp_path, made_up("biz-1", at, seed) + made_up("biz-2", at, seed + 10, 8), f"s{hour}")
        finished(tmp_path, f"run-{hour}", at)
    return tmp_path


@pytest.fixture
def report(home: Path) -> Iterator[AtRisk]:
    opened = AtRisk(home)
    yield opened
    opened.close()


def expected(wanted: Wanted, business: str = "biz-1", seed: int = 2, count: int = 60) -> list[dict[str, Any]]:
    rows = [
        {**r, "at_risk": r["churn_90"] * float(r["predicted_clv"])}
        for r in made_up(business, NOW + timedelta(hours=1), seed, count)
        if (wanted.days is None or r["days_until_churn"] <= wanted.days)
        and (wanted.segment is None or wanted.segment == r["clv_segment"])
        and (wanted.churned or r["days_until_churn"] > 0)
    ]
    return sorted(rows, key=lambda r: (-r["at_risk"], r["customer_id"]))


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(), Wanted(levels=("MEDIUM",)), Wanted(levels=RISK_LEVELS, days=60), Wanted(segment="HIGH"), Wanted(churned=True),
        Wanted(levels=("CRITICAL", "CRITICAL"), days=150, segment="LOW", churned=True), Wanted(segment="no such one"),
    ],
)  # fmt: skip
def test_the_list_is_that_of_the_newest_run_by_clv_at_risk(report: AtRisk, wanted: Wanted) -> None:
    rows = expected(wanted)
    mine = [r for r in rows if r["risk_level"] in wanted.levels]
    page = report.page("biz-1", wanted, 1000)
    assert page.run.run == "run-1"
    assert [r["customer_id"] for r in page.rows] == [r["customer_id"] for r in mine]
    assert page.totals.total == len(mine)
    assert page.totals.clv_at_risk == pytest.approx(sum(r["at_risk"] for r in mine), abs=0.01)
    assert page.totals.levels == {level: sum(r["risk_level"] == level for r in rows) for level in RISK_LEVELS}
    cut = report.page("biz-1", wanted, 3, 2)
    assert cut.rows == page.rows[2:5]
    assert cut.totals == page.totals


def test_another_business_sees_its_own(report: AtRisk) -> None:
    page = report.page("biz-2", Wanted(levels=RISK_LEVELS, churned=True), 1000)
    assert page.totals.total == 8
    assert [r["customer_id"] for r in page.rows] == [r["customer_id"] for r in expected(Wanted(churned=True), "biz-2", 12, 8)]


def test_nobody_scored_says_how(report: AtRisk, home: Path) -> None:
    finished(home, "of-another", NOW + timedelta(hours=3), business_id="biz-3")
    finished(home, "half", NOW + timedelta(hours=4), state="landing")
    finished(home, "some", NOW + timedelta(hours=5), partial=True)
    assert report.page("biz-1", Wanted(), 1).run.run == "run-1"
    for path in (home / "scores").glob("run-*/run.json"):
        path.unlink()
    for ask in (lambda: report.page("biz-1", Wanted(), 1), lambda: report.csv("biz-1", Wanted())):
        with pytest.raises(UnknownItem, match="regulars score"):
            ask()


def test_a_new_run_shows_at_once(report: AtRisk, home: Path) -> None:
    before = report.page("biz-1", Wanted(), 1000)
    later = NOW + timedelta(hours=2)
    land(home, made_up("biz-1", later, 3), "s2")
    assert report.page("biz-1", Wanted(), 1000) == before, "its rows alone change nothing"
    finished(home, "run-2", later)
    after = report.page("biz-1", Wanted(), 1000)
    assert after.run.run == "run-2"
    assert after.totals != before.totals


def test_totals_are_kept_for_the_run(report: AtRisk) -> None:
    for days in range(300):
        report.page("biz-1", Wanted(days=days), 1)
    assert len(report._totals) <= 256


def test_csv_has_the_same_rows_and_no_formulas(report: AtRisk, home: Path) -> None:
    wanted = Wanted(levels=RISK_LEVELS, churned=True)
    text = b"".join(report.csv("biz-1", wanted)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    page = report.page("biz-1", wanted, 1000)
    assert [r["customer_id"].removeprefix("'") for r in rows] == [r["customer_id"] for r in page.rows]
    assert {r["customer_id"] for r in rows} >= {"'=HYPERLINK(1)", "'+1", "'-1", "'@x", 'a"b,c', "é"}
    assert float(rows[0]["clv_at_risk"]) == page.rows[0]["clv_at_risk"]
    assert rows[0]["scored_at"] == "2025-06-15T11:30:00+00:00"
    assert "business_id" not in rows[0]
    assert len(list(csv.DictReader(io.StringIO(b"".join(report.csv("biz-1", wanted, 5)).decode())))) == 5
    assert len(b"".join(run_csv(home, page.run)).splitlines()) == 1 + 60 + 8


def test_a_csv_that_is_left_unread_closes_its_connection(report: AtRisk) -> None:
    pieces = report.csv("biz-1", Wanted())
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(pieces)
