"""Importing the results costs nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import spacelang.results

HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib", "safetensors", "networkx", "numpy")


def test_import_is_light() -> None:
    code = f"import sys, spacelang.results; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_public_names_have_docstrings() -> None:
    verbs = ["draw", "dump_yaml", "export_onnx", "load_bundle", "load_yaml", "profile", "save_bundle"]
    names = [*verbs, "Bundle", "OnnxExport", "Profile", "read_onnx_architecture"]
    for name in names:
        assert getattr(spacelang.results, name).__doc__, name
