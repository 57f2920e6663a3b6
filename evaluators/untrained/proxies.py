"""Zero-cost proxies as functions of an untrained network and one minibatch.

Each may change the network: callers pass a copy, in training mode. Sums over layers are
over the weights of convolutions and linear layers, without biases and normalisation; a weight that the loss
does not depend on has the gradient 0.

Source: Abdelfattah et al. 2021, arXiv:2101.08134, and its code; earlier sources are named at each function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.modules.batchnorm import _BatchNorm

from spacelang.costs import profile
from spacelang.errors import SpaceError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Proxy: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Loss], Tensor | float]

Layer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


def params(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Number of parameters."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


def flops(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Floating-point operations for one sample."""
    return float(profile(model, x[:1]).flops)


def l2_norm(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """sum over layers of ||w||."""
    return _total(w.detach().norm() for w in _weights(model))


def grad_norm(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """sum over layers of ||g||, where g = dL/dw."""
    return _total(g.norm() for _, g in _gradients(model, x, y, loss))


def plain(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """sum of g * w."""
    return _total((g * w).sum() for w, g in _gradients(model, x, y, loss))


def snip(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """sum of |g * w|: how the loss reacts to masking each weight. Lee et al. 2019, arXiv:1810.02340."""
    return _total((g * w).abs().sum() for w, g in _gradients(model, x, y, loss))


def grasp(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """-sum of w * (H g). Wang et al. 2020, arXiv:2002.07376; for search its sign is kept."""
    weights = _weights(model)
    gradients = _grad(_loss(model, x, y, loss), weights, create_graph=True)
    product = _total((g.detach() * g).sum() for g in gradients)
    return -_total((w.detach() * hg).sum() for w, hg in zip(weights, _grad(product, weights), strict=True))


def synflow(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """sum of |w * dR/dw|, R the sum of the outputs for an input of ones and weights made positive.

    Batch norm passes its input on and dropout is off. In float64: products over many layers overflow.

    Source: Tanaka et al. 2020, arXiv:2006.05467.
    """
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(lambda _, given, __: given[0])
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.abs_()
    weights = _weights(model)
    total = _output(model, x.new_ones((1, *x.shape[1:]), dtype=torch.float64)).sum()
    return _total((w * g).detach().abs().sum() for w, g in zip(weights, _grad(total, weights), strict=True))


def fisher(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """sum over layers and channels c of F_c times the number of weights of c; see `channel_fisher`.

    Source: Theis et al. 2018, arXiv:1801.05787; Turner et al. 2020, arXiv:1906.04113.
    """
    found: list[Tensor] = []

    def watch(layer: Layer, given: object, output: Tensor) -> Tensor:
        def measure(gradient: Tensor) -> None:
            at = -1 if isinstance(layer, nn.Linear) else 1
            parts = [tensor.detach().movedim(at, 1) for tensor in (output, gradient)]
            weights = layer.weight[0].numel()  # of one channel
            found.append(weights * channel_fisher(parts[0], parts[1]).sum())

        output.register_hook(measure)  # type: ignore[no-untyped-call]
        return output.clone()  # what follows may work in place

    for layer in _layers(model):
        layer.register_forward_hook(watch)
    value = _loss(model, x, y, loss)
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]
    return _total(found)


def channel_fisher(activation: Tensor, gradient: Tensor) -> Tensor:
    """F_c = 1/2 mean over the batch of (sum over space of activation * gradient)^2.

    Args:
        activation: Output of a layer, (B, C, ...).
        gradient: Gradient of the loss with respect to it, (B, C, ...).

    Returns:
        F, (C,).
    """
    return (activation * gradient).reshape(*activation.shape[:2], -1).sum(2).pow(2).mean(0) / 2


def jacob_cov(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Dissimilarity of the gradients of different samples; see `jacobian_score`.

    Source: Mellor et al. 2020, arXiv:2006.04647v1.
    """
    x = x.detach().requires_grad_()
    return jacobian_score(_grad(_output(model, x.clone()).sum(), [x])[0].flatten(1))


def jacobian_score(jacobian: Tensor) -> Tensor:
    """-sum over v of log(v + k) + 1 / (v + k), v the eigenvalues of the samples' correlation, k = 1e-5.

    Args:
        jacobian: Gradient of the summed logits by sample, (B, D).

    Returns:
        Scalar; NaN when the gradient of a sample is constant.
    """
    correlation = torch.corrcoef(jacobian.double())  # (B, B)
    if not correlation.isfinite().all():
        return torch.tensor(torch.nan)
    v: Tensor = torch.linalg.eigvalsh(correlation) + 1e-5
    return -(v.log() + 1 / v).sum()


def naswot(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """log |det K|, K the number of ReLUs on which two samples agree.

    K = sum over modules `nn.ReLU` and `nn.ReLU6` of c c' + (1 - c)(1 - c)', c which of their inputs are
    positive, (B, units). Only modules count through which the output is reached.

    Source: Mellor et al. 2021, arXiv:2006.04647.
    """
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)

    def watch(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        code = (given[0].detach() > 0).flatten(1).double()  # before the ReLU, which may work in place

        def reached(gradient: Tensor) -> None:
            kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

        if given[0].requires_grad:
            given[0].register_hook(reached)  # type: ignore[no-untyped-call]

    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.register_forward_pre_hook(watch)
    output = _output(model, x.detach().requires_grad_().clone())
    if output.requires_grad:
        output.sum().backward()  # type: ignore[no-untyped-call]
    _, logabsdet = torch.linalg.slogdet(kernel)
    return logabsdet  # type: ignore[no-any-return]


def zen(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Mean over draws of log E ||f(x) - f(x + 0.01 e)|| + sum over batch norms of log sqrt(mean variance).

    Each of 32 draws has new weights N(0, 1), and x and e are Gaussian in the shape of the batch. f ends
    before the last global pooling, or else with the output. Batch norms use and report the statistics of the
    batch. The norm is Euclidean, the mean over samples, as in the paper; the authors' code sums absolute
    values and reads running variances.

    Source: Lin et al. 2021, arXiv:2102.01063, algorithm 1.
    """
    scores = [_zen_score(model, torch.randn_like(x), torch.randn_like(x)) for _ in range(_ZEN_DRAWS)]
    return torch.stack(scores).mean()


_ZEN_DRAWS, _ZEN_STEP = 32, 0.01
_GLOBAL_POOLS = nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d


@torch.no_grad()
def _zen_score(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Draw weights; return the score for one batch and one direction, (B, ...) and (B, ...)."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for weight in _weights(model):
        weight.normal_()
    for parameter in (p for m in (*_layers(model), *norms) for n, p in m.named_parameters(recurse=False)
                      if n == "bias"):  # fmt: skip
        parameter.zero_()
    pooled: list[Tensor] = []
    variances: list[Tensor] = []
    handles = [
        norm.register_forward_pre_hook(lambda _, given: variances.append(_channel_variance(given[0])))
        for norm in norms
    ]
    for norm in norms:
        if norm.affine:
            norm.weight.fill_(1)
    handles += [
        module.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
        for module in model.modules()
        if isinstance(module, _GLOBAL_POOLS) and module.output_size in (1, (1, 1), (1, 1, 1))
    ]
    try:
        output = _output(model, x)
        first, found = (pooled[-1] if pooled else output), list(variances)
        moved = _output(model, x + _ZEN_STEP * noise)
        second = pooled[-1] if pooled else moved
    finally:
        for handle in handles:
            handle.remove()
    difference: Tensor = (first - second).flatten(1).norm(dim=1).mean().log()
    return difference + _total(variance.mean().sqrt().log() for variance in found)


def _channel_variance(x: Tensor) -> Tensor:
    """Return the variance of each channel, (C,), of (B, C, ...)."""
    return x.transpose(0, 1).flatten(1).var(dim=1, unbiased=False)


PROXIES: dict[str, Proxy] = {
    proxy.__name__: proxy
    for proxy in (
        params, flops, l2_norm, grad_norm, plain, snip, grasp, synflow, fisher, jacob_cov, naswot, zen
    )
}  # fmt: skip


# -- parts ---------------------------------------------------------------------------------------------


def _layers(model: nn.Module) -> list[Layer]:
    return [module for module in model.modules() if isinstance(module, Layer)]


def _weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of the layers, shared ones once."""
    weights: dict[int, Tensor] = {id(layer.weight): layer.weight for layer in _layers(model)}
    return [weight.requires_grad_() for weight in weights.values()]


def _total(parts: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    return sum(parts, start=torch.zeros(()))


def _output(model: nn.Module, x: Tensor) -> Tensor:
    """Return the output of the network; the first where there are several, as with auxiliary heads."""
    output = model(x)
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor):
        raise SpaceError(
            f"the network returned a {type(output).__name__}; expected a tensor, or a tuple of them."
        )
    return first


def _loss(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    value = loss(model(x), y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise SpaceError(f"loss(output, targets) returned {what}; expected a tensor with one number.")
    return value


def _grad(value: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Return the gradients of `value`, 0 where it does not depend on an input."""
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if value.requires_grad and inputs:
        found = grad(value, inputs, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(inputs, found, strict=True)]


def _gradients(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> list[tuple[Tensor, Tensor]]:
    """Return each weight with its gradient."""
    weights = _weights(model)
    gradients = _grad(_loss(model, x, y, loss), weights)
    return [(weight.detach(), gradient) for weight, gradient in zip(weights, gradients, strict=True)]
