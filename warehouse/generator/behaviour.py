"""What customers do, week by week: a block of customers at a time, every step one NumPy expression over all of them.

Order of a week: some begin to fade, some who fade leave; campaigns go out; visits happen; visits bring redemptions (first the
offer in hand, else one from the whole catalogue); a few visits go wrong; the app is opened; memories fade. Someone who left does
nothing any more but still gets mail. All chances depend on state that is known before the visit, so `truth.py` can state them exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from contracts.tables import CHANNELS, EVENT_TYPES, ISSUE_TYPES, TIERS
from warehouse.generator import text
from warehouse.generator.catalogue import DAYPART_PULL, LATENT, World
from warehouse.generator.people import TASTE_GAIN, People
from warehouse.generator.settings import DAY_S, WEEK_S, season

MOMENTUM_GAIN, MOMENTUM_KEEP = 1.5, 0.5  # pull of the categories redeemed last; share kept at the next redemption
HABIT_GAIN, NOVELTY_GAIN, NOVELTY_DAYS = 0.45, 0.9, 42
DISMISSED_PULL = -3.0
BAD_KEEP, WARM_KEEP = 0.88, 0.8  # weekly
HAZARD_BAD, HAZARD_WARM, RATE_BAD = 1.15, -0.5, -0.3
FADING_RATE, FADING_LEAVE = 0.35, 0.22  # of the visiting rate and of app use; weekly chance that a fading customer is gone
OFFER_LIFT, VIEW_LIFT = 0.12, 0.22  # of the log visiting rate in the week of an offer
POINTS_PER_DOLLAR, WELCOME_POINTS = 10, 300
EXPIRE_WEEKS, PERIOD_WEEKS, TIER_WEEKS = 26, 4, 52
TIER_SPEND = np.array([300.0, 900.0, 1800.0])
DAYPART_START, DAYPART_HOURS = np.array([6.0, 11.0, 14.0, 17.5]), np.array([4.5, 2.8, 3.3, 4.3])
TYPE = {name: i for i, name in enumerate(EVENT_TYPES)}
CHANNEL = {name: i for i, name in enumerate(CHANNELS)}


@dataclass
class State:
    """What has become of each of n customers so far."""

    alive: np.ndarray
    fading: np.ndarray  # comes less often and will leave
    left_at: np.ndarray  # second of leaving, or 2**62
    unsubscribed: np.ndarray
    bad: np.ndarray  # weight of bad experiences
    warm: np.ndarray  # recent redemptions
    momentum: np.ndarray  # (n, C)
    redeemed: np.ndarray  # (n, R) counts
    logits: np.ndarray  # (n, R) taste, lowered for dismissed rewards
    balance: np.ndarray
    tier: np.ndarray
    spend: np.ndarray  # (n, TIER_WEEKS + weeks)
    last_visit: np.ndarray  # week; -1 none
    unposted: np.ndarray  # points earned since the last posting


@dataclass
class Log:
    """Columns collected as lists of arrays, one array a step."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self.columns.setdefault(name, []).append(array)

    def joined(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self.columns.items()}


@dataclass
class Visits:
    """Purchases of one week, sorted by customer and time; k rows."""

    who: np.ndarray
    at: np.ndarray
    part: np.ndarray  # daypart
    product: np.ndarray  # (k, 3); -1 no line
    quantity: np.ndarray  # (k, 3)
    reward: np.ndarray  # redeemed here; -1 none
    campaign: np.ndarray  # of the redeemed offer; -1 none

    def line_cents(self, price: np.ndarray) -> np.ndarray:
        return np.where(self.product >= 0, price[np.maximum(self.product, 0)] * self.quantity, 0)


@dataclass
class Offers:
    """The offer each of n customers holds this week; reward -1 none."""

    reward: np.ndarray
    campaign: np.ndarray
    at: np.ndarray
    viewed: np.ndarray


class Block:
    """Simulates one block of customers.

    Args:
        observe: called as observe(block, week) at the start of every week and once after the last one.
    """

    def __init__(self, world: World, people: People, rng: np.random.Generator, observe: Callable[[Block, int], None] | None = None) -> None:
        self.world, self.people, self.rng, self.observe = world, people, rng, observe
        self.state = self._start()
        self.events, self.purchases, self.tickets = Log(), Log(), Log()

    def run(self, tick: Callable[[], None] | None = None) -> None:
        """Live through all weeks; `tick` is called after each."""
        weeks = self.world.window.weeks
        for week in range(weeks):
            if self.observe:
                self.observe(self, week)
            self._week(week)
            if tick:
                tick()
        if self.observe:
            self.observe(self, weeks)

    def _start(self) -> State:
        p, w = self.people, self.world
        n, rewards, weeks = len(p), len(w.rewards.pull), w.window.weeks
        state = State(
            alive=np.ones(n, bool),
            fading=np.zeros(n, bool),
            left_at=np.full(n, 2**62),
            unsubscribed=np.zeros(n, bool),
            bad=np.zeros(n),
            warm=np.zeros(n),
            momentum=np.zeros((n, len(text.CATEGORIES))),
            redeemed=np.zeros((n, rewards), np.int16),
            logits=p.taste_logits.copy(),
            balance=np.full(n, WELCOME_POINTS),
            tier=np.zeros(n, np.int64),
            spend=np.zeros((n, TIER_WEEKS + weeks), np.float32),
            last_visit=np.full(n, -1),
            unposted=np.zeros(n, np.int64),
        )
        past = (w.window.week_start(0) - p.joined_at)[:, None] > (np.arange(TIER_WEEKS, 0, -1) * WEEK_S)[None, :]
        state.spend[:, :TIER_WEEKS] = past * (p.rate * 5.5 * (1 + p.basket))[:, None]
        state.tier = np.searchsorted(TIER_SPEND, state.spend.sum(axis=1), side="right")
        state.balance += (state.spend.sum(axis=1) * 2).astype(np.int64)
        return state

    def _week(self, week: int) -> None:
        start = self.world.window.week_start(week)
        self._leave(start)
        offers = self._campaigns(week)
        visits = self._visits(week, start, offers)
        self._redeem(visits, offers)
        self._pay(visits, week)
        self._experience(visits)
        self._browse(start, visits)
        self._close(week, start)

    # -- leaving

    def hazard(self) -> np.ndarray:
        """Chance of each customer to begin to leave at the start of this week, (n,)."""
        s = self.state
        return np.minimum(self.people.hazard * np.exp(HAZARD_BAD * s.bad + HAZARD_WARM * s.warm), 0.6)

    def presence(self) -> np.ndarray:
        """Factor on visits and app use: 1, less while fading, 0 after leaving; (n,)."""
        return np.where(self.state.alive, np.where(self.state.fading, FADING_RATE, 1.0), 0.0)

    def _leave(self, start: int) -> None:
        s, member = self.state, self.people.joined_at < start
        chance = np.where(s.fading, FADING_LEAVE, self.hazard())
        moves = s.alive & member & (self.rng.random(len(s.alive)) < chance)
        gone = moves & s.fading
        s.alive[gone] = False
        s.left_at[gone] = start
        s.fading |= moves

    # -- campaigns

    def _campaigns(self, week: int) -> Offers:
        n = len(self.people)
        offers = Offers(np.full(n, -1), np.full(n, -1), np.full(n, 2**62), np.zeros(n, bool))
        for campaign in np.flatnonzero(self.world.campaigns.week == week):
            self._send(int(campaign), week, offers)
        return offers

    def _targets(self, campaign: int, week: int, offers: Offers) -> np.ndarray:
        """Who gets this campaign: by taste for its category, lapsing customers, or at random; a tenth is always held out."""
        s, c, rng = self.state, self.world.campaigns, self.rng
        started = c.started_at[campaign]
        eligible = (self.people.joined_at < started) & (offers.reward < 0) & ~s.unsubscribed
        eligible &= rng.random(len(s.alive)) >= 0.1
        noise = rng.normal(size=len(s.alive))
        if c.targeting[campaign] == 0:
            return np.flatnonzero(eligible & (self.people.category_logits[:, c.category[campaign]] + 0.5 * noise > 1.05))
        if c.targeting[campaign] == 1:
            quiet = (week - s.last_visit >= 3) & (s.last_visit >= 0) & (week - s.last_visit <= 20)
            return np.flatnonzero(eligible & quiet & (noise > -0.6))
        return np.flatnonzero(eligible & (noise > 1.0))

    def _send(self, campaign: int, week: int, offers: Offers) -> None:
        c, p, rng, s = self.world.campaigns, self.people, self.rng, self.state
        who = self._targets(campaign, week, offers)
        at = c.started_at[campaign] + rng.integers(0, 7200, len(who))
        options = c.rewards[campaign]
        open_now = self.world.rewards.open_at(c.started_at[campaign : campaign + 1])[0, options]
        used = self.world.rewards.single_use[options] & (s.redeemed[who][:, options] > 0)
        reward = options[np.argmax(np.where(open_now & ~used, rng.random((len(who), len(options))), -1.0), axis=1)]
        channel = CHANNEL[c.channel[campaign]]
        self._event("offer_received", who, at, reward, campaign, channel)
        if c.channel[campaign] in ("email", "push"):
            self._event(f"{c.channel[campaign]}_sent", who, at, reward, campaign, channel)
        interest = p.mail if c.channel[campaign] in ("email", "sms") else p.app
        sees = rng.random(len(who)) < self.presence()[who] * (0.15 + 0.75 * interest[who])
        seen_at = at + 60 + (rng.exponential(0.6, len(who)) * DAY_S).astype(np.int64)
        sees &= seen_at < self.world.window.week_start(week + 1)
        self._respond(campaign, who[sees], seen_at[sees], reward[sees])
        offers.reward[who], offers.campaign[who], offers.at[who], offers.viewed[who] = reward, campaign, at + 120, sees

    def _respond(self, campaign: int, who: np.ndarray, at: np.ndarray, reward: np.ndarray) -> None:
        """Openings, clicks, views, dismissals and unsubscriptions of those who look."""
        rng, s, name = self.rng, self.state, self.world.campaigns.channel[campaign]
        channel, liking = CHANNEL[name], s.logits[who, reward] / TASTE_GAIN
        if name == "email":
            self._event("email_open", who, at, reward, campaign, channel)
        clicks = rng.random(len(who)) < 1.0 / (1.0 + np.exp(1.0 - 0.8 * liking))
        if name in ("email", "push"):
            self._event(f"{name}_click", who[clicks], at[clicks] + 20, reward[clicks], campaign, channel)
        self._event("offer_viewed", who, at + 30, reward, campaign, channel)
        dislikes = rng.random(len(who)) < 0.16 / (1.0 + np.exp(1.0 + 1.5 * liking))
        self._event("reward_dismissed", who[dislikes], at[dislikes] + 45, reward[dislikes], campaign, CHANNEL["app"])
        s.logits[who[dislikes], reward[dislikes]] += DISMISSED_PULL
        leaves = rng.random(len(who)) < 0.002 * (1 + s.bad[who])
        self._event("unsubscribe", who[leaves], at[leaves] + 60, None, campaign, channel)
        s.unsubscribed[who[leaves]] = True

    # -- visits

    def visit_rate(self, days: np.ndarray, bad: np.ndarray) -> np.ndarray:
        """Expected visits on each day (second of its start) without offers, (n, days)."""
        p = self.people
        share = p.weekday[:, (days // DAY_S + 3) % 7]
        return (p.rate * np.exp(RATE_BAD * bad))[:, None] * share * season(days)[None, :]

    def _visits(self, week: int, start: int, offers: Offers) -> Visits:
        p, s, rng, window = self.people, self.state, self.rng, self.world.window
        days = start + np.arange(7) * DAY_S
        lift = np.exp(OFFER_LIFT * (offers.reward >= 0) + VIEW_LIFT * offers.viewed)
        here = self.presence() * (p.joined_at < window.week_start(week + 1))
        rate = self.visit_rate(days, s.bad) * (lift * here)[:, None] * (days >= window.start)[None, :]
        count = rng.poisson(rate)
        who = np.repeat(np.arange(len(p)), count.sum(axis=1))
        day = np.repeat(np.tile(days, len(p)), count.ravel())
        part = (rng.random(len(who))[:, None] > np.cumsum(p.daypart[who], axis=1)[:, :3]).sum(axis=1)
        at = day + ((DAYPART_START[part] + rng.beta(1.6, 1.6, len(who)) * DAYPART_HOURS[part]) * 3600).astype(np.int64)
        keep = at > p.joined_at[who] + 60
        who, at, part = who[keep], at[keep], part[keep]
        order = np.lexsort((at, who))
        who, at, part = who[order], at[order], part[order]
        s.last_visit[who] = week
        product, quantity = self._lines(who, part)
        return Visits(who, at, part, product, quantity, np.full(len(who), -1), np.full(len(who), -1))

    def _lines(self, who: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One to three different products of each visit: categories by taste, momentum and time of day."""
        p, s, rng = self.people, self.state, self.rng
        logits = p.category_logits[who] + 0.9 * s.momentum[who] + 0.8 * DAYPART_PULL[part]
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        cumulative = np.cumsum(share, axis=1)
        draws = rng.random((len(who), 3)) * cumulative[:, -1:]
        category = (draws[:, :, None] > cumulative[:, None, :-1]).sum(axis=2)
        products = self.world.products.cumulative
        product = np.minimum(np.searchsorted(products, category + rng.random(category.shape)), len(products) - 1)
        lines = 1 + np.minimum(rng.poisson(p.basket[who]), 2)
        quantity = (np.arange(3)[None, :] < lines[:, None]) * (1 + (rng.random(product.shape) < 0.18))
        for a, b in ((0, 1), (0, 2), (1, 2)):  # the same product again is one line with a larger quantity
            same = (product[:, a] == product[:, b]) & (quantity[:, b] > 0)
            quantity[same, a] += quantity[same, b]
            quantity[same, b] = 0
        return np.where(quantity > 0, product, -1), quantity

    # -- redemptions

    def choice_logits(self, who: np.ndarray, part: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Logits of each reward for a redemption from the catalogue, given the state now.

        Args:
            who: (k,) customers of the block; `part`: their dayparts; `at`: seconds since the epoch.

        Returns:
            float64 (k, R); -inf where not open, used up or beyond the points in hand.
        """
        s, rewards = self.state, self.world.rewards
        context = MOMENTUM_GAIN * s.momentum[who] + DAYPART_PULL[part]
        count = s.redeemed[who]
        logits = s.logits[who] + context[:, rewards.category] + HABIT_GAIN * np.log1p(count)
        age = at[:, None] - np.where(rewards.valid_from < 0, -(2**61), rewards.valid_from)[None, :]
        logits += NOVELTY_GAIN * self.people.novelty[who][:, None] * (age < NOVELTY_DAYS * DAY_S)
        possible = rewards.open_at(at) & (rewards.points[None, :] <= s.balance[who][:, None]) & ~(rewards.single_use[None, :] & (count > 0))
        return np.where(possible, logits, -np.inf)

    def _redeem(self, visits: Visits, offers: Offers) -> None:
        """At most two redemptions of a customer in a week, one after the other so that the first shifts the second."""
        rng, who = self.rng, visits.who
        tries_offer = (offers.reward[who] >= 0) & (visits.at > offers.at[who])
        tries_offer &= _rank(who, tries_offer) == 0
        browses = rng.random(len(who)) < self.people.redeems[who]
        wants = tries_offer | browses
        rank = np.where(wants, _rank(who, wants), 9)
        for turn in range(2):
            rows = np.flatnonzero(rank == turn)
            took = self._take_offer(visits, rows[tries_offer[rows]], offers)
            rest = rows[browses[rows]]
            self._choose(visits, rest[~np.isin(rest, took)])

    def _take_offer(self, visits: Visits, rows: np.ndarray, offers: Offers) -> np.ndarray:
        s, rewards, who = self.state, self.world.rewards, visits.who[rows]
        reward = offers.reward[who]
        liking = (
            s.logits[who, reward]
            + 0.6 * DAYPART_PULL[visits.part[rows], rewards.category[reward]]
            + 0.6 * s.momentum[who, rewards.category[reward]]
        )
        seen = 0.9 * offers.viewed[who] + 0.4 * self.people.price_sensitivity[who]
        chance = 1.0 / (1.0 + np.exp(2.7 - 0.7 * liking - seen))
        possible = rewards.open_at(visits.at[rows])[np.arange(len(rows)), reward] & (rewards.points[reward] <= s.balance[who])
        possible &= ~(rewards.single_use[reward] & (s.redeemed[who, reward] > 0))
        took = possible & (self.rng.random(len(rows)) < chance)
        visits.campaign[rows[took]] = offers.campaign[who[took]]
        self._record(visits, rows[took], reward[took])
        return rows[took]

    def _choose(self, visits: Visits, rows: np.ndarray) -> None:
        logits = self.choice_logits(visits.who[rows], visits.part[rows], visits.at[rows])
        noisy = logits + self.rng.gumbel(size=logits.shape)
        reward = np.argmax(noisy, axis=1)
        possible = np.isfinite(noisy[np.arange(len(rows)), reward])
        self._record(visits, rows[possible], reward[possible])

    def _record(self, visits: Visits, rows: np.ndarray, reward: np.ndarray) -> None:
        """Each customer is in `rows` at most once."""
        s, rewards, who = self.state, self.world.rewards, visits.who[rows]
        visits.reward[rows] = reward
        s.redeemed[who, reward] += 1
        s.balance[who] -= rewards.points[reward]
        s.momentum[who] = MOMENTUM_KEEP * s.momentum[who] + self.world.transition[rewards.category[reward]]
        s.warm[who] = np.minimum(s.warm[who] + 1.0, 2.0)

    # -- paying

    def _pay(self, visits: Visits, week: int) -> None:
        """Fill baskets up to the least spend of the reward, take its discount off, post points, log purchase and redemption."""
        s, p, rng, rewards, who = self.state, self.people, self.rng, self.world.rewards, visits.who
        price = self.world.products.price_cents
        reward, redeems = np.maximum(visits.reward, 0), visits.reward >= 0
        needed = np.where(redeems, rewards.difficulty_cents[reward], 0)
        gross = visits.line_cents(price).sum(axis=1)
        visits.quantity *= np.maximum(1, -(-needed // np.maximum(gross, 1)))[:, None]
        lines = visits.line_cents(price)
        gross = lines.sum(axis=1)
        off = redeems & np.isin(rewards.type[reward], (0, 1, 2))  # discount, bogo, free_item
        discount = np.where(off, np.minimum(rewards.face_cents[reward], gross), 0)
        digital = rng.random(len(who)) < p.digital[who]
        channel = np.where(digital, np.where(rng.random(len(who)) < 0.3 + 0.6 * p.app[who], 1, 2), 0)
        usual = rng.random(len(who)) < 0.85
        store = np.where(usual, p.store[who], p.city[who] * len(text.STORE_PARTS) + rng.integers(0, len(text.STORE_PARTS), len(who)))
        self.purchases.add(
            who=who,
            at=visits.at,
            gross=gross,
            discount=discount,
            channel=channel,
            store=np.where(channel == 2, -1, store),
            product=visits.product,
            quantity=visits.quantity,
            line=lines,
        )
        earned = (gross - discount) * POINTS_PER_DOLLAR // 100
        bonus = np.where(redeems & (rewards.type[reward] == 3), earned, 0)
        np.add.at(s.balance, who, earned + bonus)
        np.add.at(s.unposted, who, earned + bonus)
        np.add.at(s.spend[:, TIER_WEEKS + week], who, ((gross - discount) / 100.0).astype(np.float32))
        where = np.array([CHANNEL["store"], CHANNEL["app"], CHANNEL["web"]])[channel[redeems]]
        value = rewards.face_cents[visits.reward[redeems]] / 100.0
        self._event("redemption", who[redeems], visits.at[redeems], visits.reward[redeems], visits.campaign[redeems], where, value)

    # -- experience

    def _experience(self, visits: Visits) -> None:
        """Sold out, slow, rude or delightful: some visits lead to tickets and reviews, bad ones weigh on the customer."""
        rng, s, k = self.rng, self.state, len(visits.who)
        draw = rng.random(k)
        sold_out, bad, good = draw < 0.008, (draw >= 0.008) & (draw < 0.022), (draw >= 0.022) & (draw < 0.028)
        asks = (draw >= 0.028) & (draw < 0.031)
        writes = (bad | good | asks | sold_out) & ((rng.random(k) < 0.6) | asks)
        rating = np.select(
            [bad, sold_out, asks], [rng.integers(1, 3, k), rng.integers(1, 4, k), rng.integers(3, 5, k)], rng.integers(4, 6, k)
        )
        hours = np.round(rng.lognormal(2.2, 1.0, k) * np.where(good | asks, 0.5, 1.2), 1).clip(0.1, 400)
        weight = np.select([bad, sold_out], [1.3 + 0.4 * (rating == 1), 0.6], 0.0) + (writes & (bad | sold_out)) * 0.6 * (hours > 24)
        np.add.at(s.bad, visits.who, weight)
        np.minimum(s.bad, 4.0, out=s.bad)
        rows = np.flatnonzero(writes)
        issue = np.where(sold_out[rows], 0, rng.choice(len(ISSUE_TYPES), p=[0.3, 0.25, 0.15, 0.14, 0.1, 0.06], size=len(rows)))
        self.tickets.add(
            who=visits.who[rows],
            at=visits.at[rows] + 600 + (rng.exponential(0.15, len(rows)) * DAY_S).astype(np.int64),
            issue=issue,
            rating=rating[rows],
            hours=hours[rows],
            product=visits.product[rows, 0],
            city=self.people.city[visits.who[rows]],
            sold_out=sold_out[rows],
            words=rng.integers(0, 2**31, len(rows)),
            channel=rng.choice([0, 3, 4, 5], p=[0.35, 0.35, 0.2, 0.1], size=len(rows)),
        )
        self._reviews(visits, bad, good)

    def _reviews(self, visits: Visits, bad: np.ndarray, good: np.ndarray) -> None:
        rng, k = self.rng, len(visits.who)
        writes = rng.random(k) < np.select([bad, good], [0.25, 0.4], 0.012)
        stars = np.select([bad, good], [rng.integers(1, 3, k), np.full(k, 5)], rng.choice([3, 4, 5], p=[0.2, 0.4, 0.4], size=k))
        at = visits.at + 1800 + rng.integers(0, DAY_S, k)
        self._event("review", visits.who[writes], at[writes], None, -1, CHANNEL["app"], stars[writes].astype(float))
        refers = rng.random(k) < 0.004 * np.where(good, 20.0, 1.0) * np.where(bad, 0.0, 1.0)
        self._event("referral", visits.who[refers], at[refers] + 60, None, -1, CHANNEL["app"])

    # -- the app

    def _browse(self, start: int, visits: Visits) -> None:
        """App openings follow engagement and visits; now and then a browsed reward that is disliked gets dismissed."""
        p, s, rng = self.people, self.state, self.rng
        seen = np.bincount(visits.who, minlength=len(p))
        rate = self.presence() * p.app * (0.35 + 0.45 * np.minimum(seen, 4)) * np.exp(RATE_BAD * s.bad)
        who = np.repeat(np.arange(len(p)), rng.poisson(rate))
        at = start + rng.integers(0, 7, len(who)) * DAY_S + ((7.0 + 15.0 * rng.beta(1.5, 1.5, len(who))) * 3600).astype(np.int64)
        self._event("app_open", who, at, None, -1, CHANNEL["app"])
        rows = np.flatnonzero(rng.random(len(who)) < 0.012)
        rows = rows[_first_of(who[rows])]
        options = rng.integers(0, s.logits.shape[1], (len(rows), 5))
        browsed, when = who[rows], at[rows] + 90
        worst = options[np.arange(len(rows)), np.argmin(s.logits[browsed[:, None], options], axis=1)]
        ok = self.world.rewards.open_at(when)[np.arange(len(rows)), worst]
        ok &= (p.joined_at[browsed] < when) & (s.redeemed[browsed, worst] == 0)
        self._event("reward_dismissed", browsed[ok], when[ok], worst[ok], -1, CHANNEL["app"])
        s.logits[browsed[ok], worst[ok]] += DISMISSED_PULL

    # -- end of the week

    def _close(self, week: int, start: int) -> None:
        s = self.state
        s.bad *= BAD_KEEP
        s.warm *= WARM_KEEP
        if (self.world.window.weeks - 1 - week) % PERIOD_WEEKS:
            return
        at = start + WEEK_S - 3600 * 2
        posts = np.flatnonzero((s.unposted > 0) & s.alive)
        self._event("points_earned", posts, np.full(len(posts), at), None, -1, CHANNEL["app"], s.unposted[posts].astype(float))
        s.unposted[posts] = 0
        lost = np.flatnonzero(
            (s.balance > 0) & (week - s.last_visit >= EXPIRE_WEEKS) & (self.people.joined_at < start - EXPIRE_WEEKS * WEEK_S)
        )
        lost = lost[(s.last_visit[lost] >= 0) | (week >= EXPIRE_WEEKS)]
        self._event("points_expired", lost, np.full(len(lost), at + 600), None, -1, CHANNEL["email"], s.balance[lost].astype(float))
        s.balance[lost] = 0
        tier = np.searchsorted(TIER_SPEND, s.spend[:, week + 1 : week + 1 + TIER_WEEKS].sum(axis=1), side="right")
        changed = np.flatnonzero((tier != s.tier) & s.alive & (self.people.joined_at < start))
        meta = s.tier[changed] * len(TIERS) + tier[changed]
        self._event("tier_change", changed, np.full(len(changed), at + 1200), None, -1, CHANNEL["app"], tier[changed].astype(float), meta)
        s.tier[changed] = tier[changed]

    # -- log

    def _event(
        self,
        kind: str,
        who: np.ndarray,
        at: np.ndarray,
        reward: np.ndarray | None,
        campaign: np.ndarray | int,
        channel: np.ndarray | int,
        value: np.ndarray | None = None,
        meta: np.ndarray | None = None,
    ) -> None:
        """Log acts of one kind; those before joining or outside the window are dropped."""
        k = len(who)
        keep = (at >= self.world.window.start) & (at < self.world.window.end) & (at > self.people.joined_at[who])
        columns = {
            "who": who,
            "at": at,
            "kind": np.full(k, TYPE[kind], np.int8),
            "reward": np.full(k, -1) if reward is None else reward,
            "campaign": np.broadcast_to(campaign, k),
            "channel": np.broadcast_to(np.asarray(channel, np.int8), k),
            "value": np.full(k, np.nan) if value is None else value,
            "meta": np.full(k, -1) if meta is None else meta,
        }
        self.events.add(**{name: column[keep] for name, column in columns.items()})


def _rank(who: np.ndarray, flag: np.ndarray) -> np.ndarray:
    """How many flagged rows of the same customer come before each row; `who` is sorted."""
    before = np.cumsum(flag) - flag
    first = np.searchsorted(who, who, side="left")
    return before - before[first] if len(who) else before


def _first_of(who: np.ndarray) -> np.ndarray:
    """Positions of the first row of each customer; `who` is sorted."""
    return np.flatnonzero(np.diff(who, prepend=-1) != 0)


__all__ = ["LATENT", "Block", "State"]
