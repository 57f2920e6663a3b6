"""Plug-ins of other packages are found by entry points, used like our own, listed, and named when broken."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

import spacelang.strategies
from spacelang.cli import main
from spacelang.errors import SpaceError
from spacelang.plugins import plugins

SOURCE = '''
from dataclasses import dataclass
from spacelang.strategies import Random

@dataclass(frozen=True, kw_only=True)
class Tabu(Random):
    """Strategy of a plug-in.

    Args:
        memory: Length of the list.
    """

    memory: int = 7
'''
ENTRIES = """
[spacelang.strategies]
Tabu = tiny_plugin:Tabu
Broken = tiny_plugin_absent:Broken
DARTS = tiny_plugin:Tabu

[spacelang.hub]
TinySpace = tiny_plugin:Tabu
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package as pip would: a module, and a dist-info with entry points."""
    (tmp_path / "tiny_plugin.py").write_text(SOURCE)
    record = tmp_path / "tiny_plugin-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield
    for name in ("Tabu", "Broken"):
        vars(spacelang.strategies).pop(name, None)


@pytest.mark.usefixtures("installed")
def test_a_plugin_is_a_name_of_its_package() -> None:
    from spacelang.strategies import Tabu  # type: ignore[attr-defined]

    assert Tabu(memory=3).memory == 3
    assert "Tabu" in dir(spacelang.strategies)
    assert not {"Tabu", "TinySpace"} & {*plugins("spacelang.evaluators"), *plugins("spacelang")}


@pytest.mark.usefixtures("installed")
def test_our_own_names_come_first() -> None:
    assert import_module("spacelang.strategies").DARTS.__module__.startswith("spacelang.")


@pytest.mark.usefixtures("installed")
def test_a_broken_plugin_is_named() -> None:
    with pytest.raises(SpaceError, match=r"'Broken' .* package 'tiny-plugin' cannot be imported"):
        _ = spacelang.strategies.Broken  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="Closest: 'Tabu'"):
        _ = spacelang.strategies.Tabbu  # type: ignore[attr-defined]


@pytest.mark.usefixtures("installed")
def test_a_configuration_may_name_it(tmp_path: Path) -> None:
    from spacelang.cli.configuration import read_configuration

    configuration = read_configuration(None, ["--strategy=Tabu", "--strategy.memory", "9"])
    assert configuration.make("strategy").memory == 9
    with pytest.raises(SpaceError, match="tiny-plugin"):
        read_configuration(None, ["--strategy=Broken"])


@pytest.mark.usefixtures("installed")
def test_list_shows_plugins_and_our_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0]: line.split()[1:] for line in lines if "tiny-plugin" in line}
    assert told["Tabu"] == ["spacelang.strategies", "tiny-plugin", "ok"]
    assert told["TinySpace"] == ["spacelang.hub", "tiny-plugin", "ok"]
    assert "cannot be imported" in " ".join(told["Broken"])
    whole = " ".join(" ".join(lines).split())
    assert "Random, RandomOneShot, RegularizedEvolution" in whole
    assert "NASBench201" in whole
    assert "Differentiable" not in whole
