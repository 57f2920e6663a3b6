"""ModelSpace: the base class of every space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .costs import CostLimit, SpaceReport, report
from .graph import architecture_hash, space_graph
from .language import Space, architecture_of

if TYPE_CHECKING:
    import networkx as nx


class ModelSpace(Space):
    """Base class of a space: an `nn.Module` whose constructor uses choices.

    Constructed as it is, it is the space, with every candidate alive and `forward` running the first
    ones. Constructed inside `model_context(arch)`, it is a plain model of that architecture. A space is
    never changed by what is done with it. `prefix=`, which every space takes besides its own arguments,
    begins all labels inside: `Net(prefix="left")`.

    >>> from torch import nn
    >>> from spacelang import LayerChoice, ModelSpace, model_context
    >>> class Net(ModelSpace):
    ...     def __init__(self, width: int = 4) -> None:
    ...         super().__init__()
    ...         layers = {"linear": nn.Linear(2, width), "none": nn.Identity()}
    ...         self.layer = LayerChoice(layers, label="layer")
    >>> Net().size()
    2
    >>> with model_context({"layer": "linear"}):
    ...     Net(width=8).layer
    Linear(in_features=2, out_features=8, bias=True)
    """

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows: the decisions, or of a frozen model the architecture."""
        from .results.report import space_html  # late: `import torch` and a space cost no more for it

        return space_html(self) if self.decisions else self._repr_svg_()

    def _repr_svg_(self) -> str | None:
        from .results import draw

        return draw(self).svg if self.decisions or architecture_of(self) else None

    @property
    def graph(self) -> nx.MultiDiGraph:
        """The space as a networkx graph, see `spacelang.graph`; computed at each access."""
        return space_graph(self)

    def trace(self, *example_inputs: Any) -> nx.MultiDiGraph:
        """Return `graph` with the shapes and the data flow between choices that example inputs give."""
        return space_graph(self, example_inputs)

    def hash(self, arch: Mapping[str, Any]) -> str:
        """Return the Weisfeiler-Lehman hash of an architecture's graph, equal for isomorphic ones."""
        return architecture_hash(self, arch)

    def report(self, *example_inputs: Any, limits: Sequence[CostLimit] = ()) -> SpaceReport:
        """Return the decisions, the size, and the range of parameters (with example inputs also FLOPs).

        Args:
            example_inputs: Positional arguments of the forward pass.
            limits: Limits on what a model costs, such as `spacelang.costs.CostLimit("flops", at_most=3e8)`;
                the report says of each whether an architecture meets it.
        """
        return report(self, example_inputs, limits)
