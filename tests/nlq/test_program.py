"""Programs: what may be said, and that it is read and written back without a change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nlq.corpus.bank as bank
from contracts.errors import ContractError
from nlq.program import MAX_TOKENS, REFUSE, Automaton, Condition, Dimension, Having, Order, Program, Simple, Slots, Wrapped, parse
from nlq.vocabulary import CONSTANTS, DOWN, TABLES, UP, fields, tokens

SOME = Slots(2, (frozenset({"customers.location"}), frozenset({"products.name", "rewards.name"})), 2, frozenset({1}))
NOTHING = Slots()
OFFERS = (NOTHING, SOME, Slots(times=1), Slots(4, tuple(frozenset(fields()) for _ in range(4)), 3, frozenset(range(3))))


def after(text: str, slots: Slots = SOME) -> Automaton:
    automaton = Automaton(slots)
    for token in text.split():
        automaton.push(token)
    return automaton


def walk(draw: st.DataObject, slots: Slots, free: int) -> tuple[str, ...]:
    """`free` steps wherever they lead, then by the shortest way out."""
    automaton, program = Automaton(slots), list[str]()
    while not automaton.done:
        allowed = sorted(automaton.allowed())
        assert allowed, f"nothing may follow {' '.join(program)}"
        way_out = [t for t in ("end", ")") if t in allowed]
        program.append(way_out[0] if way_out and len(program) >= free else draw.draw(st.sampled_from(allowed)))
        automaton.push(program[-1])
    return tuple(program)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(OFFERS), st.integers(1, 24))
def test_every_walk_ends_in_time_and_is_printed_as_it_was_read(draw: st.DataObject, slots: Slots, free: int) -> None:
    said = walk(draw, slots, free)
    assert len(said) <= MAX_TOKENS
    program = parse(said, slots)
    short = list(said[:-1])
    while short[-1] == ";":  # empty sections at the end say nothing
        short.pop()
    assert program.tokens() == (*short, "end")
    assert parse(str(program), slots) == program


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(OFFERS), st.integers(0, 20))
def test_what_is_allowed_is_taken_and_everything_else_refused(draw: st.DataObject, slots: Slots, free: int) -> None:
    automaton = Automaton(slots)
    for _ in range(free):
        if not automaton.done:
            automaton.push(draw.draw(st.sampled_from(sorted(automaton.allowed()))))
    allowed = automaton.allowed()
    assert allowed <= set(tokens())
    for token in tokens():
        other = automaton.copy()
        if token in allowed:
            other.push(token)
            assert other.length == automaton.length + 1
            assert other.done or other.allowed(), token  # no way leads nowhere
        else:
            with pytest.raises(ContractError, match="may not come here"):
                other.push(token)
            assert other == automaton


def test_a_copy_goes_its_own_way() -> None:
    one = after("agg count customers")
    other = one.copy()
    other.push("end")
    assert other.done
    assert not one.done
    assert "end" in one.allowed()


def test_only_slots_that_the_question_offers_can_be_named() -> None:
    slots = {"N0", "N1", "N2", "V0", "V1", "T0", "T1", "T2"}
    assert after("agg count customers ; ; eq customers.location").allowed() & slots == {"V0"}
    assert after("list products ; like products.name").allowed() & slots == {"V1"}
    assert after("agg count customers ; ; gt customers.income").allowed() & slots == {"N0", "N1", "T1"}  # T1 is a length in days
    assert after("agg count customers ; ; during customers.joined_at").allowed() == {"T0", "T1"}
    assert after("list customers ; ; desc customers.income").allowed() == {"N0", "N1", "one", "end", *CONSTANTS}
    assert after("agg count customers ; ; gt customers.income", NOTHING).allowed() == {"mean", *CONSTANTS}
    for nowhere in ("during", "notduring", "like"):
        assert nowhere not in after("agg count customers ; ;", NOTHING).allowed()
    assert "vs" not in after("agg", NOTHING).allowed()
    assert "vs" in after("agg").allowed()
    assert "hasmore" not in after("list customers ;", NOTHING).allowed()  # it compares two times
    assert "hasmore" in after("list customers ;").allowed()
    assert "hasin" in after("list customers ;", NOTHING).allowed()  # "half of them within #30 days"
    assert after("list customers ; hasin transactions").allowed() == {"N0", "N1", "T1", *CONSTANTS}  # T1 is a length
    assert after("list customers ; hasmore sum transactions.amount T1").allowed() == {"T0", "T1"}
    assert after("agg topshare count events rewards").allowed() == {"N0", "N1", "one", *CONSTANTS}
    assert after("agg share count events ) ; rewards ; ; gt m0").allowed() == {"N0", "N1", "T1", *CONSTANTS}  # no mean of it
    assert "eq" in after("agg count customers ; ;", NOTHING).allowed()  # enums and numbers need no slot
    assert "customers.location" not in after("agg count customers ; ; eq", NOTHING).allowed()


@pytest.mark.parametrize(
    ("said", "types"),
    [
        ("agg sum", {"number"}),
        ("agg avg", {"number"}),
        ("agg median", {"number"}),
        ("agg max", {"number", "time", "date"}),
        ("agg distinct", {"id", "text", "enum"}),
        ("agg share max", {"number"}),
        ("agg growth min", {"number"}),
        ("agg vs max", {"number"}),
        ("agg ratio max", {"number"}),
        ("agg pct ratio only min", {"number"}),
        ("agg only max", {"number", "time", "date"}),
        ("agg count events ; events.channel ; ; gt max", {"number"}),
        ("agg count events ; month", {"time", "date"}),
        ("agg count events ; ; gt", {"number"}),
        ("agg count events ; ; between", {"number"}),
        ("agg count events ; ; true", {"flag"}),
        ("agg count events ; ; during", {"time", "date"}),
        ("agg count events ; ; null", {"id", "text", "enum", "number", "time", "date", "flag"}),
        ("agg count customers ; ; hasagg gt sum", {"number"}),
        ("agg count customers ; ; hasagg gt distinct", {"id", "text", "enum"}),
        ("agg per sum", {"number"}),
        ("agg topshare sum", {"number"}),
        ("list customers ; hasmore sum", {"number"}),
        ("list customers ; ; desc", {"number", "time", "date", "text"}),
    ],
)
def test_columns_fit_what_is_done_to_them(said: str, types: set[str]) -> None:
    allowed = {t for t in after(said).allowed() if t in fields()}
    assert {fields()[t].type for t in allowed} == types


@pytest.mark.parametrize("table", TABLES)
def test_no_table_is_named_that_keys_do_not_reach(table: str) -> None:
    up = set(UP[table])
    listed = after(f"list {table}").allowed() - {";", "end"}
    assert {fields()[t].table for t in listed} == up
    conditions = after(f"list {table} ;")
    for op in sorted(conditions.allowed() - {";", "end", "or", "has", "hasnot", "hasagg", "hasin", "hasmore"}):
        inside = after(f"list {table} ; {op}").allowed()
        assert {fields()[t].table for t in inside} <= up
        assert inside
    dimensions = after(f"agg count {table} ;").allowed() & {*TABLES, *fields()}
    assert {t.split(".")[0] for t in dimensions} == up
    assert ("has" in conditions.allowed()) == bool(DOWN[table])
    if DOWN[table]:
        assert after(f"list {table} ; has").allowed() == set(DOWN[table])
        assert {t.split(".")[0] for t in after(f"list {table} ; hasagg gt sum").allowed()} <= set(DOWN[table])


def test_a_metric_beside_another_stays_within_its_reach() -> None:
    assert after("agg count transactions count").allowed() == {"transactions"}
    assert "tickets.rating" not in after("agg count transactions avg").allowed()
    assert "customers.income" in after("agg count transactions avg").allowed()
    assert after("agg ratio count tickets count").allowed() == set(TABLES)
    three = after("agg count customers avg customers.income max customers.income")
    assert three.allowed() == {";", "end"}
    assert after("agg count customers ; customers.gender customers.location customers.age_group").allowed() == {";", "end"}


def test_totals_per_unit_and_of_the_largest_are_of_what_adds_up() -> None:
    assert after("agg per").allowed() == after("agg topshare").allowed() == {"count", "sum"}
    assert after("agg per sum transactions.amount").allowed() == {"day", "week", "month", "quarter", "year"}  # no weekday, no hour
    assert after("agg topshare sum transactions.amount").allowed() == {"customers", "segments"}
    assert after("agg topshare count events").allowed() == {"customers", "segments", "rewards", "campaigns"}
    assert after("agg pct").allowed() == {"share", "ratio", "of_total", "growth", "topshare"}


def test_conditions_on_a_customer_need_one() -> None:
    for table in ("customers", "customer_risk_scores", "transactions", "transaction_items", "events", "tickets"):
        heads = after(f"list {table} ;").allowed()
        assert {"hasmore", "hasin"} <= heads
        assert after(f"list {table} ; hasin").allowed() == {"transactions", "transaction_items", "events", "tickets"}
        assert after(f"list {table} ; hasmore").allowed() == {"count", "sum"}
        assert after(f"list {table} ; hasmore count").allowed() == {"transactions", "transaction_items", "events", "tickets"}
    for table in ("products", "rewards", "campaigns", "segments"):
        assert not {"hasmore", "hasin"} & after(f"list {table} ;").allowed()


def test_different_things_are_counted_through_the_rows_that_name_them() -> None:
    through = {"products.brand", "products.category", "rewards.category", "campaigns.channel", "transactions.store", "events.reward_id"}
    for table in ("customers", "transactions", "transaction_items"):
        assert through <= after(f"list {table} ; hasagg ge distinct").allowed()
    assert not {"products.brand", "products.name"} & after("list products ; hasagg ge distinct").allowed()
    assert "rewards.category" not in after("list rewards ; hasagg ge distinct").allowed()
    assert "rewards.category" in after("list campaigns ; hasagg ge distinct").allowed()


def test_no_value_comes_twice_in_a_list() -> None:
    assert "=GOLD" not in after("list customers ; in customers.membership_tier =GOLD").allowed()
    assert ")" in after("list customers ; in customers.membership_tier =GOLD").allowed()
    assert ")" not in after("list customers ; in customers.membership_tier").allowed()  # one at least
    other = after("list customers ; in customers.membership_tier =GOLD ) notin customers.membership_tier")
    assert "=GOLD" in other.allowed()  # another list


def test_order_speaks_of_what_is_there() -> None:
    assert after("agg vs count events T0 T1 ; events.channel ; ; ; desc").allowed() == {"m0", "d0", "change"}
    assert after("agg pct growth count events ; month events.occurred_at ; ; ; asc").allowed() == {"m0", "d0", "change"}
    assert after("agg count events ; events.channel ; ; gt").allowed() >= {"m0", "count", "avg"}
    assert "m1" not in after("agg count events ; events.channel ; ; gt").allowed()
    assert "m1" in after("agg count events count events ; events.channel ; ; gt").allowed()
    assert after("agg count customers ; customers.gender ; ; ; desc").allowed() == {"m0", "d0"}
    assert after("agg count customers avg customers.income ; customers.gender ; ; ; desc").allowed() == {"m0", "m1", "d0"}
    assert after("agg pct share count customers eq customers.gender =F ) ; customers.location ; ; ; desc").allowed() == {"m0", "d0"}
    assert after("agg count customers ; ; ;").allowed() == {";", "end"}  # no groups, so none to keep or to order
    assert after("agg count customers ; ; ; ;").allowed() == {"end"}
    assert after("agg count customers ; customers.gender ; ; ; desc m0 N0").allowed() == {"end"}
    assert after("agg count customers ; customers.gender customers.location ; ; ; desc m0 one").allowed() == {"end", "each"}


def test_a_table_without_times_or_flags_is_not_asked_for_them() -> None:
    assert not {"during", "notduring", "true", "false"} & after("list products ;").allowed()
    assert not {"day", "month", "hour"} & after("agg count products ;").allowed()
    assert "month" in after("agg count transaction_items ;").allowed()  # through its purchase


def test_the_tree() -> None:
    inner = Condition("during", "transactions.occurred_at", ("T0",))
    said = "list customers customers.income ; hasnot transactions during transactions.occurred_at T0 ) ; desc customers.income N0 end"
    assert parse(said) == Program(
        "list", "customers", ("customers.income",), conditions=(Condition("hasnot", table="transactions", inner=(inner,)),),
        order=Order(True, "customers.income", "N0"),
    )  # fmt: skip
    redeemed = Condition("eq", "events.event_type", ("=redemption",))
    assert parse(
        "agg pct share count events eq events.event_type =redemption ) ; month events.occurred_at rewards ; "
        "or in events.channel =app =web ) between events.value N0 N1 ; ge avg events.value mean ; asc d0 #10 each end"
    ) == Program(
        "agg", "events", metrics=(Wrapped("pct", (Wrapped("share", (Simple("count", "events"),), (redeemed,)),)),),
        dimensions=(Dimension("events.occurred_at", "month"), Dimension("rewards")),
        conditions=(Condition("or", either=(
            Condition("in", "events.channel", ("=app", "=web")), Condition("between", "events.value", ("N0", "N1")),
        )),),
        having=(Having("ge", Simple("avg", "events.value"), "mean"),), order=Order(False, "d0", "#10", True),
    )  # fmt: skip
    total = Condition(
        "hasagg", table="transactions", compare="gt", metric=Simple("sum", "transactions.amount"), operands=("N0",),
        inner=(Condition("notnull", "transactions.store"),),
    )  # fmt: skip
    assert parse("agg count customers ; ; hasagg gt sum transactions.amount N0 notnull transactions.store ) end").conditions == (total,)
    assert parse("refuse end") is REFUSE
    versus = parse("agg vs sum transactions.amount T0 T1 end").metrics
    assert versus == (Wrapped("vs", (Simple("sum", "transactions.amount"),), times=("T0", "T1")),)
    assert parse("agg per count tickets week pct topshare count tickets customers #10 end").metrics == (
        Wrapped("per", (Simple("count", "tickets"),), times=("week",)),
        Wrapped("pct", (Wrapped("topshare", (Simple("count", "tickets"),), times=("customers", "#10")),)),
    )
    app = Condition("eq", "events.channel", ("=app",))
    said = "list customers ; hasmore count events T1 T0 eq events.channel =app ) hasin events N0 eq events.channel =app ) end"
    assert parse(said).conditions == (
        Condition("hasmore", table="events", metric=Simple("count", "events"), operands=("T1", "T0"), inner=(app,)),
        Condition("hasin", table="events", operands=("N0",), inner=(app,)),
    )  # fmt: skip
    brands = parse("list customers ; hasagg ge distinct products.brand N0 eq products.category V0 ) end").conditions[0]
    assert (brands.table, brands.metric) == ("transaction_items", Simple("distinct", "products.brand"))
    shown = parse("agg share count events ) count events ; rewards ; ; gt m0 N0 lt m1 #10 ; desc m1 end").having
    assert shown == (Having("gt", "m0", "N0"), Having("lt", "m1", "#10"))


@pytest.mark.parametrize(
    ("said", "table"),
    [
        ("agg count customers end", "customers"),
        ("agg avg customers.income end", "customers"),
        ("agg sum transactions.amount distinct customers.location end", "transactions"),
        ("agg ratio distinct customers.location count transactions end", "transactions"),
        ("agg ratio count transactions distinct customers.location end", "transactions"),
        ("agg ratio sum transaction_items.quantity count transactions end", "transaction_items"),
        ("agg ratio count tickets count transactions end", "tickets"),
        ("agg share count events eq events.channel =app ) end", "events"),
    ],
)
def test_the_table_whose_rows_are_counted(said: str, table: str) -> None:
    assert parse(said).table == table
    assert after(said.removesuffix(" end")).base == table


@pytest.mark.parametrize("cut", ["", "agg", "agg count customers ;", "list customers ; eq customers.gender", "refuse"])
def test_a_program_that_is_cut_off_is_refused(cut: str) -> None:
    with pytest.raises(ContractError, match="cut off"):
        parse(cut)


@pytest.mark.parametrize(
    "more", ["agg count customers end end", "list customers ; eq customers.gender =GOLD end", "count customers end", "agg sum end"]
)
def test_what_is_no_program_is_refused(more: str) -> None:
    with pytest.raises(ContractError, match="may not come here"):
        parse(more)


def test_a_slot_that_is_not_there_is_refused() -> None:
    said = "agg count customers ; ; eq customers.location V0 end"
    assert parse(said, SOME) == parse(said)
    with pytest.raises(ContractError, match="may not come here"):
        parse(said, Slots(values=(frozenset({"products.name"}),)))


def test_every_phrase_of_the_bank_has_a_program_that_is_written_as_it_is_read() -> None:
    programs = {line.program for line in bank.read(Path(bank.__file__).parent / "phrases")}
    assert len(programs) > 1000
    for program in programs:
        assert str(parse(program)) == program
        assert len(program.split()) < MAX_TOKENS
