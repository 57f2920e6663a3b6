"""Net2Net: wider and deeper copies of a plain network that compute what it computes."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import activation, batchnorm, dropout, pooling

from ..errors import SpaceError, closest, require_integer, require_number
from ..language import require_frozen

_CHANNELWISE: tuple[type[nn.Module], ...] = (
    *(getattr(activation, name) for name in ("ReLU", "ReLU6", "LeakyReLU", "ELU", "GELU", "SiLU", "Tanh")),
    *(activation.Sigmoid, activation.Hardswish, activation.Hardsigmoid, nn.Identity, nn.Flatten),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd),
    *(dropout._DropoutNd,),
)
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(torch.relu, nn.functional.relu, torch.tanh, torch.sigmoid, nn.functional.dropout),
    *(nn.functional.max_pool2d, nn.functional.avg_pool2d, nn.functional.adaptive_avg_pool2d),
)
_METHODS = ("relu", "tanh", "sigmoid", "contiguous")
_IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Identity)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_JOINS = (operator.add, torch.add, operator.mul, torch.mul)


@dataclass(frozen=True)
class _Copies:
    """Which old channel each new channel of a feature map is a copy of.

    Args:
        source: Indices, (new channels,); first all old ones in order.
        old: Number of old channels.
    """

    source: Tensor
    old: int

    def columns(self, inputs: int) -> Tensor:
        """Return the old column of each new column of a layer that reads the feature map, maybe flattened."""
        per_channel = inputs // self.old
        return (self.source[:, None] * per_channel + torch.arange(per_channel)).flatten()


def wider(
    model: nn.Module,
    layer: str,
    width: int,
    *,
    generator: torch.Generator,
    noise: float = 0.0,
) -> nn.Module:
    """Return a copy with more channels or features in one layer, which computes the same (Net2WiderNet).

    New unit j is a copy of unit g(j), where g(j) = j for the old ones and is drawn uniformly for the others.
    Every layer that reads them divides its weights by their number, U'_j = U_g(j) / |{i: g(i) = g(j)}|. Batch
    norms and depthwise convolutions in between are copied likewise. Dropout breaks the equality in
    training.

    Args:
        model: Plain network that `torch.fx` can trace.
        layer: Name of a convolution without groups, or of a linear layer, in `model.named_modules()`.
        width: New number of its channels or features, not less than the present one.
        generator: Generator of g, and of the noise.
        noise: Standard deviation of noise on the new units, as a share of that of the weights; with noise
            copies learn to differ, and the outputs are almost the same. EAS adds 0.01.

    Raises:
        SpaceError: The layer cannot be widened; says which module or function is in the way.

    Source: Net2Net, Chen et al. 2016, arXiv:1511.05641, section 2.2, algorithm 1.
    """
    require_frozen(model, "widen")
    require_number("noise", noise, least=0)
    model = copy.deepcopy(model)
    module = _layer(model, layer, "widen")
    old: int = module.weight.shape[0]
    require_integer("width", width, least=old)
    drawn = torch.randint(old, (width - old,), generator=generator)
    copies = _Copies(torch.cat([torch.arange(old), drawn]), old)
    graph = fx.Tracer().trace(model)
    with torch.no_grad():
        changes = _changes(model, graph, _call(graph, layer), copies)  # found before any is made
        _widen_outputs(module, copies, noise, generator)
        for change in changes:
            change()
    return model


def deeper(
    model: nn.Module,
    after: str,
    *,
    kernel_size: int = 3,
    norm: bool | None = None,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Return a copy with one more layer behind an activation, which computes the same (Net2DeeperNet).

    The layer is the identity, followed by the same activation: a convolution whose kernel is zero but for its
    centre, or a linear layer. Its batch norm undoes its own normalisation in evaluation: for mean m and
    variance v, beta = m and gamma = sqrt(v + eps). m and v are those of rectified normal numbers with the
    beta and gamma of the batch norm before, so that they also are close in training.

    Args:
        model: Plain network that `torch.fx` can trace.
        after: Name of a `ReLU`, `ReLU6` or `Identity`: it must not change what went through it already.
        kernel_size: Odd kernel size of a convolution.
        norm: Whether to add a batch norm; by default as the layer before has one.
        noise: Standard deviation of noise on the new weights, as a share of theirs; EAS adds 0.001.
        generator: Generator of the noise.

    Raises:
        SpaceError: Nothing can be added there; says why.

    Source: Net2Net, Chen et al. 2016, arXiv:1511.05641, section 2.3, algorithm 2.
    """
    require_frozen(model, "deepen")
    require_integer("kernel_size", kernel_size, least=1)
    require_number("noise", noise, least=0)
    model = copy.deepcopy(model)
    activation = _named(model, after)
    if not isinstance(activation, _IDEMPOTENT):
        raise SpaceError(
            f"cannot deepen behind {after!r}, a {type(activation).__name__}: of it twice is not it once. "
            "Choose a ReLU, ReLU6 or Identity."
        )
    if kernel_size % 2 == 0:
        raise SpaceError(f"kernel_size={kernel_size} must be odd, to have a centre.")
    layer, norm_before = _before(model, after)
    made: Any = _identity(layer, kernel_size)
    with torch.no_grad():
        made.weight += _noise(made.weight.shape, made.weight, noise, generator)
    parts = [made]
    if norm if norm is not None else norm_before is not None:
        parts.append(_identity_norm(layer, norm_before, isinstance(activation, nn.Identity)))
    parts = [part.to(layer.weight).train(layer.training) for part in parts]
    model.set_submodule(after, nn.Sequential(activation, *parts, copy.deepcopy(activation)))
    return model


def undo_norm(norm: nn.Module, mean: Tensor, variance: Tensor) -> None:
    """Let a batch norm with these running statistics be the identity: beta = m, gamma = sqrt(v + eps).

    Args:
        norm: A batch norm with parameters.
        mean: Mean m of each channel, (C,).
        variance: Variance v of each channel, (C,).
    """
    assert isinstance(norm, batchnorm._BatchNorm)
    values = {
        "running_mean": mean,
        "running_var": variance,
        "bias": mean,
        "weight": (variance + norm.eps).sqrt(),
    }
    with torch.no_grad():
        for name, value in values.items():
            getattr(norm, name).copy_(value)


# -- wider -------------------------------------------------------------------------------------------------


def _changes(model: nn.Module, graph: fx.Graph, start: fx.Node, copies: _Copies) -> list[Callable[[], None]]:
    """Return what to change in all layers that read the copies, directly or through others."""
    widened, changes, changed = {start}, list[Callable[[], None]](), set[Any]()
    for node in graph.nodes:
        inputs = [x for x in node.all_input_nodes if x in widened]
        if not inputs:
            continue
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            change = _change(module, copies)
            if change is not None:
                if node.target in changed:
                    raise SpaceError(f"cannot widen: {node.target!r} reads the layer twice.")
                changed.add(node.target)
                changes.append(change)
            if isinstance(module, (*_CHANNELWISE, batchnorm._BatchNorm)) or _is_depthwise(module, copies):
                widened.add(node)
            elif change is None:
                raise _in_the_way(f"{node.target!r}, a {type(module).__name__},")
        elif _passes(node) and len(inputs) == len(node.all_input_nodes):
            widened.add(node)
        else:
            raise _in_the_way("the output of the model" if node.op == "output" else f"{node.name!r}")
    return changes


def _in_the_way(what: str) -> SpaceError:
    return SpaceError(
        f"cannot widen: {what} reads the layer, and is not known to treat every channel by itself. Between a "
        "widened layer and the convolutions and linear layers that read it there may be batch norms, "
        "activations, pooling, dropout, flatten(1), depthwise convolutions, and sums of equally widened maps."
    )


def _passes(node: fx.Node) -> bool:
    """Return whether a call treats every channel by itself."""
    if node.op == "call_function":
        if node.target is torch.flatten:
            return _flattens_channels(node)
        return node.target in _FUNCTIONS or node.target in _JOINS
    if node.target == "flatten":
        return _flattens_channels(node)
    return node.op == "call_method" and node.target in _METHODS


def _flattens_channels(node: fx.Node) -> bool:
    return (*node.args[1:], *node.kwargs.values()) == (1,)


def _is_depthwise(module: nn.Module, copies: _Copies) -> bool:
    return isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels == copies.old


def _change(module: nn.Module, copies: _Copies) -> Callable[[], None] | None:
    """Return the function that lets a layer read copies; None where it has nothing to change, or cannot."""
    if isinstance(module, batchnorm._BatchNorm):
        return lambda: _copy_norm(module, copies)
    if _is_depthwise(module, copies) and module.out_channels == copies.old:
        return lambda: _copy_depthwise(module, copies)
    if isinstance(module, nn.Linear) or (isinstance(module, _CONVOLUTIONS) and module.groups == 1):
        return lambda: _read_copies(module, copies)
    return None


def _copy_norm(norm: Any, copies: _Copies) -> None:
    source = copies.columns(norm.num_features)
    for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.dim():
            _set(norm, name, tensor[source])
    norm.num_features = len(source)


def _copy_depthwise(conv: Any, copies: _Copies) -> None:
    _widen_outputs(conv, copies)
    conv.in_channels = conv.groups = len(copies.source)


def _read_copies(module: Any, copies: _Copies) -> None:
    """Divide the weights of each column by the number of its copies."""
    source = copies.columns(module.weight.shape[1])
    share = 1 / torch.bincount(source).to(module.weight)[source]  # (new columns,)
    weight = module.weight[:, source] * share.view(-1, *[1] * (module.weight.dim() - 2))
    _set(module, "weight", weight)
    setattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", len(source))


def _widen_outputs(
    module: Any, copies: _Copies, noise: float = 0.0, generator: torch.Generator | None = None
) -> None:
    weight = module.weight[copies.source]
    copied = weight[copies.old :]
    copied += _noise(copied.shape, module.weight, noise, generator)
    _set(module, "weight", weight)
    if module.bias is not None:
        _set(module, "bias", module.bias[copies.source])
    setattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels", len(copies.source))


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    trained = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad) if trained else value)


# -- deeper ------------------------------------------------------------------------------------------------


def _before(model: nn.Module, after: str) -> tuple[Any, Any]:
    """Return the layer whose channels reach a module, and the last batch norm between them."""
    node: Any = _call(fx.Tracer().trace(model), after)
    norm: nn.Module | None = None
    while node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            return module, norm
        if isinstance(module, batchnorm._BatchNorm):
            norm = norm or module
        elif not isinstance(module, _CHANNELWISE) or isinstance(module, nn.Flatten):
            break
        node = node.args[0]
    raise SpaceError(
        f"cannot deepen behind {after!r}: no convolution or linear layer before it tells the channels."
    )


def _identity(layer: Any, kernel_size: int) -> nn.Module:
    """Return the identity as a layer of the same kind."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        made: Any = nn.Linear(layer.out_features, layer.out_features, bias)
        nn.init.eye_(made.weight)
    else:
        channels = layer.out_channels
        made = type(layer)(channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)
        nn.init.dirac_(made.weight)
    if bias:
        nn.init.zeros_(made.bias)
    return made  # type: ignore[no-any-return]


def _identity_norm(layer: Any, before: Any, linear: bool) -> nn.Module:
    """Return a batch norm that is the identity on activations of normal numbers of the norm before."""
    features = layer.weight.shape[0]
    kind = nn.BatchNorm1d if isinstance(layer, nn.Linear) else _NORMS[layer.weight.dim() - 2]
    if before is None:
        norm, beta, gamma = kind(features), torch.zeros(features), torch.ones(features)
    else:
        norm = type(before)(features, before.eps, before.momentum)
        beta, gamma = before.bias.detach(), before.weight.detach().abs().clamp_min(1e-6)
    norm = norm.to(layer.weight)
    undo_norm(norm, *((beta, gamma.square()) if linear else rectified(beta, gamma)))
    return norm


def rectified(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of max(0, z), z normal.

    E = m Phi(m/s) + s phi(m/s), E[max(0, z)^2] = (m^2 + s^2) Phi(m/s) + m s phi(m/s).
    """
    ratio = mean / deviation
    below, density = torch.special.ndtr(ratio), (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    first = mean * below + deviation * density
    second = (mean.square() + deviation.square()) * below + mean * deviation * density
    return first, (second - first.square()).clamp_min(1e-6)


# -- both --------------------------------------------------------------------------------------------------


def _noise(shape: torch.Size, weight: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Return normal numbers whose standard deviation is a share of that of a weight."""
    if not share:
        return weight.new_zeros(shape)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.to(weight) * share * weight.std()


def _call(graph: fx.Graph, name: str) -> fx.Node:
    """Return the one call of a module."""
    calls: list[fx.Node] = [n for n in graph.nodes if n.op == "call_module" and n.target == name]
    if len(calls) != 1:
        raise SpaceError(f"{name!r} is called {len(calls)} times; expected once.")
    return calls[0]


def _named(model: nn.Module, name: str) -> nn.Module:
    names = [known for known, _ in model.named_modules() if known]
    if name not in names:
        raise SpaceError(f"{type(model).__name__} has no module {name!r}.{closest(name, names)}")
    return model.get_submodule(name)


def _layer(model: nn.Module, name: str, verb: str) -> Any:
    module = _named(model, name)
    if isinstance(module, nn.Linear) or (isinstance(module, _CONVOLUTIONS) and module.groups == 1):
        return module
    raise SpaceError(
        f"cannot {verb} {name!r}, a {type(module).__name__}; expected a Linear, or a convolution without "
        "groups."
    )
