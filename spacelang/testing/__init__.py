"""Checks that anyone who writes a strategy can run on it."""

from ._promises import Conformance as Conformance
from ._spaces import toy_spaces as toy_spaces
from ._strategy import check_strategy as check_strategy
