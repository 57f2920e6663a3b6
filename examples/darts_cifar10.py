"""Search in the DARTS space on CIFAR-10, then train a larger network of the architecture found.

    python examples/darts_cifar10.py                   # 50 epochs of search, 600 of training; needs a GPU
    python examples/darts_cifar10.py --fast-dev-run    # one small batch of each stage, as a test

This is NNI's tutorial "Searching in DARTS search space" with its imports changed.
"""

import argparse
from pathlib import Path

import torch

from spacelang import Experiment, model_context, save_bundle
from spacelang.evaluators import ClassificationModule, Lightning, Trainer
from spacelang.evaluators.data import cifar10, retrain_loaders, search_loaders
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTS


class DartsClassificationModule(ClassificationModule):
    """Classification with SGD, a cosine schedule, an auxiliary loss and a growing drop-path rate."""

    def __init__(self, learning_rate=0.001, weight_decay=0.0, auxiliary_loss_weight=0.4, max_epochs=600):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay)
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.max_epochs = max_epochs  # the length of the schedules

    def configure_optimizers(self):
        rates = {"lr": self.hparams.learning_rate, "weight_decay": self.hparams.weight_decay}
        optimizer = torch.optim.SGD(self.parameters(), momentum=0.9, **rates)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_epochs, eta_min=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.auxiliary_loss_weight:
            y_hat, y_aux = self(x)
            loss = self.criterion(y_hat, y) + self.auxiliary_loss_weight * self.criterion(y_aux, y)
        else:
            y_hat = self(x)
            loss = self.criterion(y_hat, y)
        self.log("train_loss", loss, prog_bar=True)
        for name, metric in self.metrics.items():
            self.log("train_" + name, metric(y_hat, y), prog_bar=True)
        return loss

    def on_train_epoch_start(self):
        # This has no effect on a model without drop path, like the one that is searched.
        self.model.set_drop_path_prob(self.model.drop_path_prob * self.current_epoch / self.max_epochs)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="folder with CIFAR-10, or to download it to (default: the cache)")
    parser.add_argument("--directory", type=Path, default="darts-cifar10", help="folder for all files")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=16, help="channels of the searched network")
    parser.add_argument("--cells", type=int, default=8, help="cells of the searched network")
    parser.add_argument("--fast-dev-run", action="store_true", help="one small batch of each stage")
    args = parser.parse_args(arguments)
    folder, fast = args.directory, args.fast_dev_run
    limits = {"limit_train_batches": 1, "limit_val_batches": 1} if fast else {}

    # Search, on halves of the training set: one for the weights, one for the architecture.
    max_epochs, batch_size, workers = (1, 2, 0) if fast else (50, 64, 4)
    train, val = search_loaders(cifar10(args.data_root).train, batch_size, args.seed, workers)
    model_space = DartsSpace(width=args.width, num_cells=args.cells, dataset="cifar")
    evaluator = Lightning(
        DartsClassificationModule(0.025, 3e-4, 0.0, max_epochs),
        Trainer(gradient_clip_val=5.0, max_epochs=max_epochs, **limits),
        train_dataloaders=train,
        val_dataloaders=val,
    )
    experiment = Experiment(model_space, evaluator, DARTS(), directory=folder / "search", seed=args.seed)
    experiment.run(resume=args.resume)
    exported_arch = experiment.export_top_models(formatter="dict")[0]

    # Train what was found with more channels and cells, on the whole training set, with cutout.
    max_epochs, batch_size = (1, 2) if fast else (600, 96)
    train, test = retrain_loaders(cifar10(args.data_root, cutout=16), batch_size, workers)
    torch.manual_seed(args.seed)
    with model_context(exported_arch):
        model = DartsSpace(width=36, num_cells=20, dataset="cifar", auxiliary_loss=True, drop_path_prob=0.2)
    evaluator = Lightning(
        DartsClassificationModule(0.025, 3e-4, 0.4, max_epochs),
        Trainer(gradient_clip_val=5.0, max_epochs=max_epochs, **limits),
        train_dataloaders=train,
        val_dataloaders=test,
    )
    metrics = evaluator.fit(model, directory=folder / "training").callback_metrics
    save_bundle(model, exported_arch, folder / "network")
    print(f"test accuracy {metrics['val_acc']:.4f}; the network is in {folder / 'network'}")


if __name__ == "__main__":
    main()
