"""Recurrent cells, and language models made of them."""

from __future__ import annotations

from .recurrent_lm import RecurrentLM as RecurrentLM
from .rnn_cell import RNNCell as RNNCell
