"""The likelihoods against quadrature, forecasts against simulation and the papers' closed forms, the fit against published parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.integrate import quad
from scipy.special import hyp2f1
from scipy.stats import beta, gamma

from contracts.errors import ArtifactError
from training.sequence.bgnbd import BgNbd, GammaGamma

PUBLISHED = BgNbd(0.243, 4.414, 0.793, 2.426)
"""Of the 1-in-10 sample of CDNOW, 39 weeks (Fader, Hardie and Lee, 2005)."""
PUBLISHED_SPEND = GammaGamma(6.25, 3.74, 15.44)
"""Of the same sample's repeat purchases (Fader and Hardie, 2013)."""
X, T_X, T = np.array([0.0, 1.0, 2.0, 7.0, 40.0]), np.array([0.0, 3.0, 30.43, 20.0, 38.0]), np.array([30.0, 35.0, 38.86, 38.0, 39.0])


def simulated(model: BgNbd, n: int, weeks: float, horizon: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, t_x, T of n customers after some weeks, and their purchases in the time after, purchase by purchase."""
    rng = np.random.default_rng(seed)
    rate, leave = rng.gamma(model.r, 1 / model.alpha, n), rng.beta(model.a, model.b, n)
    x, t_x, later = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        now = 0.0
        while (now := now + rng.exponential(1 / max(rate[i], 1e-12))) < weeks + horizon:
            if now < weeks:
                x[i], t_x[i] = x[i] + 1, now
            else:
                later[i] += 1
            if rng.random() < leave[i]:
                break
    return x, t_x, np.full(n, weeks), later


def test_likelihood_is_the_integral_over_rates_and_leaving() -> None:
    m = PUBLISHED
    rates, leaves = gamma(m.r, scale=1 / m.alpha), beta(m.a, m.b)
    for x, t_x, now in zip(X[1:4], T_X[1:4], T[1:4], strict=True):

        def over_rate(t: float, x: float = x) -> float:
            return quad(lambda v: v**x * np.exp(-v * t) * rates.pdf(v), 0, 3, limit=200, epsabs=0)[0]

        stays = quad(lambda p, x=x: (1 - p) ** x * leaves.pdf(p), 0, 1)[0]
        left = quad(lambda p, x=x: p * (1 - p) ** (x - 1) * leaves.pdf(p), 0, 1)[0]
        expected = stays * over_rate(now) + left * over_rate(t_x)
        assert m.log_likelihood(np.array([x]), np.array([t_x]), np.array([now]))[0] == pytest.approx(np.log(expected), abs=1e-6)


def test_expected_purchases_are_those_of_the_closed_form() -> None:
    m, t = PUBLISHED, 39.0
    series = hyp2f1(m.r + X, m.b + X, m.a + m.b + X - 1, t / (m.alpha + T + t))
    top = (m.a + m.b + X - 1) / (m.a - 1) * (1 - ((m.alpha + T) / (m.alpha + T + t)) ** (m.r + X) * series)
    odds = np.where(X > 0, m.a / (m.b + X - 1) * ((m.alpha + T) / (m.alpha + T_X)) ** (m.r + X), 0)
    assert m.purchases(t, X, T_X, T) == pytest.approx(top / (1 + odds), rel=1e-6)
    assert m.purchases(t, X, T_X, T)[2] == pytest.approx(1.226, abs=0.001)  # the paper's spreadsheet, x 2, t_x 30.43, T 38.86
    many = m.purchases(t, np.array([3_000.0]), np.array([38.9]), np.array([39.0]))
    assert np.isfinite(many).all()  # the closed form is not there


def test_forecasts_are_those_of_simulated_lives_and_the_fit_finds_the_parameters() -> None:
    truth = BgNbd(0.8, 6.0, 0.9, 3.0)
    x, t_x, now, later = simulated(truth, 12_000, 39.0, 13.0, seed=1)
    found = BgNbd.fit(x, t_x, now)
    assert found.log_likelihood(x, t_x, now).sum() >= truth.log_likelihood(x, t_x, now).sum()
    assert (found.r, found.alpha, found.a / (found.a + found.b)) == pytest.approx((0.8, 6.0, 0.9 / 3.9), rel=0.15)
    for group in (x == 0, x == 1, (x > 1) & (t_x > 30), (x > 1) & (t_x <= 30)):
        few = (x[group], t_x[group], now[group])
        assert truth.quiet(13.0, *few).mean() == pytest.approx((later[group] == 0).mean(), abs=0.02)
        assert truth.purchases(13.0, *few).mean() == pytest.approx(later[group].mean(), rel=0.08)
        assert truth.draw_purchases(13.0, *few, np.random.default_rng(2)).mean() == pytest.approx(
            truth.purchases(13.0, *few).mean(), rel=0.08
        )


def test_the_unit_of_time_does_not_matter() -> None:
    x, t_x, now, _ = simulated(PUBLISHED, 1_500, 39.0, 0.0, seed=3)
    weeks, days = BgNbd.fit(x, t_x, now), BgNbd.fit(x, t_x * 7, now * 7)
    assert (days.r, days.alpha, days.a, days.b) == pytest.approx((weeks.r, weeks.alpha * 7, weeks.a, weeks.b), rel=0.01)


def test_spend_is_that_of_simulated_purchases_and_the_fit_finds_the_parameters() -> None:
    rng, truth = np.random.default_rng(4), PUBLISHED_SPEND
    k = rng.integers(1, 8, 20_000).astype(float)
    nu = rng.gamma(truth.q, 1 / truth.gamma, len(k))
    m, later = rng.gamma(truth.p * k) / nu / k, rng.gamma(truth.p, 1 / nu)
    found = GammaGamma.fit(k, m)
    assert (found.p, found.q, found.gamma) == pytest.approx((truth.p, truth.q, truth.gamma), rel=0.1)
    for group in (m < 15, (m >= 15) & (m < 50), m >= 50):
        assert truth.mean(k, m)[group].mean() == pytest.approx(later[group].mean(), rel=0.04)
    drawn = truth.draw_sums(np.full(len(k), 3), k, m, rng)
    assert drawn.mean() == pytest.approx(3 * truth.mean(k, m).mean(), rel=0.04)
    assert (truth.draw_sums(np.zeros(len(k), dtype=int), k, m, rng) == 0).all()


def test_who_spent_nothing_gets_the_mean_of_all() -> None:
    free = PUBLISHED_SPEND.mean(np.array([3.0, 0.0]), np.array([0.0, 0.0]))
    assert free == pytest.approx(PUBLISHED_SPEND.p * PUBLISHED_SPEND.gamma / (PUBLISHED_SPEND.q - 1))


def test_spend_likelihood_is_the_integral_over_scales() -> None:
    g, k, m = PUBLISHED_SPEND, 3.0, 40.0
    over = quad(lambda v: gamma(g.p * k, scale=1 / (v * k)).pdf(m) * gamma(g.q, scale=1 / g.gamma).pdf(v), 0, 3, limit=200)[0]
    assert g.log_likelihood(np.array([k]), np.array([m]))[0] == pytest.approx(np.log(over), abs=1e-6)


def test_histories_that_say_nothing_are_refused() -> None:
    with pytest.raises(ArtifactError, match="second time"):
        BgNbd.fit(np.zeros(5), np.zeros(5), np.full(5, 30.0))
    with pytest.raises(ArtifactError, match="no customer spent"):
        GammaGamma.fit(np.ones(5), np.zeros(5))


@pytest.mark.realdata
def test_parameters_of_cdnow_are_the_published_ones(realdata: Path) -> None:
    """Four fifths of the published sample are here, so the parameters are near, and what they forecast for each customer is nearer."""
    rows = pq.read_table(realdata / "cdnow" / "transactions.parquet").to_pandas()
    rows = rows[rows["in_published_sample"] & (rows["date"] < "1997-10-01")]
    days = rows.groupby(["customer_id", "date"], as_index=False)["amount_usd"].sum()
    who = days.groupby("customer_id")["date"]
    x = (who.size() - 1).to_numpy(float)
    t_x = ((who.max() - who.min()).dt.days / 7).to_numpy(float)
    now = ((np.datetime64("1997-09-30") - who.min()).dt.days / 7).to_numpy(float)
    found = BgNbd.fit(x, t_x, now)
    assert len(x) == 1_849
    assert (found.r, found.alpha, found.a, found.b) == pytest.approx((0.243, 4.414, 0.793, 2.426), rel=0.15)

    assert found.purchases(39.0, x, t_x, now).sum() == pytest.approx(PUBLISHED.purchases(39.0, x, t_x, now).sum(), rel=0.05)
    repeat = days[days["date"] > days["customer_id"].map(who.min())].groupby("customer_id")["amount_usd"]
    spend = GammaGamma.fit(repeat.size().to_numpy(float), repeat.mean().to_numpy(float))
    assert (spend.p, spend.q, spend.gamma) == pytest.approx((6.25, 3.74, 15.44), rel=0.2)
