"""A small search on digits: made by tests in their process, and a script to be killed or distributed.

python tests/toys/search_script.py DIRECTORY OUTPUT.json STRATEGY[,STRATEGY...] [resume] [ddp] [torch]

NAME in the paths stands for the strategy, RANK for the process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch


def make(
    directory: Path,
    *,
    epochs: int = 3,
    seed: int = 0,
    callbacks: Any = (),
    method: Any = None,
    space: Any = None,
    checkpoint: bool = False,
    execution: Any = "auto",
    **trainer: Any,
) -> Any:
    """Experiment over three cells, or a given space, on 192 digits: 3 training batches an epoch."""
    from spacelang import Experiment
    from spacelang.evaluators import DartsTrainingModule, Lightning
    from spacelang.evaluators.data import digits, search_loaders
    from spacelang.hub import DARTS as DartsSpace
    from spacelang.strategies import DARTS

    subset = torch.utils.data.Subset(digits(seed=0).train, range(192))
    train, val = search_loaders(subset, batch_size=32, seed=0)
    module = DartsTrainingModule(auxiliary_loss_weight=0.0, max_epochs=epochs, eta_min=1e-3)
    settings = {
        "accelerator": "cpu",
        "max_epochs": epochs,
        "gradient_clip_val": 5.0,
        "callbacks": list(callbacks),
    }
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    evaluator = Lightning(module, train_dataloaders=train, val_dataloaders=val, **(settings | trainer))
    space = space or DartsSpace(4, 3, (1, 8, 10), num_nodes=2, drop_path_prob=0.2)
    method = method or DARTS(learning_rate=0.01)
    settings = {"seed": seed, "checkpoint": checkpoint, "execution": execution}
    return Experiment(space, evaluator, method, directory=directory, **settings)


def strategies() -> dict[str, Any]:
    """Every strategy by a short name, with settings that make it act within three epochs."""
    from spacelang.strategies import (
        DARTS,
        DARTSPT,
        ENAS,
        GAEAPCDARTS,
        GDAS,
        PCDARTS,
        PDARTS,
        SDARTS,
        SETN,
        SGAS,
        SMASH,
        SNAS,
        SPOS,
        DrNAS,
        DropNAS,
        EdgeDropout,
        EntropyPenalty,
        GumbelDARTS,
        Monitor,
        OperationDropout,
        OperationStrength,
        Penalty,
        ProxylessNAS,
        RandomOneShot,
        ScheduledDropPath,
        SkipDropout,
        ZODARTSPlus,
    )

    extras = (
        Monitor(eigenvalue=True, every=2),
        EntropyPenalty((0.0, 0.1)),
        OperationDropout((0.3, 0.1)),
        EdgeDropout((0.1, 0.3)),
        ScheduledDropPath(0.3),
        SkipDropout(0.5, warmup_epochs=1),
    )
    gates = {"learning_rate": 0.1, "warmup_epochs": 1, "update_every": 1}
    flops = Penalty("flops", 1.5e5, form="log", combine="multiply", example_inputs=torch.zeros(1, 1, 8, 8))
    few = {"calibration_batches": 2, "validation_batches": 2}
    return {
        "darts": DARTS(learning_rate=0.01),
        "darts-2": DARTS(order=2, learning_rate=0.01),
        "darts-extras": DARTS(learning_rate=0.01, extras=extras),
        "pdarts": PDARTS(
            learning_rate=0.01,
            overrides=({}, {"num_cells": 3}),
            drops=(3,),
            skip_dropout=(0.1, 0.4),
            warmup_epochs=1,
        ),
        "pcdarts": PCDARTS(learning_rate=0.01, partial=2, warmup_epochs=1),
        "drnas": DrNAS(learning_rate=0.01, warmup_epochs=0, weight_decay=0.0, kl_weight=1e-3),
        "drnas-stages": DrNAS(learning_rate=0.01, warmup_epochs=1, partial_channels=(2, 1), operations=(3,)),
        "sgas": SGAS(learning_rate=0.01, criterion=2, first_decision=0, period=1),
        "gumbel": GumbelDARTS(learning_rate=0.01),
        "gdas": GDAS(learning_rate=0.01),
        "proxyless": ProxylessNAS(**gates),
        "proxyless-two": ProxylessNAS(gates="two", **gates, extras=(flops,)),
        "penalty": DARTS(learning_rate=0.01, extras=(Penalty("params", 4000.0, weight=1.0),)),
        "strength": DARTS(learning_rate=0.01, derive=OperationStrength(signed=True)),
        "dartspt": DARTSPT(learning_rate=0.01, search_epochs=1, interval=1, metric="val_acc", mode="max"),
        "dropnas": DropNAS(learning_rate=0.01, drop=0.01),
        "gaea": GAEAPCDARTS(partial=2, entropy_weight=0.01),
        "sdarts": SDARTS(learning_rate=0.01, perturbation="adversarial", steps=2),
        "snas": SNAS(learning_rate=0.01),
        "setn": SETN(learning_rate=0.01, candidates=3),
        "zodarts": ZODARTSPlus(rounds=2),
        "random": RandomOneShot(candidates=4, first_batches=1, finalists=2, **few),
        "spos": SPOS(population=4, generations=2, parents=2, mutations=2, crossovers=1, **few),
        "smash": SMASH(candidates=3, perturbations=1, chain=1, **few),
        "enas": ENAS(controller_steps=2, samples=2, candidates=3, **few, metric="val_acc", mode="max"),
    }


def elastic_strategies() -> dict[str, Any]:
    """Strategies that search sizes, for `elastic_space`."""
    from spacelang.strategies import Opening, ProgressiveShrinking, Sandwich

    few = {"calibration_batches": 1, "validation_batches": 1, "candidates": 1}
    return {
        "sandwich": Sandwich(random=1, **few),
        "shrinking": ProgressiveShrinking(phases=(Opening("*_exp", networks=2), Opening("*")), **few),
    }


def further_strategies() -> dict[str, Any]:
    """Strategies that are like others when they are interrupted; two processes have to agree all the same."""
    from spacelang.strategies import (
        DARTS,
        DSNAS,
        GAEA,
        GAEAGDAS,
        RDARTS,
        ZODARTS,
        DARTSMinus,
        DenseNAS,
        FairDARTS,
        Judge,
        MetAdapt,
        ZODARTSPlusPlus,
    )

    return {
        "judge": DARTS(learning_rate=0.01, derive=Judge(3, validation_batches=1)),
        "gaea-plain": GAEA(),
        "zodarts-plain": ZODARTS(rounds=2),
        "metadapt": MetAdapt(embedding=10, learning_rate=0.01),  # each batch is a task
        "fairdarts": FairDARTS(learning_rate=0.1),
        "dartsminus": DARTSMinus(learning_rate=0.01),
        "dsnas": DSNAS(learning_rate=0.01),
        "rdarts": RDARTS(learning_rate=0.01),
        "gaeagdas": GAEAGDAS(warmup_epochs=1),
        "zodartsplusplus": ZODARTSPlusPlus(rounds=2, opened=1),
        "densenas": DenseNAS(cost="params", warmup_epochs=1),
    }


def every_strategy() -> dict[str, Any]:
    """All of them: every public strategy, some in several forms."""
    return strategies() | elastic_strategies() | further_strategies()


def space_of(name: str) -> Any:
    """Return the space that a strategy is made for; None for those of cells."""
    from spacelang.hub import DenseNAS, FairDARTS, StagedCells

    if name in elastic_strategies():
        return elastic_space()
    if name == "fairdarts":
        return FairDARTS(2, 3, (1, 8, 10), num_nodes=2)
    if name == "zodartsplusplus":
        return StagedCells(2, 2, (1, 8, 10))
    if name == "densenas":
        blocks = ((0, 8, 4), (1, 8, 4, 1), (1, 8, 4))
        return DenseNAS(blocks, 10, last_channels=8, in_channels=1, affine=False)
    return None


def elastic_space() -> Any:
    """Five inverted residuals with kernels and expansions to choose."""
    from spacelang.hub import OnceForAll

    sizes = {"kernel_sizes": (3, 5), "expand_ratios": (1, 2), "depths": (1,)}
    return OnceForAll(10, width_multiplier=0.1, in_channels=1, **sizes)


def outcome(experiment: Any) -> dict[str, Any]:
    """Everything a search ends with, bit for bit."""
    weights = experiment.supernet.state_dict()
    return {
        "arch": experiment.best,
        "search": plain(experiment.search.state_dict()),
        "weights": [float(value.double().sum()) for value in weights.values()],
    }


def plain(state: Any) -> Any:
    """What JSON can hold of a state, bit for bit."""
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {str(key): plain(value) for key, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, list | tuple) else state


def main() -> None:
    """Run the strategies named on the command line in turn and write the outcomes of this rank."""
    directory, output, names, *flags = sys.argv[1:]
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"strategy": "ddp", "devices": 2} if "ddp" in flags else {}
    settings["execution"] = "torch" if "torch" in flags else "auto"
    methods = every_strategy()
    for name in names.split(","):
        folder = Path(directory.replace("NAME", name))
        experiment = make(folder, method=methods[name], space=space_of(name), **settings)
        experiment.run(resume="resume" in flags)
        path = output.replace("RANK", os.environ.get("LOCAL_RANK", "0")).replace("NAME", name)
        Path(path).write_text(json.dumps(outcome(experiment)))


if __name__ == "__main__":
    main()
