"""Write a choice of your own, a kernel size whose candidates share one weight, and search it with DARTS.

    python examples/custom_primitive.py

Mixing the outputs of convolutions is the same as mixing their weights, because a convolution is linear in its
weight. So this choice costs one convolution in the supernet, whatever the number of candidates.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from spacelang import Experiment, ModelSpace
from spacelang.evaluators import Classification
from spacelang.evaluators.data import digits, search_loaders
from spacelang.language import Categorical, Primitive
from spacelang.strategies import DARTS
from spacelang.supernet import Mixed


def plain_conv(conv, size):
    """A convolution with the central `size` x `size` part of the weight of `conv`."""
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, size, padding=size // 2)
    rim = (conv.kernel_size[0] - size) // 2
    plain.weight = nn.Parameter(conv.weight[:, :, rim : rim + size, rim : rim + size].detach().clone())
    plain.bias = nn.Parameter(conv.bias.detach().clone())
    return plain


class KernelChoice(Primitive):
    """A convolution that chooses its kernel size, an odd number; smaller kernels are the centre of the largest."""

    def __init__(self, inputs, outputs, sizes, *, label):
        super().__init__()
        self.decision = Categorical(label, sizes)
        self.conv = nn.Conv2d(inputs, outputs, max(sizes), padding=max(sizes) // 2)

    def decisions(self):
        """Every decision taken here."""
        return (self.decision,)

    def freeze(self, arch):
        """The plain module an architecture makes of this; `model_context` and `space.freeze` use it."""
        return plain_conv(self.conv, arch[self.decision.label])

    def relax(self, builder):
        """The module that computes with a mixture in a supernet; equal labels share one group."""
        return MixedKernel(builder.group(self.decision), self.conv)


class MixedKernel(Mixed):
    """One convolution with the weight sum_k w_k crop_k(W), w the mixture."""

    def __init__(self, group, conv):
        super().__init__()
        self.group = group
        self.conv = conv

    def forward(self, x):
        full = self.conv.kernel_size[0]
        weight = 0
        for k in self.group.active[0]:  # what has no weight is left out: only one when a path is selected
            rim = (full - self.group.columns[k]) // 2
            centre = self.conv.weight[:, :, rim : full - rim, rim : full - rim]
            weight = weight + self.group.weighted(0, k, F.pad(centre, [rim] * 4))
        return F.conv2d(x, weight, self.conv.bias, padding=full // 2)

    def freeze(self, arch):
        """As `KernelChoice.freeze`, with the weights the supernet learned."""
        return plain_conv(self.conv, arch[self.group.label])


class Net(ModelSpace):
    """Classify images (B, 1, 8, 8)."""

    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            KernelChoice(1, width, [1, 3, 5], label="first"),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            KernelChoice(width, width, [1, 3], label="second"),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * width, 10),
        )

    def forward(self, images):
        return self.layers(images)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory", type=Path, default="custom-primitive", help="everything is written here"
    )
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(arguments)
    splits = digits()
    train, val = search_loaders(splits.train, batch_size=32)
    evaluator = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=args.epochs)
    experiment = Experiment(Net(), evaluator, DARTS(learning_rate=3e-2), directory=args.directory)
    experiment.run()
    arch = experiment.best
    model = experiment.export_top_models(formatter="instance")[0]  # plain, with the supernet's weights
    images, labels = zip(*splits.test, strict=True)
    with torch.no_grad():
        correct = model.eval()(torch.stack(images)).argmax(1) == torch.stack(labels)
    print(f"{arch}, test accuracy {correct.float().mean():.3f}\n{model}")


if __name__ == "__main__":
    main()
