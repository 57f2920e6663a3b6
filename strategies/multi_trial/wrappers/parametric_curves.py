"""Learning curves as mixtures of parametric families, and trials stopped by what these predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.errors import require_integer, require_number
from spacelang.trials import History, Minimize, Proposal, Proposer, Trial

from ..predictors import Array
from .learning_curve import are_peers, curve_of, epochs_of, is_finite, probability_up_to
from .wrapper import Wrapped, inner_goes_on


@dataclass(frozen=True)
class Family:
    """A parametric family of learning curves.

    Args:
        curve: f(x, *theta), x the epoch from 1; broadcasts.
        start: Parameters at which a fit begins, those of the authors' library.
    """

    curve: Callable[..., Array]
    start: tuple[float, ...]


FAMILIES: Mapping[str, Family] = {
    "pow3": Family(lambda x, c, a, alpha: c - a * x**-alpha, (0.84, 0.52, 0.01)),
    "pow4": Family(lambda x, c, a, b, alpha: c - (a * x + b) ** -alpha, (0.8, 200.0, 0.0, 0.1)),
    "log_power": Family(lambda x, a, b, c: a / (1 + (x / np.exp(b)) ** c), (0.77, 2.98, -0.51)),
    "weibull": Family(
        lambda x, alpha, beta, kappa, delta: alpha - (alpha - beta) * np.exp(-((kappa * x) ** delta)),
        (0.7, 0.1, 0.01, 1.0),
    ),
    "mmf": Family(
        lambda x, alpha, beta, kappa, delta: alpha - (alpha - beta) / (1 + (kappa * x) ** delta),
        (0.7, 0.1, 0.01, 5.0),
    ),
    "janoschek": Family(
        lambda x, a, beta, k, delta: a - (a - beta) * np.exp(-k * x**delta), (0.73, 0.07, 0.355, 0.46)
    ),
    # Of x + 1: at the first epoch ln x is zero.
    "ilog2": Family(lambda x, c, a: c - a / np.log(x + 1), (0.78, 0.43)),
    "hill": Family(
        lambda x, theta, eta, kappa: theta * x**eta / (kappa**eta + x**eta), (0.772320, 0.586449, 2.460843)
    ),
    "vapour": Family(lambda x, a, b, c: np.exp(a + b / x + c * np.log(x)), (-0.622028, -0.470050, 0.042322)),
    "exp4": Family(lambda x, c, a, b, alpha: c - np.exp(-a * x**alpha + b), (0.7, 0.8, -0.8, 0.3)),
    "log_log": Family(lambda x, a, b: np.log(a * np.log(x) + b), (0.5, 1.5)),
}
"""The eleven families of the paper, by name."""


@dataclass(frozen=True)
class ParametricCurveStopping(Wrapped):
    """Stop a trial whose learning curve, extrapolated by itself, will not exceed the best one.

    A curve is f(x) = sum_k w_k f_k(x | theta_k) + N(0, sigma^2), a mixture of eleven `FAMILIES` whose
    parameters, weights w >= 0 and sigma are sampled given the reports of the trial alone. A trial is stopped
    when P(y_M > best | y_1, ..., y_n) < epsilon at its last epoch M. Unlike `LearningCurveStopping` it learns
    nothing from other trials, so it can stop the second.

    The prior is flat over curves that end above their first value, and within the metric's bounds. Trials are
    compared only with those of the same `max_epochs` and overrides. A trial without `max_epochs` is expected
    to be as long as the longest of these. With several objectives the first decides. The evaluator must
    report its metrics after every epoch.

    Args:
        strategy: Strategy that proposes architectures. It sees stopped trials with the metrics they had.
        worst, best: Values between which the metric lies, as 0 and 1 of an accuracy. Of a metric to minimise
            `worst` is the larger.
        min_epochs: Epochs before a trial is stopped.
        every: Epochs between decisions, each of which samples again.
        epsilon: Probability below which a trial is stopped; 0.05 in the paper.
        walkers, steps: Size of the sampler. Of the steps the second half is kept, all walkers of every tenth.

    A decision takes about two seconds on one core at the default size of the sampler.

    Source: Domhan et al. 2015, Speeding up automatic hyperparameter optimization of deep neural networks by
    extrapolation of learning curves.
    """

    worst: float = 0.0
    best: float = 1.0
    min_epochs: int = 4
    every: int = 1
    epsilon: float = 0.05
    walkers: int = 100
    steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("min_epochs", 2), ("every", 1), ("walkers", 4), ("steps", 20)):
            require_integer(name, getattr(self, name), least=least)
        require_number("epsilon", self.epsilon, above=0, below=1)
        if self.worst == self.best:
            raise SpaceError(f"worst={self.worst:g} and best={self.best:g} must differ.")

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Extrapolating(self.strategy.start(space), self)

    def scaled(self, scores: Array, sign: float) -> Array:
        """Return scores, which are the metric times `sign`, as values from 0 (worst) to 1 (best)."""
        return (sign * scores - self.worst) / (self.best - self.worst)


class _Extrapolating:
    """A proposer that stops trials by their own curves."""

    def __init__(self, inner: Proposer, settings: ParametricCurveStopping) -> None:
        self.inner = inner
        self.settings = settings

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        return self.inner.ask(history, rng)

    def goes_on(self, trial: Trial, history: History) -> bool:
        """See `Stopper`."""
        if not inner_goes_on(self.inner, trial, history):
            return False
        settings, epoch = self.settings, epochs_of(trial)[-1] + 1
        if epoch < settings.min_epochs or (epoch - settings.min_epochs) % settings.every:
            return True
        peers = [other for other in history.done if are_peers(other, trial) and is_finite(other, history)]
        lengths = [epochs_of(other)[-1] + 1 for other in peers if other.reports]
        end = trial.max_epochs or max(lengths, default=0)
        if not peers or end <= epoch or not is_finite(trial, history):
            return True
        sign = _sign(history)
        best = settings.scaled(np.array([max(map(history.score, peers))]), sign)[0]
        curve = settings.scaled(curve_of(trial, history), sign)
        x = np.array(epochs_of(trial), dtype=float) + 1
        rng = np.random.default_rng((trial.seed, epoch))
        posterior = CurvePosterior.sampled(x, curve, end, rng, settings.walkers, settings.steps)
        return posterior.probability_above(best) >= settings.epsilon


def _sign(history: History) -> float:
    """Return -1 where the first objective is minimised: a score is the metric with this sign."""
    return -1.0 if isinstance(history.objectives[0], Minimize) else 1.0


@dataclass(frozen=True)
class CurvePosterior:
    """Samples of a curve's last value and of its noise, given the beginning of the curve.

    Args:
        means: Last values, (samples,).
        deviations: Standard deviations of the noise, (samples,).
    """

    means: Array
    deviations: Array

    @classmethod
    def sampled(
        cls, x: Array, y: Array, end: int, rng: np.random.Generator, walkers: int = 100, steps: int = 500
    ) -> CurvePosterior:
        """Sample the posterior.

        Args:
            x: Epochs from 1, (n,).
            y: Values between 0 and 1, (n,).
            end: The last epoch M.
            rng: Generator for every random draw.
            walkers, steps: Size of the sampler.
        """
        families, parameters = _fitted(x, y)
        count = len(families)
        weights = np.full(count, 1 / count)
        points = np.append(x, float(end))
        residuals = y - _mixture(families, np.concatenate([*parameters, weights])[None], points)[0, :-1]
        deviation = max(float(residuals.std()), 1e-4)
        first = np.concatenate([*parameters, weights, [np.log(deviation)]])

        def log_posterior(states: Array) -> Array:
            curves = _mixture(families, states[:, :-1], points)
            log_deviation = states[:, -1]
            errors = ((curves[:, :-1] - y) * np.exp(-log_deviation)[:, None]) ** 2
            found = -0.5 * errors.sum(axis=1) - len(y) * log_deviation
            last = curves[:, -1]
            allowed = (states[:, -1 - count : -1] >= 0).all(axis=1) & (last >= curves[:, 0])
            allowed &= (last >= 0) & (last <= 1) & (np.abs(log_deviation) < 12) & np.isfinite(found)
            return np.where(allowed, found, -np.inf)

        scale = 1e-2 * np.maximum(np.abs(first), 1e-2)
        starts = first + scale * rng.normal(size=(walkers - walkers % 2, len(first)))
        with np.errstate(all="ignore"):
            kept = ensemble(log_posterior, starts, steps, rng)
            means = _mixture(families, kept[:, :-1], points[-1:])[:, 0]
        return cls(means, np.exp(kept[:, -1]))

    def probability_above(self, bound: float) -> float:
        """Return the probability that the last value exceeds a bound."""
        samples = zip(self.means.tolist(), self.deviations.tolist(), strict=True)
        return 1 - float(np.mean([probability_up_to(bound, mean, std) for mean, std in samples]))


def _fitted(x: Array, y: Array) -> tuple[list[Family], list[Array]]:
    """Fit each family by least squares; return those whose curves are finite, and their parameters."""
    from scipy.optimize import least_squares

    families, parameters = [], []
    for family in FAMILIES.values():

        def residuals(theta: Array, family: Family = family) -> Array:
            return np.nan_to_num(family.curve(x, *theta) - y, nan=1e3, posinf=1e3, neginf=-1e3)

        with np.errstate(all="ignore"):
            theta = least_squares(residuals, family.start, max_nfev=200).x
            if np.isfinite(family.curve(x, *theta)).all():
                families.append(family)
                parameters.append(theta)
    return families, parameters


def _mixture(families: Sequence[Family], states: Array, x: Array) -> Array:
    """Return sum_k w_k f_k(x), (states, len(x)), of states that hold all parameters and then all weights."""
    total, place = np.zeros((len(states), len(x))), 0
    for k, family in enumerate(families):
        theta = states[:, place : place + len(family.start)].T[:, :, None]
        total = total + states[:, k - len(families)][:, None] * family.curve(x, *theta)
        place += len(family.start)
    return total


def ensemble(
    log_density: Callable[[Array], Array], starts: Array, steps: int, rng: np.random.Generator
) -> Array:
    """Sample a density with an affine-invariant ensemble of walkers: stretch moves, a = 2.

    Args:
        log_density: Function of states (n, d) to the logarithms of their density, (n,).
        starts: First states, (walkers, d), an even number.
        steps: Moves of every walker.
        rng: Generator for every random draw.

    Returns:
        All walkers after every tenth step of the second half, (samples, d).

    Source: Goodman and Weare 2010, Ensemble samplers with affine invariance.
    """
    states, kept = starts.copy(), []
    density = log_density(states)
    half = len(states) // 2
    for step in range(steps):
        for mine, others in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            partners = states[others][rng.integers(half, size=half)]
            stretch = (1 + rng.random(half)) ** 2 / 2  # density of z is 1 / sqrt(z) on [1/2, 2]
            proposed = partners + stretch[:, None] * (states[mine] - partners)
            found = log_density(proposed)
            gain = (states.shape[1] - 1) * np.log(stretch) + found - density[mine]
            taken = np.log(rng.random(half)) < np.nan_to_num(gain, nan=-np.inf)
            states[mine] = np.where(taken[:, None], proposed, states[mine])
            density[mine] = np.where(taken, found, density[mine])
        if step >= steps // 2 and step % 10 == 9:
            kept.append(states.copy())
    return np.concatenate(kept)
