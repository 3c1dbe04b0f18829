"""The seeded loyalty programme: reproducible, within the contract, and with the structure that models are meant to find."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from contracts.errors import ConfigError
from contracts.tables import TABLES
from regulars.cli import app
from warehouse import generate as module
from warehouse.generate import GeneratorSettings, generate, generate_into, recorded_end
from warehouse.generator import arrow, behaviour, text
from warehouse.generator.catalogue import FOLLOWS, build_world
from warehouse.generator.people import draw_people
from warehouse.generator.settings import season
from warehouse.generator.truth import no_purchase
from warehouse.store import Warehouse

END = "2026-06-30"
SMALL = {"customers": 90, "months": 2, "end": END, "rewards": 60, "products": 80}


def settings(**values: object) -> GeneratorSettings:
    return GeneratorSettings.load(environ={}, **{**SMALL, **values})


def collect(s: GeneratorSettings, truth: Path | None = None) -> dict[str, pa.Table]:
    parts = defaultdict(list)
    for table, _, rows in generate(s, truth=truth):
        parts[table].append(rows)
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


class Programme:
    """One programme of 1,500 customers over 7 months, landed."""

    def __init__(self, home: Path) -> None:
        self.settings = settings(customers=1_500, months=7, rewards=320, products=600, seed=11)
        self.warehouse = Warehouse(home / "warehouse")
        self.reports = list(generate_into(home, self.warehouse, self.settings))
        self.truth = home / "truth" / "biz-1"
        with self.warehouse.connect() as db:
            tables = ("customers", "rewards", "events", "tickets", "transactions", "campaigns")
            self.frames = {name: db.table(name).df() for name in tables}

    def db(self) -> duckdb.DuckDBPyConnection:
        return self.warehouse.connect()

    def read_truth(self, name: str) -> pd.DataFrame:
        return pd.concat([pd.read_parquet(f) for f in sorted(self.truth.glob(f"{name}-*.parquet"))])


@pytest.fixture(scope="module")
def programme(tmp_path_factory: pytest.TempPathFactory) -> Programme:
    return Programme(tmp_path_factory.mktemp("home"))


# ---- the same settings, the same tables -------------------------------------------------------------------------------------


def test_same_settings_give_identical_tables_with_or_without_truth(tmp_path: Path) -> None:
    first, second = collect(settings()), collect(settings(truth=False), tmp_path)
    assert first.keys() == second.keys()
    assert all(first[name].equals(second[name]) for name in first)


def test_another_seed_or_business_gives_other_tables() -> None:
    first = collect(settings())
    assert not first["events"].equals(collect(settings(seed=8))["events"])
    assert (
        not first["events"].drop_columns("business_id").equals(collect(settings(business_id="biz-2"))["events"].drop_columns("business_id"))
    )


def test_customers_of_a_full_block_do_not_depend_on_how_many_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 40)
    small, large = collect(settings(customers=40)), collect(settings(customers=90))
    rows = large["transactions"].slice(0, small["transactions"].num_rows)
    assert rows.equals(small["transactions"])
    assert large["customers"]["customer_id"].to_pylist() == [f"cust-{i:06d}" for i in range(1, 91)]


def test_sources_name_the_chunks_and_change_with_the_settings() -> None:
    sources = [source for _, source, _ in generate(settings())]
    assert len(set(sources)) == len(sources)
    assert settings(truth=False).digest() == settings().digest()
    assert settings(seed=8).digest() != settings().digest()
    assert all(settings().digest() in source for source in sources)


def test_businesses_count_on_from_the_first_and_share_no_transaction_id() -> None:
    assert settings(businesses=3).business_ids() == ["biz-1", "biz-2", "biz-3"]
    assert settings(businesses=2, business_id="cafe").business_ids() == ["cafe", "cafe-2"]
    tables = collect(settings(businesses=2, customers=30))
    ids = tables["transactions"]["transaction_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert set(tables["customers"]["business_id"].to_pylist()) == {"biz-1", "biz-2"}


@pytest.mark.parametrize(
    "values", [{"customers": 1, "months": 1}, {"customers": 3, "rewards": 40, "products": 60}, {"end": "2024-02-29", "months": 12}]
)
def test_small_and_odd_settings_work(values: dict[str, object]) -> None:
    tables = collect(settings(**values))
    assert all(rows.schema.equals(TABLES[name].schema) for name, rows in tables.items())
    assert set(tables["products"]["category"].to_pylist()) == set(text.CATEGORIES)


def test_window_ends_at_midnight_and_starts_months_earlier() -> None:
    window = settings(end="2024-03-31", months=1).window()
    assert dt.datetime.fromtimestamp(window.start, dt.UTC) == dt.datetime(2024, 2, 29, tzinfo=dt.UTC)
    assert dt.datetime.fromtimestamp(window.end, dt.UTC) == dt.datetime(2024, 3, 31, tzinfo=dt.UTC)
    assert window.week_start(window.weeks) == window.end
    assert window.week_start(0) <= window.start


@pytest.mark.parametrize("values", [{"customers": 0}, {"months": 61}, {"business_id": "../x"}, {"end": "soon"}, {"rewards": 5}])
def test_settings_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not valid"):
        settings(**values)


def test_mistyped_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="REGULARS_GENERATE_CUSTOMERS"):
        GeneratorSettings.load(environ={"REGULARS_GENERATE_CUSTOMER": "5"})


# ---- landing ----------------------------------------------------------------------------------------------------------------


def test_every_row_passes_the_contract(programme: Programme) -> None:
    assert sum(r.rejected + r.duplicates for r in programme.reports) == 0
    assert {r.table for r in programme.reports} == {
        "customers",
        "products",
        "rewards",
        "transactions",
        "transaction_items",
        "events",
        "tickets",
        "campaigns",
    }


def test_resumed_run_gives_the_same_version_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 30)
    whole, cut = Warehouse(tmp_path / "a" / "warehouse"), Warehouse(tmp_path / "b" / "warehouse")
    list(generate_into(tmp_path / "a", whole, settings()))

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(generate_into(tmp_path / "b", cut, settings(), interrupt))
    assert cut.data_version() != whole.data_version()
    list(generate_into(tmp_path / "b", cut, settings()))
    assert cut.data_version() == whole.data_version()
    names = [sorted(p.name for p in (tmp_path / x / "truth" / "biz-1").iterdir()) for x in "ab"]
    assert names[0] == names[1]
    assert len(names[0]) == 9


def test_repeated_run_computes_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(tmp_path / "warehouse")
    list(generate_into(tmp_path, warehouse, settings()))
    version = warehouse.data_version()
    monkeypatch.setattr(module, "draw_people", None)
    ticks: list[tuple[int, int]] = []
    assert all(r.repeated for r in generate_into(tmp_path, warehouse, settings(), lambda *t: ticks.append(t)))
    assert warehouse.data_version() == version
    assert ticks[-1][0] == ticks[-1][1]


def test_other_settings_in_the_same_business_are_refused(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "warehouse")
    list(generate_into(tmp_path, warehouse, settings()))
    with pytest.raises(ConfigError, match=r"seed 7 \(now 8\).*--home"):
        list(generate_into(tmp_path, warehouse, settings(seed=8)))
    list(generate_into(tmp_path, warehouse, settings(seed=8, business_id="biz-9")))
    assert set(warehouse.info()["businesses"]) == {"biz-1", "biz-9"}


def test_settings_may_change_as_long_as_nothing_was_landed(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "warehouse")
    next(generate_into(tmp_path, Warehouse(tmp_path / "elsewhere"), settings()))
    assert not next(generate_into(tmp_path, warehouse, settings(seed=8))).repeated
    assert warehouse.sources() == {"products": {f"generate-{settings(seed=8).digest()}-biz-1-products-0"}}


def test_rows_from_elsewhere_are_not_mixed_with(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "warehouse")
    warehouse.land("customers", pa.table({"business_id": ["biz-1"], "customer_id": ["x"]}), "own")
    with pytest.raises(ConfigError, match="rows from elsewhere"):
        list(generate_into(tmp_path, warehouse, settings()))


def test_a_repeat_on_a_later_day_finds_the_earlier_end(tmp_path: Path) -> None:
    list(generate_into(tmp_path, Warehouse(tmp_path / "warehouse"), settings()))
    assert recorded_end(tmp_path, settings(end="2026-07-01")) == END
    assert recorded_end(tmp_path, settings(end="2026-07-01", seed=8)) is None
    assert recorded_end(tmp_path / "empty", settings()) is None


def test_command_generates_then_says_that_nothing_changed(tmp_path: Path) -> None:
    arguments = [
        "data",
        "generate",
        "--customers",
        "40",
        "--months",
        "1",
        "--end",
        END,
        "--rewards",
        "60",
        "--home",
        str(tmp_path),
        "--json",
    ]
    first, second = (CliRunner().invoke(app, arguments, catch_exceptions=False) for _ in range(2))
    facts, again = json.loads(first.stdout), json.loads(second.stdout)
    assert facts["rows"]["customers"] == 40
    assert facts["rejected"] == 0
    assert (facts["unchanged"], again["unchanged"]) == (False, True)
    assert "Nothing to do" in second.stderr
    assert facts["data_version"] == again["data_version"]
    later = CliRunner().invoke(app, [a for a in arguments if a not in ("--end", END)], catch_exceptions=False)
    assert json.loads(later.stdout)["unchanged"] is True


# ---- within the rules -------------------------------------------------------------------------------------------------------


def test_references_hold(programme: Programme) -> None:
    with programme.db() as db:
        orphans = db.execute("""
            SELECT (SELECT count(*) FROM events ANTI JOIN customers USING (business_id, customer_id)),
                   (SELECT count(*) FROM events e WHERE reward_id IS NOT NULL AND reward_id NOT IN (SELECT reward_id FROM rewards)),
                   (SELECT count(*) FROM events e WHERE campaign_id IS NOT NULL AND campaign_id NOT IN (SELECT campaign_id FROM campaigns)),
                   (SELECT count(*) FROM transactions ANTI JOIN customers USING (business_id, customer_id)),
                   (SELECT count(*) FROM tickets ANTI JOIN customers USING (business_id, customer_id)),
                   (SELECT count(*) FROM transaction_items ANTI JOIN transactions USING (transaction_id)),
                   (SELECT count(*) FROM transactions ANTI JOIN transaction_items USING (transaction_id)),
                   (SELECT count(*) FROM transaction_items ANTI JOIN products USING (product_id))
        """).fetchone()
        unbalanced = db.execute("""
            SELECT count(*) FROM (SELECT transaction_id, sum(amount) AS total FROM transaction_items GROUP BY 1)
            JOIN transactions t USING (transaction_id) WHERE total <> t.amount + t.discount_amount OR t.amount < 0
        """).fetchone()
    assert orphans == (0,) * 8
    assert unbalanced == (0,)


def test_everything_happens_in_the_window_and_after_joining(programme: Programme) -> None:
    window, f = programme.settings.window(), programme.frames
    start, end = (pd.Timestamp(t, unit="s", tz="UTC") for t in (window.start, window.end))
    joined = f["customers"].set_index("customer_id")["joined_at"]
    for table, column in (("events", "occurred_at"), ("transactions", "occurred_at"), ("tickets", "created_at")):
        assert f[table][column].min() >= start
        assert f[table][column].max() < end
        assert (f[table][column] > f[table]["customer_id"].map(joined)).all()
    assert f["campaigns"]["ended_at"].max() <= end
    assert programme.warehouse.as_of().date() >= dt.date(2026, 6, 29)


def test_redemptions_are_open_affordable_spent_for_and_single_where_single(programme: Programme) -> None:
    f = programme.frames
    red = f["events"].query("event_type == 'redemption'").merge(f["rewards"], on="reward_id")
    assert ((red["valid_from"].isna()) | (red["valid_from"] <= red["occurred_at"])).all()
    assert ((red["valid_to"].isna()) | (red["occurred_at"] < red["valid_to"])).all()
    paid = red.merge(f["transactions"], on=["customer_id", "occurred_at"])
    assert paid["event_id"].nunique() == len(red)
    gross = (paid["amount"].astype(float) + paid["discount_amount"].astype(float)).groupby(paid["event_id"]).max()
    assert (gross >= paid.groupby("event_id")["difficulty"].first().astype(float)).all()
    single = red[red["reward_type"].isin(["experience", "upgrade"])]
    assert not single.duplicated(["customer_id", "reward_id"]).any()
    assert len(single) > 100
    assert f["customers"]["points_balance"].min() >= 0


def test_catalogue_is_complete_and_readable(programme: Programme) -> None:
    r, end = programme.frames["rewards"], pd.Timestamp(END, tz="UTC")
    assert r["name"].nunique() > 0.9 * len(r)
    assert r["reward_type"].nunique() == 8
    assert r["description"].str.endswith(".").all()
    assert not r["description"].str.contains(r"\ba [aeiou]").any()
    assert 0.08 <= (r["valid_from"] > end - pd.Timedelta(days=60)).mean() <= 0.2
    assert (r["valid_to"] < end).sum() > 10
    assert (r["inventory"] == 0).sum() >= 3
    assert r["reward_id"].iloc[0] == "rew-0001"


def test_people_and_tickets_are_varied(programme: Programme) -> None:
    c, t = programme.frames["customers"], programme.frames["tickets"]
    assert c["email"].str.fullmatch(r"[a-z]+\.[a-z]+\.\d{6}@example\.com").all()
    assert c["email"].is_unique
    assert 0.9 < c["consent_personalization"].mean() < 0.99
    assert set(c["membership_tier"]) == {"BRONZE", "SILVER", "GOLD", "PLATINUM"}
    age = (pd.Timestamp(END) - pd.to_datetime(c["birth_date"])).dt.days / 365.25
    low = c["age_group"].str[:2].astype(int)
    assert ((age > low - 0.1) & (age < low + 21)).all()
    assert t["text"].nunique() > 0.8 * len(t)
    assert t.query("sentiment == 'NEGATIVE'")["rating"].max() <= 2
    assert set(t["sentiment"]) == {"POSITIVE", "NEUTRAL", "NEGATIVE"}


def test_all_event_kinds_occur_and_metadata_is_sparse(programme: Programme) -> None:
    events = programme.frames["events"]
    assert set(TABLES["events"].checks[0].predicate.split("'")[1::2]) == set(events["event_type"])
    assert events["metadata"].notna().mean() < 0.05
    changes = events.query("event_type == 'tier_change'")["metadata"].map(json.loads)
    assert all(x["from"] != x["to"] for x in changes)


def test_december_and_saturday_are_busier() -> None:
    first = int(dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp())
    factor = season(first + np.arange(365) * 86_400)
    assert factor[-23:-9].mean() > 1.2 * factor[60:270].mean()
    saturday, sunday = factor[3:300:7], factor[4:300:7]  # 4 and 5 January 2025
    assert saturday.mean() > 1.2 * sunday.mean()


# ---- structure to be found --------------------------------------------------------------------------------------------------


def ndcg_at_10(scores: np.ndarray, chosen: np.ndarray) -> float:
    rank = (scores > scores[np.arange(len(chosen)), chosen][:, None]).sum(axis=1)
    return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0.0).mean())


def test_true_probabilities_sum_to_one_and_rank_far_better_than_popularity(programme: Programme) -> None:
    truth = programme.read_truth("redemptions")
    sums = truth.groupby(["customer_id", "as_of"])["probability"].sum()
    np.testing.assert_allclose(sums, 1.0, atol=1e-9)
    at = truth["as_of"].min()
    assert at == pd.Timestamp(END, tz="UTC") - pd.Timedelta(days=14)
    table = truth[truth["as_of"] == at].pivot_table(index="customer_id", columns="reward_id", values="probability", fill_value=0.0)
    red = programme.frames["events"].query("event_type == 'redemption'").sort_values("occurred_at")
    following = red[(red["occurred_at"] >= at) & red["campaign_id"].isna()].groupby("customer_id")["reward_id"].first()
    following = following[following.index.isin(table.index) & following.isin(table.columns)]
    chosen = table.columns.get_indexer(following)
    popular = red[red["occurred_at"] < at]["reward_id"].value_counts().reindex(table.columns, fill_value=0).to_numpy()
    best = ndcg_at_10(table.loc[following.index].to_numpy(), chosen)
    assert len(chosen) > 80
    assert best > 0.4
    assert best > 1.5 * ndcg_at_10(np.tile(popular, (len(chosen), 1)), chosen)


def test_choice_probability_names_its_times_and_leaves_out_what_is_closed(programme: Programme) -> None:
    file = next(programme.truth.glob("redemptions-*.parquet"))
    assert pq.read_schema(file).metadata[b"as_of"] == b"2026-06-16T00:00:00Z,2026-06-30T00:00:00Z"
    truth, rewards = programme.read_truth("redemptions"), programme.frames["rewards"].set_index("reward_id").drop(columns="business_id")
    last = truth[truth["as_of"] == truth["as_of"].max()].join(rewards, on="reward_id")
    assert not (last["inventory"] == 0).any()
    assert not (last["valid_to"] < last["as_of"]).any()
    assert not (last["valid_from"] > last["as_of"]).any()


def test_bad_experience_raises_churn() -> None:
    s = settings(customers=400, months=6)
    world = build_world(s, "biz-1")
    people = draw_people(world, 0, 400, np.random.default_rng(1))
    block = behaviour.Block(world, people, np.random.default_rng(2))
    calm, calm_silence = block.hazard(), no_purchase(block, s.window().start)
    block.state.bad[:] = 2.0
    assert (block.hazard() > 2 * calm).all()
    assert (no_purchase(block, s.window().start) > calm_silence).all()


def test_customers_with_bad_tickets_leave_more_often_than_equally_frequent_ones(programme: Programme) -> None:
    f, traits = programme.frames, programme.read_truth("traits").set_index("customer_id")
    cut = pd.Timestamp(END, tz="UTC") - pd.Timedelta(weeks=13)
    regular = traits[(traits["visits_per_week"] > 0.7) & ~(traits["left_at"] < cut)].index
    early = f["tickets"][(f["tickets"]["created_at"] < cut) & (f["tickets"]["created_at"] > cut - pd.Timedelta(weeks=6))]
    hurt = regular.isin(early[early["rating"] <= 2]["customer_id"])
    left = traits.loc[regular, "left_at"].notna().to_numpy()
    assert hurt.sum() > 20
    assert left[hurt].mean() > 1.4 * left[~hurt].mean()


def test_churn_truth_agrees_with_what_happened(programme: Programme) -> None:
    truth = programme.read_truth("churn")
    at = pd.Timestamp(END, tz="UTC") - pd.Timedelta(weeks=13)
    truth = truth[truth["as_of"] == at].set_index("customer_id")
    assert len(truth) > 1_000
    bought = programme.frames["transactions"].query("occurred_at > @at")
    for days in (30, 60, 90):
        active = set(bought[bought["occurred_at"] <= at + pd.Timedelta(days=days)]["customer_id"])
        silent = 1.0 - truth.index.isin(list(active)).mean()
        assert abs(truth[f"no_purchase_{days}"].mean() - silent) < 0.03
    assert (truth["no_purchase_30"] >= truth["no_purchase_90"]).all()
    assert (truth.loc[truth["gone"], "no_purchase_90"] == 1.0).all()


def test_those_who_left_get_mail_but_do_nothing(programme: Programme) -> None:
    left = programme.read_truth("traits").set_index("customer_id")["left_at"].dropna() + pd.Timedelta(days=7)
    events = programme.frames["events"]
    after = events[events["occurred_at"] > events["customer_id"].map(left)]
    assert set(after["event_type"]) <= {"offer_received", "email_sent", "push_sent", "points_expired"}
    assert len(after) > 0
    purchases = programme.frames["transactions"]
    assert not (purchases["occurred_at"] > purchases["customer_id"].map(left)).any()


def test_what_was_redeemed_last_shifts_the_next_choice(programme: Programme) -> None:
    red = programme.frames["events"].query("event_type == 'redemption' and campaign_id.isna()").sort_values(["customer_id", "occurred_at"])
    names = red["reward_id"].map(programme.frames["rewards"].set_index("reward_id")["category"])
    category, who = np.array([text.CATEGORIES.index(c) for c in names]), pd.factorize(red["customer_id"])[0]
    follows = np.array([FOLLOWS[c] for c in range(len(text.CATEGORIES))])

    def share(order: np.ndarray) -> float:
        """Part of neighbouring redemptions of one customer whose category stays or moves on to the one that follows it."""
        c, same_person = category[order], who[order][1:] == who[order][:-1]
        return float(np.mean(((c[1:] == c[:-1]) | (c[1:] == follows[c[:-1]]))[same_person]))

    shuffled = np.lexsort((np.random.default_rng(0).random(len(who)), who))
    assert share(np.arange(len(who))) > 1.08 * share(shuffled)


# ---- columns ----------------------------------------------------------------------------------------------------------------


def test_columns_keep_every_cent_and_mark_missing_values() -> None:
    cents = np.array([0, 1, -250, 10**14])
    assert [str(v) for v in arrow.decimals(cents, np.array([True, False, False, False])).to_pylist()] == [
        "None",
        "0.0100",
        "-2.5000",
        f"{10**12}.0000",
    ]
    assert arrow.numbered("x-", np.array([7, 12345]), 4).to_pylist() == ["x-0007", "x-12345"]
    assert arrow.take(["a", "b"], np.array([1, -1])).to_pylist() == ["b", None]
    assert arrow.real(np.array([1.5, np.nan])).to_pylist() == [1.5, None]
