"""Experiment: a space, an evaluator and a strategy become a run folder and architectures."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..errors import SpaceError
from ..folders import fresh_run_folder
from ..language import Architecture, ModelSpace, is_frozen
from ..supernet import Supernet
from ._folder import RunFolder, versions
from ._protocols import OneShotStrategy, Search, TrainingEvaluator

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Experiment:
    """One search, from its seed to its results.

    Everything random comes from `seed`: the supernet's first weights (the space is rebuilt for that), the
    logits, the order of batches, dropout. The space, the evaluator, the strategy and the caller's global
    generators are left as they were. A killed run loses at most the epoch it was in; resumed, it ends as
    it would have ended (on a CPU bit for bit, with the same number of threads).

    Args:
        space: what is searched.
        evaluator: trains the supernet: `Classification`, or `Lightning` around any LightningModule.
        strategy: how it is searched, such as `DARTS()`.
        directory: the run folder; nothing is written elsewhere. Default: a new one below the cache
            folder, `$SPACELANG_CACHE` or `~/.cache/spacelang`; `experiment.directory` names it.
        seed: of everything random, at least 0.

    Raises:
        SpaceError: an argument of the wrong kind, or a strategy that cannot search this space.
    """

    def __init__(
        self,
        space: ModelSpace,
        evaluator: Any,
        strategy: Any,
        *,
        directory: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        _check_arguments(space, evaluator, strategy, seed)
        self.space = space
        self.evaluator: TrainingEvaluator = evaluator
        self.strategy: OneShotStrategy = strategy
        self.seed = seed
        self._folder = RunFolder(
            Path(directory).expanduser() if directory is not None else fresh_run_folder(), strategy.stages
        )
        self._result: tuple[Supernet, Search] | None = None
        with torch.random.fork_rng(devices=[]):  # what cannot be searched is refused before any work
            strategy.attach(strategy.supernet(space))

    @property
    def directory(self) -> Path:
        """The run folder."""
        return self._folder.root

    def run(self, resume: bool = False) -> None:
        """Search.

        Args:
            resume: continue the run in `directory` from its last checkpoint. A finished run is loaded; if
                nothing was run there, the run begins.

        Raises:
            SpaceError: the folder holds a run and `resume` is false, or another run.
        """
        from lightning.pytorch.utilities import rank_zero_info
        from lightning.pytorch.utilities.seed import isolate_rng

        from ._checkpoint import remove_leftovers

        with isolate_rng():
            if _is_first_process():
                self._folder.begin(self._record(), resume=resume)
                remove_leftovers(self._folder.checkpoint().parent)
            search = None
            for stage in range(self.strategy.stages):
                supernet, search = self._run_stage(stage, search, resume=resume)
            assert search is not None
        self._result = supernet, search
        if _is_first_process():
            self._folder.write_summary(search.summary())
            self._folder.write_architectures(search.derive(1))
        rank_zero_info(
            f"Search finished; its run folder is {str(self.directory)!r}. experiment.best is what it found."
        )

    def export_top_models(self, top_k: int = 1, formatter: Literal["dict", "instance"] = "dict") -> list[Any]:
        """The best architectures, best first, without duplicates.

        Args:
            top_k: how many; fewer are returned when the space has fewer.
            formatter: "dict" for architecture dicts, "instance" for plain modules that begin with the
                supernet's weights. Those were trained as parts of a mixture: train an instance before
                you judge it.

        Raises:
            SpaceError: nothing was run yet, or an unknown formatter.
        """
        if formatter not in ("dict", "instance"):
            raise SpaceError(f"formatter={formatter!r}; expected 'dict' or 'instance'.")
        supernet, search = self._finished()
        archs = search.derive(top_k)
        return archs if formatter == "dict" else [supernet.freeze(arch) for arch in archs]

    @property
    def best(self) -> Architecture:
        """The best architecture."""
        best: Architecture = self.export_top_models(1)[0]
        return best

    @property
    def supernet(self) -> Supernet:
        """The trained supernet."""
        return self._finished()[0]

    @property
    def search(self) -> Search:
        """The search that was run: its probabilities, history and schedule."""
        return self._finished()[1]

    def _finished(self) -> tuple[Supernet, Search]:
        if self._result is None:
            raise SpaceError(
                "nothing was searched yet: call experiment.run(), or experiment.run(resume=True) to load the "
                f"run in {self.directory}."
            )
        return self._result

    # -- steps -----------------------------------------------------------------------------------------

    def _run_stage(self, stage: int, previous: Search | None, *, resume: bool) -> tuple[Supernet, Search]:
        """Train the supernet of a stage, or load it when a later stage was begun."""
        from ._seeding import seed_generators

        seed_generators(self.seed, stage)
        supernet = self.strategy.supernet(self.space, stage)
        search = self.strategy.attach(supernet, seed=self.seed, stage=stage, previous=previous)
        later = stage + 1 < self.strategy.stages and self._folder.checkpoint(stage + 1).exists()
        if not (resume and later) and not _ran_elsewhere(self._fit(supernet, search, stage, resume=resume)):
            return supernet, search
        self._load(supernet, search, stage)
        return supernet, search

    def _fit(self, supernet: Supernet, search: Any, stage: int, *, resume: bool) -> Trainer:
        from ._checkpoint import AtomicCheckpointIO, EpochCheckpoint, FinalCheckpoint, load_checkpoint
        from ._seeding import SeededEpochs

        path = self._folder.checkpoint(stage)
        resume = resume and path.exists()
        if resume:
            # Pruned candidates must go before Lightning fits the checkpoint's weights to the supernet.
            search.load_state_dict(load_checkpoint(path)["callbacks"][search.state_key])
        # In this order: at the start of an epoch save, seed, search; at the end of training search, save.
        callbacks = [EpochCheckpoint(path), SeededEpochs(self.seed, stage), search, FinalCheckpoint(path)]
        with warnings.catch_warnings():
            # Lightning counts steps to see where a checkpoint was taken, and epochs may differ in steps.
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch")
            return self.evaluator.fit(
                supernet,
                callbacks=callbacks,
                directory=self.directory,
                ckpt_path=path if resume else None,
                checkpoint_io=AtomicCheckpointIO(),
                strategy_hint="ddp_find_unused_parameters_true" if self.strategy.samples_paths else None,
            )

    def _load(self, supernet: Supernet, search: Search, stage: int) -> None:
        """Take over the end of a stage from its last checkpoint."""
        from ._checkpoint import load_checkpoint

        state = load_checkpoint(self._folder.checkpoint(stage))
        search.load_state_dict(state["callbacks"][search.state_key])  # prunes, so that weights fit
        self.evaluator.lightning_module(supernet).load_state_dict(state["state_dict"])

    def _record(self) -> dict[str, Any]:
        """What is written to experiment.yaml."""
        return {
            "space": _described_space(self.space),
            "strategy": _described(self.strategy),
            "evaluator": _described(self.evaluator),
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


def _check_arguments(space: object, evaluator: object, strategy: object, seed: object) -> None:
    if not isinstance(space, ModelSpace) or is_frozen(space):
        what = (
            f"{type(space).__name__} with nothing to choose" if isinstance(space, ModelSpace) else repr(space)
        )
        raise SpaceError(f"the first argument of Experiment is the space to search; got {what}.")
    if isinstance(strategy, type):
        raise SpaceError(
            f"the strategy is the class {strategy.__name__}; give an object: {strategy.__name__}()."
        )
    if not isinstance(strategy, OneShotStrategy):
        raise SpaceError(
            f"the third argument of Experiment is a strategy, such as spacelang.strategies.DARTS(); "
            f"got {strategy!r}."
        )
    if not isinstance(evaluator, TrainingEvaluator):
        raise SpaceError(
            f"{type(strategy).__name__} trains a supernet, which {type(evaluator).__name__} cannot; "
            "give a Classification or a Lightning of spacelang.evaluators as the second argument."
        )
    if type(seed) is not int or seed < 0:
        raise SpaceError(f"seed={seed!r} must be an integer of at least 0.")


def _is_first_process() -> bool:
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def _ran_elsewhere(trainer: Trainer) -> bool:
    """Whether training ran in processes of its own, whose results are in the checkpoint only."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def _described_space(space: ModelSpace) -> dict[str, Any]:
    decisions = "".join(map(repr, space.decisions))
    return {
        "class": f"{type(space).__module__}.{type(space).__qualname__}",
        "arguments": {name: _plain(value) for name, value in space.arguments.items()},
        "decisions": hashlib.sha256(decisions.encode()).hexdigest(),
    }


def _described(part: Any) -> dict[str, Any]:
    """Class and settings of a strategy or evaluator, as far as they are plain values."""
    description: dict[str, Any] = {"class": f"{type(part).__module__}.{type(part).__qualname__}"}
    if dataclasses.is_dataclass(part):
        description |= {field.name: _plain(getattr(part, field.name)) for field in dataclasses.fields(part)}
    if hasattr(part, "max_epochs"):
        description["max_epochs"] = part.max_epochs
    return description


def _plain(value: object) -> Any:
    """What YAML can hold of a value: itself, or its type's name."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return f"<{type(value).__qualname__}>"
