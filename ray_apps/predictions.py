"""Predictions of churn as they were given, what was done about them, and what came of them.

Written behind the answers (`PredictionLog`), like recommendations. An intervention and an outcome are recorded once for each prediction;
the same again changes nothing, another one contradicts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import Conflict, UnknownItem
from ray_apps.store import Micros, OperationalStore, WriteBehind, metadata

predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("prediction_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("as_of", Micros, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("coverage", sa.Text, nullable=False),
    sa.Column("degraded", sa.Boolean, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("churn_30", sa.Double, nullable=False),
    sa.Column("churn_60", sa.Double, nullable=False),
    sa.Column("churn_90", sa.Double, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Index("predictions_customer", "business_id", "customer_id", "as_of"),
    sa.Index("predictions_as_of", "business_id", "as_of"),
    sa.Index("predictions_created", "created_at"),
)
prediction_interventions = sa.Table(
    "prediction_interventions",
    metadata,
    sa.Column("prediction_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("campaign_id", sa.Text, nullable=False),
    sa.Column("intervention_type", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
)
prediction_outcomes = sa.Table(
    "prediction_outcomes",
    metadata,
    sa.Column("prediction_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("churned", sa.Boolean, nullable=False),
    sa.Column("churn_date", sa.Date),
    sa.Column("created_at", Micros, nullable=False),
)


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """One forecast as it was given.

    Attributes:
        created_at: by the wall clock. as_of: by the serving clock; the horizons begin here.
        degraded: made without the model.
        active: the customer had a purchase in the 90 days before `as_of`; churn of the others has already happened.
        churn: probability of no purchase within 30, 60, 90 days.
        payload: the rest of the forecast, JSON-ready (`ray_apps.deployments.churn`).
    """

    prediction_id: str
    business_id: str
    customer_id: str
    created_at: datetime
    as_of: datetime
    model_version: str
    coverage: str
    degraded: bool
    active: bool
    churn: tuple[float, float, float]
    payload: dict[str, Any]

    def columns(self) -> dict[str, Any]:
        plain = {c.name: getattr(self, c.name) for c in predictions.c if not c.name.startswith(("churn_", "payload"))}
        return plain | dict(zip(_CHURN, self.churn, strict=True)) | {"payload": orjson.dumps(self.payload).decode()}


_CHURN = ("churn_30", "churn_60", "churn_90")


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whether something was new, and the prediction that it is about."""

    created: bool
    prediction: StoredPrediction


class Judged(NamedTuple):
    """A prediction by the model that can be compared with what came of it.

    Attributes:
        churn: probability at 30, 60, 90 days.
        intervened: something was done about it.
        reported: whether the customer churned, as reported; None where nobody did.
    """

    customer_id: str
    as_of: datetime
    model_version: str
    churn: tuple[float, float, float]
    intervened: bool
    reported: bool | None


class Predictions:
    """The predictions of the operational database.

    Every method raises UpstreamError if the database fails.
    """

    def __init__(self, store: OperationalStore) -> None:
        self._store = store

    async def save(self, batch: Sequence[StoredPrediction]) -> None:
        """Store predictions in one transaction; one that is there already stays as it is."""
        if not batch:
            return
        statement = self._store.insert_into(predictions).on_conflict_do_nothing(index_elements=["prediction_id"])
        async with self._store.transaction() as connection:
            await connection.execute(statement, [p.columns() for p in batch])

    async def get(self, business_id: str, prediction_id: str) -> StoredPrediction:
        """One prediction.

        Raises:
            UnknownItem: this business has no such prediction.
        """
        async with self._store.reading() as connection:
            return await _find(connection, business_id, prediction_id)

    async def newest(self, business_id: str, customer_id: str, since: datetime, limit: int = 10) -> list[StoredPrediction]:
        """The customer's newest predictions by the model that are not older than `since`, newest first."""
        query = (
            sa.select(predictions)
            .where(
                predictions.c.business_id == business_id,
                predictions.c.customer_id == customer_id,
                predictions.c.as_of >= since,
                predictions.c.degraded.is_(False),
            )
            .order_by(predictions.c.as_of.desc(), predictions.c.prediction_id)
            .limit(limit)
        )
        async with self._store.reading() as connection:
            return [_prediction(row) for row in (await connection.execute(query)).mappings()]

    async def add_intervention(self, business_id: str, prediction_id: str, campaign_id: str, intervention_type: str) -> Recorded:
        """Record what was done about a prediction, once.

        Raises:
            UnknownItem: this business has no such prediction.
            Conflict: something else was recorded before.
        """
        content = {"campaign_id": campaign_id, "intervention_type": intervention_type}
        return await self._record(prediction_interventions, business_id, prediction_id, content)

    async def add_outcome(self, business_id: str, prediction_id: str, churned: bool, churn_date: date | None) -> Recorded:
        """Record what came of a prediction, once.

        Raises:
            UnknownItem: this business has no such prediction.
            Conflict: another outcome was recorded before.
        """
        content = {"churned": churned, "churn_date": churn_date}
        return await self._record(prediction_outcomes, business_id, prediction_id, content)

    async def _record(self, table: sa.Table, business_id: str, prediction_id: str, content: Mapping[str, Any]) -> Recorded:
        row = {"prediction_id": prediction_id, "business_id": business_id, **content, "created_at": datetime.now(UTC)}
        statement = self._store.insert_into(table).values(row).on_conflict_do_nothing(index_elements=["prediction_id"])
        async with self._store.transaction() as connection:
            found = await _find(connection, business_id, prediction_id)
            created = (await connection.execute(statement.returning(table.c.prediction_id))).first() is not None
            query = sa.select(*(table.c[name] for name in content)).where(table.c.prediction_id == prediction_id)
            before = dict((await connection.execute(query)).mappings().one())
        if before != content:
            said = ", ".join(f"{name} {value}" for name, value in before.items())
            raise Conflict(
                f"prediction {prediction_id} has {said} recorded already, one record a prediction is kept. Send the same again, or none."
            )
        return Recorded(created, found)

    async def judged(self, business_id: str, since: datetime, until: datetime, limit: int = 100_000) -> tuple[list[Judged], bool]:
        """Predictions by the model, about customers who were active, with an as-of time from `since` up to `until`; and whether
        there are more.

        Of one customer the first prediction of a day by one model version counts: several requests in a row are one forecast.

        Args:
            limit: predictions that are looked at; of more the newest.
        """
        columns = (
            predictions.c.customer_id, predictions.c.as_of, predictions.c.model_version,
            *(predictions.c[name] for name in _CHURN),
            prediction_interventions.c.prediction_id.is_not(None).label("intervened"), prediction_outcomes.c.churned,
        )  # fmt: skip
        mine = (predictions.c.business_id == business_id, predictions.c.as_of >= since, predictions.c.as_of <= until)
        by_model = (predictions.c.degraded.is_(False), predictions.c.active.is_(True), predictions.c.coverage != "cold_start")
        query = (
            sa.select(*columns)
            .outerjoin(prediction_interventions, prediction_interventions.c.prediction_id == predictions.c.prediction_id)
            .outerjoin(prediction_outcomes, prediction_outcomes.c.prediction_id == predictions.c.prediction_id)
            .where(*mine, *by_model)
            .order_by(predictions.c.as_of.desc(), predictions.c.prediction_id)
            .limit(limit + 1)
        )
        async with self._store.reading() as connection:
            rows = (await connection.execute(query)).all()
        first: dict[tuple[str, date, str], Judged] = {}
        for customer_id, as_of, version, *churn, intervened, churned in rows[:limit]:
            key = (customer_id, as_of.date(), version)
            later = first.get(key)
            first[key] = Judged(
                customer_id, as_of, version, (churn[0], churn[1], churn[2]),
                bool(intervened) or (later is not None and later.intervened),
                churned if later is None or later.reported is None else later.reported,
            )  # fmt: skip
        return list(first.values()), len(rows) > limit

    async def prune(self, before: datetime) -> int:
        """Delete the predictions that were made before a time, with what was recorded about them; returns how many."""
        old = predictions.c.created_at < before
        ids = sa.select(predictions.c.prediction_id).where(old)
        async with self._store.transaction() as connection:
            for table in (prediction_interventions, prediction_outcomes):
                await connection.execute(sa.delete(table).where(table.c.prediction_id.in_(ids)))
            return int((await connection.execute(sa.delete(predictions).where(old))).rowcount)


class PredictionLog(WriteBehind[StoredPrediction]):
    """Writes predictions behind the answers. Arguments beside the predictions: see `WriteBehind`."""

    def __init__(self, found: Predictions, **sizes: Any) -> None:
        super().__init__(found.save, "predictions", **sizes)


def _prediction(row: Mapping[Any, Any]) -> StoredPrediction:
    plain = {c.name: row[c.name] for c in predictions.c if not c.name.startswith(("churn_", "payload"))}
    a, b, c = (row[name] for name in _CHURN)
    return StoredPrediction(**plain, churn=(a, b, c), payload=orjson.loads(row["payload"]))


async def _find(connection: AsyncConnection, business_id: str, prediction_id: str) -> StoredPrediction:
    query = sa.select(predictions).where(predictions.c.prediction_id == prediction_id, predictions.c.business_id == business_id)
    row = None if "\x00" in prediction_id else (await connection.execute(query)).mappings().first()  # PostgreSQL has no NUL in text
    if row is None:
        raise UnknownItem(f"there is no prediction {prediction_id}. Use the predictionId of an answer to this business.")
    return _prediction(row)
