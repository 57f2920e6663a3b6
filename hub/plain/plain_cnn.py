"""Plain convolution networks: blocks of layers in a row, with pooling between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, SpaceError, value_choice
from spacelang import nn as space_nn
from spacelang.errors import require_integer, require_number
from spacelang.language import Architecture, architecture_of
from spacelang.models import BlockOptions, Blocks, Layer, deeper, kept_layers, wider
from spacelang.trials import inherit_weights

from ..images import Dataset, resolve_images
from ..operations.mobile_operations import Size

WIDTHS = tuple(range(4, 41, 4))
KERNELS = (1, 3, 5)
HIDDEN = tuple(range(8, 81, 8))
WIDER_NOISE, DEEPER_NOISE = 0.01, 0.001


class PlainCNN(ModelSpace):
    """Plain convolution networks: blocks of convolutions with pooling between them, then linear layers.

    Every layer is followed by a batch norm and a ReLU. Decisions: `block{i}/depth`, and for each layer of a
    block `block{i}/width_{k}` and `block{i}/kernel_{k}`; `hidden/depth` and `hidden/width_{k}` of the linear
    layers. Layers are numbered from the last one of their block, number 0, because it is always there, and
    its channels are those that the next block reads. `default()` is the first network of EAS.

    With `Experiment(..., inherit="parent")` a network that grew from its parent begins by Net2Net, with the
    noise of EAS, so it computes almost what its parent does. Any other copies what both have in common.

    Source: the space of plain networks of EAS, Cai et al. 2018, arXiv:1707.04873; sizes as in the authors'
    code.

    Args:
        dataset: "cifar" or (channels, size, classes) of square images.
        num_classes: Overrides the dataset's.
        num_blocks: Number of blocks of convolutions; pooling halves the image between them.
        max_layers: Largest number of convolutions in a block.
        widths: Candidates for the channels of a convolution.
        kernel_sizes: Odd candidates for its kernel; 3 is the default where it is one of them.
        max_hidden_layers: Largest number of linear layers before the classifier.
        hidden: Candidates for the features of a linear layer.
        dropout: Dropout after each pooling and each linear layer.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    def __init__(
        self,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        num_blocks: int = 4,
        max_layers: int = 10,
        widths: Sequence[int] = WIDTHS,
        kernel_sizes: Sequence[int] = KERNELS,
        max_hidden_layers: int = 10,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_blocks", num_blocks),
            ("max_layers", max_layers),
            ("max_hidden_layers", max_hidden_layers),
        ):
            require_integer(name, value, least=1)
        require_number("dropout", dropout, least=0, below=1)
        data = resolve_images(dataset, num_classes)
        if data.size < 2 ** (num_blocks - 1):
            raise SpaceError(f"num_blocks={num_blocks} halve images of {data.size} pixels too often.")
        if any(size % 2 == 0 for size in kernel_sizes):
            raise SpaceError(f"kernel_sizes={tuple(kernel_sizes)} must be odd: kernels have a centre.")
        conv = BlockOptions(tuple(sorted(widths)), tuple(kernel_sizes), max_layers)
        linear = BlockOptions(tuple(sorted(hidden)), (None,), max_hidden_layers)
        self._options = {f"block{index}": conv for index in range(num_blocks)} | {"hidden": linear}
        self.layers = nn.Sequential()
        channels: Size = data.channels
        for index in range(num_blocks):
            chain, channels = _chain(f"block{index}", conv, channels, _convolution)
            pool = nn.MaxPool2d(2) if index < num_blocks - 1 else nn.AdaptiveAvgPool2d(1)
            self.layers.add_module(f"block{index}", chain)
            self.layers.add_module(f"pool{index}", nn.Sequential(pool, nn.Dropout(dropout)))
        self.layers.add_module("flatten", nn.Flatten(1))
        chain, channels = _chain("hidden", linear, channels, partial(_linear, dropout))
        self.layers.add_module("hidden", chain)
        self.layers.add_module("classifier", space_nn.Linear(channels, data.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.layers(images)
        return logits

    @property
    def options(self) -> tuple[BlockOptions, ...]:
        """Options of the layers of each block; the linear ones are the last block."""
        return tuple(self._options.values())

    def blocks_of(self, arch: Mapping[str, Any]) -> Blocks:
        """Return the layers of an architecture, block by block."""
        return tuple(
            tuple(
                Layer(arch[f"{name}/width_{k}"], arch[f"{name}/kernel_{k}"] if options.kernels[0] else None)
                for k in reversed(range(int(arch[f"{name}/depth"])))
            )
            for name, options in self._options.items()
        )

    def architecture_with(self, blocks: Blocks) -> Architecture:
        """Return the architecture that has these layers."""
        arch: Architecture = {}
        for (name, _), layers in zip(self._options.items(), blocks, strict=True):
            arch[f"{name}/depth"] = str(len(layers))
            for k, layer in enumerate(reversed(layers)):
                arch[f"{name}/width_{k}"] = layer.width
                if layer.kernel is not None:
                    arch[f"{name}/kernel_{k}"] = layer.kernel
        return arch

    def inherit(self, parent: nn.Module) -> None:
        """Begin as a trained network of this space: with its function where this one has grown from it."""
        grown = self.grown(parent, torch.default_generator, WIDER_NOISE, DEEPER_NOISE)
        if grown is None:
            inherit_weights(self, parent)
        else:  # its layers are the same, in the same order, under other names
            self.load_state_dict(dict(zip(self.state_dict(), grown.state_dict().values(), strict=True)))

    def grown(
        self,
        parent: nn.Module,
        generator: torch.Generator,
        wider_noise: float = 0.0,
        deeper_noise: float = 0.0,
    ) -> nn.Module | None:
        """Return a copy of a network, grown by Net2Net to the layers of this one; None where it cannot be.

        Args:
            parent: Frozen network of this space.
            generator: Generator of which channels are copied, and of noise.
            wider_noise, deeper_noise: Standard deviation of noise on copied channels and on new layers, as a
                share of that of the weights.
        """
        theirs, own = architecture_of(parent), architecture_of(self)
        assert theirs is not None
        assert own is not None
        pairs = list(zip(self.blocks_of(theirs), self.blocks_of(own), strict=True))
        kept = [kept_layers(*pair) for pair in pairs]
        grown: nn.Module = parent
        for (name, _), (small, large), places in zip(self._options.items(), pairs, kept, strict=True):
            if places is None:
                return None
            for index, (place, layer) in enumerate(zip(places, small, strict=True)):
                if large[place].width > layer.width:
                    path, width = f"layers.{name}.{index}.0", large[place].width
                    grown = wider(grown, path, width, generator=generator, noise=wider_noise)
            activation = ""
            for place, layer in enumerate(large):
                if place in places:
                    activation = f"layers.{name}.{places.index(place)}.2"
                else:
                    grown = deeper(
                        grown,
                        activation,
                        kernel_size=layer.kernel or 1,
                        noise=deeper_noise,
                        generator=generator,
                    )
                    activation += ".3"
        return grown


def _chain(
    label: str, options: BlockOptions, inputs: Size, layer: Callable[..., nn.Module]
) -> tuple[nn.Module, Size]:
    """Return a choice among chains of layers, and the channels of the last layer, which all of them have.

    Args:
        label: Beginning of the labels.
        options: Options of the layers.
        inputs: Channels that the first layer reads.
        layer: Function from inputs, outputs and kernel to a layer.
    """

    def width(place: int) -> Size:
        return value_choice(options.widths, label=f"{label}/width_{place}")

    def kernel(place: int) -> Size:
        default = 3 if 3 in options.kernels else options.kernels[0]
        return value_choice(options.kernels, label=f"{label}/kernel_{place}", default=default)

    def chain(depth: int) -> nn.Module:
        places = list(reversed(range(depth)))  # from the last layer
        channels = [inputs, *map(width, places)]
        kernels = map(kernel, places) if options.kernels[0] else [None] * depth
        return nn.Sequential(*map(layer, channels[:-1], channels[1:], kernels))

    depths = {str(depth): partial(chain, depth) for depth in range(1, options.most + 1)}
    return LayerChoice(depths, label=f"{label}/depth"), width(0)


def _convolution(inputs: Size, outputs: Size, kernel: Size) -> nn.Module:
    return nn.Sequential(
        space_nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        space_nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _linear(dropout: float, inputs: Size, outputs: Size, kernel: None) -> nn.Module:
    return nn.Sequential(
        space_nn.Linear(inputs, outputs, bias=False),
        space_nn.BatchNorm1d(outputs),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
