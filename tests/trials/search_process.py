"""A search in a process of its own, to be killed; it says `begin` when it begins.

python search_process.py DIRECTORY in-process|fork|forkserver|spawn TRIALS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def _pool(method: Any) -> Any:
    from spacelang.trials import ProcessPool

    return ProcessPool(2 if method == "fork" else 1, start_method=method)


def main() -> None:
    import toy

    from spacelang import Experiment
    from spacelang.evaluators import Functional
    from spacelang.strategies.multi_trial import Random
    from spacelang.trials import InProcess

    directory, executor, count = sys.argv[1:]
    experiment = Experiment(
        toy.Chain(5),
        Functional(toy.slow),
        Random(),
        directory=directory,
        max_trials=int(count),
        executor=InProcess() if executor == "in-process" else _pool(executor),
    )
    print("begin", flush=True)
    experiment.run(resume=True)


if __name__ == "__main__":
    main()
