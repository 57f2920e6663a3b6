"""One-shot search, from its seed to its results."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import DivergenceError, SpaceError
from ..files import remove_leftovers
from ..language import Architecture, Space, require_decided
from ..randomness import seed_global_generators, torch_generators_kept
from ..results.course import read_course
from ..supernet import ExecutionName, Supernet
from ..trials import TrainingEvaluator
from .protocols import OneShotStrategy, Search, SearchEvaluator
from .report_file import ReportFile
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
        execution: How supernets compute; see `spacelang.supernet.Execution`.
        checkpoint: Whether supernets compute cells again in the backward pass.
    """

    def __init__(
        self,
        space: Space,
        evaluator: SearchEvaluator,
        strategy: OneShotStrategy,
        directory: Path,
        seed: int,
        execution: ExecutionName,
        checkpoint: bool,
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
        self._report = ReportFile(self._folder, space)
        self._result: tuple[Supernet, Search] | None = None
        with torch_generators_kept():  # refuses now, before any work, a space it cannot search
            supernet = strategy.supernet(space)
            supernet.execute(execution)
            supernet.set_checkpoint(checkpoint)
            strategy.attach(supernet)
        self._checkpoint = checkpoint
        self.execution = supernet.resolved_execution()

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

        from .epoch_record import write_end

        if is_first_process():
            record = {**record, "execution": self.execution}
            self._folder.begin(record, resume=resume, begun=self._folder.checkpoint().exists())
            remove_leftovers(self._folder.checkpoint().parent)
            self._folder.write_decisions(self.space.decision_space)
        with self._report.running() if is_first_process() else nullcontext():
            self._result = self._run_stages(resume=resume)
            search = self._result[1]
            summary = search.summary()
            why = str(summary.get("stopped", ""))
            if is_first_process():
                self._folder.write_summary(summary)
                self._folder.write_architectures(search.derive(1))
                write_end(self._folder.epochs, search, why)
        rank_zero_info(finished(self._folder.root, why))

    def _run_stages(self, *, resume: bool, here: bool = False) -> tuple[Supernet, Search]:
        search = None
        for stage in range(self.strategy.stages):
            try:
                supernet, search = self._run_stage(stage, search, resume=resume, here=here)
            except DivergenceError as error:
                raise self._diverged(str(error), stage) from error
        assert search is not None
        return supernet, search

    def ranked(self, count: int) -> list[Architecture]:
        """Return the best architectures, best first."""
        return self.result[1].derive(count)

    def derived(self, strategy: OneShotStrategy, count: int) -> list[Architecture]:
        """Return the best architectures of the finished search in the folder, as another strategy derives.

        Raises:
            SpaceError: The folder holds no finished search, or it ran in processes of their own.
        """
        if not read_course(self._folder.epochs).ended or self._folder.divergence:
            raise SpaceError(
                f"the folder {str(self._folder.root)!r} holds no finished search to derive from; call "
                "experiment.run(), or experiment.run(resume=True)."
            )
        again = copy.copy(self)
        again.strategy = strategy
        with torch_generators_kept():
            strategy.attach(strategy.supernet(self.space))  # refuses a derivation that does not fit
        _, search = again._run_stages(resume=True, here=True)
        return search.derive(count)

    def instance(self, arch: Architecture) -> nn.Module:
        """Return a plain model that begins with the supernet's weights."""
        return self.result[0].freeze(arch)

    def _run_stage(
        self, stage: int, previous: Search | None, *, resume: bool, here: bool
    ) -> tuple[Supernet, Search]:
        """Train the supernet of a stage, or load it when a later stage was begun.

        Args:
            stage: Number of the stage.
            previous: Search of the stage before.
            resume: Whether to continue from the checkpoint.
            here: Whether the search itself is needed, and not its checkpoint alone.
        """
        seed_global_generators(self.seed, stage)
        supernet = self.strategy.supernet(self.space, stage)
        supernet.execute(self.execution)
        supernet.set_checkpoint(self._checkpoint)
        search = self.strategy.attach(supernet, seed=self.seed, stage=stage, previous=previous)
        later = stage + 1 < self.strategy.stages and self._folder.checkpoint(stage + 1).exists()
        if (resume and later) or _ran_elsewhere(self._fit(supernet, search, stage, resume=resume)):
            if here and not later:
                raise SpaceError(
                    "the Trainer's processes are gone with what they have derived; pass strategy='ddp', or "
                    "one device."
                )
            self._load(supernet, search, stage)
        return supernet, search

    def _diverged(self, why: str, stage: int) -> DivergenceError:
        """Note in the run folder that a stage diverged; return the error, with the way back."""
        from .checkpoint import load_checkpoint

        if is_first_process():
            self._folder.write_divergence(why)
        path, folder = self._folder.checkpoint(stage), str(self._folder.root)
        if not path.exists():
            return DivergenceError(f"the search stopped. {why} Nothing was trained or saved before.")
        return DivergenceError(
            f"the search stopped. {why} The last good checkpoint is {path}, the beginning of epoch "
            f"{load_checkpoint(path)['epoch']}. To go back to it, remove the cause (a smaller learning rate, "
            f"gradient_clip_val=..., other data), then call Experiment(..., directory={folder!r}).run("
            "resume=True): settings of the evaluator and the strategy may be others than before."
        )

    def _fit(self, supernet: Supernet, search: Any, stage: int, *, resume: bool) -> Trainer:
        from .checkpoint import AtomicCheckpointIO, EpochCheckpoint, FinalCheckpoint
        from .epoch_record import EpochRecord
        from .learning_rates import PresentLearningRates
        from .logged_result import LoggedResult
        from .seeded_epochs import SeededEpochs

        path = self._folder.checkpoint(stage)
        resume = resume and path.exists()
        if resume:
            # Pruned candidates must go before Lightning fits the checkpoint's weights to the supernet.
            self._restore(supernet, search, path)
        # In this order: at the start of an epoch save, seed, search; at its end search, record; at the end of
        # training search, save.
        callbacks = [
            *(EpochCheckpoint(path), PresentLearningRates(), SeededEpochs(self.seed, stage)),
            *(search, FinalCheckpoint(path)),
            EpochRecord(self._folder.epochs, search, supernet, stage, self._report.update),
        ]
        if stage + 1 == self.strategy.stages:
            callbacks.append(LoggedResult(search, self.space))
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
        state = self._restore(supernet, search, self._folder.checkpoint(stage))  # prunes, so that weights fit
        self.evaluator.lightning_module(supernet).load_state_dict(state["state_dict"])

    def _restore(self, supernet: Supernet, search: Search, path: Path) -> dict[str, Any]:
        """Restore a search from a checkpoint that has everything; return the checkpoint."""
        from .checkpoint import lacking_explained, load_checkpoint, require_weights, search_state

        checkpoint = load_checkpoint(path)
        with lacking_explained(path):
            search.load_state_dict(search_state(checkpoint, search.state_key, path))
        require_weights(checkpoint, self.evaluator.lightning_module(supernet), path)
        return checkpoint


def is_first_process() -> bool:
    """Return whether this is the process that writes: the first of a distributed run."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def _ran_elsewhere(trainer: Trainer) -> bool:
    """Return whether training ran in processes of its own, whose results are only in the checkpoint."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
