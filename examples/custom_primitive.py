"""Write your own choice, a kernel size whose candidates share one weight, and search it with DARTS.

    python examples/custom_primitive.py

A convolution is linear in its weight, so a mixture of several is one convolution with the mixed weight.
"""

import argparse
from pathlib import Path

from torch import manual_seed, nn

from spacelang import Experiment, ModelSpace, model_context
from spacelang.evaluators import Classification
from spacelang.evaluators.data import digits, retrain_loaders, search_loaders
from spacelang.language import Categorical, Primitive
from spacelang.strategies import DARTS
from spacelang.supernet import Mixed


def cropped(conv, size):
    """Return a convolution with the central `size` x `size` part of the weight of `conv`."""
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, size, padding=size // 2).to(conv.weight)
    rim = (conv.kernel_size[0] - size) // 2
    plain.load_state_dict({"weight": nn.functional.pad(conv.weight, [-rim] * 4), "bias": conv.bias})
    return plain


class KernelChoice(Primitive):
    """A convolution that chooses its (odd) kernel size; a smaller kernel is the centre of the largest."""

    def __init__(self, inputs, outputs, sizes, *, label):
        super().__init__()
        self.decision = Categorical(label, sizes)
        self.conv = nn.Conv2d(inputs, outputs, max(sizes), padding=max(sizes) // 2)

    def decisions(self):
        return (self.decision,)

    def freeze(self, arch):
        """Return the plain module for `model_context(arch)` and `space.freeze(arch)`."""
        return cropped(self.conv, arch[self.decision.label])

    def relax(self, builder):
        """Return the module that computes with mixtures in a `Supernet`; equal labels share a group."""
        return MixedKernel(builder.group(self.decision), self.conv)


class MixedKernel(Mixed):
    """One convolution with the weight sum_k w_k centre_k(W), where w is the group's mixture."""

    def __init__(self, group, conv):
        super().__init__()
        self.group, self.conv = group, conv

    def forward(self, x):
        full, weight = self.conv.kernel_size[0], 0
        for k in self.group.active[0]:  # every candidate of a mixture, or the selected architecture's only
            rim = (full - self.group.columns[k]) // 2
            centre = self.conv.weight[:, :, rim : full - rim, rim : full - rim]
            weight = weight + self.group.weighted(0, k, nn.functional.pad(centre, [rim] * 4))
        return nn.functional.conv2d(x, weight, self.conv.bias, padding=full // 2)

    def freeze(self, arch):
        return cropped(self.conv, arch[self.group.label])


class Net(ModelSpace):
    def __init__(self, width=8):
        super().__init__()
        first = [KernelChoice(1, width, [1, 3, 5], label="first"), nn.BatchNorm2d(width), nn.ReLU()]
        second = [KernelChoice(width, width, [1, 3, 5], label="second"), nn.BatchNorm2d(width), nn.ReLU()]
        head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)
        self.layers = nn.Sequential(*first, *second, *head)

    def forward(self, images):
        return self.layers(images)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default="custom-primitive", help="folder for all files")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(arguments)
    train, val = search_loaders(digits().train, batch_size=32)
    evaluator = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=args.epochs)
    experiment = Experiment(Net(), evaluator, DARTS(learning_rate=1e-2), directory=args.directory / "search")
    experiment.run()
    manual_seed(0)
    with model_context(experiment.best):
        model = Net()
    train, test = retrain_loaders(digits(), batch_size=32)
    evaluator = Classification(train_dataloaders=train, val_dataloaders=test, max_epochs=args.epochs)
    metrics = evaluator.fit(model, directory=args.directory / "training").callback_metrics
    print(f"{model}\ntest accuracy {metrics['val_acc']:.3f}")


if __name__ == "__main__":
    main()
