"""The simulated 30-day test of a coffee chain's loyalty app (`starbucks_rewards`).

offers -> rewards; customers -> customers; offer received, viewed and completed -> offer_received, offer_viewed and redemption events;
transactions -> transactions. The log counts hours from an unnamed start; here the clock starts at `start`. The position in the log is added
as microseconds, so that the order within an hour is kept.

A completion does not mean that the customer saw the offer. Each redemption carries `{"viewed_before": ...}` in its metadata: was a copy of
the offer, still valid at the completion, received and then viewed before it? Exact repeats of a completion (two copies of one offer
completed by one purchase) stay separate events.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from warehouse.importers.common import Notes, age_group_sql, arrow, opened, single

NEEDED = {
    "offers": ("offer_id", "offer_type", "difficulty", "reward", "duration_days", "channel_email", "channel_mobile", "channel_social",
               "channel_web"),
    "customers": ("customer_id", "gender", "age", "income", "became_member_on"),
    "events": ("seq", "customer_id", "event", "time_hours", "offer_id", "amount", "reward"),
}  # fmt: skip
START = datetime(2018, 7, 27, tzinfo=UTC)
"""The day after the last member joined."""

_REWARDS = """
    WITH worded AS (
        SELECT *, CAST(duration_days AS INTEGER) || ' days' AS days,
            array_to_string(list_filter([IF(channel_email, 'email', NULL), IF(channel_mobile, 'mobile app', NULL),
                IF(channel_social, 'social media', NULL), IF(channel_web, 'web', NULL)], lambda c: c IS NOT NULL), ', ') AS channels
        FROM offers
    ), named AS (
        SELECT *, CASE offer_type
            WHEN 'bogo' THEN format('Buy one get one: spend ${}, get ${} ({})', difficulty, reward, days)
            WHEN 'discount' THEN format('Discount: spend ${}, get ${} off ({})', difficulty, reward, days)
            ELSE format('News from the shop ({})', days) END AS title
        FROM worded
    )
    SELECT offer_id AS reward_id, $business AS business_id, title AS name,
        format('{}. Sent by {}; valid for {} from receipt.', title, channels, days) AS description,
        offer_type AS category, offer_type AS reward_type, CAST(reward AS DECIMAL(18, 4)) AS face_value,
        CAST(difficulty AS DECIMAL(18, 4)) AS difficulty
    FROM named ORDER BY offer_id
"""
_CUSTOMERS = f"""
    SELECT customer_id, $business AS business_id, CAST(became_member_on AS TIMESTAMP) AT TIME ZONE 'UTC' AS joined_at, gender,
        {age_group_sql("NULLIF(age, 118)")} AS age_group, CAST(income AS DECIMAL(18, 4)) AS income
    FROM customers ORDER BY customer_id
"""  # noqa: S608 - built from constants
_AT = "CAST($start AS TIMESTAMPTZ) + to_hours(CAST(time_hours AS INTEGER)) + to_microseconds(CAST(seq AS BIGINT))"
_VIEWED = """
    SELECT DISTINCT c.seq FROM events c
    JOIN offers o ON o.offer_id = CAST(c.offer_id AS VARCHAR)
    JOIN events r ON r.customer_id = c.customer_id AND r.offer_id = c.offer_id AND r.event = 'offer received' AND r.seq < c.seq
        AND r.time_hours + 24 * o.duration_days >= c.time_hours
    JOIN events v ON v.customer_id = c.customer_id AND v.offer_id = c.offer_id AND v.event = 'offer viewed'
        AND v.seq > r.seq AND v.seq < c.seq
    WHERE c.event = 'offer completed'
"""
_EVENTS = f"""
    SELECT $business || ':' || seq AS event_id, $business AS business_id, customer_id, {_AT} AS occurred_at,
        CASE event WHEN 'offer received' THEN 'offer_received' WHEN 'offer viewed' THEN 'offer_viewed'
            WHEN 'offer completed' THEN 'redemption' ELSE CAST(event AS VARCHAR) END AS event_type,
        CAST(offer_id AS VARCHAR) AS reward_id, CAST(reward AS DOUBLE) AS value,
        CASE WHEN event = 'offer completed' THEN '{{"viewed_before": ' || (seq IN (SELECT seq FROM viewed)) || '}}' END AS metadata
    FROM events WHERE event <> 'transaction' ORDER BY seq
"""  # noqa: S608 - built from constants
_TRANSACTIONS = f"""
    SELECT $business || ':' || seq AS transaction_id, $business AS business_id, customer_id, {_AT} AS occurred_at,
        CAST(amount AS DECIMAL(18, 4)) AS amount
    FROM events WHERE event = 'transaction' ORDER BY seq
"""  # noqa: S608 - built from constants
_REPEATS = """
    SELECT count(*) - count(DISTINCT (customer_id, time_hours, CAST(offer_id AS VARCHAR))) FROM events WHERE event = 'offer completed'
"""


def tables(folder: Path, business_id: str, notes: Notes, start: datetime = START) -> Iterator[tuple[str, pa.Table]]:
    """Read `offers.parquet`, `customers.parquet` and `events.parquet`.

    Args:
        folder: where the three files lie.
        business_id: given to each row.
        notes: told what was decided.
        start: the instant of hour 0.

    Raises:
        ArtifactError: a file is missing or cannot be read.
        ContractError: a file lacks a column.
    """
    with opened(folder, NEEDED) as connection:
        connection.execute(f"CREATE TABLE viewed AS {_VIEWED}")
        for table, query in (("rewards", _REWARDS), ("customers", _CUSTOMERS), ("events", _EVENTS), ("transactions", _TRANSACTIONS)):
            yield table, arrow(connection, query, business=business_id, start=start)
        notes(f"hour 0 of the log is taken as {start:%Y-%m-%d %H:%M} UTC; the position in the log is added as microseconds")
        unknown = single(connection, "SELECT count(*) FROM customers WHERE age = 118")
        notes(f"{unknown:,} customers of age 118, which means unknown, have no age group")
        notes(
            f"{single(connection, _REPEATS):,} completions repeat another exactly (two copies of one offer) and stay separate redemptions"
        )
        unseen = single(connection, "SELECT count(*) FROM events WHERE event = 'offer completed' AND seq NOT IN (SELECT seq FROM viewed)")
        notes(f'{unseen:,} redemptions happened without the offer being viewed before: metadata {{"viewed_before": false}}')
