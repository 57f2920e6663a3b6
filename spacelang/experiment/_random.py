"""The global generators: seeded for a run, and given back as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(*entropy: int) -> None:
    """Seed Python's, NumPy's and torch's global generators from integers."""
    words = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002  (users' data sets and transforms draw from it)
    torch.manual_seed((int(words[2]) << 32 | int(words[3])) % 2**63)


@contextmanager
def isolated_generators() -> Iterator[None]:
    """Leave Python's, NumPy's and torch's global generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
