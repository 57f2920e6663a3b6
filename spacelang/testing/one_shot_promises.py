"""The promises of every strategy that trains a supernet."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from ..errors import SpaceError
from ..experiment import Experiment, OneShotStrategy
from ..progress import with_bar
from ..quiet import quiet
from ..space import ModelSpace
from .promises import Conformance, on_space, require, unchanged
from .toy_evaluators import Fit, Regression, example_batch

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")


def check_one_shot(strategy: OneShotStrategy, epochs: int, spaces: Mapping[str, ModelSpace]) -> Conformance:
    """See `check_strategy`."""
    searched: list[str] = []
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, quiet(_LOGGERS, 40):
        for name, space in with_bar(spaces.items(), f"checking {type(strategy).__name__}"):
            with on_space(name), unchanged(space):
                reason = _refusal(strategy, space)
                if reason:
                    refused[name] = reason
                else:
                    _check_search(strategy, space, epochs, Path(folder) / name)
                    searched.append(name)
        require(bool(searched), f"it refuses every space: {refused}")
        name = next((n for n in ("Everything", "Cells") if n in searched), searched[0])
        with on_space(name):
            _check_repeatable(strategy, spaces[name], epochs, Path(folder))
    return Conformance(tuple(searched), refused)


def _refusal(strategy: Any, space: ModelSpace) -> str:
    try:
        _experiment(strategy, space, 2, Path("unused"))
    except SpaceError as error:
        return str(error)
    return ""


def _check_search(strategy: Any, space: ModelSpace, epochs: int, folder: Path) -> None:
    experiment = _experiment(strategy, space, epochs, folder)
    experiment.run()
    supernet = experiment.supernet
    require(
        {id(p) for p in Regression(supernet).parameters()} == {id(p) for p in supernet.network.parameters()},
        "architecture parameters are among the network's",
    )
    archs = experiment.export_top_models(5)
    for arch in archs:
        space.validate(arch)
    distinct = {json.dumps(space.canonical(arch), sort_keys=True) for arch in archs}
    require(len(distinct) == len(archs), "derived architectures repeat")
    require(archs[0] == experiment.best, "the first of five is not the best")
    _check_distributions(experiment)
    _check_frozen(experiment)


def _check_distributions(experiment: Experiment) -> None:
    """Require that a strategy with probabilities has rows that sum to one, where candidates are left."""
    search: Any = experiment.search
    tables = search.distributions() if hasattr(search, "distributions") else {}
    shares = search.edge_shares() if hasattr(search, "edge_shares") else {}
    for label, table in tables.items():
        group = experiment.supernet.groups[label]
        alive = torch.tensor(group.alive, device=table.device)
        what = f"the distribution of {label!r}"
        require(table.shape == alive.shape and bool((table >= 0).all()), f"{what} has negative entries")
        require(not table[~alive].any(), f"{what} has a share for pruned candidates")
        if group.kind == "any_subset":  # independent probabilities of being in the set
            require(bool((table <= 1).all()), f"{what} has entries above one")
        else:
            _require_ones(table.sum(dim=1)[alive.any(dim=1)], f"rows of {what}")
        if label in shares:
            nodes = [list(group.cell.rows_into(node)) for node in group.cell.nodes]
            open_nodes = [rows for rows in nodes if alive[rows].any()]
            sums = [shares[label][rows].sum() for rows in open_nodes]
            _require_ones(torch.stack(sums), f"edge shares of {label!r}")


def _require_ones(sums: torch.Tensor, what: str) -> None:
    require(bool(((sums - 1).abs() < 1e-4).all()), f"{what} sum to {sums.tolist()}, not to one")


def _check_frozen(experiment: Experiment) -> None:
    """Require that a frozen model computes the same as its supernet."""
    supernet, x = experiment.supernet.double().eval(), example_batch()
    frozen = supernet.freeze(experiment.best).eval()
    supernet.select(experiment.best)
    with torch.no_grad():
        difference = float((frozen(x) - supernet(x)).abs().max())
    require(difference < 1e-12, f"the frozen model differs from the supernet by {difference}")


def _check_repeatable(strategy: Any, space: ModelSpace, epochs: int, folder: Path) -> None:
    whole = _experiment(strategy, space, epochs, folder / "whole")
    whole.run()
    again = _experiment(strategy, space, epochs, folder / "again")
    again.run()
    require(_outcome(again) == _outcome(whole), "the same seed gave two results")
    with suppress(_Interruption):
        _experiment(strategy, space, epochs, folder / "stopped", [_Stop(epochs - 1)]).run()
    resumed = _experiment(strategy, space, epochs, folder / "stopped")
    resumed.run(resume=True)
    require(_outcome(resumed) == _outcome(whole), "an interrupted search ended otherwise when resumed")
    for path in (folder / "whole").rglob("*.ckpt"):
        torch.load(path, weights_only=True)


def _experiment(
    strategy: Any, space: ModelSpace, epochs: int, folder: Path, callbacks: Any = ()
) -> Experiment:
    return Experiment(space, Fit(epochs, callbacks), strategy, directory=folder, seed=0)


def _outcome(experiment: Experiment) -> str:
    search: Any = experiment.search
    weights = {name: value.tolist() for name, value in experiment.supernet.state_dict().items()}
    return repr((experiment.best, _plain(search.state_dict()), weights))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class _Interruption(Exception):
    pass


class _Stop(pl.Callback):
    """Raise before the second batch of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise _Interruption
