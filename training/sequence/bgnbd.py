"""BG/NBD and Gamma-Gamma: how often customers buy until they leave for good, and how much each time. Maximum likelihood with SciPy.

BG/NBD (Fader, Hardie and Lee, "Counting your customers the easy way", 2005): while alive a customer buys as a Poisson process of rate
lambda ~ Gamma(r, alpha); after each purchase the customer leaves with chance p ~ Beta(a, b). Gamma-Gamma (Fader and Hardie, 2013): a
customer's amounts are Gamma(p, nu) with nu ~ Gamma(q, gamma), apart from how often they come. Both need only, for each customer,

x    purchases after the first,
t_x  weeks from the first to the last purchase,
T    weeks from the first purchase to now,
m    mean amount of a purchase, of k purchases.

Letters: n customers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betainc, betaln, gammaln

from contracts.errors import ArtifactError

_BOUND = 12.0
_DONE = 1e-9


@dataclass(frozen=True)
class BgNbd:
    """The four parameters; times in the unit of the data that they were fitted to."""

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(cls, x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> BgNbd:  # noqa: N803 - as published
        """The most likely parameters.

        Args:
            x, t_x, T: float64 (n,), 0 <= t_x <= T.

        Raises:
            ArtifactError: nobody bought twice, so nothing can be said about leaving.
        """
        if not (x > 0).any():
            raise ArtifactError(
                "no customer bought a second time, BG/NBD needs repeat purchases. Take a later as-of time or leave bg_nbd out."
            )
        rows, weight = np.unique(np.stack([x, t_x, T], axis=1), axis=0, return_counts=True)
        share = weight / weight.sum()
        scale = 10.0 / max(float(rows[:, 2].max()), 1e-9)  # times near 10: the start suits any unit

        def loss(logs: np.ndarray) -> float:
            return -float(share @ cls(*np.exp(logs)).log_likelihood(rows[:, 0], rows[:, 1] * scale, rows[:, 2] * scale))

        starts = (np.zeros(4), np.log([0.5, 1.0, 0.5, 2.0]))
        found = [
            minimize(loss, s, method="L-BFGS-B", bounds=[(-_BOUND, _BOUND)] * 4, options={"ftol": 1e-13, "gtol": 1e-8}) for s in starts
        ]
        r, alpha, a, b = np.exp(min(found, key=lambda f: f.fun).x)
        return cls(float(r), float(alpha / scale), float(a), float(b))

    def log_likelihood(self, x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> np.ndarray:  # noqa: N803
        """float64 (n,): equation (6) of the paper, with its four parts."""
        counts = gammaln(self.r + x) - gammaln(self.r) + self.r * np.log(self.alpha)
        stays = betaln(self.a, self.b + x) - betaln(self.a, self.b)
        here = -(self.r + x) * np.log(self.alpha + T)
        return counts + stays + np.where(x > 0, np.logaddexp(here, here + self._log_odds_left(np.maximum(x, 1.0), t_x, T)), here)

    def _log_odds_left(self, x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> np.ndarray:  # noqa: N803
        """Log odds of having left after the last purchase, for x > 0."""
        return np.log(self.a / (self.b + x - 1.0)) + (self.r + x) * np.log((self.alpha + T) / (self.alpha + t_x))

    def alive(self, x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> np.ndarray:  # noqa: N803
        """Chance that a customer has not left, (n,); 1 before any repeat purchase, as the model says."""
        odds = np.exp(np.minimum(self._log_odds_left(np.maximum(x, 1.0), t_x, T), 500.0))
        return np.where(x > 0, 1.0 / (1.0 + odds), 1.0)

    def quiet(self, t: float, x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> np.ndarray:  # noqa: N803
        """Chance of no purchase in the time t to come, (n,): has left, or is alive (lambda ~ Gamma(r + x, alpha + T)) and does not buy."""
        silent = ((self.alpha + T) / (self.alpha + T + t)) ** (self.r + x)
        return 1.0 - self.alive(x, t_x, T) * (1.0 - silent)

    def purchases(self, t: float, x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> np.ndarray:  # noqa: N803
        """Expected purchases in the time t to come, (n,).

        Of who is alive: the sum over k of P(more than k occasions) P(still there after k purchases), occasions negative binomial and
        staying beta-geometric. The same as the paper's equation (10) without its hypergeometric function, which overflows for large x.
        """
        z, shape = t / (self.alpha + T + t), self.r + x
        total, left, stay = np.zeros(len(x)), np.arange(len(x)), np.ones(len(x))
        k = 0
        while len(left):
            more = betainc(k + 1.0, shape[left], z[left]) * stay[left]
            total[left] += more
            stay[left] *= (self.b + x[left] + k) / (self.a + self.b + x[left] + k)
            left, k = left[more > _DONE], k + 1
        return self.alive(x, t_x, T) * total

    def draw_purchases(self, t: float, x: np.ndarray, t_x: np.ndarray, T: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: N803
        """One draw of the purchases in the time t to come, int64 (n,): occasions, but none after the one at which the customer leaves."""
        occasions = rng.poisson(rng.gamma(self.r + x, t / (self.alpha + T)))
        leaves = np.clip(rng.beta(self.a, self.b + x), 1e-12, 1.0)
        bought = np.minimum(occasions, rng.geometric(leaves))
        return np.where(rng.random(len(x)) < self.alive(x, t_x, T), bought, 0)


@dataclass(frozen=True)
class GammaGamma:
    """The three parameters; q > 1, so that the mean amount is finite."""

    p: float
    q: float
    gamma: float

    @classmethod
    def fit(cls, k: np.ndarray, m: np.ndarray) -> GammaGamma:
        """The most likely parameters from customers with k >= 1 purchases of mean amount m > 0; others are left out.

        Raises:
            ArtifactError: nobody is left.
        """
        used = (k >= 1) & (m > 0)
        if not used.any():
            raise ArtifactError("no customer spent anything, Gamma-Gamma needs amounts above zero. Leave bg_nbd out with --models.")
        k, unit = k[used], float(m[used].mean())
        scaled = m[used] / unit

        def loss(logs: np.ndarray) -> float:
            p, q, gamma = np.exp(logs[0]), 1.0 + np.exp(logs[1]), np.exp(logs[2])
            return -float(cls(p, q, gamma).log_likelihood(k, scaled).mean())

        found = minimize(
            loss, np.log([5.0, 2.0, 0.5]), method="L-BFGS-B", bounds=[(-_BOUND, _BOUND)] * 3, options={"ftol": 1e-13, "gtol": 1e-8}
        )
        p, less, gamma = np.exp(found.x)
        return cls(float(p), float(1.0 + less), float(gamma * unit))

    def log_likelihood(self, k: np.ndarray, m: np.ndarray) -> np.ndarray:
        """float64 (n,): equation (1a) of the note."""
        pk = self.p * k
        return (
            gammaln(pk + self.q) - gammaln(pk) - gammaln(self.q) + self.q * np.log(self.gamma)
            + (pk - 1.0) * np.log(m) + pk * np.log(k) - (pk + self.q) * np.log(self.gamma + k * m)
        )  # fmt: skip

    def mean(self, k: np.ndarray, m: np.ndarray) -> np.ndarray:
        """Expected amount of a purchase, (n,): between the customer's own mean and that of all."""
        spent = k * np.maximum(m, 0.0) * (m > 0)
        seen = k * (m > 0)
        return self.p * (self.gamma + spent) / (self.p * seen + self.q - 1.0)

    def draw_sums(self, purchases: np.ndarray, k: np.ndarray, m: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One draw of what each customer spends on so many purchases, float64 (n,)."""
        known = m > 0
        nu = rng.gamma(self.q + self.p * k * known, 1.0 / (self.gamma + np.where(known, k * m, 0.0)))
        return np.where(purchases > 0, rng.gamma(np.maximum(self.p * purchases, 1e-9)) / np.maximum(nu, 1e-300), 0.0)
