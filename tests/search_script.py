"""A small search on digits: made by tests in their process, and a script to be killed or distributed.

python tests/search_script.py DIRECTORY OUTPUT.json STRATEGY [resume] [ddp]
"""

from __future__ import annotations

import json
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
    **trainer: Any,
) -> Any:
    """Experiment over three cells on 192 digits: 3 training batches an epoch."""
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
    space = DartsSpace(4, 3, (1, 8, 10), num_nodes=2, drop_path_prob=0.2)
    return Experiment(space, evaluator, method or DARTS(learning_rate=0.01), directory=directory, seed=seed)


def strategies() -> dict[str, Any]:
    """Every strategy by a short name, with settings that make it act within three epochs."""
    from spacelang.strategies import DARTS, GDAS, SGAS, GumbelDARTS

    return {
        "darts": DARTS(learning_rate=0.01),
        "darts-2": DARTS(order=2, learning_rate=0.01),
        "sgas": SGAS(learning_rate=0.01, criterion=2, first_decision=0, period=1),
        "gumbel": GumbelDARTS(learning_rate=0.01),
        "gdas": GDAS(learning_rate=0.01),
    }


def outcome(experiment: Any) -> dict[str, Any]:
    """Everything a search ends with, bit for bit."""
    state = experiment.search.state_dict()
    weights = experiment.supernet.state_dict()
    return {
        "arch": experiment.best,
        "logits": {label: p.tolist() for label, p in state["logits"].items()},
        "moments": {label: {k: v.tolist() for k, v in m.items()} for label, m in state["moments"].items()},
        "history": {label: h.tolist() for label, h in state["history"].items()},
        "weights": [float(value.double().sum()) for value in weights.values()],
    }


def main() -> None:
    """Run as the command line says and write the outcome of this rank."""
    directory, output, name, *flags = sys.argv[1:]
    torch.set_num_threads(1)
    distributed = {"strategy": "ddp", "devices": 2} if "ddp" in flags else {}
    experiment = make(Path(directory), method=strategies()[name], **distributed)
    experiment.run(resume="resume" in flags)
    import os

    rank = os.environ.get("LOCAL_RANK", "0")
    Path(output.replace("RANK", rank)).write_text(json.dumps(outcome(experiment)))


if __name__ == "__main__":
    main()
