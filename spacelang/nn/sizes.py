"""Which dimensions of a layer's inputs and outputs have the sizes its arguments say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, loss, pooling
from torch.nn.modules.lazy import LazyModuleMixin


@dataclass(frozen=True)
class Sizes:
    """Dimensions that have the sizes of arguments; what a mixture of differently sized layers must know.

    A size is named as an attribute of the layer or, where it has none, as a constructor argument.

    Args:
        reads: `{dimension: size}` of the first arguments of `forward`, by their names.
        returns: The same for each returned tensor in order; the last entry also stands for further tensors.
        fixed: Constructor arguments no mixture can choose, since outputs would not be alike.
    """

    reads: Mapping[str, Mapping[int, str]]
    returns: tuple[Mapping[int, str], ...]
    fixed: tuple[str, ...] = ()

    def returned(self, index: int) -> Mapping[int, str]:
        """Return the sizes of a returned tensor."""
        return self.returns[min(index, len(self.returns) - 1)]


def sizes_of(layer: nn.Module) -> Sizes | None:
    """Return the sizes of a layer of torch.nn; None if they are unknown or its output may have any shape."""
    if isinstance(layer, LazyModuleMixin):
        return None
    if isinstance(layer, conv._ConvNd):
        channels = -1 - len(layer.kernel_size)
        return _through({channels: "in_channels"}, {channels: "out_channels"})
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return _through(dict.fromkeys(range(-len(layer.normalized_shape), 0), "normalized_shape"))
    if isinstance(layer, instancenorm._InstanceNorm):
        return _through({-layer._get_no_batch_dim(): "num_features"})  # type: ignore[no-untyped-call]
    for types, sizes in _TABLE:
        if isinstance(layer, types):
            return sizes
    alike = type(layer).__module__ in _ALIKE and not isinstance(layer, nn.GLU)
    return Sizes({}, ({},), ("reduction",)) if alike else None


def _through(reads: Mapping[int, str], returns: Mapping[int, str] | None = None) -> Sizes:
    """Return the sizes of a layer from one tensor to one tensor."""
    return Sizes({"input": reads}, (reads if returns is None else returns,))


_TABLE: list[tuple[Any, Sizes]] = [
    (nn.Linear, _through({-1: "in_features"}, {-1: "out_features"})),
    (
        nn.Bilinear,
        Sizes({"input1": {-1: "in1_features"}, "input2": {-1: "in2_features"}}, ({-1: "out_features"},)),
    ),
    (batchnorm._BatchNorm, _through({1: "num_features"})),
    (nn.GroupNorm, _through({1: "num_channels"})),
    (nn.PReLU, _through({1: "num_parameters"})),
    (nn.Embedding | nn.EmbeddingBag, Sizes({}, ({-1: "embedding_dim"},))),
    (
        nn.MultiheadAttention,
        Sizes(
            {"query": {-1: "embed_dim"}, "key": {-1: "kdim"}, "value": {-1: "vdim"}},
            ({-1: "embed_dim"}, {}),
            ("batch_first",),
        ),
    ),
    (
        nn.RNNBase,
        Sizes(
            {"input": {-1: "input_size"}, "hx": {-1: "hidden_size"}},
            ({-1: "hidden_size"},),
            ("num_layers", "bidirectional", "batch_first", "proj_size"),
        ),
    ),
    (
        nn.RNNCellBase,
        Sizes({"input": {-1: "input_size"}, "hx": {-1: "hidden_size"}}, ({-1: "hidden_size"},)),
    ),
    (nn.TransformerEncoderLayer, Sizes({"src": {-1: "d_model"}}, ({-1: "d_model"},), ("batch_first",))),
    (
        nn.TransformerDecoderLayer,
        Sizes({"tgt": {-1: "d_model"}, "memory": {-1: "d_model"}}, ({-1: "d_model"},), ("batch_first",)),
    ),
    (
        pooling._MaxPoolNd | pooling._AvgPoolNd | pooling._LPPoolNd,
        Sizes({}, ({},), ("return_indices", "ceil_mode")),
    ),
    (nn.LocalResponseNorm | nn.ChannelShuffle | nn.CosineSimilarity | nn.PairwiseDistance, Sizes({}, ({},))),
]

_ALIKE = {module.__name__ for module in (activation, dropout, loss)}
"""Modules of torch whose layers return a tensor shaped like their input, or a number."""
