"""SMASH: architectures compared by weights that a hypernetwork makes for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from spacelang import ModelSpace, SpaceError
from spacelang.errors import quoted, require_all, require_integer, require_number
from spacelang.language import DecisionSpace
from spacelang.supernet import Mixed, Supernet

from ..framework import Measure, PathSampling, Scored, Unseen


@dataclass(frozen=True, kw_only=True)
class SMASH(PathSampling):
    """One-shot search by a hypernetwork, which makes the weights of any architecture from its encoding.

    The weights of convolutions and linear layers that belong to a choice are not trained. For each training
    batch an architecture is drawn, the hypernetwork makes its weights, and the gradient goes through them
    into the hypernetwork. Batch norms, biases, and layers outside choices (stem, classifier) are trained as
    always. In the end `candidates` random architectures are compared by the weights made for them, then
    `perturbations` of the best, in which each decision is drawn again with `perturbation_probability`, then
    `chain` steps of a Markov chain, which perturbs the last one that was better. Train the best from new
    weights: made weights compare architectures, and are no end in themselves.

    The hypernetwork is ours, a smaller one for any space: with the encoding e of an architecture
    (`space.encode`), noise n ~ N(0, 1) that is drawn for every batch (zeros in evaluation), and a learned
    code z_s for each piece s of `piece` numbers of the weights,

        w_s = C leaky_relu(A [e; n] + B z_s),

    and each filter is scaled to the length that first weights have, sqrt(2). The paper's is a convolutional
    network on a picture of the architecture in a space of its own; kept are that gradients reach the
    hypernetwork alone, normalised filters, and the noise.

    Args:
        hidden: Hidden units of the hypernetwork.
        code: Length of z_s.
        noise: Length of n.
        piece: Numbers made at a time.
        candidates: Number of random architectures compared.
        perturbations: Number of perturbations of the best of them.
        chain: Number of steps of the Markov chain.
        perturbation_probability: Probability of drawing a decision again.

    Source: SMASH, Brock et al. 2018, arXiv:1708.05344; numbers as in the authors' code.
    """

    hidden: int = 64
    code: int = 16
    noise: int = 8
    piece: int = 64
    candidates: int = 500
    perturbations: int = 100
    chain: int = 100
    perturbation_probability: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "hidden", "code", "piece", "candidates", least=1)
        require_all(require_integer, self, "noise", "perturbations", "chain", least=0)
        require_number("perturbation_probability", self.perturbation_probability, above=0, most=1)

    @property
    def measurements(self) -> int:
        return self.candidates + self.perturbations + self.chain

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        return HyperSupernet(space.rebuild(), self)

    def unused_features(self, supernet: Supernet) -> list[str]:
        assert isinstance(supernet, HyperSupernet)
        if not supernet.ignored:
            return []
        return [
            "the hypernetwork makes the weights of layers that are chosen, so those given with the space are "
            f"not used: {quoted(supernet.ignored, 6)}. Pass Experiment(..., weights='fresh'), or use SPOS."
        ]

    def rank(self, space: DecisionSpace, measure: Measure, rng: np.random.Generator) -> list[Scored]:
        unseen = Unseen(self.filter)
        ranking = self.best_first(
            (measure(arch), arch) for arch in unseen.take(self.candidates, lambda: space.sample(rng))
        )

        def perturbed() -> dict[str, Any]:
            return space.redraw(ranking[0][1], self.perturbation_probability, rng)

        if ranking:
            near = unseen.take(self.perturbations, perturbed)
            ranking = self.best_first([*ranking, *((measure(arch), arch) for arch in near)])
        for _ in range(self.chain if ranking else 0):
            for arch in unseen.take(1, perturbed):
                ranking = self.best_first([*ranking, (measure(arch), arch)])
        return ranking


class HyperNetwork(nn.Module):
    """A network that makes tensors of given shapes from an encoding; see `SMASH`.

    Args:
        features: Length of the encoding.
        shapes: Shapes of the weights by name, (filters, ...).
        settings: Sizes.
    """

    def __init__(self, features: int, shapes: Mapping[str, torch.Size], settings: SMASH) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.noise = settings.noise
        self.pieces = [math.ceil(shape.numel() / settings.piece) for shape in self.shapes.values()]
        self.input = nn.Linear(features + settings.noise, settings.hidden)
        self.codes = nn.Parameter(torch.randn(sum(self.pieces), settings.code))
        self.mix = nn.Linear(settings.code, settings.hidden, bias=False)
        self.output = nn.Linear(settings.hidden, settings.piece)

    def forward(self, encoding: Tensor) -> dict[str, Tensor]:
        """Return the weights by name.

        Args:
            encoding: Encoding of the architecture, (features,).
        """
        shape = (self.noise,)
        noise = encoding.new_zeros(shape) if not self.training else torch.randn(shape).to(encoding)
        hidden = self.input(torch.cat([encoding, noise])) + self.mix(self.codes)  # (pieces, hidden)
        made = self.output(nn.functional.leaky_relu(hidden, 0.02)).split(self.pieces)
        weights = {}
        for (name, size), numbers in zip(self.shapes.items(), made, strict=True):
            filters = numbers.flatten()[: size.numel()].view(size[0], -1)
            weights[name] = (math.sqrt(2) * nn.functional.normalize(filters)).view(size)
        return weights


class HyperSupernet(Supernet):
    """A supernet whose selected architecture computes with weights that a hypernetwork makes for it.

    Args:
        space: The space.
        settings: Sizes of the hypernetwork.

    Attributes:
        ignored: Names of weights that were given with the space, in whose place are those that are made.
    """

    def __init__(self, space: ModelSpace, settings: SMASH) -> None:
        super().__init__(space)
        shapes = {name: self.network.get_parameter(name).shape for name in _chosen_weights(self.network)}
        if not shapes:
            raise SpaceError(
                f"SMASH makes the weights of convolutions and linear layers that are chosen, and "
                f"{type(space).__name__} has none. Use SPOS."
            )
        self.ignored = list(shapes) if space.keeps_weights else []
        for name in shapes:
            self.network.get_parameter(name).requires_grad_(False)  # what is made takes its place
        features = len(self.decision_space.encode(self.decision_space.default()))
        self.network.hypernetwork = HyperNetwork(features, shapes, settings)
        self._arch = self.decision_space.default()

    def select(self, arch: Mapping[str, Any], *, exact: bool = True) -> None:
        """Compute as one architecture, with weights made for it."""
        super().select(arch, exact=exact)
        self._arch = self.decision_space.canonical(arch)

    @contextmanager
    def mixture_kept(self) -> Iterator[None]:
        """Leave the selected architecture as it was."""
        arch = self._arch
        try:
            with super().mixture_kept():
                yield
        finally:
            self._arch = arch

    def made(self, arch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weights made for an architecture by the names of the network's parameters."""
        hypernetwork: Any = self.network.hypernetwork
        encoding = torch.as_tensor(self.decision_space.encode(arch)).to(hypernetwork.codes)
        found: dict[str, Tensor] = hypernetwork(encoding)
        return found

    def forward_network(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network computes with the weights made for the selected architecture."""
        return functional_call(self.network, self.made(self._arch), args, kwargs)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        """Return an independent plain model with the weights made for it, without noise."""
        hypernetwork: Any = self.network.hypernetwork
        was_training = hypernetwork.training
        hypernetwork.eval()
        places = {name: self.network.get_parameter(name) for name in hypernetwork.shapes}
        before = {name: place.detach().clone() for name, place in places.items()}
        try:
            with torch.no_grad():
                for name, weight in self.made(self.decision_space.canonical(arch)).items():
                    places[name].copy_(weight)
            model = super().freeze(arch)
        finally:
            hypernetwork.train(was_training)
            with torch.no_grad():
                for name, place in places.items():
                    place.copy_(before[name])
        del model.hypernetwork
        return model.requires_grad_()


def _chosen_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights of convolutions and linear layers that belong to a choice."""
    found = dict[str, None]()
    for path, choice in network.named_modules():
        if isinstance(choice, Mixed):
            for name, layer in choice.named_modules():
                if isinstance(layer, nn.Linear | _ConvNd):
                    found[f"{path}.{name}.weight"] = None
    return list(found)
