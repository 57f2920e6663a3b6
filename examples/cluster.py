"""Search by trials on a Ray cluster, with the trials in a database that outlives it.

    ray start --head                    # on one machine; on the others: ray start --address=HOST:6379
    python examples/cluster.py --address auto --ledger postgresql+psycopg://user@host/trials

Without options it starts Ray on this machine and keeps the trials in the run folder. Killed and started
again, it continues; a lost node costs time, but no trial.
"""

import argparse
from pathlib import Path

from torch import nn

from spacelang import Experiment, LayerChoice, ModelSpace, value_choice
from spacelang import nn as space_nn
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import RegularizedEvolution
from spacelang.trials import Maximize, Minimize, RayExecutor


class Net(ModelSpace):
    def __init__(self):
        super().__init__()
        width = value_choice([8, 16, 32, 64], label="width")
        activations = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "gelu": nn.GELU()}
        self.layers = nn.Sequential(
            nn.Flatten(),
            space_nn.Linear(64, width),
            LayerChoice(activations, label="activation"),
            space_nn.Linear(width, 10),
        )

    def forward(self, images):
        return self.layers(images)


def accuracy(model, epochs):
    """Train on digits and return the test metrics, in a worker that loads the data itself."""
    from spacelang.evaluators import Classification
    from spacelang.evaluators.data import digits, retrain_loaders

    train, test = retrain_loaders(digits(), batch_size=64)
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    evaluator = Classification(
        train_dataloaders=train, val_dataloaders=test, max_epochs=epochs, accelerator="auto", **quiet
    )
    return evaluator.evaluate(model)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default="cluster", help="run folder")
    parser.add_argument("--address", help="address of a Ray cluster, or auto; default: start one here")
    parser.add_argument("--ledger", help="URL of a database; default: a file in the directory")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each trial; a fraction shares one")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args(arguments)
    experiment = Experiment(
        Net(),
        Functional(accuracy, epochs=args.epochs),
        RegularizedEvolution(population=8, sample=3),
        objectives=[Maximize("val_acc"), Minimize("params")],
        max_trials=args.trials,
        executor=RayExecutor(address=args.address, num_gpus=args.gpus),
        ledger=args.ledger,
        directory=args.directory,
    )
    experiment.run(resume=True)
    for trial in experiment.pareto:
        print(f"{trial.metrics['val_acc']:.3f}  {trial.metrics['params']:6,.0f} parameters  {trial.arch}")


if __name__ == "__main__":
    main()
