"""The package loads Lightning only when a name that needs it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import spacelang.evaluators as evaluators


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import spacelang.evaluators",
        "from spacelang.evaluators import Functional",
        "from spacelang.evaluators.data import digits, cifar10, Cutout",
    ],
)
def test_light_names_load_no_heavy_package(code: str) -> None:
    loaded = _modules_after(code)
    assert "spacelang.evaluators" in loaded
    assert not loaded & {"lightning", "torchmetrics", "torchvision", "sklearn"}


def test_every_public_name_resolves() -> None:
    for name in evaluators.__all__:
        assert getattr(evaluators, name) is not None
        assert name in dir(evaluators)
    for name in evaluators.data.__all__:
        assert getattr(evaluators.data, name) is not None


def test_trainer_is_lightnings() -> None:
    from lightning.pytorch import LightningModule, Trainer

    assert evaluators.Trainer is Trainer
    assert evaluators.LightningModule is LightningModule


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasification'"):
        evaluators.Clasification  # noqa: B018  # the access is the test
