"""Checks that anyone who writes a strategy can run on it."""

from .conformance import check_strategy as check_strategy
from .promises import Conformance as Conformance
from .toy_spaces import toy_spaces as toy_spaces
