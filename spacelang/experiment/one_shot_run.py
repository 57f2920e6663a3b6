"""One-shot search, from its seed to its results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import SpaceError
from ..language import Architecture, Space, require_decided
from ..randomness import seed_global_generators, torch_generators_kept
from ..supernet import Supernet
from ..trials import TrainingEvaluator
from .protocols import OneShotStrategy, Search
from .run_folder import RunFolder, finished

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class OneShotRun:
    """A search that trains supernets, stage by stage, while the strategy searches.

    A killed run loses at most the epoch it was in; resumed, it ends as it would have ended (on a CPU bit
    for bit, with the same number of threads).

    Args:
        space: Space to search.
        evaluator: Trains the supernets.
        strategy: Derives architectures from them.
        directory: Run folder.
        seed: Seeds every random draw of the search.
    """

    def __init__(
        self,
        space: Space,
        evaluator: TrainingEvaluator,
        strategy: OneShotStrategy,
        directory: Path,
        seed: int,
    ) -> None:
        if not isinstance(evaluator, TrainingEvaluator):
            raise SpaceError(
                f"{type(strategy).__name__} needs an evaluator that can train a supernet; got "
                f"{type(evaluator).__name__}. Pass a Classification or a Lightning of spacelang.evaluators."
            )
        require_decided(
            evaluator,
            f"{type(strategy).__name__} trains one supernet in one way; search them with a multi-trial "
            "strategy, such as RegularizedEvolution(), or pass",
        )
        self.space = space
        self.evaluator = evaluator
        self.strategy = strategy
        self.seed = seed
        self._folder = RunFolder(directory, strategy.stages)
        self._result: tuple[Supernet, Search] | None = None
        with torch_generators_kept():  # refuses now, before any work, a space it cannot search
            strategy.attach(strategy.supernet(space))

    @property
    def result(self) -> tuple[Supernet, Search]:
        """The trained supernet and its search.

        Raises:
            SpaceError: Nothing was run yet.
        """
        if self._result is None:
            raise SpaceError(
                "nothing was searched yet: call experiment.run(), or experiment.run(resume=True) to load the "
                f"run in {self._folder.root}."
            )
        return self._result

    def run(self, record: Mapping[str, Any], *, resume: bool) -> None:
        """Search; `record` describes the run."""
        from lightning.pytorch.utilities import rank_zero_info

        from .checkpoint import remove_leftovers

        if is_first_process():
            self._folder.begin(record, resume=resume, begun=self._folder.checkpoint().exists())
            remove_leftovers(self._folder.checkpoint().parent)
        search = None
        for stage in range(self.strategy.stages):
            supernet, search = self._run_stage(stage, search, resume=resume)
        assert search is not None
        self._result = supernet, search
        summary = search.summary()
        if is_first_process():
            self._folder.write_summary(summary)
            self._folder.write_architectures(search.derive(1))
        rank_zero_info(finished(self._folder.root, str(summary.get("stopped", ""))))

    def ranked(self, count: int) -> list[Architecture]:
        """Return the best architectures, best first."""
        return self.result[1].derive(count)

    def instance(self, arch: Architecture) -> nn.Module:
        """Return a plain model that begins with the supernet's weights."""
        return self.result[0].freeze(arch)

    def _run_stage(self, stage: int, previous: Search | None, *, resume: bool) -> tuple[Supernet, Search]:
        """Train the supernet of a stage, or load it when a later stage was begun."""
        seed_global_generators(self.seed, stage)
        supernet = self.strategy.supernet(self.space, stage)
        search = self.strategy.attach(supernet, seed=self.seed, stage=stage, previous=previous)
        later = stage + 1 < self.strategy.stages and self._folder.checkpoint(stage + 1).exists()
        if (resume and later) or _ran_elsewhere(self._fit(supernet, search, stage, resume=resume)):
            self._load(supernet, search, stage)
        return supernet, search

    def _fit(self, supernet: Supernet, search: Any, stage: int, *, resume: bool) -> Trainer:
        from .checkpoint import AtomicCheckpointIO, EpochCheckpoint, FinalCheckpoint, load_checkpoint
        from .seeded_epochs import SeededEpochs

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
                directory=self._folder.root,
                ckpt_path=path if resume else None,
                checkpoint_io=AtomicCheckpointIO(),
                unused_parameters=self.strategy.samples_paths,
            )

    def _load(self, supernet: Supernet, search: Search, stage: int) -> None:
        """Load the end of a stage from its last checkpoint."""
        from .checkpoint import load_checkpoint

        state = load_checkpoint(self._folder.checkpoint(stage))
        search.load_state_dict(state["callbacks"][search.state_key])  # prunes, so that weights fit
        self.evaluator.lightning_module(supernet).load_state_dict(state["state_dict"])


def is_first_process() -> bool:
    """Return whether this is the process that writes: the first of a distributed run."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def _ran_elsewhere(trainer: Trainer) -> bool:
    """Return whether training ran in processes of its own, whose results are only in the checkpoint."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
