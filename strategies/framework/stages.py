"""State of optimisers and schedulers that continues from one stage to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from spacelang import SpaceError


def optimizer_states(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Return a fit's schedulers, optimiser settings, and moments by parameter name, as plain data."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    optimizers = []
    for optimizer in trainer.optimizers:
        state = optimizer.state_dict()
        order = [names.get(p, "") for group in optimizer.param_groups for p in group["params"]]
        optimizers.append(
            {
                "groups": [_settings(group) for group in state["param_groups"]],
                "moments": {order[i]: _on_cpu(moments) for i, moments in state["state"].items()},
            }
        )
    schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return {"optimizers": optimizers, "schedulers": schedulers}


def load_optimizer_states(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    states: Mapping[str, Any],
    copied: Mapping[str, Mapping[int, Tensor]],
) -> None:
    """Let the optimisers and schedulers of a fit continue where those of another network ended.

    Args:
        trainer: The Trainer that made them, before its first epoch.
        module: Owns the parameters.
        states: Result of `optimizer_states`.
        copied: Entries by name of a larger parameter, for each dimension that grew the old index
            that every new one copies; its moments are copied likewise. Moments that still have another shape
            than their parameter begin again.

    Raises:
        SpaceError: the module made other optimisers than before.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    before, now = states["optimizers"], trainer.optimizers
    if [len(saved["groups"]) for saved in before] != [len(o.param_groups) for o in now] or len(
        states["schedulers"]
    ) != len(trainer.lr_scheduler_configs):
        raise SpaceError(
            f"{type(module).__name__}.configure_optimizers made other optimizers or schedulers than in the "
            "stage before, so they cannot continue; let it make the same in every stage, or begin them again "
            "with carry_optimizers=False."
        )
    for optimizer, saved in zip(now, before, strict=True):
        state = optimizer.state_dict()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for i, parameter in enumerate(parameters):
            name = names.get(parameter, "")
            moments = _grown(saved["moments"].get(name, {}), copied.get(name, {}))
            if moments and all(m.shape in ((), parameter.shape) for m in moments.values() if _is_tensor(m)):
                state["state"][i] = moments
        for group, settings in zip(state["param_groups"], saved["groups"], strict=True):
            group.update(settings)
        optimizer.load_state_dict(state)
    for config, schedule in zip(trainer.lr_scheduler_configs, states["schedulers"], strict=True):
        config.scheduler.load_state_dict(schedule)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


def _on_cpu(moments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: m.detach().cpu().clone() if _is_tensor(m) else m for name, m in moments.items()}


def _grown(moments: Mapping[str, Any], sources: Mapping[int, Tensor]) -> dict[str, Any]:
    grown = dict(moments)
    for name, moment in moments.items():
        if _is_tensor(moment) and moment.dim():
            for dim, indices in sources.items():
                moment = moment.index_select(dim, indices.to(moment.device))
            grown[name] = moment
    return grown


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
