"""The `spacelang` command; each command's module is loaded when it is called."""

from __future__ import annotations

from .main import main as main
