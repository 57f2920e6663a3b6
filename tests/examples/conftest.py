"""Examples and benchmarks as modules, and CIFAR-10 in small."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle  # noqa: TID251  # the published format of CIFAR-10; it is written here and read by torchvision
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torchvision import datasets

IMAGES = 4  # in each batch file


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script as a module, which is forgotten after the test."""
    monkeypatch.syspath_prepend(path.parent)  # scripts import their neighbours
    name = f"script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import an example by its name."""
    return lambda name: load(repository / "examples" / f"{name}.py", monkeypatch)


@pytest.fixture
def benchmark_script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark by its name."""
    return lambda name: load(repository / "benchmarks" / f"{name}.py", monkeypatch)


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with files in the format of CIFAR-10 that hold few images; torchvision knows their checksums."""
    rng = np.random.default_rng(0)
    contents: dict[str, object] = {
        name: {
            "batch_label": name,
            "labels": rng.integers(0, 10, IMAGES).tolist(),
            "data": rng.integers(0, 256, (IMAGES, 3 * 32 * 32), dtype=np.uint8),
        }
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    }
    contents["batches.meta"] = {"label_names": list("abcdefghij")}
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    md5 = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    batches = [[name, md5[name]] for name in contents if name.startswith("data")]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/nothing-is-fetched")
    return folder.parent
