"""Bayesian linear regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .predictor import Array

_LOWEST, _HIGHEST = 1e-4, 1e8  # of alpha and beta


@dataclass(frozen=True)
class BayesianRegression:
    """y = m'phi + noise, with the prior N(0, 1/alpha) on every coefficient and the noise N(0, 1/beta).

    S^-1 = alpha I + beta Phi'Phi and m = beta S Phi'y.

    Args:
        m: Mean of the coefficients, (D,).
        S: Covariance of the coefficients, (D, D).
        beta: Precision of the noise.
    """

    m: Array
    S: Array
    beta: float

    @classmethod
    def fit(cls, Phi: Array, y: Array, alpha: float, beta: float) -> BayesianRegression:
        """Return the posterior.

        Args:
            Phi: Features, (n, D).
            y: Values, (n,).
            alpha: Precision of the prior.
            beta: Precision of the noise.
        """
        S = np.linalg.inv(alpha * np.eye(Phi.shape[1]) + beta * Phi.T @ Phi)
        return cls(beta * S @ Phi.T @ y, S, beta)

    @classmethod
    def fit_evidence(cls, Phi: Array, y: Array, iterations: int = 20) -> BayesianRegression:
        """Return the posterior for the alpha and beta that fit the data best, by MacKay's fixed point."""
        eigenvalues = np.clip(np.linalg.eigvalsh(Phi.T @ Phi), 0, None)
        alpha = beta = 1.0
        for _ in range(iterations):
            m = cls.fit(Phi, y, alpha, beta).m
            gamma = float(np.sum(beta * eigenvalues / (alpha + beta * eigenvalues)))
            alpha = float(np.clip(gamma / max(float(m @ m), 1e-12), _LOWEST, _HIGHEST))
            residual = float(np.sum((y - Phi @ m) ** 2))
            beta = float(np.clip((len(y) - gamma) / max(residual, 1e-12), _LOWEST, _HIGHEST))
        return cls.fit(Phi, y, alpha, beta)

    def predict(self, Phi: Array) -> tuple[Array, Array]:
        """Return mean m'phi and variance 1/beta + phi'S phi of each value, (n,) and (n,), from (n, D)."""
        return Phi @ self.m, 1 / self.beta + np.einsum("nd,de,ne->n", Phi, self.S, Phi)
