"""Questions that are known to be answerable: shown as examples, offered when a question is refused, and a peer to measure the model by.

Each has the SQL that answers it, so that nothing is offered which the schema cannot answer; the tests execute all of them. The model
does not read this file.
"""

# ruff: noqa: S608 - SQL is put together from constants of this file only

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from contracts.errors import ContractError

CATEGORIES = ("churn", "value", "rewards", "purchases", "products", "engagement", "support", "campaigns", "segments", "customers")
AS_OF = "(SELECT max(occurred_at) FROM transactions)"


@dataclass(frozen=True)
class Parameter:
    """A blank in a template.

    Attributes:
        default: the filler where none is given.
        description: what may stand there, for people.
        values_sql: finds good fillers in a business's own data, the most common first; None where any number will do.
    """

    default: str
    description: str
    values_sql: str | None = None


def _common(table: str, column: str) -> str:
    return f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 5"


PARAMETERS: dict[str, Parameter] = {
    "n": Parameter("10", "how many to show"),
    "days": Parameter("30", "a number of days"),
    "months": Parameter("12", "a number of months"),
    "amount": Parameter("20", "an amount of money"),
    "points": Parameter("5000", "a number of points"),
    "percent": Parameter("70", "a probability in percent"),
    "tier": Parameter("gold", "a membership tier", _common("customers", "lower(membership_tier)")),
    "city": Parameter(
        "Austin",
        "a city",
        "SELECT split_part(location, ',', 1) FROM customers WHERE location IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 5",
    ),
    "category": Parameter("coffee", "a category of products", _common("products", "category")),
    "brand": Parameter("House", "a brand", _common("products", "brand")),
    "store": Parameter("Seattle Downtown", "a store", _common("transactions", "store")),
    "channel": Parameter("app", "a channel of purchases: store, app or web"),
    "product": Parameter(
        "House Blend",
        "a product's name",
        "SELECT p.name FROM transaction_items i JOIN products p ON p.product_id = i.product_id "
        "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 5",
    ),
    "reward": Parameter(
        "Free Coffee",
        "a reward's name",
        "SELECT r.name FROM events e JOIN rewards r ON r.reward_id = e.reward_id WHERE e.event_type = 'redemption' "
        "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 5",
    ),
    "campaign": Parameter(
        "Summer",
        "a campaign's name",
        "SELECT c.name FROM events e JOIN campaigns c ON c.campaign_id = e.campaign_id GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 5",
    ),
    "segment": Parameter("Deal Hunters", "a segment's name", "SELECT name FROM segments ORDER BY size DESC, name LIMIT 5"),
    "issue": Parameter("delivery", "what a ticket is about", _common("tickets", "issue_type")),
}


@dataclass(frozen=True)
class Template:
    """A supported question with blanks.

    Attributes:
        id: never changes, for links and counts.
        category: one of CATEGORIES.
        text: the question; `{name}` is a blank, one of PARAMETERS.
        sql: DuckDB, without tenant filter; blanks as in `text`.
    """

    id: str
    category: str
    text: str
    sql: str

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Blanks in the order of the text."""
        return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.text) if name))

    @cached_property
    def tables(self) -> frozenset[str]:
        """Tables that answer it."""
        found = re.findall(r"\b(?:FROM|JOIN)\s+([a-z_]+)", self.sql.replace(AS_OF, ""))
        return frozenset(found) - set(re.findall(r"\b([a-z_]+) AS \(", self.sql))


def example(template: Template, values: Mapping[str, str] | None = None) -> str:
    """The question with its blanks filled; defaults where `values` has nothing. Values that belong to no blank are ignored."""
    return template.text.format(**_fillers(template, values))


def query(template: Template, values: Mapping[str, str] | None = None) -> str:
    """The SQL with its blanks filled. Only for known values: the guard still has to see it."""
    fillers = {name: value.replace("'", "''") for name, value in _fillers(template, values).items()}
    return template.sql.format(**fillers)


def _fillers(template: Template, values: Mapping[str, str] | None) -> dict[str, str]:
    return {name: str((values or {}).get(name) or PARAMETERS[name].default) for name in template.parameters}


def by_id(template_id: str) -> Template:
    """Raises ContractError for an id that no template has."""
    for template in TEMPLATES:
        if template.id == template_id:
            return template
    raise ContractError(f"no template {template_id!r}. List them: GET /api/v1/ml/query/templates")


def _since(column: str, unit: str = "day", count: str = "{days}") -> str:
    return f"{column} > {AS_OF} - INTERVAL ({count}) {unit.upper()}"


def _this(column: str, unit: str) -> str:
    return f"{column} >= date_trunc('{unit}', {AS_OF})"


def _last(column: str, unit: str) -> str:
    start = f"date_trunc('{unit}', {AS_OF})"
    return f"{column} >= {start} - INTERVAL 1 {unit.upper()} AND {column} < {start}"


_NEWEST = "s.scored_at = (SELECT max(scored_at) FROM customer_risk_scores)"
_SCORES = f"FROM customer_risk_scores s WHERE {_NEWEST}"
_REDEEMED = "e.event_type = 'redemption'"

TEMPLATES: tuple[Template, ...] = (
    # --- churn ---
    Template("churn-high-risk", "churn", "Which customers are at high risk of churning?",
             f"SELECT s.customer_id, s.churn_90 {_SCORES} AND s.risk_level IN ('HIGH', 'CRITICAL') ORDER BY s.churn_90 DESC"),
    Template("churn-next-month", "churn", "Who are the {n} customers most likely to churn next month?",
             f"SELECT s.customer_id, s.churn_30 {_SCORES} ORDER BY s.churn_30 DESC LIMIT {{n}}"),
    Template("churn-levels", "churn", "How many customers are there at each risk level?",
             f"SELECT s.risk_level, count(*) AS customers {_SCORES} GROUP BY 1"),
    Template("churn-factors", "churn", "What are the main reasons why customers are at risk?",
             f"SELECT s.top_factor, count(*) AS customers {_SCORES} AND s.risk_level IN ('HIGH', 'CRITICAL') GROUP BY 1 ORDER BY 2 DESC"),
    Template("churn-by-tier", "churn", "What is the average 90-day churn probability by membership tier?",
             f"SELECT c.membership_tier, avg(s.churn_90) AS churn_rate FROM customer_risk_scores s JOIN customers c "
             f"ON c.customer_id = s.customer_id WHERE {_NEWEST} GROUP BY 1"),
    Template("churn-above", "churn", "How many {tier} customers have a churn probability above {percent} percent?",
             f"SELECT count(*) AS customers FROM customer_risk_scores s JOIN customers c ON c.customer_id = s.customer_id "
             f"WHERE {_NEWEST} AND c.membership_tier = upper('{{tier}}') AND s.churn_90 > {{percent}} / 100.0"),
    Template("churn-valuable", "churn", "Which high-value customers are at high risk of leaving?",
             f"SELECT s.customer_id, s.predicted_clv, s.churn_90 {_SCORES} AND s.risk_level IN ('HIGH', 'CRITICAL') "
             "AND s.clv_segment IN ('HIGH', 'VERY_HIGH') ORDER BY s.predicted_clv DESC"),
    Template("churn-no-purchase", "churn", "How many customers have not bought anything for 90 days?",
             "SELECT count(*) AS customers FROM customers c WHERE NOT EXISTS (SELECT 1 FROM transactions t "
             f"WHERE t.customer_id = c.customer_id AND t.occurred_at > {AS_OF} - INTERVAL 90 DAY)"),
    Template("churn-soon", "churn", "Who is expected to churn within {days} days?",
             f"SELECT s.customer_id, s.days_until_churn {_SCORES} AND s.days_until_churn <= {{days}} ORDER BY s.days_until_churn"),
    Template("churn-by-city", "churn", "Which cities have the highest average churn risk?",
             f"SELECT c.location, avg(s.churn_90) AS churn_rate FROM customer_risk_scores s JOIN customers c "
             f"ON c.customer_id = s.customer_id WHERE {_NEWEST} GROUP BY 1 ORDER BY 2 DESC"),
    # --- value ---
    Template("value-top", "value", "Who are our top {n} customers by total spend?",
             "SELECT customer_id, sum(amount) AS spend FROM transactions GROUP BY 1 ORDER BY 2 DESC LIMIT {n}"),
    Template("value-predicted-top", "value", "Which {n} customers have the highest predicted lifetime value?",
             f"SELECT s.customer_id, s.predicted_clv {_SCORES} ORDER BY s.predicted_clv DESC LIMIT {{n}}"),
    Template("value-average-clv", "value", "What is the average predicted CLV by membership tier?",
             f"SELECT c.membership_tier, avg(s.predicted_clv) AS average_clv FROM customer_risk_scores s JOIN customers c "
             f"ON c.customer_id = s.customer_id WHERE {_NEWEST} GROUP BY 1"),
    Template("value-segments", "value", "How many customers are in each CLV segment?",
             f"SELECT s.clv_segment, count(*) AS customers {_SCORES} GROUP BY 1"),
    Template("value-at-risk", "value", "How much predicted lifetime value do customers at critical risk hold?",
             f"SELECT sum(s.predicted_clv) AS predicted_clv {_SCORES} AND s.risk_level = 'CRITICAL'"),
    Template("value-city", "value", "What is the average spend per customer in {city}?",
             "SELECT sum(t.amount) / count(DISTINCT t.customer_id) AS average_spend FROM transactions t JOIN customers c "
             "ON c.customer_id = t.customer_id WHERE c.location LIKE '{city}%'"),
    Template("value-above-average", "value", "How many customers spend more than the average customer?",
             "WITH spent AS (SELECT customer_id, sum(amount) AS spend FROM transactions GROUP BY 1) "
             "SELECT count(*) AS customers FROM spent WHERE spend > (SELECT avg(spend) FROM spent)"),
    # --- rewards ---
    Template("rewards-popular", "rewards", "What are the {n} most redeemed rewards?",
             f"SELECT r.name, count(*) AS redemptions FROM events e JOIN rewards r ON r.reward_id = e.reward_id WHERE {_REDEEMED} "
             "GROUP BY r.reward_id, r.name ORDER BY 2 DESC LIMIT {n}"),
    Template("rewards-rate-by-type", "rewards", "What is the redemption rate by reward type?",
             "SELECT r.reward_type, count(*) FILTER (WHERE e.event_type = 'redemption') / "
             "nullif(count(*) FILTER (WHERE e.event_type = 'offer_received'), 0) AS redemption_rate "
             "FROM events e JOIN rewards r ON r.reward_id = e.reward_id GROUP BY 1 ORDER BY 2 DESC"),
    Template("rewards-redemptions-month", "rewards", "How many rewards were redeemed each month?",
             f"SELECT date_trunc('month', e.occurred_at) AS month, count(*) AS redemptions FROM events e WHERE {_REDEEMED} "
             "GROUP BY 1 ORDER BY 1"),
    Template("rewards-never", "rewards", "Which rewards have never been redeemed?",
             "SELECT r.reward_id, r.name FROM rewards r WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.reward_id = r.reward_id "
             f"AND {_REDEEMED})"),
    Template("rewards-viewed-not-redeemed", "rewards", "How many customers viewed an offer but never redeemed one?",
             "SELECT count(DISTINCT v.customer_id) AS customers FROM events v WHERE v.event_type = 'offer_viewed' AND NOT EXISTS "
             f"(SELECT 1 FROM events e WHERE e.customer_id = v.customer_id AND {_REDEEMED})"),
    Template("rewards-category", "rewards", "How many {category} rewards do we have?",
             "SELECT count(*) AS rewards FROM rewards WHERE category = '{category}'"),
    Template("rewards-expiring", "rewards", "Which rewards expire in the next {days} days?",
             f"SELECT reward_id, name, valid_to FROM rewards WHERE valid_to > {AS_OF} AND valid_to <= {AS_OF} + INTERVAL ({{days}}) DAY "
             "ORDER BY valid_to"),
    Template("rewards-of-one", "rewards", "How often was {reward} redeemed?",
             f"SELECT count(*) AS redemptions FROM events e JOIN rewards r ON r.reward_id = e.reward_id WHERE {_REDEEMED} "
             "AND r.name = '{reward}'"),
    Template("rewards-cost", "rewards", "What is the average points cost of a reward by type?",
             "SELECT reward_type, avg(points_cost) AS points_cost FROM rewards GROUP BY 1 ORDER BY 2 DESC"),
    Template("rewards-tier", "rewards", "Which rewards do {tier} members redeem most?",
             "SELECT r.name, count(*) AS redemptions FROM events e JOIN rewards r ON r.reward_id = e.reward_id JOIN customers c "
             f"ON c.customer_id = e.customer_id WHERE {_REDEEMED} AND c.membership_tier = upper('{{tier}}') "
             "GROUP BY r.reward_id, r.name ORDER BY 2 DESC LIMIT 10"),
    Template("rewards-dismissed", "rewards", "Which reward types are dismissed most often?",
             "SELECT r.reward_type, count(*) AS dismissed FROM events e JOIN rewards r ON r.reward_id = e.reward_id "
             "WHERE e.event_type = 'reward_dismissed' GROUP BY 1 ORDER BY 2 DESC"),
    # --- purchases ---
    Template("purchases-revenue-month", "purchases", "How has revenue developed by month?",
             "SELECT date_trunc('month', occurred_at) AS month, sum(amount) AS revenue FROM transactions GROUP BY 1 ORDER BY 1"),
    Template("purchases-revenue-last-month", "purchases", "What was our revenue last month?",
             f"SELECT sum(amount) AS revenue FROM transactions WHERE {_last('occurred_at', 'month')}"),
    Template("purchases-count-days", "purchases", "How many purchases were there in the last {days} days?",
             f"SELECT count(*) AS purchases FROM transactions WHERE {_since('occurred_at')}"),
    Template("purchases-channel", "purchases", "How much revenue comes from each channel?",
             "SELECT channel, sum(amount) AS revenue FROM transactions GROUP BY 1 ORDER BY 2 DESC"),
    Template("purchases-channel-share", "purchases", "What share of purchases is made in the {channel}?",
             "SELECT count(*) FILTER (WHERE channel = '{channel}') / count(*) AS share FROM transactions"),
    Template("purchases-stores", "purchases", "Which {n} stores have the highest sales?",
             "SELECT store, sum(amount) AS sales FROM transactions WHERE store IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT {n}"),
    Template("purchases-store", "purchases", "How many purchases were made at {store} this year?",
             f"SELECT count(*) AS purchases FROM transactions WHERE store = '{{store}}' AND {_this('occurred_at', 'year')}"),
    Template("purchases-basket", "purchases", "What is the average basket value by channel?",
             "SELECT channel, avg(amount) AS average_basket FROM transactions GROUP BY 1 ORDER BY 2 DESC"),
    Template("purchases-weekly", "purchases", "How many customers bought something each week?",
             "SELECT date_trunc('week', occurred_at) AS week, count(DISTINCT customer_id) AS customers FROM transactions "
             "GROUP BY 1 ORDER BY 1"),
    Template("purchases-compare-month", "purchases", "Compare revenue this month with last month.",
             f"SELECT sum(amount) FILTER (WHERE {_this('occurred_at', 'month')}) AS this_month, "
             f"sum(amount) FILTER (WHERE {_last('occurred_at', 'month')}) AS last_month FROM transactions"),
    Template("purchases-discount", "purchases", "How much discount did we give by month?",
             "SELECT date_trunc('month', occurred_at) AS month, sum(discount_amount) AS discount FROM transactions GROUP BY 1 ORDER BY 1"),
    Template("purchases-weekday", "purchases", "On which weekday do customers buy most?",
             "SELECT dayname(occurred_at) AS weekday, count(*) AS purchases FROM transactions GROUP BY 1 ORDER BY 2 DESC"),
    Template("purchases-large", "purchases", "How many purchases were over {amount}?",
             "SELECT count(*) AS purchases FROM transactions WHERE amount > {amount}"),
    # --- products ---
    Template("products-best", "products", "What are our {n} best-selling products?",
             "SELECT p.name, sum(i.quantity) AS sold FROM transaction_items i JOIN products p ON p.product_id = i.product_id "
             "GROUP BY p.product_id, p.name ORDER BY 2 DESC LIMIT {n}"),
    Template("products-revenue-category", "products", "How much revenue does each product category bring?",
             "SELECT p.category, sum(i.amount) AS revenue FROM transaction_items i JOIN products p ON p.product_id = i.product_id "
             "GROUP BY 1 ORDER BY 2 DESC"),
    Template("products-category-customers", "products", "How many customers bought {category} in the last {days} days?",
             "SELECT count(DISTINCT t.customer_id) AS customers FROM transactions t JOIN transaction_items i "
             "ON i.transaction_id = t.transaction_id JOIN products p ON p.product_id = i.product_id "
             f"WHERE p.category = '{{category}}' AND {_since('t.occurred_at')}"),
    Template("products-never", "products", "Which products have never been sold?",
             "SELECT p.product_id, p.name FROM products p WHERE NOT EXISTS "
             "(SELECT 1 FROM transaction_items i WHERE i.product_id = p.product_id)"),
    Template("products-brand", "products", "Which brands sell best?",
             "SELECT p.brand, sum(i.amount) AS revenue FROM transaction_items i JOIN products p ON p.product_id = i.product_id "
             "GROUP BY 1 ORDER BY 2 DESC"),
    Template("products-price", "products", "What is the average price of {category} products?",
             "SELECT avg(price) AS average_price FROM products WHERE category = '{category}'"),
    Template("products-of-one", "products", "How many pieces of {product} were sold last month?",
             "SELECT coalesce(sum(i.quantity), 0) AS sold FROM transaction_items i JOIN products p ON p.product_id = i.product_id "
             f"JOIN transactions t ON t.transaction_id = i.transaction_id "
             f"WHERE p.name = '{{product}}' AND {_last('t.occurred_at', 'month')}"),
    Template("products-count", "products", "How many products are there in each category?",
             "SELECT category, count(*) AS products FROM products GROUP BY 1 ORDER BY 2 DESC"),
    # --- engagement ---
    Template("engagement-opens", "engagement", "How many app opens were there each week?",
             "SELECT date_trunc('week', occurred_at) AS week, count(*) AS app_opens FROM events WHERE event_type = 'app_open' "
             "GROUP BY 1 ORDER BY 1"),
    Template("engagement-email-rate", "engagement", "What is our e-mail open rate?",
             "SELECT count(*) FILTER (WHERE event_type = 'email_open') / nullif(count(*) FILTER (WHERE event_type = 'email_sent'), 0) "
             "AS open_rate FROM events"),
    Template("engagement-push-rate", "engagement", "What share of push messages is clicked?",
             "SELECT count(*) FILTER (WHERE event_type = 'push_click') / nullif(count(*) FILTER (WHERE event_type = 'push_sent'), 0) "
             "AS click_rate FROM events"),
    Template("engagement-types", "engagement", "How many events of each type were there in the last {days} days?",
             f"SELECT event_type, count(*) AS events FROM events WHERE {_since('occurred_at')} GROUP BY 1 ORDER BY 2 DESC"),
    Template("engagement-unsubscribed", "engagement", "How many customers unsubscribed in the last {days} days?",
             f"SELECT count(DISTINCT customer_id) AS customers FROM events WHERE event_type = 'unsubscribe' AND {_since('occurred_at')}"),
    Template("engagement-silent", "engagement", "Which {tier} members have never opened the app?",
             "SELECT c.customer_id FROM customers c WHERE c.membership_tier = upper('{tier}') AND NOT EXISTS (SELECT 1 FROM events e "
             "WHERE e.customer_id = c.customer_id AND e.event_type = 'app_open')"),
    Template("engagement-points", "engagement", "How many points were earned each month?",
             "SELECT date_trunc('month', occurred_at) AS month, sum(value) AS points FROM events WHERE event_type = 'points_earned' "
             "GROUP BY 1 ORDER BY 1"),
    Template("engagement-referrals", "engagement", "Which {n} customers made the most referrals?",
             "SELECT customer_id, count(*) AS referrals FROM events WHERE event_type = 'referral' GROUP BY 1 ORDER BY 2 DESC LIMIT {n}"),
    # --- support ---
    Template("support-issues", "support", "What are support tickets about?",
             "SELECT issue_type, count(*) AS tickets FROM tickets GROUP BY 1 ORDER BY 2 DESC"),
    Template("support-month", "support", "How many support tickets were opened each month?",
             "SELECT date_trunc('month', created_at) AS month, count(*) AS tickets FROM tickets GROUP BY 1 ORDER BY 1"),
    Template("support-hours", "support", "How long does it take to resolve a {issue} ticket on average?",
             "SELECT avg(resolution_hours) AS resolution_hours FROM tickets WHERE issue_type = '{issue}'"),
    Template("support-negative", "support", "Which customers wrote more than one negative ticket?",
             "SELECT customer_id, count(*) AS tickets FROM tickets WHERE sentiment = 'NEGATIVE' GROUP BY 1 "
             "HAVING count(*) > 1 ORDER BY 2 DESC"),
    Template("support-rating-channel", "support", "What is the average ticket rating by channel?",
             "SELECT channel, avg(rating) AS rating FROM tickets GROUP BY 1 ORDER BY 2 DESC"),
    Template("support-sentiment", "support", "How is the sentiment of tickets spread over issue types?",
             "SELECT issue_type, sentiment, count(*) AS tickets FROM tickets GROUP BY 1, 2"),
    # --- campaigns ---
    Template("campaigns-channel-budget", "campaigns", "How much budget went into each campaign channel?",
             "SELECT channel, sum(budget) AS budget FROM campaigns GROUP BY 1 ORDER BY 2 DESC"),
    Template("campaigns-redemptions", "campaigns", "Which {n} campaigns led to the most redemptions?",
             "SELECT k.name, count(*) AS redemptions FROM events e JOIN campaigns k ON k.campaign_id = e.campaign_id "
             f"WHERE {_REDEEMED} GROUP BY k.campaign_id, k.name ORDER BY 2 DESC LIMIT {{n}}"),
    Template("campaigns-view-rate", "campaigns", "What is the view rate of offers by campaign channel?",
             "SELECT k.channel, count(*) FILTER (WHERE e.event_type = 'offer_viewed') / "
             "nullif(count(*) FILTER (WHERE e.event_type = 'offer_received'), 0) AS view_rate FROM events e JOIN campaigns k "
             "ON k.campaign_id = e.campaign_id GROUP BY 1 ORDER BY 2 DESC"),
    Template("campaigns-running", "campaigns", "Which campaigns are running now?",
             f"SELECT campaign_id, name, ended_at FROM campaigns "
             f"WHERE started_at <= {AS_OF} AND (ended_at IS NULL OR ended_at >= {AS_OF})"),
    Template("campaigns-reached", "campaigns", "How many customers received an offer of {campaign}?",
             "SELECT count(DISTINCT e.customer_id) AS customers FROM events e JOIN campaigns k ON k.campaign_id = e.campaign_id "
             "WHERE e.event_type = 'offer_received' AND k.name = '{campaign}'"),
    # --- segments ---
    Template("segments-sizes", "segments", "How large is each segment?",
             "SELECT name, size FROM segments ORDER BY size DESC"),
    Template("segments-churn", "segments", "Which segment has the highest churn rate?",
             "SELECT name, churn_rate FROM segments ORDER BY churn_rate DESC LIMIT 1"),
    Template("segments-clv", "segments", "Compare the segments by average CLV.",
             "SELECT name, average_clv FROM segments ORDER BY average_clv DESC"),
    Template("segments-scatter", "segments", "How do churn rate and redemption rate of the segments compare?",
             "SELECT name, churn_rate, redemption_rate FROM segments"),
    Template("segments-members", "segments", "How many {tier} members are in the segment {segment}?",
             "SELECT count(*) AS customers FROM customer_risk_scores s JOIN segments g ON g.segment_id = s.segment_id JOIN customers c "
             f"ON c.customer_id = s.customer_id WHERE {_NEWEST} AND g.name = '{{segment}}' AND c.membership_tier = upper('{{tier}}')"),
    # --- customers ---
    Template("customers-tiers", "customers", "How many customers are there in each membership tier?",
             "SELECT membership_tier, count(*) AS customers FROM customers GROUP BY 1 ORDER BY 2 DESC"),
    Template("customers-city-tier", "customers", "How many {tier} members live in {city}?",
             "SELECT count(*) AS customers FROM customers WHERE membership_tier = upper('{tier}') AND location LIKE '{city}%'"),
    Template("customers-joined", "customers", "How many customers joined each month?",
             "SELECT date_trunc('month', joined_at) AS month, count(*) AS customers FROM customers GROUP BY 1 ORDER BY 1"),
    Template("customers-cities", "customers", "Where do our customers live?",
             "SELECT location, count(*) AS customers FROM customers GROUP BY 1 ORDER BY 2 DESC"),
    Template("customers-new", "customers", "How many customers joined in the last {months} months?",
             f"SELECT count(*) AS customers FROM customers WHERE {_since('joined_at', 'month', '{months}')}"),
    Template("customers-points", "customers", "Which customers hold more than {points} points?",
             "SELECT customer_id, points_balance FROM customers WHERE points_balance > {points} ORDER BY 2 DESC"),
    Template("customers-age", "customers", "How are our customers spread over age groups and tiers?",
             "SELECT age_group, membership_tier, count(*) AS customers FROM customers GROUP BY 1, 2"),
    Template("customers-consent", "customers", "What share of customers consents to personalization?",
             "SELECT avg(consent_personalization::INTEGER) AS share FROM customers"),
    Template("customers-never-bought", "customers", "Which customers have never bought anything?",
             "SELECT c.customer_id FROM customers c WHERE NOT EXISTS (SELECT 1 FROM transactions t WHERE t.customer_id = c.customer_id)"),
)  # fmt: skip
"""All supported examples, by category."""
