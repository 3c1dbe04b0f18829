"""Request and response of the routes about plain-English questions."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from contracts.api import TEXT_PATTERN, Id, Integer, Request, Response

MAX_QUESTION, MAX_SQL, MAX_NOTE, MAX_ROWS = 2_000, 10_000, 1_000, 1_000
QUERIES = "/api/v1/ml/query"
"""Where the routes lie; links of an answer begin with it."""
Outcome = Literal["answered", "refused", "failed"]
Action = Literal["ask", "chart", "csv", "pdf"]
ExportFormat = Literal["csv", "pdf"]
Source = Literal["model", "correction"]
_LINKS = [
    {"format": "csv", "href": f"{QUERIES}/q-4f0d9b1c2e5a4c7f9a0b8d6e/export?format=csv"},
    {"format": "png", "href": f"{QUERIES}/q-4f0d9b1c2e5a4c7f9a0b8d6e/chart.png"},
]
_CHART = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "mark": "bar", "data": {"values": []}, "encoding": {}}


def one_line(text: str) -> str:
    """A question as it is read and stored: control characters and runs of white space become one space."""
    return re.sub(r"[\x00-\x20\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]+", " ", text).strip()


Question = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION), AfterValidator(one_line)]
Sql = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SQL)]
Note = Annotated[str, StringConstraints(max_length=MAX_NOTE), AfterValidator(one_line)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=TEXT_PATTERN, strip_whitespace=True)]


class QueryRequest(Request):
    """Ask a question in plain English."""

    query: Question = Field(examples=["How many gold members are in Austin?"])
    """The question. Line breaks and control characters count as spaces; what cannot be read or answered is refused in the answer."""
    limit: Integer | None = Field(default=None, ge=1, le=MAX_ROWS, examples=[100], json_schema_extra={"minimum": 1, "maximum": MAX_ROWS})
    """Rows at most; 1,000 without it. `results.truncated` says whether there are more."""
    business_id: Id | None = Field(default=None, examples=["biz-1"])
    """The business of the key; another is refused."""


class Results(Response):
    """The rows of an answer."""

    total: int = Field(ge=0, examples=[1])
    """Rows in `data`; there are more when `truncated`."""
    columns: list[str] = Field(examples=[["customers"]])
    """Names of the columns, in order."""
    kinds: list[str] = Field(examples=[["number"]])
    """What each column holds: id, name, category, text, flag, time, number, money, fraction (0..1) or percent (0..100)."""
    data: list[dict[str, Any]] = Field(examples=[[{"customers": 183}]])
    """One object a row, by column name. Times are ISO 8601 UTC, money is a number in the business's currency."""
    truncated: bool = Field(examples=[False])
    """There are more rows than `limit`."""


class ExportOption(Response):
    """A form that the answer can be had in."""

    format: Literal["csv", "pdf", "png"] = Field(examples=["csv"])
    """csv for spreadsheets, pdf to hand on, png is the chart alone."""
    href: str = Field(examples=[f"{QUERIES}/q-4f0d9b1c2e5a4c7f9a0b8d6e/export?format=csv"])
    """GET it with the same key; the SQL is run again, over the data of that moment."""


class QueryResponse(Response):
    """The answer to a question, or an honest refusal: then `refused` is true, `reason` and `message` say why, and there are no rows."""

    query_id: Id = Field(examples=["q-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """For charts, exports and feedback."""
    query: str = Field(examples=["How many gold members are in Austin?"])
    """The question as it was read."""
    refused: bool = Field(examples=[False])
    """The question was read and cannot, or must not, be answered."""
    reason: str | None = Field(default=None, examples=["out_of_scope"])
    """For programs, only when refused: out_of_scope, hostile, private, low_confidence, ambiguous, unsupported, too_long, empty, or the
    rule of the SQL guard that was broken."""
    message: str | None = Field(default=None, examples=["The data holds nothing about the weather."])
    """For people, only when refused: why, and what can be asked instead."""
    suggestions: list[str] = Field(default_factory=list, examples=[["How many customers joined last month?"]])
    """Questions near a refused one that can be answered."""
    interpretation: str | None = Field(default=None, examples=["number of customers where membership tier is GOLD and city is Austin"])
    """How the question was understood. Read it: a wrong reading shows here."""
    sql: str | None = Field(
        default=None, examples=["SELECT count(*) AS customers FROM customers WHERE membership_tier = 'GOLD' AND city = 'Austin'"]
    )
    """The SQL of this reading. It is run within the caller's business only, whatever it says."""
    answer: str | None = Field(default=None, examples=["There are 183 customers."])
    """A sentence made of the rows."""
    results: Results | None = Field(default=None)
    """The rows."""
    visualization: dict[str, Any] | None = Field(default=None, examples=[_CHART])
    """A Vega-Lite specification with its data; null where no chart suits the rows."""
    export_options: list[ExportOption] = Field(default_factory=list, examples=[_LINKS])
    """Where the answer can be had as a file."""
    related_queries: list[str] = Field(default_factory=list, examples=[["How many silver members are in Austin?"]])
    """Questions near this one that can be answered."""
    confidence: float = Field(ge=0, le=1, examples=[0.97])
    """Calibrated probability that the reading is right."""
    source: Source = Field(examples=["model"])
    """`correction`: an analyst has said what this question means."""
    model_version: str = Field(examples=["text-to-sql/1"])
    """What made the reading."""
    latency: float = Field(ge=0, examples=[212.4])
    """Milliseconds in the server."""


class QueryRecord(Response):
    """One question as it was answered; rows are never kept."""

    query_id: Id = Field(examples=["q-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of the answer."""
    query: str = Field(examples=["How many gold members are in Austin?"])
    """The question."""
    asked_at: datetime = Field(examples=["2026-10-14T09:30:00Z"])
    """When."""
    key_id: str = Field(examples=["0a1b2c3d4e5f"])
    """Id of the key that asked."""
    outcome: Outcome = Field(examples=["answered"])
    """What became of it."""
    reason: str | None = Field(default=None, examples=["out_of_scope"])
    """Why it was refused, or failed."""
    interpretation: str | None = Field(default=None, examples=["number of customers where membership tier is GOLD"])
    """How it was understood."""
    sql: str | None = Field(default=None, examples=["SELECT count(*) AS customers FROM customers"])
    """Its SQL."""
    rows: int | None = Field(default=None, ge=0, examples=[1])
    """How many rows it had."""
    confidence: float | None = Field(default=None, ge=0, le=1, examples=[0.97])
    """Probability that the reading is right."""
    source: Source | None = Field(default=None, examples=["model"])
    """Who made the reading."""
    model_version: str = Field(examples=["text-to-sql/1"])
    """What made the reading."""
    ms: float = Field(ge=0, examples=[212.4])
    """Milliseconds that it took."""


class _Page(Response):
    total: int = Field(ge=0, examples=[42])
    """All there are."""
    limit: int = Field(ge=1, examples=[20])
    """Most items of a page."""
    offset: int = Field(ge=0, examples=[0])
    """Items before this page."""
    next_offset: int | None = Field(default=None, examples=[20])
    """Offset of the next page; null on the last."""
    model_version: str = Field(examples=["text-to-sql/1"])
    """What answers questions now; `none` while there is no model."""
    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds in the server."""


class QueryHistory(_Page):
    """Questions of this business, newest first."""

    items: list[QueryRecord] = Field()
    """This page."""


class QueryTemplate(Response):
    """A question that is known to be answered."""

    template_id: str = Field(examples=["customers-by-tier"])
    """Stable."""
    category: str = Field(examples=["customers"])
    """What it is about."""
    template: str = Field(examples=["How many {tier} members are in {city}?"])
    """With names in braces."""
    example: str = Field(examples=["How many gold members are in Austin?"])
    """Filled in; ask it as it stands."""
    parameters: list[str] = Field(examples=[["tier", "city"]])
    """The names in braces."""


class QueryTemplates(_Page):
    """Questions that are known to be answered; others are, too."""

    items: list[QueryTemplate] = Field()
    """This page."""


class SaveRequest(Request):
    """Keep a question under a name."""

    name: Name = Field(examples=["Gold members by city"])
    """Unique in the business."""
    query: Question | None = Field(default=None, examples=["How many gold members are there by city?"])
    """The question; or give `queryId`."""
    query_id: Id | None = Field(default=None, examples=["q-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """An answer whose question is to be kept."""

    @model_validator(mode="after")
    def _one_of_both(self) -> SaveRequest:
        if (self.query is None) == (self.query_id is None):
            raise ValueError("give either query or queryId, and not both")
        if self.query == "":
            raise ValueError("query holds no words; give a question")
        return self


class SavedQuery(Response):
    """A question kept under a name."""

    saved_id: Id = Field(examples=["sq-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Delete it by this."""
    name: str = Field(examples=["Gold members by city"])
    """Its name."""
    query: str = Field(examples=["How many gold members are there by city?"])
    """The question; ask it again with POST /api/v1/ml/query."""
    key_id: str = Field(examples=["0a1b2c3d4e5f"])
    """Id of the key that kept it."""
    created_at: datetime = Field(examples=["2026-10-14T09:30:00Z"])
    """When."""


class SavedResponse(SavedQuery):
    """A question that is now kept, or was so before."""

    duplicate: bool = Field(examples=[False])
    """The same was kept before; nothing changed."""
    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds in the server."""


class SavedQueries(_Page):
    """Kept questions of this business, by name."""

    items: list[SavedQuery] = Field()
    """This page."""


class QueryFeedbackRequest(Request):
    """Say whether an answer was right and, if not, what would have been."""

    correct: bool = Field(strict=True, examples=[False])
    """Whether the rows answer the question."""
    corrected_sql: Sql | None = Field(default=None, examples=["SELECT count(*) AS customers FROM customers"])
    """One SELECT that answers it, without any filter by business. From then on it answers this question."""
    corrected_query: Question | None = Field(default=None, examples=["How many customers have the tier GOLD?"])
    """The same question in words that are understood; its SQL then answers this question."""
    note: Note | None = Field(default=None, examples=["It counted all tiers."])
    """For whoever looks into it."""

    @model_validator(mode="after")
    def _fits(self) -> QueryFeedbackRequest:
        given = [name for name in ("corrected_sql", "corrected_query") if getattr(self, name) is not None]
        if self.correct and given:
            raise ValueError("correct is true, so there is nothing to correct; leave correctedSql and correctedQuery out")
        if len(given) > 1:
            raise ValueError("give correctedSql or correctedQuery, and not both")
        return self


class QueryFeedbackResponse(Response):
    """What was recorded."""

    query_id: Id = Field(examples=["q-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of the answer."""
    correct: bool = Field(examples=[False])
    """As reported."""
    correction_id: Id | None = Field(default=None, examples=["qc-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of the correction that is now in force, if one was given."""
    sql: str | None = Field(default=None, examples=["SELECT count(*) AS customers FROM customers"])
    """What the question is answered by from now on."""
    interpretation: str | None = Field(default=None, examples=["number of customers where membership tier is GOLD"])
    """How `correctedQuery` was understood."""
    model_version: str = Field(examples=["text-to-sql/1"])
    """What made the answer that this is about."""
    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds in the server."""


class QueryCorrection(Response):
    """A question that an analyst has said the meaning of."""

    correction_id: Id = Field(examples=["qc-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Take it back by this."""
    query: str = Field(examples=["How many gold members do we have?"])
    """The question."""
    sql: str = Field(examples=["SELECT count(*) AS customers FROM customers WHERE membership_tier = 'GOLD'"])
    """What answers it."""
    key_id: str = Field(examples=["0a1b2c3d4e5f"])
    """Id of the key that gave it."""
    created_at: datetime = Field(examples=["2026-10-14T09:30:00Z"])
    """When."""


class QueryCorrections(_Page):
    """Corrections in force, newest first; they are also training pairs."""

    items: list[QueryCorrection] = Field()
    """This page."""
