"""Composed questions: a metric or a thing, filters, groups, order and time put together freely, each with several wordings.

The bank (`nlq.corpus.bank`) has what people say; this has what can be asked at all. Both become pairs of (question, program).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nlq.corpus.bank import Values, choose, fill
from nlq.vocabulary import UP

Tokens = list[str]
Piece = tuple[str, Tokens]
"""Words with slots, and what they mean."""


@dataclass
class Metric:
    """words: a noun phrase with choices; how: `count` reads "how many", `much` "how much", `what` "what is"."""

    words: str
    tokens: str
    base: str
    how: str = "what"
    where: str = ""
    top: tuple[str, ...] = ()
    """Ways to say that a group leads in it: "sold the most"."""


_CUST = "(customers|members|customers|members|shoppers|clients|users|people|loyalty members|buyers|guests)"
_REV = "(revenue|sales|revenue|turnover|spend|spending|takings|income|total sales|total revenue|sales revenue|total spend|amount spent)"
_PUR = "(purchases|orders|transactions|purchases|orders|sales transactions|visits)"
METRICS: tuple[Metric, ...] = (
    Metric(_REV, "sum transactions.amount", "transactions", "what", top=("(spent|spend|spends) (the most|most)", "(brought|generated|made|brings) (in |)(the most|most) (money|revenue|sales)")),
    Metric(f"(number of |count of |total number of |){_PUR}", "count transactions", "transactions", "count", top=("(bought|purchased|ordered|shopped) (the most|most) (often|frequently|times)", "(made|placed|had) (the most|most) (purchases|orders)")),
    Metric("(average|avg|mean|typical) (basket|basket size|basket value|order value|purchase|purchase amount|transaction value|ticket size|order size|amount per purchase|spend per purchase|spend per order)", "avg transactions.amount", "transactions"),
    Metric("(aov|AOV)", "avg transactions.amount", "transactions"),
    Metric("(total |sum of |)(discounts|discount amount|discounts given|money given away in discounts)", "sum transactions.discount_amount", "transactions"),
    Metric("(average|avg|mean) discount", "avg transactions.discount_amount", "transactions"),
    Metric("(biggest|largest|highest|maximum) (purchase|order|transaction|basket)", "max transactions.amount", "transactions"),
    Metric("(smallest|lowest|minimum) (purchase|order|transaction|basket)", "min transactions.amount", "transactions"),
    Metric("median (purchase|order|basket|transaction) (value|amount|size|)", "median transactions.amount", "transactions"),
    Metric("(revenue|sales) (after|net of|less) discounts", "sum transactions.net_amount", "transactions"),
    Metric(f"(number of |count of |)(unique|distinct|different|active|buying|purchasing|) {_CUST} (who bought|who purchased|that bought something|with a purchase)", "distinct transactions.customer_id", "transactions", "count"),
    Metric("(number of |)(unique|distinct|active|different) (customers|shoppers|buyers)", "distinct transactions.customer_id", "transactions", "count"),
    Metric("(average |avg |mean |)(spend|revenue|spending|amount spent|sales) per (customer|member|shopper|buyer|head)", "ratio sum transactions.amount distinct transactions.customer_id", "transactions"),
    Metric("(average |avg |mean |)(number of |)(purchases|orders|transactions|visits) per (customer|member|shopper)", "ratio count transactions distinct transactions.customer_id", "transactions"),
    Metric("(number of |)(units|items|pieces|products|units of products) (sold|bought|)", "sum transaction_items.quantity", "transaction_items", "count", top=("(sold|sells|sell) (the most|most|best)", "(is|was) (bought|sold) (the most|most often|most)", "(is|was) the best seller")),
    Metric("(product |item |)(revenue|sales|turnover)", "sum transaction_items.amount", "transaction_items", top=("(made|brought|generated|earned) (in |)(the most|most) (money|revenue)",)),
    Metric("(quantity|volume|sales volume|units)( sold|)", "sum transaction_items.quantity", "transaction_items"),
    Metric("(average|avg|mean) (quantity|number of units|units) per (line|item line|purchase line)", "avg transaction_items.quantity", "transaction_items"),
    Metric("(number of |)(different |distinct |unique |)(customers|members|buyers)", "distinct transaction_items.customer_id", "transaction_items", "count"),
    Metric("(number of |count of |total |total number of |)(redemptions|rewards redeemed|redeemed rewards|redeemed offers|claimed rewards|reward redemptions|offers redeemed)", "count events", "events", "count", "eq events.event_type =redemption", ("(was|were|is|are|got|gets) (redeemed|claimed|used) (the most|most|most often)",)),
    Metric("(number of |)(offers|offer|rewards) (received|sent|sent out|delivered)", "count events", "events", "count", "eq events.event_type =offer_received"),
    Metric("(number of |total |)(offer views|offers viewed|views of offers|viewed offers|offers seen|reward views)", "count events", "events", "count", "eq events.event_type =offer_viewed", ("(was|were|is|got) (viewed|seen|looked at) (the most|most|most often)",)),
    Metric("(number of |total |)(app opens|app sessions|app visits|times the app was opened|openings of the app)", "count events", "events", "count", "eq events.event_type =app_open"),
    Metric("(number of |total |)(emails|e-mails|mails) sent", "count events", "events", "count", "eq events.event_type =email_sent"),
    Metric("(number of |total |)(email opens|opened emails|emails opened|e-mail opens|mails opened)", "count events", "events", "count", "eq events.event_type =email_open"),
    Metric("(number of |total |)(email clicks|clicks on emails|emails clicked|clicks in e-mails)", "count events", "events", "count", "eq events.event_type =email_click"),
    Metric("(number of |total |)(push notifications|pushes|push messages) (sent|)", "count events", "events", "count", "eq events.event_type =push_sent"),
    Metric("(number of |total |)(push clicks|clicks on push notifications|clicked pushes|push notification clicks)", "count events", "events", "count", "eq events.event_type =push_click"),
    Metric("(number of |total |)(dismissals|dismissed rewards|rewards dismissed|dismissed offers|offers dismissed|rejected offers)", "count events", "events", "count", "eq events.event_type =reward_dismissed", ("(was|were|is|got) (dismissed|rejected|declined) (the most|most|most often)",)),
    Metric("(number of |total |)(unsubscribes|unsubscriptions|opt-outs|opt outs|people unsubscribing)", "count events", "events", "count", "eq events.event_type =unsubscribe"),
    Metric("(number of |total |)(referrals|referred friends|friend referrals)", "count events", "events", "count", "eq events.event_type =referral"),
    Metric("(number of |total |)(reviews|product reviews|reviews written|reviews left)", "count events", "events", "count", "eq events.event_type =review"),
    Metric("(average|avg|mean) (review score|review rating|star rating of reviews|review stars|review)", "avg events.value", "events", "what", "eq events.event_type =review"),
    Metric("(number of |total |)(tier changes|level changes|status changes|changes of tier)", "count events", "events", "count", "eq events.event_type =tier_change"),
    Metric("(number of |)(tier |)upgrades", "count events", "events", "count", "true events.upgrade"), Metric("(number of |)(tier |)downgrades", "count events", "events", "count", "true events.downgrade"),
    Metric("(total |sum of |number of |)(points earned|earned points|points given out|points awarded|points collected)", "sum events.value", "events", "count", "eq events.event_type =points_earned"),
    Metric("(total |sum of |number of |)(points expired|expired points|points lost|points that expired)", "sum events.value", "events", "count", "eq events.event_type =points_expired"),
    Metric(f"(number of |)(unique |distinct |){_CUST} (who|that) redeemed (a reward|an offer|something|rewards|)", "distinct events.customer_id", "events", "count", "eq events.event_type =redemption"),
    Metric(f"(number of |)(unique |distinct |){_CUST} (who|that) (opened|used) the app", "distinct events.customer_id", "events", "count", "eq events.event_type =app_open"),
    Metric(f"(number of |)(unique |distinct |){_CUST} (who|that) unsubscribed", "distinct events.customer_id", "events", "count", "eq events.event_type =unsubscribe"),
    Metric(f"(number of |)(unique |distinct |){_CUST} (who|that) (wrote|left|posted) a review", "distinct events.customer_id", "events", "count", "eq events.event_type =review"),
    Metric(f"(number of |)(unique |distinct |){_CUST} (who|that) (referred a friend|made a referral|referred someone)", "distinct events.customer_id", "events", "count", "eq events.event_type =referral"),
    Metric(f"(number of |)(unique |distinct |){_CUST} (who|that) (viewed|saw|looked at) (an offer|offers|a reward)", "distinct events.customer_id", "events", "count", "eq events.event_type =offer_viewed"),
    Metric("(offer |reward |)(redemption rate|redeem rate|rate of redemption|take-up rate|conversion from received to redeemed)", "ratio only count events eq events.event_type =redemption ) only count events eq events.event_type =offer_received )", "events"),
    Metric("(offer |reward |)(view rate|viewing rate|rate of views)", "ratio only count events eq events.event_type =offer_viewed ) only count events eq events.event_type =offer_received )", "events"),
    Metric("(view to redemption|view-to-redemption|viewed to redeemed) (conversion|rate|conversion rate)", "ratio only count events eq events.event_type =redemption ) only count events eq events.event_type =offer_viewed )", "events"),
    Metric("(email|e-mail|mail) (open rate|opening rate)", "ratio only count events eq events.event_type =email_open ) only count events eq events.event_type =email_sent )", "events"),
    Metric("(email|e-mail|mail) (click rate|click-through rate|ctr|click through rate)", "ratio only count events eq events.event_type =email_click ) only count events eq events.event_type =email_sent )", "events"),
    Metric("(email |)(click-to-open|click to open) rate", "ratio only count events eq events.event_type =email_click ) only count events eq events.event_type =email_open )", "events"),
    Metric("push (click rate|click-through rate|ctr|notification click rate|response rate)", "ratio only count events eq events.event_type =push_click ) only count events eq events.event_type =push_sent )", "events"),
    Metric("(dismissal|dismiss|rejection) rate (of offers|)", "ratio only count events eq events.event_type =reward_dismissed ) only count events eq events.event_type =offer_received )", "events"),
    Metric("(number of |count of |)(tickets|support tickets|cases|support requests|service tickets|support cases)", "count tickets", "tickets", "count", top=("(opened|filed|raised|had|has|wrote|got) (the most|most) (tickets|support tickets|cases)",)),
    Metric("(number of |)complaints", "count tickets", "tickets", "count"),
    Metric("(average|avg|mean) (ticket rating|rating|rating of tickets|satisfaction rating|support rating|customer rating)", "avg tickets.rating", "tickets"),
    Metric("(average|avg|mean) (resolution time|time to resolve|resolution hours|hours to resolution|time to resolution|time to resolve a ticket|time to close)", "avg tickets.resolution_hours", "tickets"),
    Metric("(longest|maximum|worst) (resolution time|time to resolve)", "max tickets.resolution_hours", "tickets"),
    Metric("median (resolution time|time to resolve|resolution hours)", "median tickets.resolution_hours", "tickets"),
    Metric(f"(number of |){_CUST} (who|that|with) (opened a ticket|filed a ticket|contacted support|complained|a ticket)", "distinct tickets.customer_id", "tickets", "count"),
    Metric("share of (negative|unhappy) tickets", "share count tickets eq tickets.sentiment =NEGATIVE )", "tickets"),
    Metric("(number of |count of |total number of |){CUST}", "count customers", "customers", "count", top=("(has|have|had) (the most|most) (customers|members)",)),
    Metric("(average|avg|mean) (points balance|points|point balance|number of points|balance of points)", "avg customers.points_balance", "customers"),
    Metric("(total |sum of |)(points balance|outstanding points|points outstanding|points held|unspent points|points in accounts)", "sum customers.points_balance", "customers"),
    Metric("(average|avg|mean) income", "avg customers.income", "customers"),
    Metric("median income", "median customers.income", "customers"),
    Metric("(highest|maximum|max|largest) (points balance|balance)", "max customers.points_balance", "customers"),
    Metric("(average|avg|mean) (tenure|membership length|days of membership|time as a member|length of membership)", "avg customers.tenure_days", "customers"),
    Metric("(average|avg|mean) (days since the last purchase|recency|number of days since the last purchase|time since last purchase|days since last order)", "avg customers.days_since_purchase", "customers"),
    Metric("(share|fraction|proportion) of (customers|members) who (consented|agreed|gave consent) (to personalization|to personalisation|)", "share count customers true customers.consent_personalization )", "customers"),
    Metric("(average |avg |mean |)(churn|churn probability|churn risk|risk of churn|churn score|30-day churn|30 day churn probability|churn rate)", "avg customer_risk_scores.churn_30", "customer_risk_scores"),
    Metric("(average |avg |mean |)(60-day|60 day|two-month|2 month) (churn|churn probability|churn risk|churn rate)", "avg customer_risk_scores.churn_60", "customer_risk_scores"),
    Metric("(average |avg |mean |)(90-day|90 day|three-month|3 month) (churn|churn probability|churn risk|churn rate)", "avg customer_risk_scores.churn_90", "customer_risk_scores"),
    Metric("(average|avg|mean) (clv|CLV|lifetime value|predicted clv|predicted lifetime value|customer lifetime value|expected lifetime value|customer value)", "avg customer_risk_scores.predicted_clv", "customer_risk_scores"),
    Metric("(total|sum of|overall) (clv|CLV|lifetime value|predicted clv|predicted lifetime value|customer lifetime value|expected spend)", "sum customer_risk_scores.predicted_clv", "customer_risk_scores"),
    Metric("(average|avg|mean) (historical|past|historic) (clv|lifetime value|value|CLV)", "avg customer_risk_scores.historical_clv", "customer_risk_scores"),
    Metric("(total|sum of) (historical|past|historic) (clv|lifetime value|value|CLV)", "sum customer_risk_scores.historical_clv", "customer_risk_scores"),
    Metric("(clv|value|lifetime value|predicted value|CLV|predicted clv) at risk", "sum customer_risk_scores.predicted_clv", "customer_risk_scores", "what", "in customer_risk_scores.risk_level =HIGH =CRITICAL )"),
    Metric("(number of |)(at-risk|at risk|endangered) {CUST}", "count customer_risk_scores", "customer_risk_scores", "count", "in customer_risk_scores.risk_level =HIGH =CRITICAL )"),
    Metric("(average|avg|mean) (days until churn|time to churn|days to churn|number of days until churn)", "avg customer_risk_scores.days_until_churn", "customer_risk_scores"),
    Metric("(number of |count of |total number of |)(rewards|offers|deals|perks|rewards in the catalogue)", "count rewards", "rewards", "count"),
    Metric("(average|avg|mean) (points cost|cost in points|number of points a reward costs|reward cost|points price)", "avg rewards.points_cost", "rewards"),
    Metric("(average|avg|mean) (face value|reward value|value of a reward)", "avg rewards.face_value", "rewards"),
    Metric("(highest|maximum|largest) (points cost|cost in points)", "max rewards.points_cost", "rewards"),
    Metric("(total |)(inventory|stock|reward inventory)", "sum rewards.inventory", "rewards"),
    Metric("(average|avg|mean) (minimum spend|difficulty|least spend|required spend)", "avg rewards.difficulty", "rewards"),
    Metric("(number of |count of |total number of |)(products|articles|items in the assortment|skus|SKUs)", "count products", "products", "count"),
    Metric("(average|avg|mean) (price|product price|price of products)", "avg products.price", "products"),
    Metric("(highest|maximum|top) (price|product price)", "max products.price", "products"),
    Metric("(lowest|minimum|cheapest) (price|product price)", "min products.price", "products"),
    Metric("(number of |)(brands|different brands)", "distinct products.brand", "products", "count"),
    Metric("(number of |count of |total number of |)(campaigns|marketing campaigns)", "count campaigns", "campaigns", "count"),
    Metric("(total |sum of |)(campaign |marketing |)(budget|budgets|campaign spend|marketing spend)", "sum campaigns.budget", "campaigns"),
    Metric("(average|avg|mean) (campaign |)budget", "avg campaigns.budget", "campaigns"),
    Metric("(average|avg|mean) (campaign |)(duration|length|number of days)", "avg campaigns.duration_days", "campaigns"),
    Metric("(number of |)segments", "count segments", "segments", "count"),
    Metric("(average|avg|mean) segment size", "avg segments.size", "segments"),
)  # fmt: skip

# A group: the words for one of it, for many, and its token.
_PERSON_GROUPS = (
    ("(tier|membership tier|level|loyalty tier|membership level|loyalty level|status)", "tiers", "customers.membership_tier"),
    ("(city|location|town|place)", "(cities|locations)", "customers.location"), ("gender", "genders", "customers.gender"),
    ("(age group|age|age band|age bracket|age range)", "age groups", "customers.age_group"),
    ("(segment|customer segment)", "segments", "segments"), ("(risk level|churn risk level|level of risk)", "risk levels", "customer_risk_scores.risk_level"),
    ("(clv segment|value segment|clv group|value group)", "clv segments", "customer_risk_scores.clv_segment"),
    ("(top factor|main factor|main churn driver|churn reason|top churn factor)", "factors", "customer_risk_scores.top_factor"),
    ("coverage", "coverages", "customer_risk_scores.coverage"),
)  # fmt: skip
_TIME_GROUPS = (("month", "month"), ("month", "month"), ("week", "week"), ("day", "day"), ("quarter", "quarter"), ("year", "year"))
GROUPS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "customers": _PERSON_GROUPS, "customer_risk_scores": _PERSON_GROUPS,
    "transactions": (("(channel|sales channel|purchase channel)", "channels", "transactions.channel"), ("(store|shop|branch|outlet|location)", "(stores|shops|branches|outlets)", "transactions.store"),
                     ("(store|shop)", "(stores|shops)", "transactions.store"), ("(customer|member|shopper|client)", "(customers|members|shoppers|clients|buyers|spenders)", "customers"),
                     ("(day of the week|weekday|day of week)", "weekdays", "weekday transactions.occurred_at"), ("(weekend or weekday|weekend and weekday|weekend versus weekday)", "weekends", "transactions.weekend"), ("(hour|hour of the day|time of day)", "hours", "hour transactions.occurred_at"), *_PERSON_GROUPS),
    "transaction_items": (("(product category|category|kind of product)", "(categories|product categories)", "products.category"), ("(brand|product brand)", "brands", "products.brand"),
                          ("(product|item|article)", "(products|items|articles)", "products"), ("(product|item)", "(products|items)", "products"), ("(store|shop)", "stores", "transactions.store"),
                          ("channel", "channels", "transactions.channel"), *_PERSON_GROUPS[:4]),
    "events": (("(reward|offer|deal|perk)", "(rewards|offers|deals|perks)", "rewards"), ("(reward|offer)", "(rewards|offers)", "rewards"), ("(reward category|category|offer category)", "(categories|reward categories)", "rewards.category"),
               ("(reward type|type of reward|offer type|type of offer|kind of reward)", "reward types", "rewards.reward_type"), ("campaign", "campaigns", "campaigns"),
               ("channel", "channels", "events.channel"), ("(event type|type of event|kind of event|event)", "event types", "events.event_type"), ("(customer|member)", "(customers|members)", "customers"), *_PERSON_GROUPS),
    "tickets": (("(issue type|type of issue|issue|kind of problem|topic|problem type)", "issue types", "tickets.issue_type"), ("channel", "channels", "tickets.channel"),
                ("sentiment", "sentiments", "tickets.sentiment"), ("rating", "ratings", "tickets.rating"), ("(customer|member)", "(customers|members)", "customers"), *_PERSON_GROUPS),
    "rewards": (("(category|reward category)", "categories", "rewards.category"), ("(type|reward type|kind)", "(types|reward types)", "rewards.reward_type")),
    "products": (("(category|product category)", "categories", "products.category"), ("brand", "brands", "products.brand")),
    "campaigns": (("(channel|campaign channel)", "channels", "campaigns.channel"),), "segments": (),
}  # fmt: skip
TIMES = {
    "customers": "customers.joined_at", "transactions": "transactions.occurred_at", "transaction_items": "transactions.occurred_at", "events": "events.occurred_at",
    "tickets": "tickets.created_at", "campaigns": "campaigns.started_at",
}  # fmt: skip


@dataclass
class Draft:
    """A question being made: slots in the order they were drawn, by private marks."""

    rng: np.random.Generator
    values: Values
    surfaces: list[tuple[str, str]] = field(default_factory=list)

    def slot(self, kind: str, words: str) -> str:
        self.surfaces.append((kind, words))
        return f"\x01{len(self.surfaces) - 1}\x02"

    def fill(self, placeholder: str, low: str | None = None, high: str | None = None) -> tuple[str, str]:
        """(mark for the text, mark for the program)."""
        kind = {"n": "N", "money": "N", "points": "N", "pct": "N", "days": "N"}.get(placeholder)
        if kind is None:
            kind = "T" if placeholder in ("past", "gap", "next", "roll", "since", "ago", "cal", "cal2") else "V"
        mark = self.slot(kind, fill(placeholder, low, high, self.values, self.rng))
        return mark, mark

    def pick(self, options: Sequence[str]) -> str:
        return choose(str(options[int(self.rng.integers(len(options)))]), self.rng)

    def words(self, text: str) -> str:
        return choose(text.replace("{CUST}", _CUST), self.rng)

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)


Filter = Callable[[Draft], Piece]


def _fixed(words: str, tokens: str) -> Filter:
    return lambda d: (d.words(words), tokens.split())


def _with(words: str, tokens: str, *places: str) -> Filter:
    """`{0}`, `{1}` in the words and the tokens are slots of the placeholders named in `places` (`n:1-5` with bounds)."""

    def make(d: Draft) -> Piece:
        text, program = d.words(words), tokens
        for i, place in enumerate(places):
            name, _, bounds = place.partition(":")
            low, high = bounds.split("-") if bounds else (None, None)
            shown, meant = d.fill(name, low, high)
            text, program = text.replace(f"<{i}>", shown), program.replace(f"<{i}>", meant)
        return text, program.split()

    return make


_MORE = (
    ("(more than|over|above|greater than|exceeding|>)", "gt"),
    ("(at least|no less than|minimum|a minimum of)", "ge"),
    ("(less than|under|below|fewer than|<)", "lt"),
    ("(at most|no more than|up to)", "le"),
)


def _threshold(before: str, after: str, column: str, place: str) -> Filter:
    def make(d: Draft) -> Piece:
        words, op = _MORE[d.rng.integers(4)]
        name, _, bounds = place.partition(":")
        low, high = bounds.split("-") if bounds else (None, None)
        shown, meant = d.fill(name, low, high)
        if d.chance(0.07) and place in ("points", "pct", "money", "money:20000-120000") and d.surfaces[-1][0] == "N":
            d.surfaces.pop()
            up = d.chance(0.7)
            return d.words(
                f"{before} {'(above|higher than|over|more than|greater than)' if up else '(below|lower than|under|less than)'} (average|the average) {after}"
            ), ["gt" if up else "lt", column, "mean"]
        if d.chance(0.1) and place in ("n", "money", "points"):
            second, _ = d.fill(name, low, high)
            return d.words(f"{before} between {shown} and {second} {after}"), ["between", column, shown, second]
        return d.words(f"{before} {words} {meant} {after}"), [op, column, meant]

    return make


def _enum(column: str, choices: dict[str, str], patterns: Sequence[str]) -> Filter:
    """One value, or two joined by and/or/&, of an enum; `*` in a pattern is the value's words."""

    def make(d: Draft) -> Piece:
        keys = list(choices)
        if d.chance(0.12) and len(keys) > 2:
            a, b = (keys[i] for i in d.rng.choice(len(keys), 2, replace=False))
            words = f"{d.words(choices[a])} {d.pick(['and', 'or', '&'])} {d.words(choices[b])}"
            return d.pick(patterns).replace("*", words), ["in", column, f"={a}", f"={b}", ")"]
        key = keys[d.rng.integers(len(keys))]
        if d.chance(0.06):
            return d.pick(patterns).replace("*", f"{d.pick(['non', 'not'])} {d.words(choices[key])}"), ["ne", column, f"={key}"]
        return d.pick(patterns).replace("*", d.words(choices[key])), ["eq", column, f"={key}"]

    return make


_TIER = {"BRONZE": "bronze", "SILVER": "silver", "GOLD": "gold", "PLATINUM": "platinum"}
_CHANNEL = {
    "email": "(email|e-mail)",
    "push": "push",
    "sms": "(sms|text message)",
    "app": "(app|mobile app)",
    "web": "(web|website|online)",
    "store": "(store|in-store)",
}
_ISSUE = {"product": "product", "service": "service", "delivery": "delivery", "app": "app", "billing": "billing", "other": "other"}
_TYPE = {"discount": "discount", "bogo": "(bogo|buy one get one|BOGO|two for one)", "free_item": "(free item|freebie|free-item)", "points_bonus": "(points bonus|bonus points|points multiplier)",
         "cashback": "(cashback|cash back)", "experience": "experience", "upgrade": "upgrade", "informational": "informational"}  # fmt: skip
_FACTOR = {f: f for f in ("recency", "frequency", "monetary", "engagement", "redemption", "tenure", "feedback", "season")}
_ORDINAL = {d: f"({d}s|{d})" for d in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")}

# Adjectives stand before the noun; the others after it. Each list: (weight, filter).
ADJECTIVES: tuple[Filter, ...] = (
    _enum("customers.membership_tier", _TIER, ("*", "*", "*-tier", "* tier", "* level", "*-level")),
    _enum("customers.gender", {"F": "(female|women)", "M": "(male|men)"}, ("*",)),
    _with("<0>", "eq customers.location <0>", "city"), _with("<0>-based", "eq customers.location <0>", "city"),
    _enum("customer_risk_scores.risk_level", {"LOW": "(low-risk|low risk)", "MEDIUM": "(medium-risk|medium risk)", "HIGH": "(high-risk|high risk)", "CRITICAL": "(critical-risk|critical risk|critical)"}, ("*",)),
    _fixed("(at-risk|at risk|endangered)", "in customer_risk_scores.risk_level =HIGH =CRITICAL )"),
    _enum("customer_risk_scores.clv_segment", {"LOW": "(low-value|low value|low clv)", "MEDIUM": "(medium-value|medium value)", "HIGH": "(high-value|high value|high clv)", "VERY_HIGH": "(very high value|very-high-value|very high clv)"}, ("*",)),
    _fixed("(churned|lapsed|inactive|dormant)", "ge customers.days_since_purchase #90"),
    _with("<0>", "eq segments.name <0>", "segment"), _with("<0> year old", "eq customers.age_group <0>", "age"),
)  # fmt: skip
_BUY = "(bought|purchased|shopped|ordered|made a purchase|placed an order)"
_NOTBUY = "(not bought|not purchased|not shopped|not ordered|made no purchase|not bought anything|bought nothing)"
_EVENT = {
    "redemption": "(redeemed|claimed|used|cashed in) (a reward|an offer|rewards|something|a perk)", "app_open": "(opened|used|launched) the app", "email_open": "(opened|read) (an email|an e-mail|our emails|a mail)",
    "email_click": "clicked (on |)(an email|a link in an email|an e-mail)", "push_click": "(clicked|tapped) (on |)(a push|a push notification|a push message)", "offer_viewed": "(viewed|saw|looked at) (an offer|a reward|offers)",
    "offer_received": "(received|got|were sent) (an offer|a reward offer|offers)", "reward_dismissed": "(dismissed|rejected|declined) (a reward|an offer)", "review": "(wrote|left|posted) a review",
    "referral": "(referred|brought) (a friend|someone)", "unsubscribe": "(unsubscribed|opted out)", "tier_change": "changed (tier|level)", "points_earned": "earned points", "points_expired": "(had points expire|lost points)",
    "email_sent": "(got|received|were sent) (an email|an e-mail)", "push_sent": "(got|received|were sent) a push (notification|message|)",
}  # fmt: skip


def _did(d: Draft) -> Piece:
    """who redeemed a reward last month / never opened the app / did not open an email in 60 days."""
    kinds = list(_EVENT)
    kind = (
        kinds[d.rng.integers(len(kinds))] if d.chance(0.6) else ["redemption", "app_open", "email_open", "offer_viewed"][d.rng.integers(4)]
    )
    words = d.words(_EVENT[kind])
    tokens = ["events", "eq", "events.event_type", f"={kind}"]
    if kind in ("redemption", "offer_viewed", "offer_received", "reward_dismissed") and d.chance(0.45):
        verb = words.split(" an ")[0].split(" a ")[0].split(" something")[0].split(" offers")[0].split(" rewards")[0]
        how = d.rng.integers(3)
        if how == 0:
            mark, _ = d.fill("reward")
            words, tokens = f"{verb} {mark}", [*tokens, "eq", "rewards.name", mark]
        elif how == 1:
            mark, _ = d.fill("category")
            words, tokens = f"{verb} a {mark} {d.pick(['reward', 'offer', 'deal'])}", [*tokens, "eq", "rewards.category", mark]
        else:
            key = list(_TYPE)[d.rng.integers(len(_TYPE))]
            words, tokens = (
                f"{verb} a {d.words(_TYPE[key])} {d.pick(['reward', 'offer', 'deal'])}",
                [*tokens, "eq", "rewards.reward_type", f"={key}"],
            )
    elif kind == "tier_change" and d.chance(0.6):
        keys = list(_TIER)
        a, b = (keys[i] for i in d.rng.choice(4, 2, replace=False))
        words, tokens = (
            f"{d.pick(['moved', 'changed', 'went'])} from {a.lower()} to {b.lower()}",
            [*tokens, "eq", "events.from_tier", f"={a}", "eq", "events.to_tier", f"={b}"],
        )
    negative = d.chance(0.35)
    if d.chance(0.6):
        mark, _ = d.fill("gap" if negative and d.chance(0.5) else "past")
        words, tokens = f"{words} {mark}", [*tokens, "during", "events.occurred_at", mark]
    if negative:
        return f"{d.pick(['who never', 'that never', 'who have not', 'who did not', 'without having'])} {words}", ["hasnot", *tokens, ")"]
    return f"{d.pick(['who', 'that', 'who have', 'who'])} {words}", ["has", *tokens, ")"]


def _often(d: Draft) -> Piece:
    """with more than 5 purchases last month, who redeemed more than twice, with at least 2 tickets."""
    what: tuple[tuple[str, Tokens, Tokens, str], ...] = ((_PUR, ["count", "transactions"], [], "transactions.occurred_at"), ("(redemptions|redeemed rewards)", ["count", "events"], ["eq", "events.event_type", "=redemption"], "events.occurred_at"),
            ("(tickets|complaints|support tickets)", ["count", "tickets"], [], "tickets.created_at"), ("app opens", ["count", "events"], ["eq", "events.event_type", "=app_open"], "events.occurred_at"),
            ("referrals", ["count", "events"], ["eq", "events.event_type", "=referral"], "events.occurred_at"), (_PUR, ["count", "transactions"], [], "transactions.occurred_at"))  # fmt: skip
    words, metric, inner, column = what[d.rng.integers(len(what))]
    more, op = _MORE[d.rng.integers(4)]
    if d.chance(0.1):
        count, mark = "one", "#1"
        words = words.replace("s|", "|").replace("s)", ")")
    elif d.chance(0.15):
        more, op, (count, mark) = "(exactly|just|precisely)", "eq", d.fill("n", "2", "9")
    else:
        count, mark = d.fill("n", "2", "20")
    text = d.words(f"{d.pick(['with', 'having', 'who have', 'who made', 'who had'])} {more} {count} {words}")
    if d.chance(0.5):
        time, _ = d.fill("past")
        text, inner = f"{text} {time}", [*inner, "during", column, time]
    return text, ["hasagg", op, *metric, mark, *inner, ")"]


def _spent(d: Draft) -> Piece:
    more, op = _MORE[d.rng.integers(4)]
    if d.chance(0.15):
        return d.words("(who|that) (spent|spend) (more than|above) (the |)average"), [
            "hasagg",
            "gt",
            "sum",
            "transactions.amount",
            "mean",
            ")",
        ]
    amount, mark = d.fill("money")
    text = d.words(f"(who|that) (spent|spend|have spent) (a total of |) {more} {amount}")
    inner: Tokens = []
    if d.chance(0.3):
        value, _ = d.fill("category")
        text, base, inner = f"{text} on {value}", "transaction_items.amount", ["eq", "products.category", value]
    else:
        base = "transactions.amount"
    if d.chance(0.5):
        time, _ = d.fill("past")
        text, inner = f"{text} {time}", [*inner, "during", "transactions.occurred_at", time]
    return text, ["hasagg", op, "sum", base, mark, *inner, ")"]


def _bought(d: Draft) -> Piece:
    """who bought coffee last week / never bought anything from Copper Kettle / haven't purchased in 60 days / bought in the app."""
    negative = d.chance(0.4)
    lead = d.pick(["who", "that"])
    what, table, inner = "", "transactions", []
    how = d.rng.integers(7)
    if how == 0:
        mark, _ = d.fill("category")
        what, table, inner = f" {mark}", "transaction_items", ["eq", "products.category", mark]
    elif how == 1:
        mark, _ = d.fill("brand")
        what, table, inner = (
            f" {d.pick(['something from', 'anything from', 'products of', '', 'anything by'])} {mark}",
            "transaction_items",
            ["eq", "products.brand", mark],
        )
    elif how == 2:
        mark, _ = d.fill("product")
        what, table, inner = f" {d.pick(['a', 'the', ''])} {mark}", "transaction_items", ["eq", "products.name", mark]
    elif how == 3:
        mark, _ = d.fill("store")
        what, inner = f" {d.pick(['at', 'in', 'from'])} {mark}", ["eq", "transactions.store", mark]
    elif how == 4:
        key, words = [
            ("app", "(in|through|via) the app"),
            ("web", "(online|on the website|on the web)"),
            ("store", "(in a store|in store|in a shop)"),
        ][d.rng.integers(3)]
        what, inner = f" {d.words(words)}", ["eq", "transactions.channel", f"={key}"]
    time = ""
    if d.chance(0.65) or (negative and how > 4 and d.chance(0.6)):
        time, _ = d.fill("gap" if negative and d.chance(0.7) else "past")
        inner = [*inner, "during", "transactions.occurred_at", time]
    if negative:
        verb = (
            d.words(f"(have |did |had |){_NOTBUY}")
            if how > 4 or not what
            else d.words(
                "(never bought|never purchased|have not bought|have never bought|did not buy|didn't buy|never ordered|haven't bought)"
            )
        )
        if how > 4 and d.chance(0.5):
            verb = d.words(
                "(haven't bought anything|haven't bought|have not purchased|haven't shopped|didn't buy anything|never bought|never bought anything|haven't visited|didn't purchase|have been inactive|haven't ordered|never purchased|never made a purchase)"
            )
        return f"{lead} {verb}{what} {time}", ["hasnot", table, *inner, ")"]
    return f"{lead} {d.words(_BUY) if how > 2 else d.words('(bought|purchased|ordered|have bought|got)')}{what} {time}", [
        "has",
        table,
        *inner,
        ")",
    ]


def _complained(d: Draft) -> Piece:
    text, inner = d.words("(who|that) (opened|filed|raised|wrote|submitted) a (ticket|support ticket|complaint)"), []
    how = d.rng.integers(4)
    if how == 0:
        key = list(_ISSUE)[d.rng.integers(6)]
        text, inner = (
            d.words(f"(who|that|with) (filed|opened|had|) a {_ISSUE[key]} (ticket|issue|complaint|problem)"),
            ["eq", "tickets.issue_type", f"={key}"],
        )
    elif how == 1:
        text, inner = (
            d.words("with (a negative ticket|negative tickets|negative feedback|negative sentiment)"),
            ["eq", "tickets.sentiment", "=NEGATIVE"],
        )
    if d.chance(0.5):
        time, _ = d.fill("past")
        text, inner = f"{text} {time}", [*inner, "during", "tickets.created_at", time]
    if how > 1 and d.chance(0.2):
        none = (
            "(without a ticket|without tickets|who never complained|who never contacted support|who never opened a ticket|with no tickets)"
        )
        return d.words(none) + (f" {time}" if inner and inner[0] == "during" else ""), ["hasnot", "tickets", *inner, ")"]
    return text, ["has", "tickets", *inner, ")"]


PERSON: tuple[Filter, ...] = (
    _with("(in|from|living in|based in|located in|of) <0>", "eq customers.location <0>", "city"), _with("(in|from|living in) <0>", "eq customers.location <0>", "city"),
    _with("(in|from) <0> (and|or) <1>", "in customers.location <0> <1> )", "city", "city"), _with("(outside|not in|not from|outside of|except in) <0>", "ne customers.location <0>", "city"),
    _with("aged <0>", "eq customers.age_group <0>", "age"), _with("in the <0> age (group|bracket|band)", "eq customers.age_group <0>", "age"),
    _with("(who|that) (joined|signed up|registered|enrolled|became members) <0>", "during customers.joined_at <0>", "past"), _with("(who|that) (joined|signed up) <0>", "during customers.joined_at <0>", "past"),
    _with("(who|that) (have been|are) members (for more than|for over) <0>", "gt customers.tenure_days <0>", "gap") if False else _with("(who|that) (joined|signed up) <0>", "during customers.joined_at <0>", "ago"),
    _threshold("with", "points", "customers.points_balance", "points"), _threshold("(with|having) a (points balance|point balance|balance) (of |)", "", "customers.points_balance", "points"),
    _threshold("(with|earning|having) (an income of |an income |incomes |)", "(income|in income|a year|)", "customers.income", "money:20000-120000"),
    _fixed("(who|that) (consented to|agreed to|allow|opted in to) personali(z|s)ation", "true customers.consent_personalization"), _fixed("(who|that) (did not consent to|refused|do not allow|opted out of) personali(z|s)ation", "false customers.consent_personalization"),
    _fixed("without (a known|known) income", "null customers.income"),
    _enum("customers.membership_tier", _TIER, ("in the * tier", "with * status", "of the * level", "who are *", "in *")),
    _enum("customer_risk_scores.risk_level", {"LOW": "low", "MEDIUM": "medium", "HIGH": "high", "CRITICAL": "critical"}, ("at * risk", "with * risk", "with * churn risk", "whose risk level is *", "at * risk of churn", "at * churn risk", "with a * risk of leaving")),
    _fixed("(at risk|at risk of churning|at risk of leaving|in danger of leaving|at risk of churn)", "in customer_risk_scores.risk_level =HIGH =CRITICAL )"),
    _fixed("(likely to churn|about to churn|likely to leave|who will churn|who will leave|who may churn|likely to quit|about to leave)", "ge customer_risk_scores.churn_30 #0.5"),
    _threshold("with (a |) (churn probability|churn risk|churn score|churn|probability of churn|30-day churn probability) (of |)", "", "customer_risk_scores.churn_30", "pct"),
    _threshold("with (a |) (90-day|90 day) (churn probability|churn risk|churn) (of |)", "", "customer_risk_scores.churn_90", "pct"),
    _threshold("with (a |) (60-day|60 day) (churn probability|churn risk|churn) (of |)", "", "customer_risk_scores.churn_60", "pct"),
    _threshold("(worth|with a (clv|lifetime value|predicted clv|predicted lifetime value|customer lifetime value) (of |)|whose (clv|lifetime value) is|with predicted value)", "", "customer_risk_scores.predicted_clv", "money"),
    _threshold("with a (historical|past) (clv|lifetime value|value) (of |)", "", "customer_risk_scores.historical_clv", "money"),
    _with("(in|of|from) (the |) <0> (segment|)", "eq segments.name <0>", "segment"), _with("in segment <0>", "eq segments.segment_id <0>", "segment_id"),
    _enum("customer_risk_scores.clv_segment", {"LOW": "low", "MEDIUM": "medium", "HIGH": "high", "VERY_HIGH": "very high"}, ("with * clv", "with * lifetime value", "in the * clv segment", "of * value")),
    _enum("customer_risk_scores.top_factor", _FACTOR, ("at risk because of *", "whose top factor is *", "whose main churn factor is *", "with * as the main factor")),
    _with("(who|that) will churn (within|in) <0> days", "le customer_risk_scores.days_until_churn <0>", "n:7-90") if False else _fixed("with (sparse|little) (data|history)", "eq customer_risk_scores.coverage =sparse"),
    _with("(whose|with a) last purchase (was |) <0>", "during customers.last_purchase_at <0>", "ago"), _with("(whose|with their) (first|very first) (purchase|order) (was |) <0>", "during customers.first_purchase_at <0>", "past"),
    _with("whose last (purchase|order|visit) was <0>", "during customers.last_purchase_at <0>", "past"), _threshold("(inactive for|with no purchase for|who last bought)", "days (ago|)", "customers.days_since_purchase", "n:20-120") if False else _fixed("(who churned|who have churned|that lapsed|who have lapsed|who are inactive)", "ge customers.days_since_purchase #90"),
    _fixed("who (shop|buy|order|purchase) only (online|on the web)", "has transactions eq transactions.channel =web ) hasnot transactions ne transactions.channel =web )"),
    _fixed("who (only|exclusively) (shop|buy|order|purchase) (in stores|in store)", "has transactions eq transactions.channel =store ) hasnot transactions ne transactions.channel =store )"),
    _fixed("who (only|exclusively) (shop|buy|order) (in|through) the app", "has transactions eq transactions.channel =app ) hasnot transactions ne transactions.channel =app )"),
    _fixed("(who were|that were|who have been) (downgraded|moved down a tier)", "has events true events.downgrade )"), _fixed("(who were|that were|who have been) (upgraded|moved up a tier|promoted)", "has events true events.upgrade )"),
    _with("(who were|that were|who got) (upgraded|promoted|moved up) <0>", "has events true events.upgrade during events.occurred_at <0> )", "past"), _with("(who were|that were|who got) (downgraded|moved down) <0>", "has events true events.downgrade during events.occurred_at <0> )", "past"),
    _did, _did, _did, _often, _often, _spent, _spent, _bought, _bought, _bought, _bought, _complained,
)  # fmt: skip
FACTS: dict[str, tuple[Filter, ...]] = {
    "transactions": (
        _enum("transactions.channel", {"app": "(in the app|via the app|through the app|on the app|app)", "web": "(online|on the website|on the web|via the web|web)", "store": "(in store|in stores|in-store|in the shops)"}, ("*", "*")),
        _with("(at|in|from) (the |) <0> (store|)", "eq transactions.store <0>", "store"), _with("(at|in) <0>", "eq transactions.store <0>", "store"), _fixed("on (weekends|the weekend|saturdays and sundays)", "true transactions.weekend"),
        _fixed("on weekdays", "false transactions.weekend"), _enum("transactions.weekday", _ORDINAL, ("on *",)), _threshold("(of|worth|with an amount of|)", "", "transactions.amount", "money"),
        _with("before <0> (in the morning|am|a.m.|o'clock|)", "lt transactions.hour <0>", "n:7-12"), _with("after <0> (pm|p.m.)", "ge transactions.hour <0>", "n:2-10"),
        _fixed("with (a |) discount", "gt transactions.discount_amount #0"), _fixed("without (a |) discount", "eq transactions.discount_amount #0"), _with("(by|of|from) <0>", "eq customers.customer_id <0>", "customer_id"),
    ),
    "transaction_items": (
        _with("(of|in|for) <0>", "eq products.category <0>", "category"), _with("(in|from) the <0> category", "eq products.category <0>", "category"), _with("(of|from|by|for) (brand |) <0>", "eq products.brand <0>", "brand"),
        _with("(of|for) <0>", "eq products.name <0>", "product"), _with("of <0> (and|or) <1>", "in products.category <0> <1> )", "category", "category"), _with("(at|in) <0>", "eq transactions.store <0>", "store"),
        _enum("transactions.channel", {"app": "(in the app|via the app)", "web": "(online|on the web)", "store": "(in store|in stores)"}, ("*",)),
    ),
    "events": (
        _with("(of|for|on) <0>", "eq rewards.name <0>", "reward"), _with("(of|for|on) reward <0>", "eq rewards.reward_id <0>", "reward_id"), _with("(of|for|on) <0> (rewards|offers)", "eq rewards.category <0>", "category"),
        _with("in the <0> category", "eq rewards.category <0>", "category"), _enum("rewards.reward_type", _TYPE, ("of * rewards", "for * offers", "of * offers", "on * deals")), _with("(in|of|for|from) (the |) campaign <0>", "eq campaigns.name <0>", "campaign"),
        _with("(in|of|for|from) (the |) <0> (campaign|)", "eq campaigns.name <0>", "campaign"), _with("(in|of|for|from) <0>", "eq campaigns.campaign_id <0>", "campaign_id"), _enum("events.channel", _CHANNEL, ("by *", "via *", "through *", "over *", "in the * channel")),
        _with("(by|of) <0>", "eq customers.customer_id <0>", "customer_id"),
    ),
    "tickets": (
        _enum("tickets.issue_type", _ISSUE, ("about *", "of type *", "on * issues", "for * problems", "about * issues", "concerning *")), _enum("tickets.channel", _CHANNEL, ("by *", "via *", "through *", "from the * channel")),
        _enum("tickets.sentiment", {"POSITIVE": "positive", "NEGATIVE": "negative", "NEUTRAL": "neutral"}, ("with * sentiment", "with * tone", "that are *")), _fixed("(with|that got) (a |) (bad|poor|low) (rating|ratings|score)", "le tickets.rating #2"),
        _threshold("(rated|with a rating of|with a rating)", "", "tickets.rating", "n:2-5"), _threshold("(that took|taking|resolved in)", "(hours|hrs)", "tickets.resolution_hours", "n:2-72"),
        _with("(by|of|from) <0>", "eq customers.customer_id <0>", "customer_id"), _fixed("(not yet resolved|still open|unresolved|without a resolution|still unresolved)", "null tickets.resolution_hours"),
    ),
    "rewards": (
        _enum("rewards.reward_type", _TYPE, ("of type *", "that are *", "of the * type", "of the * kind")), _with("(in|for|of) (the |) <0> (category|)", "eq rewards.category <0>", "category"), _threshold("(that cost|costing|for|with a cost of)", "points", "rewards.points_cost", "points:50-3000"),
        _threshold("(with a face value of|worth|with a value of)", "", "rewards.face_value", "money:1-20"), _fixed("(that are active|currently active|currently valid|available now|valid right now|still valid|live)", "true rewards.active"),
        _fixed("(that have expired|already expired|that are expired|no longer valid)", "true rewards.expired"), _with("(expiring|that expire|that end|ending|running out) <0>", "during rewards.valid_to <0>", "next"), _fixed("(out of stock|sold out|with no inventory left|with no stock)", "le rewards.inventory #0"),
        _threshold("with (an inventory of|)", "(left|in stock|in inventory|pieces left)", "rewards.inventory", "n:5-500"), _fixed("(without|with no|that need no) minimum spend", "eq rewards.difficulty #0"), _threshold("(with a minimum spend of|that require a spend of)", "", "rewards.difficulty", "money:5-40"),
        _fixed("(never redeemed|that nobody redeemed|that were never redeemed|without any redemption|with no redemptions|that nobody claimed)", "hasnot events eq events.event_type =redemption )"),
        _with("(not redeemed|that nobody redeemed|without redemptions|with no redemption) <0>", "hasnot events eq events.event_type =redemption during events.occurred_at <0> )", "past"),
        _with("redeemed (more than|over) <0> times", "hasagg gt count events <0> eq events.event_type =redemption )", "n:5-200"), _with("redeemed (more than|over) <0> times <1>", "hasagg gt count events <0> eq events.event_type =redemption during events.occurred_at <1> )", "n:2-50", "past"),
    ),
    "products": (
        _with("(in|of|from) (the |) <0> (category|)", "eq products.category <0>", "category"), _with("(from|by|of) (brand |) <0>", "eq products.brand <0>", "brand"), _threshold("(that cost|costing|priced at|priced|with a price of|for)", "", "products.price", "money:2-15"),
        _fixed("(never sold|that were never bought|nobody bought|that never sold|without any sale|nobody ever bought)", "hasnot transaction_items )"), _with("(not sold|nobody bought|without sales|that did not sell) <0>", "hasnot transaction_items during transactions.occurred_at <0> )", "past"),
        _fixed("(more expensive|pricier|that cost more) than (the |) average", "gt products.price mean"),
    ),
    "campaigns": (
        _enum("campaigns.channel", _CHANNEL, ("by *", "via *", "over *", "on the * channel", "through *")), _fixed("(that are running|currently running|running now|active right now|in progress|running at the moment)", "true campaigns.running"),
        _threshold("(with a budget of|with a budget|costing|that cost)", "", "campaigns.budget", "money:500-9000"), _with("(that started|started|launched|that began|starting) <0>", "during campaigns.started_at <0>", "past"), _with("(that ended|ended|ending|finished) <0>", "during campaigns.ended_at <0>", "past"),
        _fixed("(without|with no|that had no|that brought no) redemptions", "hasnot events eq events.event_type =redemption )"), _with("(with more than|that got over) <0> redemptions", "hasagg gt count events <0> eq events.event_type =redemption )", "n:5-200"),
    ),
    "segments": (_threshold("(with|having)", "(customers|members)", "segments.size", "n:50-300"), _threshold("with a churn rate (of |)", "", "segments.churn_rate", "pct"), _threshold("with an average (clv|lifetime value) (of |)", "", "segments.average_clv", "money")),
}  # fmt: skip
_ADJ_FACT: dict[str, tuple[Filter, ...]] = {
    "tickets": (_enum("tickets.sentiment", {"POSITIVE": "positive", "NEGATIVE": "negative", "NEUTRAL": "neutral"}, ("*",)), _enum("tickets.issue_type", _ISSUE, ("*",)), _enum("tickets.channel", _CHANNEL, ("*",)), _fixed("(open|unresolved)", "null tickets.resolution_hours")),
    "rewards": (_enum("rewards.reward_type", _TYPE, ("*",)), _with("<0>", "eq rewards.category <0>", "category"), _with("<0>", "like rewards.name <0>", "reward_word"), _fixed("(active|current|valid|live|available)", "true rewards.active"), _fixed("(expired|outdated)", "true rewards.expired")),
    "products": (_with("<0>", "eq products.category <0>", "category"), _with("<0>", "eq products.brand <0>", "brand"), _with("<0>", "like products.name <0>", "product_word"), _with("<0>", "like products.name <0>", "product_word")),
    "campaigns": (_enum("campaigns.channel", _CHANNEL, ("*",)), _with("<0>", "like campaigns.name <0>", "campaign_word"), _fixed("(running|active|current|ongoing)", "true campaigns.running")),
    "transaction_items": (_with("<0>", "eq products.category <0>", "category"), _with("<0>", "eq products.brand <0>", "brand"), _with("<0>", "eq products.name <0>", "product")),
    "transactions": (_enum("transactions.channel", {"app": "app", "web": "(online|web)", "store": "(store|in-store)"}, ("*",)), _with("<0>", "eq customers.location <0>", "city"), _enum("transactions.weekday", {k: k for k in _ORDINAL}, ("*",)), _fixed("weekend", "true transactions.weekend"), _with("<0>", "eq transactions.store <0>", "store")),
    "events": (_with("<0>", "eq rewards.category <0>", "category"),),
}  # fmt: skip
ENTITY_NOUNS = {
    "customers": _CUST, "products": "(products|items|articles|products)", "rewards": "(rewards|offers|deals|perks|rewards|promotions)", "campaigns": "(campaigns|marketing campaigns|campaigns)",
    "segments": "(segments|customer segments)", "tickets": "(tickets|support tickets|cases|tickets)", "transactions": "(purchases|transactions|orders)",
}  # fmt: skip
# What a list may be ordered by or show: (words high, words low, noun, column)
SORTS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "customers": (("(highest|most|biggest)", "(lowest|fewest|smallest)", "(points balance|points|point balances)", "customers.points_balance"), ("(highest|biggest|top|best)", "lowest", "(predicted clv|lifetime value|clv|predicted lifetime value|customer lifetime value)", "customer_risk_scores.predicted_clv"),
                  ("highest", "lowest", "(churn risk|churn probability|risk of churning|probability of leaving|30-day churn)", "customer_risk_scores.churn_30"), ("highest", "lowest", "(90-day churn|90-day churn probability)", "customer_risk_scores.churn_90"),
                  ("(highest|biggest)", "lowest", "(historical clv|past value|historical lifetime value)", "customer_risk_scores.historical_clv"), ("highest", "lowest", "income", "customers.income"), ("(latest|most recent|newest)", "(earliest|oldest|first)", "(join date|sign-up date|membership date)", "customers.joined_at"),
                  ("(longest)", "shortest", "(time until churn|days until churn)", "customer_risk_scores.days_until_churn")),
    "products": (("(highest|most expensive)", "(lowest|cheapest)", "(price|prices)", "products.price"),),
    "rewards": (("(highest|biggest)", "lowest", "(points cost|cost in points|points price)", "rewards.points_cost"), ("(highest|biggest)", "lowest", "(face value|value)", "rewards.face_value"), ("(biggest|highest)", "(lowest|smallest)", "(inventory|stock)", "rewards.inventory"), ("latest", "(earliest|soonest)", "(expiry date|end date|expiry)", "rewards.valid_to")),
    "campaigns": (("(biggest|highest|largest)", "(smallest|lowest)", "(budget|budgets)", "campaigns.budget"), ("(longest)", "shortest", "(duration|run time)", "campaigns.duration_days"), ("(latest|most recent)", "(earliest|first)", "start date", "campaigns.started_at")),
    "segments": (("(biggest|largest|highest)", "(smallest|lowest)", "(size|sizes|number of customers)", "segments.size"), ("(highest|worst)", "(lowest|best)", "churn rate", "segments.churn_rate"), ("(highest|best)", "(lowest|worst)", "(average clv|clv|lifetime value)", "segments.average_clv"), ("(highest|best)", "(lowest|worst)", "redemption rate", "segments.redemption_rate")),
    "tickets": (("(longest|highest)", "shortest", "(resolution time|time to resolve)", "tickets.resolution_hours"), ("highest", "(lowest|worst)", "(rating|ratings)", "tickets.rating"), ("(latest|newest|most recent)", "(oldest|earliest)", "(date|creation date)", "tickets.created_at")),
    "transactions": (("(biggest|largest|highest)", "(smallest|lowest)", "(amount|amounts|value)", "transactions.amount"), ("(latest|most recent|newest)", "(first|earliest|oldest)", "(date|dates)", "transactions.occurred_at")),
}  # fmt: skip
SHOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "customers": (("(tier|membership tier)", "customers.membership_tier"), ("(points|points balance)", "customers.points_balance"), ("(city|location)", "customers.location"), ("join date", "customers.joined_at"), ("(churn risk|churn probability)", "customer_risk_scores.churn_30"),
                  ("(clv|lifetime value)", "customer_risk_scores.predicted_clv"), ("risk level", "customer_risk_scores.risk_level"), ("age group", "customers.age_group"), ("segment", "segments.name"), ("(last purchase|date of the last purchase)", "customers.last_purchase_at"), ("(top factor|main reason)", "customer_risk_scores.top_factor")),
    "products": (("price", "products.price"), ("brand", "products.brand"), ("category", "products.category")),
    "rewards": (("(points cost|cost in points)", "rewards.points_cost"), ("(face value|value)", "rewards.face_value"), ("type", "rewards.reward_type"), ("category", "rewards.category"), ("(expiry date|end date)", "rewards.valid_to"), ("(inventory|stock)", "rewards.inventory"), ("description", "rewards.description")),
    "campaigns": (("budget", "campaigns.budget"), ("channel", "campaigns.channel"), ("start date", "campaigns.started_at"), ("end date", "campaigns.ended_at")),
    "tickets": (("rating", "tickets.rating"), ("(text|message)", "tickets.text"), ("issue type", "tickets.issue_type"), ("(resolution time|resolution hours)", "tickets.resolution_hours"), ("sentiment", "tickets.sentiment"), ("channel", "tickets.channel")),
    "segments": (("(churn rate|churn rates)", "segments.churn_rate"), ("size", "segments.size"), ("(average clv|clv)", "segments.average_clv"), ("redemption rate", "segments.redemption_rate"), ("description", "segments.description")),
}  # fmt: skip
_SUPERLATIVE = {  # adjectives that name the order by themselves: (words, column, descending)
    "products": (("(most expensive|priciest|dearest)", "products.price", True), ("cheapest", "products.price", False)), "tickets": (("(newest|latest|most recent)", "tickets.created_at", True), ("oldest", "tickets.created_at", False), ("(worst rated|lowest rated)", "tickets.rating", False)),
    "campaigns": (("(most expensive|biggest|priciest)", "campaigns.budget", True), ("cheapest", "campaigns.budget", False), ("(latest|newest|most recent)", "campaigns.started_at", True), ("longest", "campaigns.duration_days", True)),
    "transactions": (("(biggest|largest|most expensive)", "transactions.amount", True), ("(latest|most recent|last)", "transactions.occurred_at", True), ("smallest", "transactions.amount", False)),
    "rewards": (("(most expensive|priciest|costliest)", "rewards.points_cost", True), ("(cheapest|least expensive)", "rewards.points_cost", False), ("most valuable", "rewards.face_value", True)),
    "customers": (("(newest|latest|most recent|most recently joined)", "customers.joined_at", True), ("(oldest|longest-standing|earliest|longest serving)", "customers.joined_at", False), ("(most valuable|best|highest value)", "customer_risk_scores.predicted_clv", True), ("(riskiest|most at risk|most endangered|most likely to churn)", "customer_risk_scores.churn_30", True)),
    "segments": (("(biggest|largest)", "segments.size", True), ("smallest", "segments.size", False), ("most valuable", "segments.average_clv", True)),
}  # fmt: skip
# What can be asked of one thing: (question, program); <0> is the thing.
LOOKUPS: tuple[tuple[str, str, str], ...] = (
    ("customer_id", "(what tier is|which tier is|what is the tier of|what level is|membership tier of|tier of) (customer |) <0> (in|)", "list customers customers.membership_tier ; eq customers.customer_id <0> end"),
    ("customer_id", "(how many points does|how many points has) <0> (have|got)", "list customers customers.points_balance ; eq customers.customer_id <0> end"),
    ("customer_id", "(points balance|points|balance) of (customer |) <0>", "list customers customers.points_balance ; eq customers.customer_id <0> end"),
    ("customer_id", "(since when is|since when has|when did|how long has) <0> (a member|been a member|join|joined|sign up)", "list customers customers.joined_at ; eq customers.customer_id <0> end"),
    ("customer_id", "(where does|in which city does|where is) <0> (live|from)", "list customers customers.location ; eq customers.customer_id <0> end"),
    ("customer_id", "(how much has|how much did) <0> (spent|spend)( so far| in total|)", "agg sum transactions.amount ; ; eq customers.customer_id <0> end"),
    ("customer_id", "(total spend|revenue|sales) (of|from|by) <0>", "agg sum transactions.amount ; ; eq customers.customer_id <0> end"),
    ("customer_id", "(how many|number of) (purchases|orders|transactions) (has|did|by|of) <0> (made|make|)", "agg count transactions ; ; eq customers.customer_id <0> end"),
    ("customer_id", "(when did|when was) <0> (last buy|last purchase|last shop|buy something for the last time|last order)", "agg max transactions.occurred_at ; ; eq customers.customer_id <0> end"),
    ("customer_id", "(how many days ago did|how long ago did|days since) <0> (last buy|buy last|last bought|last purchase)", "list customers customers.days_since_purchase ; eq customers.customer_id <0> end"),
    ("customer_id", "(last purchase|date of the last purchase|latest order) (of|by) <0>", "agg max transactions.occurred_at ; ; eq customers.customer_id <0> end"),
    ("customer_id", "(when did|when was) <0> (first buy|first purchase|buy for the first time|make the first purchase)", "agg min transactions.occurred_at ; ; eq customers.customer_id <0> end"),
    ("customer_id", "(why is|why might|why could|why will) <0> (at risk|churn|leave|likely to churn|at risk of churning)", "list customer_risk_scores customer_risk_scores.top_factor customer_risk_scores.churn_30 customer_risk_scores.churn_60 customer_risk_scores.churn_90 customer_risk_scores.risk_level ; eq customers.customer_id <0> end"),
    ("customer_id", "(churn risk|risk|churn probability|probability of churn|how likely is) (of |for |) <0> (to churn|)", "list customer_risk_scores customer_risk_scores.churn_30 customer_risk_scores.churn_60 customer_risk_scores.churn_90 customer_risk_scores.risk_level ; eq customers.customer_id <0> end"),
    ("customer_id", "(when will|when is) <0> (churn|leave|going to churn|expected to churn)", "list customer_risk_scores customer_risk_scores.predicted_churn_date customer_risk_scores.days_until_churn ; eq customers.customer_id <0> end"),
    ("customer_id", "(clv|lifetime value|predicted clv|customer lifetime value|predicted value) (of|for) <0>", "list customer_risk_scores customer_risk_scores.predicted_clv ; eq customers.customer_id <0> end"),
    ("customer_id", "(which|what) segment is <0> in", "list customers segments.name ; eq customers.customer_id <0> end"),
    ("customer_id", "(which|what) products did <0> buy( most|)", "agg sum transaction_items.quantity ; products ; eq customers.customer_id <0> ; ; desc m0 end"),
    ("customer_id", "(which|what) (rewards|offers) (did|has) <0> (redeem|redeemed|claimed|claim)", "agg count events ; rewards ; eq events.event_type =redemption eq customers.customer_id <0> end"),
    ("customer_id", "(show me |list |)(the |all |)(tickets|support tickets|complaints) (of|by|from) <0>", "list tickets ; eq customers.customer_id <0> end"),
    ("customer_id", "(show me |list |)(the |all |)(purchases|transactions|orders|purchase history) (of|by|from) <0>", "list transactions ; eq customers.customer_id <0> end"),
    ("customer_id", "(what is|tell me) the name of <0>", "list customers ; eq customers.customer_id <0> end"),
    ("product", "(what is the price of|how much does|price of|what does) (the |) <0> (cost|)", "list products products.price ; eq products.name <0> end"),
    ("product", "(which brand|what brand) (makes|is) <0>", "list products products.brand ; eq products.name <0> end"),
    ("product", "(how many|how often) (units of |)(was |were |) <0> (sold|bought|were sold)", "agg sum transaction_items.quantity ; ; eq products.name <0> end"),
    ("reward", "(how many points does|points cost of|what does|cost of) <0> (cost|)", "list rewards rewards.points_cost ; eq rewards.name <0> end"),
    ("reward", "(when does|until when is) <0> (expire|valid|end|run out)", "list rewards rewards.valid_to ; eq rewards.name <0> end"),
    ("reward", "(how many|how much stock|inventory) (of|are left of|do we have of) <0> (left|)", "list rewards rewards.inventory ; eq rewards.name <0> end"),
    ("reward", "(how often|how many times) (was|has|were) <0> (been |)(redeemed|claimed)", "agg count events ; ; eq events.event_type =redemption eq rewards.name <0> end"),
    ("reward", "(who|which customers|which members) redeemed <0>", "list customers ; has events eq events.event_type =redemption eq rewards.name <0> ) end"),
    ("campaign", "(what was|what is) the budget of <0>", "list campaigns campaigns.budget ; eq campaigns.name <0> end"),
    ("campaign", "(when did|when does) <0> (start|begin)", "list campaigns campaigns.started_at ; eq campaigns.name <0> end"),
    ("campaign", "(when did|when does) <0> (end|finish|stop)", "list campaigns campaigns.ended_at ; eq campaigns.name <0> end"),
    ("campaign", "(how many redemptions|number of redemptions) (did|from|in|of) <0> (bring|get|have|)", "agg count events ; ; eq events.event_type =redemption eq campaigns.name <0> end"),
    ("segment", "(churn rate|average churn rate) (of|for|in) (the |segment |) <0>", "list segments segments.churn_rate ; eq segments.name <0> end"),
    ("segment", "(how big is|size of|how large is) (the |) <0> (segment|)", "list segments segments.size ; eq segments.name <0> end"),
    ("segment", "(average clv|clv|lifetime value) (of|in|for) (the |) <0> (segment|)", "list segments segments.average_clv ; eq segments.name <0> end"),
    ("segment", "redemption rate (of|in|for) (the |) <0> (segment|)", "list segments segments.redemption_rate ; eq segments.name <0> end"),
    ("segment", "(who|which customers|which members|what customers) (is|are) in (the |) <0> (segment|)", "list customers ; eq segments.name <0> end"),
)  # fmt: skip


class Grammar:
    """Draws pairs of (question, program)."""

    def __init__(self, values: Values, rng: np.random.Generator) -> None:
        self.values, self.rng = values, rng
        self._kinds: tuple[tuple[float, Callable[[Draft], Piece]], ...] = (
            (0.13, self.scalar), (0.15, self.grouped), (0.14, self.top), (0.2, self.listing), (0.09, self.sorted_list), (0.05, self.share),
            (0.04, self.of_total), (0.04, self.versus), (0.03, self.growth), (0.04, self.lookup), (0.03, self.each), (0.03, self.having), (0.04, self.two), (0.03, self.ratio),
        )  # fmt: skip

    def draw(self) -> tuple[str, str]:
        """A question and its program."""
        weights = np.array([w for w, _ in self._kinds])
        make = self._kinds[self.rng.choice(len(weights), p=weights / weights.sum())][1]
        draft = Draft(self.rng, self.values)
        text, tokens = make(draft)
        return _finish(text, tokens, draft)

    # ---- parts

    def _metric(self, d: Draft, bases: Sequence[str] | None = None, simple: bool = False) -> Metric:
        while True:
            m = METRICS[self.rng.integers(len(METRICS))]
            if (bases is None or m.base in bases) and not (simple and m.tokens.split()[0] in ("ratio", "share")):
                return m

    def _filters(self, d: Draft, base: str, most: int, metric: Metric | None = None) -> tuple[str, str, Tokens]:
        """(before the noun, after the noun, conditions); what is said first is meant first."""
        before, after = "", ""
        tokens: Tokens = []
        count = int(
            self.rng.choice(
                most + 1,
                p=[0.35, 0.4, 0.2, 0.05][: most + 1]
                if most == 3
                else np.array([0.4, 0.42, 0.18][: most + 1]) / sum([0.4, 0.42, 0.18][: most + 1]),
            )
        )
        used: set[str] = set()
        is_person = "customers" in UP[base]
        direct = base in ("customers", "customer_risk_scores")
        for _ in range(count):
            if direct:
                adjective = d.chance(0.35) and not before
                made = (ADJECTIVES if adjective else PERSON)[self.rng.integers(len(ADJECTIVES if adjective else PERSON))](d)
            elif is_person and d.chance(0.35):
                words, made_tokens = (ADJECTIVES if (adj := d.chance(0.5)) else PERSON)[
                    self.rng.integers(len(ADJECTIVES if adj else PERSON))
                ](d)
                noun = d.words("(customers|members|shoppers|people)")
                lead = d.pick(["by", "of", "from", "among", "for"])
                made, adjective = ((f"{lead} {words} {noun}" if adj else f"{lead} {noun} {words}"), made_tokens), False
            else:
                options = FACTS[base]
                adjective = d.chance(0.3) and not before and base in _ADJ_FACT
                options = _ADJ_FACT[base] if adjective else options
                made = options[self.rng.integers(len(options))](d)
            words, made_tokens = made
            column = next((t for t in made_tokens if "." in t), "")
            key = column if made_tokens[0] not in ("has", "hasnot", "hasagg") else made_tokens[0] + column
            if key in used:
                continue
            used.add(key)
            if adjective:
                before = words
                tokens = [*made_tokens, *tokens]
            else:
                after = f"{after} {'and ' if after and d.chance(0.3) else ''}{words}"
                tokens = [*tokens, *made_tokens]
        return before, after, tokens

    def _time(self, d: Draft, base: str, p: float) -> tuple[str, Tokens]:
        if base not in TIMES or not d.chance(p):
            return "", []
        mark, _ = d.fill("past")
        return mark, ["during", TIMES[base], mark]

    def _group(self, d: Draft, base: str) -> tuple[str, str, Tokens]:
        if base in TIMES and d.chance(0.25):
            words, unit = _TIME_GROUPS[self.rng.integers(len(_TIME_GROUPS))]
            if base == "customers":
                words = f"join {words}" if d.chance(0.5) else f"{words} of joining"
            return words, words + "s", [unit, TIMES[base]]
        options = GROUPS[base]
        if not options:
            return "", "", []
        one, many, token = options[self.rng.integers(len(options))]
        return d.words(one), d.words(many), token.split()

    def _metric_words(self, d: Draft, m: Metric, before: str, after: str) -> str:
        """The metric's noun phrase with an adjective before its noun and the rest behind it."""
        words = d.words(m.words).strip()
        if before:
            for lead in (
                "total number of ",
                "number of ",
                "count of ",
                "total ",
                "sum of ",
                "average ",
                "avg ",
                "mean ",
                "unique ",
                "distinct ",
            ):
                if words.startswith(lead):
                    return f"{lead}{before} {words[len(lead) :]} {after}"
            return f"{before} {words} {after}"
        return f"{words} {after}"

    @staticmethod
    def _where(m: Metric, tokens: Tokens) -> Tokens:
        return [*m.where.split(), *tokens]

    # ---- kinds of questions

    def scalar(self, d: Draft) -> Piece:
        m = self._metric(d)
        before, after, filters = self._filters(d, m.base, 3)
        time, during = self._time(d, m.base, 0.5)
        noun = self._metric_words(d, m, before, after)
        text = self._ask(d, m, noun, time)
        return text, ["agg", *m.tokens.split(), ";", ";", *self._where(m, filters), *during]

    def _ask(self, d: Draft, m: Metric, noun: str, time: str) -> str:
        bare = noun
        for lead in ("total number of ", "number of ", "count of "):
            bare = bare.removeprefix(lead)
        front = time and d.chance(0.15)
        tail = "" if front else time
        if m.how == "count" and d.chance(0.7):
            tag = d.words("(do we have|are there|were there|did we have|have we had|)") if d.chance(0.45) else ""
            text = (
                d.words("(how many|how many|how many|how many of our|what number of|count the|give me the number of|tell me how many)")
                + f" {bare} {tag} {tail}"
            )
        elif (
            m.how == "what"
            and d.chance(0.15)
            and ("revenue" in noun or "spend" in noun or "sales" in noun or "discount" in noun or "points" in noun)
        ):
            text = d.words("how much") + f" {bare} {d.words('(did we make|was there|did we have|do we have|)')} {tail}"
        else:
            text = (
                d.words(
                    "(what is the|what's the|what was the|what is our|give me the|show me the|show|tell me the||||i need the|calculate the|what are the|find the)"
                )
                + f" {noun} {tail}"
            )
        return f"{time} {text}" if front else text

    def grouped(self, d: Draft) -> Piece:
        m = self._metric(d)
        one, _, group = self._group(d, m.base)
        if not group:
            return self.scalar(d)
        groups = list(group)
        by = one
        if d.chance(0.1):
            other, _, second = self._group(d, m.base)
            if second and second != group:
                groups, by = [*groups, *second], f"{one} and {other}"
        before, after, filters = self._filters(d, m.base, 2)
        time, during = self._time(d, m.base, 0.45)
        noun = self._metric_words(d, m, before, after)
        lead = d.words(
            "(what is the|what's the|show me the|show|give me|list the|break down the|||||plot the|how does the|what are the|i want the|trend of|chart the)"
        )
        how = d.words("(by|by|by|per|per|for each|in each|split by|broken down by|grouped by|for every|across|depending on|in every)")
        if m.how == "count" and d.chance(0.4):
            bare = noun
            for prefix in ("total number of ", "number of ", "count of "):
                bare = bare.removeprefix(prefix)
            text = f"how many {bare} {d.words('(do we have |are there |were there |)')}{how} {by} {time}"
        elif d.chance(0.12):
            text = f"{by}{d.pick([' wise', '-wise', ''])} {noun} {time}" if " and " not in by else f"{noun} by {by} {time}"
        elif d.chance(0.15) and time:
            text = f"{time} {lead} {noun} {how} {by}"
        elif lead == "how does the":
            text = f"how does the {noun} {d.pick(['vary', 'differ', 'change', 'look'])} {how} {by} {time}"
        else:
            text = f"{lead} {noun} {how} {by} {time}" if d.chance(0.6) else f"{lead} {noun} {time} {how} {by}"
        tokens = ["agg", *m.tokens.split(), ";", *groups, ";", *self._where(m, filters), *during]
        if d.chance(0.08) and group[0] not in ("month", "week", "day", "quarter", "year"):
            down = d.chance(0.75)
            text += d.words(
                " (from best to worst|from highest to lowest|highest first|in descending order|, largest first|, sorted descending|from high to low)"
                if down
                else " (from lowest to highest|lowest first|in ascending order|from worst to best|smallest first)"
            )
            tokens += [";", ";", "desc" if down else "asc", "m0"]
        return text, tokens

    def top(self, d: Draft) -> Piece:
        m = self._metric(d)
        for _ in range(20):
            one, many, group = self._group(d, m.base)
            if group and (group[0] not in ("month", "week", "day", "quarter", "year") or d.chance(0.25)):
                break
        if not group:
            return self.grouped(d)
        descending = d.chance(0.8)
        before, after, filters = self._filters(d, m.base, 2)
        time, during = self._time(d, m.base, 0.5)
        noun = self._metric_words(d, m, before, after)
        limit: Tokens = []
        style = self.rng.integers(6)
        for prefix in ("total number of ", "number of ", "count of "):
            noun = noun.removeprefix(prefix)
        more = d.words("(most|highest|largest|biggest|greatest)" if m.how == "what" else "(most|most|highest number of|largest number of)")
        less = d.words("(lowest|smallest|least)" if m.how == "what" else "(fewest|least|lowest number of)")
        extreme = more if descending else less
        if style == 0 and m.top and descending:
            verb = d.words(m.top[self.rng.integers(len(m.top))])
            if d.chance(0.5):
                text, limit = f"{d.words('(which|what)')} {one} {verb} {after} {time}", ["one"]
                filters = filters if not before else self._drop_before(filters, before)
            else:
                count, mark = d.fill("n", "2", "20")
                text, limit = f"{d.words('(which|what)')} {count} {many} {verb} {after} {time}", [mark]
                filters = filters if not before else self._drop_before(filters, before)
            if before:
                return self.top(Draft(self.rng, self.values)) if False else self._redo(d)
        elif style == 1:
            text = f"{d.words('(which|what)')} {one} {d.words('(has|had|shows|got|has|with)')} the {extreme} {noun} {time}"
            limit = ["one"]
        elif style == 2:
            count, mark = d.fill("n", "2", "20")
            rank = d.words("(top|best|leading|top)") if descending else d.words("(bottom|worst|last)")
            lead = d.words("(show me the|list the|give me the|what are the|which are the|who are the|||show)")
            text, limit = f"{lead} {rank} {count} {many} (by|in terms of|in|according to|ranked by) {noun} {time}", [mark]
        elif style == 3:
            count, mark = d.fill("n", "2", "20")
            lead = d.words("(show me the|list the|give me the|what are the|which are the|which||)")
            text, limit = f"{lead} {count} {many} with the {extreme} {noun} {time}", [mark]
        elif style == 4:
            text = f"{d.words('(rank|order|sort)')} {many} by {noun} {time}" + (
                "" if descending else d.words("(, lowest first|, ascending| from lowest to highest)")
            )
        else:
            lead = d.words("(which|what|show|list)")
            if descending and d.chance(0.5):
                text, limit = f"{d.words('(top|best)')} {many} by {noun} {time}", ["#10"]
            else:
                text, limit = f"{lead} {many} {d.words('(have|had|with)')} the {extreme} {noun} {time}", ["#10"]
        return d.words(text), [
            "agg",
            *m.tokens.split(),
            ";",
            *group,
            ";",
            *self._where(m, filters),
            *during,
            ";",
            ";",
            "desc" if descending else "asc",
            "m0",
            *limit,
        ]

    def _redo(self, d: Draft) -> Piece:
        d.surfaces.clear()
        return self.top(d)

    @staticmethod
    def _drop_before(filters: Tokens, before: str) -> Tokens:
        return filters

    def listing(self, d: Draft) -> Piece:
        table = str(self.rng.choice(["customers"] * 6 + ["products", "rewards", "rewards", "campaigns", "tickets", "segments"]))
        before, after, filters = self._filters(d, table, 3 if table == "customers" else 2)
        if not filters:
            return self.listing(d) if d.chance(0.9) else (f"{d.words('(list|show) all')} {d.words(ENTITY_NOUNS[table])}", ["list", table])
        noun = d.words(ENTITY_NOUNS[table])
        counting = d.chance(0.3)
        order: Tokens = []
        joined = " ".join(filters)
        if ("churn_30 #0.5" in joined and not counting) or ("risk_level =HIGH =CRITICAL" in joined and not counting):
            order = [";", "desc", "customer_risk_scores.churn_30"]
        column = ["customer_risk_scores.churn_30"] if order else []
        if counting:
            lead = d.words("(how many|how many|number of|count of|count|give me the number of|what is the number of|tell me how many)")
            text = f"{lead} {before} {noun} {after}"
            if lead == "how many" and d.chance(0.3) and not after.strip().startswith(("who", "that")):
                text = f"how many {before} {noun} {d.words('(do we have|are there)')} {after}"
            return text, ["agg", "count", table, ";", ";", *filters]
        if table == "customers" and not before and after.strip().startswith("who ") and d.chance(0.35):
            text = d.words("(||tell me |show me |list |can you tell me )") + after.strip()
        else:
            lead = d.words(
                "(which|which|what|list|list all|show me|show me all|show|give me|give me a list of|find|find all||||who are the|i need|get|i'd like to see the|display|return|are there any|do we have)"
            )
            text = f"{lead} {before} {noun} {after}"
        shown = SHOWN.get(table)
        if shown and not column and d.chance(0.2):
            words, column_ = shown[self.rng.integers(len(shown))]
            text += d.words(f" (with|with their|and their|including|showing|, with|:|plus) {words}")
            column = [column_]
            if d.chance(0.25):
                words, second = shown[self.rng.integers(len(shown))]
                if second != column_:
                    text += d.words(f" and {words}")
                    column = [column_, second]
        return text, ["list", table, *column, ";", *filters, *order]

    def sorted_list(self, d: Draft) -> Piece:
        table = str(self.rng.choice(["customers"] * 5 + ["products", "rewards", "campaigns", "segments", "tickets", "transactions"]))
        noun = d.words(ENTITY_NOUNS[table])
        before, after, filters = ("", "", []) if d.chance(0.5) else self._filters(d, table, 1)
        limit: Tokens = []
        count = ""
        if d.chance(0.55):
            count, mark = d.fill("n", "2", "25")
            limit = [mark]
        elif d.chance(0.6):
            limit = ["one"]
        if d.chance(0.35):
            adjective, column, descending = _SUPERLATIVE[table][self.rng.integers(len(_SUPERLATIVE[table]))]
            single = limit == ["one"]
            text = f"{count} {d.words(adjective)} {before} {_one(noun) if single else noun} {after}"
            if not limit:
                limit = ["#10"]
            lead = (
                d.words("(what is the|which is the|show me the|who is the|)")
                if single
                else d.words("(what are the|which are the|show me the|list the|show|give me the|the|who are the|)")
            )
            text = f"{lead} {text}"
            if count and d.chance(0.3):
                text = f"{lead} {count} {d.words(adjective)} {before} {noun} {after}"
        else:
            high, low, what, column = SORTS[table][self.rng.integers(len(SORTS[table]))]
            descending = d.chance(0.8)
            extreme = d.words(high if descending else low)
            if limit == ["one"]:
                text = f"{d.words('(which|what)')} {before} {_one(noun)} {after} has the {extreme} {d.words(what)}"
            elif limit:
                text = d.pick([
                    f"(top|top|best) {count} {before} {noun} {after} by {what}" if descending else f"(bottom|lowest|last) {count} {before} {noun} {after} by {what}",
                    f"{count} {before} {noun} {after} with the {extreme} {what}", f"(show me|list|give me|what are|which are) the {count} {before} {noun} {after} with the {extreme} {what}",
                    f"(show me|list|give me|who are|what are) (the |our |my |)(top|{'top' if descending else 'bottom'}) {count} {before} {noun} {after} by {what}" if descending else f"(list|show) the {count} {before} {noun} {after} with the {extreme} {what}",
                ])  # fmt: skip
            else:
                text = (
                    f"{d.words('(list|show|rank|sort|order)')} {before} {noun} {after} {d.words('(by|sorted by|ordered by|ranked by)')} {d.words(what)}"
                    + ("" if descending else d.words("( ascending|, lowest first)"))
                )
        return d.words(text), ["list", table, ";", *filters, ";", "desc" if descending else "asc", column, *limit]

    def share(self, d: Draft) -> Piece:
        base = str(self.rng.choice(["customers", "customers", "customers", "transactions", "tickets", "rewards"]))
        noun = d.words(
            {
                "customers": _CUST,
                "transactions": "(purchases|orders|transactions)",
                "tickets": "(tickets|cases|support tickets)",
                "rewards": "(rewards|offers)",
            }[base]
        )
        part = ""
        inner: Tokens = []
        while not inner:
            _, part, inner = self._only_after(d, base)
        before = ""
        outer: Tokens = []
        if d.chance(0.3) and (base == "customers" or base in _ADJ_FACT):
            options = ADJECTIVES if base == "customers" else _ADJ_FACT[base]
            before, outer = options[self.rng.integers(len(options))](d)
        if outer and any(t in inner for t in outer if "." in t):
            outer, before = [], ""
        percent = d.chance(0.5)
        lead = d.words(
            "(what percentage of|what percent of|percentage of|which percentage of|how many percent of|what % of|% of)"
            if percent
            else "(what share of|share of|what fraction of|what proportion of|proportion of|which share of|fraction of)"
        )
        by, time = "", ""
        group: Tokens = []
        during: Tokens = []
        if d.chance(0.25):
            one, _, group = self._group(d, base)
            by = f"{d.words('(by|per|for each|in each)')} {one}" if group else ""
        if base in ("transactions", "tickets"):
            time, during = self._time(d, base, 0.4)
        # The text says the outer first, then the part.
        text = f"{lead} {before} {noun} {d.words('(are|were|is)') if not part.strip().startswith(('who', 'that', 'with')) and d.chance(0.5) else ''} {part} {by} {time}"
        if part.strip().startswith("who ") and d.chance(0.7):
            text = text.replace(" who ", " ", 1)
        tokens = ["agg", *(["pct"] if percent else []), "share", "count", base, *inner, ")", ";", *group, ";", *outer, *during]
        return text, tokens

    def _only_after(self, d: Draft, base: str) -> tuple[str, str, Tokens]:
        options = PERSON if base == "customers" else FACTS[base]
        words, tokens = options[self.rng.integers(len(options))](d)
        return "", words, tokens

    def of_total(self, d: Draft) -> Piece:
        m = self._metric(d, ("transactions", "transaction_items", "events", "tickets", "customers"), simple=True)
        while m.tokens.split()[0] not in ("sum", "count"):
            m = self._metric(d, ("transactions", "transaction_items", "events", "tickets", "customers"), simple=True)
        one, _, group = self._group(d, m.base)
        if not group:
            return self.scalar(d)
        time, during = self._time(d, m.base, 0.4)
        noun = d.words(m.words)
        for prefix in ("total number of ", "number of ", "count of ", "total ", "sum of "):
            noun = noun.removeprefix(prefix)
        percent = d.chance(0.4)
        word = d.words("(percentage|percent|%)" if percent else "(share|proportion|fraction)")
        text = d.pick([
            f"(what |)(is the |)({word}) of {noun} (by|per|for each) {one} {time}", f"{word} of {noun} {time} by {one}",
            f"how (is|are) {noun} {time} distributed (across|by|over) {one}" if not percent else f"{noun} by {one} {time} in percent",
            f"{word} of {noun} (that comes from|coming from|from) each {one} {time}", f"{one} (mix|split) of {noun} {time} as {word}",
        ])  # fmt: skip
        return d.words(text), [
            "agg",
            *(["pct"] if percent else []),
            "of_total",
            *m.tokens.split(),
            ";",
            *group,
            ";",
            *m.where.split(),
            *during,
        ]

    def versus(self, d: Draft) -> Piece:
        m = self._metric(d, ("transactions", "events", "tickets", "transaction_items", "customers"), simple=True)
        if m.base == "customers" and m.tokens != "count customers":
            return self.versus(d)
        noun = d.words(m.words) if m.tokens != "count customers" else d.words("(new customers|sign-ups|new members|signups|registrations)")
        a, _ = d.fill("cal")
        b, _ = d.fill("cal2")
        joiner = d.words("(vs|versus|with|to|and|against|compared to|compared with|vs.)")
        text = d.pick([
            f"compare {noun} {a} {joiner} {b}", f"{noun} {a} (vs|versus|compared to|against) {b}", f"how (do|does|did) {noun} (of |in |) {a} compare (to|with) {b}",
            f"(what is |)(the |)(difference|change) in {noun} {a} (vs|versus|compared to) {b}", f"how (has|have) {noun} changed {a} (compared to|versus|vs) {b}",
            f"{noun}: {a} (vs|versus) {b}", f"(are|is) {noun} {a} (higher|lower|better) than {b}",
        ])  # fmt: skip
        by = ""
        group: Tokens = []
        if d.chance(0.2):
            one, _, group = self._group(d, m.base)
            if group and group[0] in ("month", "week", "day", "quarter", "year"):
                group = []
            by = f" by {one}" if group else ""
        where = m.where.split()
        return d.words(text) + by, ["agg", "vs", *m.tokens.split(), a, b, ";", *group, ";", *where]

    def growth(self, d: Draft) -> Piece:
        m = self._metric(d, ("transactions", "events", "tickets", "transaction_items", "customers"), simple=True)
        if m.base == "customers" and m.tokens != "count customers":
            return self.growth(d)
        noun = d.words(m.words) if m.tokens != "count customers" else d.words("(customer|member|membership)")
        for prefix in ("total number of ", "number of ", "count of "):
            noun = noun.removeprefix(prefix)
        unit, word = [
            ("month", "(monthly|month over month|month-over-month|month on month|mom|MoM)"),
            ("week", "(weekly|week over week|week-over-week|wow)"),
            ("quarter", "(quarterly|quarter over quarter)"),
            ("year", "(yearly|year over year|year-on-year|yoy|annual)"),
        ][int(self.rng.choice(4, p=[0.6, 0.2, 0.1, 0.1]))]
        time, during = self._time(d, m.base, 0.5)
        if d.chance(0.25):
            text = d.pick([f"cumulative {noun} by {unit} {time}", f"running total of {noun} (by|per) {unit} {time}"])
            fn = "cumulative"
        else:
            text = d.pick(
                [
                    f"{word} {noun} growth {time}",
                    f"{word} growth (of|in) {noun} {time}",
                    f"growth (of|in) {noun} (by|per) {unit} {time}",
                    f"how (did|do|does|has) {noun} (grow|grown|change) {word} {time}",
                    f"{word} change (of|in) {noun} {time}",
                ]
            )
            fn = "growth"
        return d.words(text), ["agg", fn, *m.tokens.split(), ";", unit, TIMES[m.base], ";", *m.where.split(), *during]

    def lookup(self, d: Draft) -> Piece:
        kind, words, program = LOOKUPS[self.rng.integers(len(LOOKUPS))]
        mark, _ = d.fill(kind)
        return d.words(words).replace("<0>", mark), program.replace("<0>", mark).split()[:-1]

    def each(self, d: Draft) -> Piece:
        pairs = (
            ("transaction_items", "products", "(product|item)", "(products|items)", (("(category|product category)", "products.category"), ("brand", "products.brand"), ("city", "customers.location"), ("store", "transactions.store"), ("(tier|membership tier)", "customers.membership_tier"), ("age group", "customers.age_group"), ("gender", "customers.gender"), ("segment", "segments.name"))),
            ("transactions", "customers", "(customer|spender|member)", "(customers|spenders|members)", (("city", "customers.location"), ("(tier|membership tier)", "customers.membership_tier"), ("store", "transactions.store"), ("channel", "transactions.channel"), ("segment", "segments.name"), ("age group", "customers.age_group"))),
            ("events", "rewards", "(reward|offer)", "(rewards|offers)", (("(category|reward category)", "rewards.category"), ("(type|reward type)", "rewards.reward_type"), ("(tier|membership tier)", "customers.membership_tier"), ("city", "customers.location"), ("age group", "customers.age_group"), ("campaign", "campaigns.name"))),
            ("transactions", "transactions.store", "store", "stores", (("city", "customers.location"), ("channel", "transactions.channel"))),
            ("tickets", "tickets.issue_type", "issue type", "issue types", (("channel", "tickets.channel"), ("city", "customers.location"), ("tier", "customers.membership_tier"))),
        )  # fmt: skip
        if d.chance(0.1):
            high = d.chance(0.5)
            word = d.words("(most expensive|priciest)" if high else "cheapest")
            outer, token = [("category", "products.category"), ("brand", "products.brand")][self.rng.integers(2)]
            tail = d.words("(, with its price| with price| and its price|)")
            return d.words(f"(the |which is the |){word} (product|item) (in|of|for|per) (each|every) {outer}{tail}"), [
                "agg",
                "max" if high else "min",
                "products.price",
                ";",
                token,
                "products",
                ";",
                ";",
                ";",
                "desc" if high else "asc",
                "m0",
                "one",
                "each",
            ]
        base, entity, one, many, outers = pairs[self.rng.integers(len(pairs))]
        outer, token = outers[self.rng.integers(len(outers))]
        m = self._metric(d, (base,), simple=True)
        while m.tokens.split()[0] not in ("sum", "count"):
            m = self._metric(d, (base,), simple=True)
        noun = d.words(m.words)
        for prefix in ("total number of ", "number of ", "count of "):
            noun = noun.removeprefix(prefix)
        one, many, outer = d.words(one), d.words(many), d.words(outer)
        plain = {
            "sum transaction_items.quantity": "(best selling|best-selling|most sold|most bought|most popular|top selling)",
            "sum transactions.amount": "(top|best|biggest)",
            "count events": "(most redeemed|most popular)" if "redemption" in m.where else "",
            "count tickets": "(most common|most frequent)",
        }.get(m.tokens, "")
        time, during = self._time(d, base, 0.35)
        if plain and d.chance(0.5):
            if d.chance(0.5):
                text, limit = (
                    f"{plain} {one} (in|for|of|per) (each|every) {outer} {time}"
                    if d.chance(0.7)
                    else f"{plain} {one} (per|by) {outer} {time}",
                    "one",
                )
            else:
                count, limit = d.fill("n", "2", "10")
                text = f"(the |)(top |) {count} {plain} {many} (in|for|of) (each|every) {outer} {time}"
        elif d.chance(0.5):
            text, limit = f"(which|what) {one} has the most {noun} in each {outer} {time}", "one"
        else:
            count, limit = d.fill("n", "2", "10")
            text = f"(top|best) {count} {many} by {noun} (in|for|within) each {outer} {time}"
        return d.words(text), [
            "agg",
            *m.tokens.split(),
            ";",
            token,
            entity,
            ";",
            *m.where.split(),
            *during,
            ";",
            ";",
            "desc",
            "m0",
            limit,
            "each",
        ]

    def having(self, d: Draft) -> Piece:
        m = self._metric(d, ("transactions", "transaction_items", "events", "tickets", "customers", "customer_risk_scores"), simple=True)
        for _ in range(20):
            _, many, group = self._group(d, m.base)
            if group and len(group) == 1:
                break
        if len(group) != 1:
            return self.grouped(d)
        noun = d.words(m.words)
        for prefix in ("total number of ", "number of ", "count of "):
            noun = noun.removeprefix(prefix)
        time, during = self._time(d, m.base, 0.4)
        more, op = _MORE[self.rng.integers(4)]
        count = m.tokens.split()[0] == "count" or m.how == "count"
        if d.chance(0.2):
            op, number, value, more = "gt", "mean", d.words("(average|the average)"), "(above|over|more than|higher than)"
        else:
            value, number = d.fill(
                "pct" if "churn_" in m.tokens else ("n" if count else "money"),
                *(("5", "500") if count else ("100", "20000") if "churn_" not in m.tokens else (None, None)),
            )
        lead = d.words("(which|what|list|show me|show||only)")
        text = (
            f"{lead} {many} (with|have|had|having) {more} {value} {noun} {time}"
            if count
            else f"{lead} {many} (with|have|had|having) (a |) {noun} {more} {value} {time}"
        )
        return d.words(text), ["agg", *m.tokens.split(), ";", *group, ";", *m.where.split(), *during, ";", op, *m.tokens.split(), number]

    def ratio(self, d: Draft) -> Piece:
        kinds = {"redemption": "(redemptions|rewards redeemed|redeemed offers)", "offer_viewed": "(offer views|views|offers viewed)", "offer_received": "(offers received|offers sent|received offers|offers)", "reward_dismissed": "(dismissals|dismissed offers)",
                 "email_open": "(email opens|opens)", "email_sent": "(emails sent|sent emails)", "email_click": "(email clicks|clicks)", "push_sent": "(pushes sent|push messages sent)", "push_click": "push clicks", "unsubscribe": "(unsubscribes|opt-outs)", "app_open": "app opens", "referral": "referrals", "review": "reviews"}  # fmt: skip
        a, b = (list(kinds)[i] for i in self.rng.choice(len(kinds), 2, replace=False))
        one, two = d.words(kinds[a]), d.words(kinds[b])
        percent = d.chance(0.2)
        text = d.pick(
            [
                f"(the |)ratio of {one} to {two}",
                f"{one} divided by {two}",
                f"{one} per {two}",
                f"{one} over {two}",
                f"{one} relative to {two}",
            ]
        )
        if percent:
            text = d.pick(
                [f"(what |)(percentage|percent) of {two} (led to|became|turned into|ended in) {one}", f"{one} as a percentage of {two}"]
            )
        time, during = self._time(d, "events", 0.4)
        before, after, filters = self._filters(d, "events", 1)
        one_, _, group = self._group(d, "events") if d.chance(0.55) else ("", "", [])
        by = f" {d.words('(by|per|for each)')} {one_}" if group else ""
        order: Tokens = []
        if group and d.chance(0.3) and group[0] not in ("month", "week", "day", "quarter", "year"):
            text, by, order = (
                f"(which|what) {one_} has the (highest|best|most) {text}" if not percent else f"{text} by {one_}, highest first",
                "",
                ["one"] if not percent else [],
            )
            order = [";", ";", "desc", "m0", *order]
        if before:
            return self._again(d)
        tokens = ["agg", *(["pct"] if percent else []), "ratio", "only", "count", "events", "eq", "events.event_type", f"={a}", ")"]
        tokens += ["only", "count", "events", "eq", "events.event_type", f"={b}", ")", ";", *group, ";", *filters, *during, *order]
        return d.words(f"{text} {after} {time}") + by, tokens

    def _again(self, d: Draft) -> Piece:
        d.surfaces.clear()
        return self.ratio(d)

    def two(self, d: Draft) -> Piece:
        first = self._metric(d, simple=True)
        second = self._metric(d, (first.base,), simple=True)
        if second.tokens == first.tokens or first.where != second.where or first.base in ("segments",):
            return self.grouped(d)
        time, during = self._time(d, first.base, 0.4)
        one, _, group = self._group(d, first.base) if d.chance(0.6) else ("", "", [])
        by = f"{d.words('(by|per|for each)')} {one}" if group else ""
        text = f"{d.words('(what is the|show me|show|give me|||what are the)')} {d.words(first.words)} {d.words('(and|and|as well as|, plus|together with)')} {d.words(second.words)} {by} {time}"
        return text, ["agg", *first.tokens.split(), *second.tokens.split(), ";", *group, ";", *first.where.split(), *during]


def _one(noun: str) -> str:
    """A noun in the singular."""
    return "person" if noun == "people" else noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def _finish(text: str, tokens: Tokens, draft: Draft) -> tuple[str, str]:
    """Slots get their words in the question and their numbers, from left to right, in the program."""
    order: dict[str, list[int]] = {"N": [], "V": [], "T": []}
    pieces = text.replace("\x02", "\x01").split("\x01")
    out = []
    for at, piece in enumerate(pieces):
        if at % 2:
            kind, words = draft.surfaces[int(piece)]
            if int(piece) not in order[kind]:
                order[kind].append(int(piece))
            out.append(words)
        else:
            out.append(piece)
    named = {f"\x01{i}\x02": f"{kind}{n}" for kind, ids in order.items() for n, i in enumerate(ids)}
    program = [named.get(t, t) for t in tokens]
    while program and program[-1] == ";":
        program.pop()
    return " ".join("".join(out).split()), " ".join([*program, "end"])
