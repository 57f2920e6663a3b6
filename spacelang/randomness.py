"""Random numbers: generators made from seeds, and the global generators kept as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

from .errors import SpaceError, short


def require_generator(name: str, value: object) -> None:
    """Raise unless `value` is a generator of numpy.

    Raises:
        SpaceError: Names the argument, what was given, and how to make a generator of a seed.

    >>> require_generator("rng", 0)
    Traceback (most recent call last):
    spacelang.errors.SpaceError: rng=0 must be a numpy.random.Generator; write numpy.random.default_rng(0).
    """
    if not isinstance(value, np.random.Generator):
        seed = value if isinstance(value, int) else 0
        raise SpaceError(
            f"{name}={short(value)} must be a numpy.random.Generator; write numpy.random.default_rng({seed})."
        )


def torch_generator(*entropy: int) -> torch.Generator:
    """Return a torch generator on the CPU, seeded from integers."""
    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed[0] >> 1))


def torch_generator_from(rng: np.random.Generator) -> torch.Generator:
    """Return a torch generator on the CPU, seeded by one draw of `rng`."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def numpy_generator_from(generator: torch.Generator) -> np.random.Generator:
    """Return a NumPy generator, seeded by one draw of `generator`."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def seed_from(*entropy: int) -> int:
    """Return a seed below 2**32 that is a fixed function of integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def seed_global_generators(*entropy: int) -> None:
    """Seed Python's, NumPy's and torch's global generators from integers."""
    words = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002  (users' data sets and transforms draw from it)
    seed = (int(words[2]) << 32 | int(words[3])) % 2**63
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # half a millisecond quicker


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Leave Python's, NumPy's and torch's global generators, on every device, as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def torch_seeded_from(rng: np.random.Generator) -> Iterator[None]:
    """Seed torch's global generator of the CPU by one draw of `rng`; it is as it was in the end."""
    with torch_generators_kept():
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        yield


def torch_generators_kept(*devices: torch.device) -> AbstractContextManager[None]:
    """Leave torch's global generators of the CPU and of some devices as they were.

    Args:
        devices: Devices that may draw; only those of type "cuda" have a generator of their own here.
    """
    return torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"])
