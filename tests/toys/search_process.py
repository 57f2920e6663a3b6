"""A search in a process of its own, to be killed; it says `begin` when it begins.

python search_process.py DIRECTORY in-process|fork|forkserver|spawn|ADDRESS_OF_A_RAY_CLUSTER TRIALS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def _executor(name: Any) -> Any:
    from spacelang.trials import InProcess, ProcessPool, RayExecutor

    if name == "in-process":
        return InProcess()
    if name not in ("fork", "forkserver", "spawn"):
        return RayExecutor(1, address=name)
    return ProcessPool(2 if name == "fork" else 1, start_method=name)


def main() -> None:
    import trials as toy

    from spacelang import Experiment
    from spacelang.evaluators import Functional
    from spacelang.strategies.multi_trial import Random

    directory, executor, count = sys.argv[1:]
    experiment = Experiment(
        toy.Chain(5),
        Functional(toy.slow),
        Random(),
        directory=directory,
        max_trials=int(count),
        executor=_executor(executor),
    )
    print("begin", flush=True)
    experiment.run(resume=True)


if __name__ == "__main__":
    main()
