"""Request and response of the routes about pictures: receipts, products, challenges, and products that a business teaches."""

from __future__ import annotations

from datetime import date as Date
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from contracts.api import TEXT_PATTERN, Id, Integer, Number, Request, Response, Time

PICTURES = "/api/v1/ml/image-recognition"
PRODUCTS = "/api/v1/ml/products"
"""Where the routes lie."""
MAX_PHOTOS, MAX_CONTEXT_BYTES, MAX_WANTED = 5, 4_096, 100
PictureKind = Literal["receipt", "product", "nothing"]
ReceiptStatus = Literal["awarded", "review", "refused", "duplicate"]
ReviewVerdict = Literal["approved", "rejected"]
ChallengeKind = Literal["product", "scavenger", "receipt"]


def _some_words(text: str) -> str:
    if not text.strip():
        raise ValueError("holds no words")
    return text.strip()


Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=TEXT_PATTERN), AfterValidator(_some_words)]
Brand = Annotated[str, StringConstraints(max_length=128, pattern=TEXT_PATTERN)]
Reason = Annotated[str, StringConstraints(max_length=500, pattern=TEXT_PATTERN)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
"""An Idempotency-Key: visible ASCII."""


class PictureContext(Request):
    """Who took a picture and what for; the part `context` of the request, JSON."""

    customer_id: Id | None = Field(default=None, examples=["cust-123"])
    """Who earns. Without it nothing is awarded or counted, and the answer says what would be."""
    challenge_id: Id | None = Field(default=None, examples=["fruit-hunt"])
    """A challenge that this picture is for."""
    expected_product: Name | None = Field(default=None, examples=["oat milk"])
    """A product that the picture should show, or a receipt list: its name, its productId, or a group such as `milk`; case is ignored."""
    business_id: Id | None = Field(default=None, examples=["biz-1"])
    """May be left out; one that is not the caller's is refused with 403."""


class BoundingBox(Response):
    """A rectangle in pixels of the upright picture, from its top left."""

    x: int = Field(ge=0, examples=[120])
    """From the left."""
    y: int = Field(ge=0, examples=[340])
    """From the top."""
    width: int = Field(ge=1, examples=[200])
    """To the right."""
    height: int = Field(ge=1, examples=[280])
    """Downwards."""


class PictureSize(Response):
    """Of the picture as it was sent, upright."""

    width: int = Field(ge=1, examples=[1080])
    """Pixels."""
    height: int = Field(ge=1, examples=[1920])
    """Pixels."""


class DetectedObject(Response):
    """A product that the picture shows."""

    object: str = Field(examples=["coffee_cup"])
    """Its name."""
    brand: str | None = Field(default=None, examples=["Blue Heron"])
    """Its brand, where it is known."""
    group: str | None = Field(default=None, examples=["cups"])
    """The group it belongs to; none for products that the business taught."""
    product_id: str | None = Field(default=None, examples=["prod-00123"])
    """Of a product that the business taught."""
    source: Literal["classifier", "catalogue"] = Field(examples=["classifier"])
    """`catalogue`: one of the products that the business taught."""
    confidence: float = Field(ge=0, le=1, examples=[0.94])
    """Calibrated probability that it is this product."""
    bounding_box: BoundingBox = Field()
    """Where it is."""


class ReceiptLine(Response):
    """A bought thing."""

    description: str = Field(examples=["OAT MILK 1L"])
    """As printed."""
    quantity: float = Field(examples=[2])
    """How many, or how much."""
    unit_price: float | None = Field(default=None, examples=[3.1])
    """Of one, where it is printed."""
    amount: float = Field(examples=[6.2])
    """Of the line."""
    product_id: str | None = Field(default=None, examples=["prod-00123"])
    """The product of the business that it means, where one is near enough."""
    confidence: float = Field(ge=0, le=1, examples=[0.9])
    """That the line was read rightly."""


class ReceiptIn(Response):
    """What a receipt says; a field that could not be read is left out."""

    merchant: str | None = Field(default=None, examples=["GREEN LEAF BAKERY"])
    """Who sold."""
    date: Date | None = Field(default=None, examples=["2026-11-01"])
    """When."""
    total: float | None = Field(default=None, examples=[12.4])
    """What was paid."""
    currency: str | None = Field(default=None, examples=["USD"])
    """ISO 4217; left out where nothing on the receipt tells."""
    subtotal: float | None = Field(default=None, examples=[11.4])
    """Before tax, as printed."""
    tax: float | None = Field(default=None, examples=[1.0])
    """As printed."""
    discount: float | None = Field(default=None, examples=[0.5])
    """As printed, positive."""
    rounding: float | None = Field(default=None, examples=[0.02])
    """As printed."""
    cash: float | None = Field(default=None, examples=[20])
    """Handed over."""
    change: float | None = Field(default=None, examples=[7.6])
    """Given back."""
    line_items: list[ReceiptLine] = Field(default_factory=list)
    """What was bought."""
    confidences: dict[str, float] = Field(examples=[{"merchant": 0.97, "date": 0.99, "total": 0.99}])
    """Calibrated probability that each field is right."""
    reconciled: bool | None = Field(default=None, examples=[True])
    """Whether the amounts add up: false where they contradict the total, left out where nothing tells."""
    review: list[str] = Field(default_factory=list, examples=[["the date could not be read"]])
    """Why a person should look; empty when nobody needs to."""


class PictureFlag(Response):
    """One thing that speaks against a receipt."""

    code: str = Field(examples=["too_old"])
    """unreadable, unsure, reading, future, too_old, arithmetic, amount, currency, merchant, velocity or same_receipt."""
    reason: str = Field(examples=["The receipt is of 2026-08-01, 92 days old; 30 are allowed."])
    """What was seen and what the rule is."""


class PictureReward(Response):
    """Points that this picture earned."""

    reward_id: str = Field(examples=["award-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of the award."""
    name: str = Field(examples=["Points for a receipt"])
    """What it is for."""
    points: int = Field(ge=0, examples=[50])
    """How many."""
    reason: str = Field(examples=["12.40 USD at GREEN LEAF BAKERY on 2026-11-01"])
    """Why."""


class ExpectedProduct(Response):
    """Whether the picture shows what was expected."""

    name: str = Field(examples=["oat milk"])
    """As it was asked."""
    expected: str | None = Field(default=None, examples=["Oat milk 1l"])
    """What was found that fits."""
    matches: bool = Field(examples=[True])
    """Whether it does."""


class ChallengeState(Response):
    """How far the customer is, this picture included."""

    challenge_id: str = Field(examples=["fruit-hunt"])
    """Which challenge."""
    name: str = Field(examples=["Find three fruits"])
    """Its name."""
    found: list[str] = Field(examples=[["apple"]])
    """What is found of what is wanted."""
    wanted: list[str] = Field(examples=[["apple", "lemon", "kiwi"]])
    """What is to be found."""
    completed: bool = Field(examples=[False])
    """All of it is found."""
    reward: PictureReward | None = Field(default=None)
    """Earned with this picture, when it completed the challenge."""
    problem: str | None = Field(default=None, examples=["The challenge ended on 2026-10-31."])
    """Why this picture does not count, where it does not."""


class RecognitionResponse(Response):
    """What a picture shows, and what it earned."""

    recognition_id: Id = Field(examples=["rec-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of this answer."""
    kind: PictureKind = Field(examples=["receipt"])
    """What it shows. `nothing`: neither a receipt nor a product that we know."""
    picture: PictureSize = Field()
    """Size of the picture; boxes are in its pixels."""
    detected_objects: list[DetectedObject] = Field(default_factory=list)
    """Products, the likeliest first."""
    is_receipt_detected: bool = Field(examples=[True])
    """Whether it is a receipt."""
    receipt: ReceiptIn | None = Field(default=None)
    """What the receipt says."""
    status: ReceiptStatus | None = Field(default=None, examples=["awarded"])
    """What became of a customer's receipt. `review`: a person looks; `duplicate`: it, or another picture of it, was sent before."""
    flags: list[PictureFlag] = Field(default_factory=list)
    """What speaks against the receipt."""
    duplicate_of: str | None = Field(default=None, examples=["rec-0a1b2c3d4e5f6a7b8c9d0e1f"])
    """The earlier recognition that shows the same receipt."""
    reward_eligible: bool = Field(examples=[True])
    """Whether this picture earned points (without a customer: would have), or shows what was expected."""
    reward: PictureReward | None = Field(default=None)
    """What it earned; where a receipt and a challenge were rewarded at once, the receipt's, the other is in `challenge`."""
    expected_product: ExpectedProduct | None = Field(default=None)
    """About the product that was expected, where one was."""
    challenge: ChallengeState | None = Field(default=None)
    """About the challenge, where one was named."""
    notes: list[str] = Field(default_factory=list, examples=[["it shows no product that is known"]])
    """For people."""
    model_version: str = Field(examples=["paddle-1f3a5c7e+products-3"])
    """What looked at the picture."""
    latency: float = Field(ge=0, examples=[212.4])
    """Milliseconds in the server."""


class _Page(Response):
    total: int = Field(ge=0, examples=[42])
    """All there are."""
    limit: int = Field(ge=1, examples=[20])
    """Most items of a page."""
    offset: int = Field(ge=0, examples=[0])
    """Items before this page."""
    next_offset: int | None = Field(default=None, examples=[20])
    """Offset of the next page; null on the last."""
    model_version: str = Field(examples=["paddle-1f3a5c7e+products-3"])
    """What looks at pictures now; `none` before the first picture."""
    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds in the server."""


class RecognitionRecord(Response):
    """One picture as it was answered; the picture itself is not kept."""

    recognition_id: Id = Field(examples=["rec-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of the answer."""
    customer_id: str | None = Field(default=None, examples=["cust-123"])
    """Whose it was."""
    at: datetime = Field(examples=["2026-11-01T09:30:00Z"])
    """When."""
    kind: PictureKind = Field(examples=["receipt"])
    """What it showed."""
    answer: dict[str, Any] = Field(examples=[{"isReceiptDetected": True, "rewardEligible": True}])
    """As it was sent."""
    model_version: str = Field(examples=["paddle-1f3a5c7e+products-3"])
    """What looked at it."""
    latency: float = Field(ge=0, examples=[212.4])
    """Milliseconds that it took."""


class RecognitionHistory(_Page):
    """Pictures of a customer, newest first."""

    points_balance: int = Field(examples=[150])
    """Points that this customer's pictures have earned."""
    items: list[RecognitionRecord] = Field()
    """This page."""


class ReceiptReview(Response):
    """A receipt that waits for a person."""

    review_id: Id = Field(examples=["rec-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Decide on it by this; the recognitionId of its picture."""
    customer_id: str | None = Field(default=None, examples=["cust-123"])
    """Whose it is."""
    at: datetime = Field(examples=["2026-11-01T09:30:00Z"])
    """When it was sent."""
    merchant: str | None = Field(default=None, examples=["GREEN LEAF BAKERY"])
    """As read."""
    date: Date | None = Field(default=None, examples=["2026-11-01"])
    """As read."""
    total: float | None = Field(default=None, examples=[12.4])
    """As read."""
    currency: str | None = Field(default=None, examples=["USD"])
    """As read."""
    points: int = Field(ge=0, examples=[12])
    """Awarded if it is approved."""
    flags: list[PictureFlag] = Field(default_factory=list)
    """Why it waits."""


class ReceiptReviews(_Page):
    """Receipts of this business that wait for a person, oldest first."""

    items: list[ReceiptReview] = Field()
    """This page."""


class ReviewRequest(Request):
    """Why it was decided so."""

    reason: Reason = Field(default="", examples=["The total is legible on the picture: 12.40."])
    """For the record."""
    points: Integer | None = Field(default=None, ge=0, le=1_000_000, examples=[12], json_schema_extra={"minimum": 0, "maximum": 1_000_000})
    """Awarded instead of those that were reckoned, for instance where the total could not be read; not with a rejection."""


class ReviewResponse(Response):
    """A receipt that was decided on; the same decision again answers the same."""

    review_id: Id = Field(examples=["rec-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Of the receipt."""
    verdict: ReviewVerdict = Field(examples=["approved"])
    """What was decided."""
    reward: PictureReward | None = Field(default=None)
    """Awarded with the approval."""
    latency: float = Field(ge=0, examples=[3.1])
    """Milliseconds in the server."""


class ChallengeRequest(Request):
    """A challenge: what to photograph, and what it earns."""

    name: Name = Field(examples=["Find three fruits"])
    """For people."""
    kind: ChallengeKind = Field(examples=["scavenger"])
    """`product`, `scavenger`: photograph all of `wanted`, in one picture or one after another; `receipt`: buy them, told from receipts."""
    wanted: list[Name] = Field(min_length=1, max_length=MAX_WANTED, examples=[["apple", "lemon", "kiwi"]])
    """Names of products, productIds or groups; of a receipt also its merchant. Different ones."""
    min_confidence: Number = Field(default=0.6, ge=0, le=1, examples=[0.6], json_schema_extra={"minimum": 0, "maximum": 1})
    """A product counts from this confidence on."""
    points: Integer = Field(ge=0, le=1_000_000, examples=[100], json_schema_extra={"minimum": 0, "maximum": 1_000_000})
    """Earned once by each customer who completes it."""
    starts_at: Time | None = Field(default=None, examples=["2026-11-01T00:00:00Z"])
    """Pictures before do not count."""
    ends_at: Time | None = Field(default=None, examples=["2026-12-01T00:00:00Z"])
    """Pictures from then on do not count."""

    @model_validator(mode="after")
    def _fits(self) -> ChallengeRequest:
        if len({w.casefold() for w in self.wanted}) != len(self.wanted):
            raise ValueError("wanted names something twice; name each once")
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValueError("endsAt is not after startsAt")
        return self


class ChallengeRecord(Response):
    """A challenge as it stands."""

    challenge_id: Id = Field(examples=["fruit-hunt"])
    """Chosen by the business."""
    name: str = Field(examples=["Find three fruits"])
    """For people."""
    kind: ChallengeKind = Field(examples=["scavenger"])
    """What completes it."""
    wanted: list[str] = Field(examples=[["apple", "lemon", "kiwi"]])
    """What to photograph."""
    min_confidence: float = Field(ge=0, le=1, examples=[0.6])
    """A product counts from this confidence on."""
    points: int = Field(ge=0, examples=[100])
    """Earned once by each customer."""
    starts_at: datetime | None = Field(default=None, examples=["2026-11-01T00:00:00Z"])
    """Pictures before do not count."""
    ends_at: datetime | None = Field(default=None, examples=["2026-12-01T00:00:00Z"])
    """Pictures from then on do not count."""


class ChallengeResponse(ChallengeRecord):
    """A challenge as it stands."""

    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds in the server."""


class Challenges(_Page):
    """Challenges of this business, by id."""

    items: list[ChallengeRecord] = Field()
    """This page."""


class TeachRequest(Request):
    """What a product is called; the fields of the request beside its photos."""

    product_id: Id = Field(examples=["prod-00123"])
    """As the business names it; teaching it again replaces what was taught."""
    name: Name = Field(examples=["Oat milk 1l"])
    """For people."""
    brand: Brand = Field(default="", examples=["Blue Heron"])
    """May be left out."""


class TaughtProduct(Response):
    """A product that the business taught."""

    product_id: Id = Field(examples=["prod-00123"])
    """As the business names it."""
    name: str = Field(examples=["Oat milk 1l"])
    """For people."""
    brand: str | None = Field(default=None, examples=["Blue Heron"])
    """Where it was given."""
    photos: int = Field(ge=1, examples=[3])
    """It was taught with."""
    version: int = Field(ge=1, examples=[1])
    """1 when first taught, one more each time it is taught again."""
    taught_at: datetime = Field(examples=["2026-11-01T09:30:00Z"])
    """When."""


class TaughtResponse(TaughtProduct):
    """A product that is known from the next picture on."""

    model_version: str = Field(examples=["paddle-1f3a5c7e+products-3"])
    """What looked at the photos."""
    latency: float = Field(ge=0, examples=[180.2])
    """Milliseconds in the server."""


class TaughtProducts(_Page):
    """Products that this business taught, by productId."""

    items: list[TaughtProduct] = Field()
    """This page."""
