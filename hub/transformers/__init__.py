"""Spaces of transformers."""

from __future__ import annotations

from .autoformer import AutoFormer as AutoFormer
from .gpt import GPT as GPT
