"""Trials stopped early because their learning curve will not reach the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from spacelang import ModelSpace
from spacelang.errors import require_integer, require_number
from spacelang.trials import History, Proposal, Proposer, Trial

from ..predictors import Array, check_regressor, fresh, standardised
from .wrapper import Wrapped, inner_goes_on


@dataclass(frozen=True)
class LearningCurveStopping(Wrapped):
    """Stop a trial whose final value is predicted not to exceed the best one.

    For every number tau of observed epochs a regression model learns the final value y_T from the encoded
    architecture, y_1, ..., y_tau, and the first and second differences of these. Its error is taken to be
    Gaussian, with the mean square of the leave-one-out errors as variance. A trial is stopped when
    P(y_T <= best) >= delta. With several objectives the first decides.

    A trial is compared only with those of the same `max_epochs` and overrides; the best is theirs. The models
    learn from the complete curves among these, which are as long as any. So they learn neither from stopped
    trials nor from curves with a NaN, and a trial whose own curve has one continues. Each complete curve
    leads to a new fit, whose random draws are seeded by that trial's seed. The evaluator must report its
    metrics after every epoch.

    Args:
        strategy: Strategy that proposes architectures. It sees stopped trials with the metrics they had.
        min_curves: Complete curves before the first trial is stopped; about 100 in the paper.
        min_epochs: Epochs before a trial is stopped.
        delta: Probability, in (0, 1), from which a trial is stopped; 0.95 and 0.99 in the paper.
        regressor: Any of scikit-learn; cloned for every fit. None is `nu_svr()`.

    Source: Baker et al. 2017, arXiv:1705.10823, sequential regression models.
    """

    min_curves: int = 20
    min_epochs: int = 1
    delta: float = 0.95
    regressor: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("min_curves", self.min_curves, least=3)  # for as many folds
        require_integer("min_epochs", self.min_epochs, least=1)
        require_number("delta", self.delta, above=0, below=1)
        if self.regressor is not None:
            check_regressor(self.regressor, type(self).__name__)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Stopping(self.strategy.start(space), self)

    def stops(self, probability: float) -> bool:
        """Return whether a trial is stopped if its final value exceeds the best with 1 - `probability`."""
        return probability >= self.delta


def nu_svr(configurations: int = 50) -> Any:
    """Return the regressor of the paper: nu-SVR with an RBF kernel on standardised features.

    Args:
        configurations: Number of random settings of C, gamma and nu; 3-fold cross-validation chooses one.
    """
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import NuSVR

    settings = {
        "nusvr__C": np.geomspace(1e-2, 1e3, 101),
        "nusvr__gamma": np.geomspace(1e-5, 10, 121),
        "nusvr__nu": np.linspace(0.05, 1, 96),
    }
    return RandomizedSearchCV(
        make_pipeline(StandardScaler(), NuSVR(kernel="rbf")),
        settings,
        n_iter=configurations,
        cv=3,
        scoring="neg_mean_squared_error",
    )


@dataclass(frozen=True)
class FinalValue:
    """A fitted model of final values, with Gaussian error.

    Args:
        model: Model that predicts standardised values.
        center, scale: Mean and standard deviation of the values.
        std: Standard deviation of the error.
    """

    model: Any
    center: float
    scale: float
    std: float

    @classmethod
    def fit(cls, regressor: Any, x: Array, y: Array, rng: np.random.Generator) -> FinalValue:
        """Learn from complete curves.

        Args:
            regressor: Regressor of scikit-learn. One that searches for settings does so once, for all curves;
                the errors are those of its best settings.
            x: Features, (n, features).
            y: Final values, (n,), n at least 3.
            rng: Generator for every random draw.
        """
        from sklearn.model_selection import LeaveOneOut, cross_val_predict

        values, center, scale = standardised(y)
        model = fresh(regressor, rng).fit(x, values)
        best = getattr(model, "best_estimator_", model)
        errors = values - cross_val_predict(best, x, values, cv=LeaveOneOut())
        return cls(model, center, scale, scale * float(np.sqrt(np.mean(errors**2))))

    def predict(self, x: Array) -> float:
        """Return the expected final value of one curve, from its features."""
        return self.center + self.scale * float(self.model.predict(x[None])[0])

    def probability_up_to(self, bound: float, x: Array) -> float:
        """Return the probability that the final value of one curve, from its features, is within a bound."""
        return probability_up_to(bound, self.predict(x), self.std)


def probability_up_to(bound: float, mean: float, std: float) -> float:
    """Return P(y <= bound) of a Gaussian; with std 0 all of it is at the mean."""
    return NormalDist(mean, std).cdf(bound) if std > 0 else float(mean <= bound)


def curve_features(scores: Array) -> Array:
    """Return values, first and second differences of a curve.

    Args:
        scores: Values, (tau,).

    Returns:
        Features, (tau + max(0, tau - 1) + max(0, tau - 2),).
    """
    return np.concatenate([scores, np.diff(scores), np.diff(scores, n=2)])


class _Stopping:
    """A proposer that stops trials; its models are a cache, which follows from the history."""

    def __init__(self, inner: Proposer, settings: LearningCurveStopping) -> None:
        self.inner = inner
        self.settings = settings
        self._models: dict[tuple[int, int], tuple[list[int], FinalValue]] = {}

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        return self.inner.ask(history, rng)

    def goes_on(self, trial: Trial, history: History) -> bool:
        """See `Stopper`."""
        if not inner_goes_on(self.inner, trial, history):
            return False
        epochs = epochs_of(trial)
        if epochs[-1] + 1 < self.settings.min_epochs or not is_finite(trial, history):
            return True
        peers = [other for other in history.done if are_peers(other, trial)]
        complete = _complete(peers, epochs, history)
        if len(complete) < self.settings.min_curves:
            return True
        best = max(history.score(other) for other in peers)
        model = self._model(complete, len(epochs), history)
        return not self.settings.stops(model.probability_up_to(best, _features(trial, history, len(epochs))))

    def _model(self, complete: list[Trial], observed: int, history: History) -> FinalValue:
        """Return a model of final values after so many reports, learnt from complete curves."""
        key = complete[0].number, observed  # the first of them stands for all that are compared
        numbers = [trial.number for trial in complete]
        if key not in self._models or self._models[key][0] != numbers:
            x = np.stack([_features(trial, history, observed) for trial in complete])
            y = np.array([history.score(trial) for trial in complete])
            rng = np.random.default_rng((complete[-1].seed, observed))
            regressor = nu_svr() if self.settings.regressor is None else self.settings.regressor
            self._models[key] = numbers, FinalValue.fit(regressor, x, y, rng)
        return self._models[key][1]


def are_peers(a: Trial, b: Trial) -> bool:
    """Return whether trials are compared: they have the same epochs and overrides."""
    return a.max_epochs == b.max_epochs and dict(a.overrides) == dict(b.overrides)


def _complete(peers: list[Trial], epochs: tuple[int, ...], history: History) -> list[Trial]:
    """Return trials with a whole curve without NaN that has these epochs and later ones."""
    reporting = [trial for trial in peers if trial.reports]
    last = max((trial.reports[-1].epoch for trial in reporting), default=-1)
    if last <= epochs[-1]:
        return []
    return [
        trial
        for trial in reporting
        if trial.reports[-1].epoch == last
        and epochs_of(trial)[: len(epochs)] == epochs
        and math.isfinite(history.score(trial))
        and is_finite(trial, history)
    ]


def _features(trial: Trial, history: History, observed: int) -> Array:
    """Return a model's features of a trial after `observed` reports, (features,)."""
    curve = curve_features(curve_of(trial, history)[:observed])
    return np.concatenate([history.decisions(trial.overrides).encode(trial.arch), curve])


def is_finite(trial: Trial, history: History) -> bool:
    """Return whether the curve of a trial is without NaN."""
    return bool(np.isfinite(curve_of(trial, history)).all())


def curve_of(trial: Trial, history: History) -> Array:
    """Return the scores of the first objective that a trial reported; more is better."""
    return np.array([history.objectives[0].score(report.metrics) for report in trial.reports])


def epochs_of(trial: Trial) -> tuple[int, ...]:
    """Return the epochs of a trial's reports."""
    return tuple(report.epoch for report in trial.reports)
