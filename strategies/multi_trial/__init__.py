"""Strategies that propose architectures to be tried."""

from .evolution import RegularizedEvolution as RegularizedEvolution
from .random import Random as Random
