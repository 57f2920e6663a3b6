"""The main job end to end, smaller than `spacelang demo` runs it."""

from __future__ import annotations

import hashlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spacelang.cli import main

pytestmark = pytest.mark.slow


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_main_job(tmp_path: Path) -> None:
    from rich.console import Console

    from spacelang.cli.demo_run import CONTENTS, Plan, loading_lines, run

    folder, screen = tmp_path / "run", io.StringIO()
    run(Plan(folder, search_epochs=2, epochs=5, cells=3), Console(file=screen, width=200))
    shown = screen.getvalue()

    assert {path.name for path in folder.iterdir()} == set(CONTENTS), "and the summary explains each of them"
    assert all(name in shown for name in CONTENTS)
    assert "validation accuracy" in shown
    assert "training accuracy" in shown

    scope: dict[str, object] = {}
    lines = loading_lines(folder)
    assert len(lines) == 3
    assert all(line in shown for line in lines)
    exec("\n".join(lines), scope)  # the three lines that the summary tells the user to type
    assert held_out_accuracy(scope["model"], folder) >= 0.97


def held_out_accuracy(model: object, folder: Path) -> float:
    """Test accuracy of the loaded network, checked against the ONNX file and what the bundle claims."""
    import numpy as np
    import onnxruntime
    import torch

    from spacelang import load_bundle
    from spacelang.evaluators.data import digits
    from spacelang.files import load_yaml
    from spacelang.results import read_onnx_architecture

    assert isinstance(model, torch.nn.Module)
    images, labels = map(torch.stack, zip(*((x, y) for x, y in digits().test), strict=True))
    with torch.no_grad():
        predicted = model.eval()(images).argmax(1)
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.array_equal(output.argmax(1), predicted.numpy())

    architecture = load_yaml(folder / "architectures" / "1.yaml")
    assert read_onnx_architecture(folder / "network.onnx") == architecture
    bundle = load_bundle(folder / "network")
    assert bundle.arch == architecture
    accuracy = float((predicted == labels).float().mean())
    assert bundle.metadata["test_accuracy"] == pytest.approx(accuracy)
    return accuracy


@pytest.mark.exhaustive
def test_the_same_seed_gives_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = SimpleNamespace(max_difference=0.0)  # exporting takes half the time, and no random number
    monkeypatch.setattr("spacelang.cli.demo_run.export_onnx", lambda *_, **__: exported)
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(["demo", "--quick", "--directory", str(tmp_path / name), "--seed", seed]) == 0
    for file in ("network/model.safetensors", "architectures/1.yaml", "cells.svg"):
        a, b, c = (digest(tmp_path / name / file) for name in "abc")
        assert a == b, file
        assert a != c, file


def test_a_folder_that_holds_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--directory", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "already holds files" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main(["demo", "--quick", "--directory", str(tmp_path / "file" / "run")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_name_the_first_free_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spacelang.cli.demo import _free_folder

    monkeypatch.chdir(tmp_path)
    assert _free_folder() == Path("spacelang-demo")
    for name in ("spacelang-demo", "spacelang-demo-2"):
        Path(name).mkdir()
    assert _free_folder() == Path("spacelang-demo-3")


def test_ctrl_c_gives_one_line_and_status_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spacelang", "demo", "--directory", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "epoch 1/" in line:  # in the middle of the search
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        lines = [line for line in process.stderr.read().splitlines() if line.strip()]
        said = [line for line in lines if "compiling native kernels" not in line]  # in an empty cache
        status = process.wait(timeout=60)
    assert (said, status) == (["spacelang: interrupted"], 130)
