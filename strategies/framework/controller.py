"""A controller: an LSTM that makes the decisions of a space one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor, nn

from spacelang.language import Architecture, Constraint, DecisionSpace, Interval, Subset
from spacelang.supernet import Group

_PARTS = 10  # of a range, among which a controller learns to choose
_PLACES = 2**16  # in each part


@dataclass(frozen=True)
class Sample:
    """An architecture drawn by a controller.

    Args:
        arch: The architecture.
        log_prob: Log probability of the draws that made it, a scalar.
        entropy: Sum of the entropies of these draws, without gradient.
        skip_divergence: Mean of `skip_divergence` over the layers with skips, a scalar.
        draws: Draws in order, each a position among its candidates; n times 0 or 1 for any set of n inputs;
            for a number of a range the part of it, and the place in that part.
    """

    arch: Architecture
    log_prob: Tensor
    entropy: float
    skip_divergence: Tensor
    draws: tuple[int, ...]


def tempered(logits: Tensor, temperature: float, tanh_constant: float) -> Tensor:
    """Return c tanh(l / T), which keeps the probabilities of a young controller away from 0 and 1."""
    return tanh_constant * torch.tanh(logits / temperature)


def skip_divergence(q: Tensor, target: float) -> Tensor:
    """Return the Kullback-Leibler divergence of inclusion by sigmoid(q) from inclusion by `target`, summed.

    Args:
        q: Logits of the inputs, (n,).
        target: Probability in (0, 1).
    """
    probabilities = torch.stack([-q, q]).sigmoid()  # (2, n)
    prior = q.new_tensor([[1 - target], [target]])
    return (probabilities * (probabilities / prior).log()).sum()


class Controller(nn.Module):
    """An LSTM cell over the decisions of a space, with layers that turn its outputs into choices and back.

    A cell of a space is decided node by node: the inputs of its slots, by attention over the earlier nodes,
    v' tanh(W_1 h_node + W_2 h), then their operations. Any other decision takes one step, whose output a
    linear layer turns into logits; the embedding of the choice is the next input. Sets of a given size are
    drawn one by one without replacement; sets of any size by an independent draw for each input, again while
    the set is empty. A range has ten equal parts on its scale: one of them is drawn, and a number in it
    uniformly. A decision that does not exist under those before it is left out. Cells with the
    same operations share their layers, as normal and reduction cells do.

    Args:
        space: Decisions to make.
        groups: The same decisions, those of a cell together where attention chooses its inputs.
        hidden: Size of the LSTM.
        tanh_constant: The constant c for all logits; see `tempered`.
        generator: Draws the first weights.
        temperature: The temperature T for all logits.
        op_tanh_reduce: Divides c for operations in cells.
        operation_bias: Numbers added to tempered logits, by `"{cell label}/{operation}"`.
        first_bias: First values of the biases that are learned, added before tempering, by the operation of a
            cell; 0 for others.
        skips: Shell-style pattern of the labels of choices of two, the second of which is a skip. Those whose
            labels differ in their last part alone belong to one layer; any set of inputs is a layer too.
        skip_target: Target of `skip_divergence`.
        context: Size of a vector that `sample` is given and that joins the input of every step. A linear
            layer then leads from the input around the LSTM to its output. 0 for none.

    Source: ENAS, Pham et al. 2018, arXiv:1802.03268, section 2.
    """

    def __init__(
        self,
        space: DecisionSpace,
        groups: Iterable[Group],
        *,
        hidden: int,
        tanh_constant: float,
        generator: torch.Generator,
        temperature: float = 1.0,
        op_tanh_reduce: float = 1.0,
        operation_bias: Mapping[str, float] = MappingProxyType({}),
        first_bias: Mapping[str, float] = MappingProxyType({}),
        skips: str = "*/skip_*",
        skip_target: float = 0.5,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.space = space
        order = {label: position for position, label in enumerate(self.space.by_label)}
        self.groups = sorted(groups, key=lambda group: order[group.decisions[0].label])
        self.rules: dict[str, list[Constraint]] = {label: [] for label in order}
        for rule in (rule for rule in space.constraints if rule.gives_way):
            self.rules[max(rule.labels, key=order.__getitem__)].append(rule)
        self.temperature = temperature
        self.tanh_constant = tanh_constant
        self.op_tanh_reduce = op_tanh_reduce
        self.skips = skips
        self.skip_target = skip_target
        self.biases = {
            group.label: torch.tensor(
                [operation_bias.get(f"{group.label}/{c}", 0.0) for c in _options(group)]
            )
            for group in self.groups
        }
        self.lstm = nn.LSTMCell(hidden + context, hidden, bias=False)
        self.around = nn.Linear(hidden + context, hidden, bias=False) if context else None
        self.start = nn.Parameter(torch.empty(1, hidden))
        self.w_1 = nn.Linear(hidden, hidden, bias=False)
        self.w_2 = nn.Linear(hidden, hidden, bias=False)
        self.v = nn.Linear(hidden, 1, bias=False)
        first: dict[object, Group] = {}
        for group in self.groups:
            first.setdefault(_kind(group), group)
        places = {kind: place for place, kind in enumerate(first)}
        self.place = {group.label: places[_kind(group)] for group in self.groups}
        self.heads = nn.ModuleList(nn.Linear(hidden, len(_options(group))) for group in first.values())
        self.embeddings = nn.ModuleList(nn.Embedding(len(_options(g)), hidden) for g in first.values())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.uniform_(-0.1, 0.1, generator=generator)
            for head, group in zip(self.heads, first.values(), strict=True):
                if group.kind == "cell":
                    learned = torch.tensor([first_bias.get(str(c), 0.0) for c in group.columns])
                    head.bias.copy_(learned)  # type: ignore[operator]

    def sample(
        self,
        generator: torch.Generator | None = None,
        draws: Sequence[int] = (),
        context: Tensor | None = None,
    ) -> Sample:
        """Draw an architecture; it may break constraints of the space.

        Args:
            generator: Generator for the draws.
            draws: Draws of an earlier sample to repeat instead.
            context: Vector that joins the inputs, (context,), for a controller that was made for one.
        """
        walk = _Walk(self, generator, draws, context)
        arch: Architecture = {}
        for group in self.groups:
            if self.space.active(group.decisions[0].label, arch):
                arch |= walk.cell(group) if group.kind == "cell" else walk.decision(group, arch)
        divergences = list(walk.skip_divergences.values()) or [torch.zeros(())]
        return Sample(arch, walk.log_prob, walk.entropy, torch.stack(divergences).mean(), tuple(walk.draws))


class _Walk:
    """One pass of a controller over the decisions."""

    def __init__(
        self,
        controller: Controller,
        generator: torch.Generator | None,
        draws: Sequence[int],
        context: Tensor | None,
    ) -> None:
        self.controller = controller
        self.generator = generator
        self.context = context
        self.given = iter(draws) if draws else None
        self.draws: list[int] = []
        self.inputs: Tensor = controller.start  # of the next step, (1, hidden)
        self.state = torch.zeros_like(self.inputs), torch.zeros_like(self.inputs)
        self.log_prob = torch.zeros(())
        self.entropy = 0.0
        self.skip_divergences: dict[str, Tensor] = {}  # by layer

    def cell(self, group: Group) -> Architecture:
        """Decide the inputs and operations of every node."""
        net, topology = self.controller, group.cell
        anchors: list[Tensor] = []  # input after the choice of each node, (1, hidden)
        keys: list[Tensor] = []  # W_1 h of each node, (1, hidden)
        for _ in range(topology.num_predecessors):
            keys.append(net.w_1(self._step()))
            anchors.append(torch.zeros_like(self.inputs))
        values: Architecture = {}
        for node in topology.nodes:
            slots = topology.slots(node)
            self.inputs, taken = net.start, list[int]()
            for _, source in slots:
                query = net.w_2(self._step())
                logits = self._tempered(net.v(torch.tanh(torch.cat(keys) + query))[:, 0])
                rows = topology.rows_into(node)
                closed = [source for source, row in enumerate(rows) if not any(group.alive[row])]
                logits = _without(logits, [*closed, *(taken if topology.distinct_inputs else ())])
                taken.append(self._draw(logits))
                values[source.label] = taken[-1]
                self.inputs = anchors[taken[-1]]
            for (operation, _), read in zip(slots, taken, strict=True):
                logits = self._logits(group, net.op_tanh_reduce)
                alive = group.alive[rows[read]]
                logits = _without(logits, [k for k, is_alive in enumerate(alive) if not is_alive])
                values[operation.label] = group.columns[self._embedded(group, [self._draw(logits)])[0]]
            anchors.append(self._step())
            keys.append(net.w_1(anchors[-1]))
        self.inputs = net.start
        return values

    def decision(self, group: Group, arch: Architecture) -> Architecture:
        """Decide one decision outside cells, `arch` before it."""
        decision = group.decisions[0]
        logits = self._logits(group)
        if isinstance(decision, Subset):
            if decision.n_chosen is None:
                self._diverge(decision.label, logits)
            chosen = self._set_of(logits, decision.n_chosen) if decision.n_chosen else self._any_set(logits)
            return {decision.label: [decision.candidates[k] for k in sorted(self._embedded(group, chosen))]}
        if len(logits) == 2 and fnmatchcase(decision.label, self.controller.skips):
            # softmax(-q, q) of the authors' code; what the two logits have in common changes nothing.
            self._diverge(decision.label.rpartition("/")[0], logits[1:] - logits.mean())
        if isinstance(decision, Interval):
            return {decision.label: self._number(group, logits, decision)}
        values, rules = list(decision.values()), self.controller.rules[decision.label]
        if rules:  # an operation was drawn that some of the edges do not have
            allowed = [all(rule.holds(arch | {decision.label: value}) for rule in rules) for value in values]
            logits = _without(logits, [k for k, is_allowed in enumerate(allowed) if not is_allowed])
        (chosen_one,) = self._embedded(group, [self._draw(logits)])
        return {decision.label: values[chosen_one]}

    def _number(self, group: Group, logits: Tensor, interval: Interval) -> float:
        """Draw a part of a range by the logits, then a number of that part, all of which are as likely."""
        (part,) = self._embedded(group, [self._draw(logits)])
        if self.given is None:
            self.draws.append(int(torch.randint(_PLACES, (), generator=self.generator)))
        else:
            self.draws.append(next(self.given))
        return interval.spread((part + (self.draws[-1] + 0.5) / _PLACES) / len(logits))

    def _step(self) -> Tensor:
        """Take one more step; return its output h, (1, hidden)."""
        inputs, around = self.inputs, self.controller.around
        if self.context is not None:
            inputs = torch.cat([inputs, self.context[None]], dim=1)
        self.state = self.controller.lstm(inputs, self.state)
        return self.state[0] if around is None else self.state[0] + around(inputs)

    def _tempered(self, logits: Tensor, reduce: float = 1.0) -> Tensor:
        return tempered(logits, self.controller.temperature, self.controller.tanh_constant / reduce)

    def _logits(self, group: Group, reduce: float = 1.0) -> Tensor:
        """Take one more step; return its logits for the candidates of a group, (columns,)."""
        head = self.controller.heads[self.controller.place[group.label]]
        return self._tempered(head(self._step())[0], reduce) + self.controller.biases[group.label]

    def _embedded(self, group: Group, chosen: list[int]) -> list[int]:
        """Make the mean embedding of chosen candidates the next input; return the candidates."""
        embedding = self.controller.embeddings[self.controller.place[group.label]]
        self.inputs = embedding(torch.tensor(chosen)).mean(dim=0, keepdim=True)
        return chosen

    def _draw(self, logits: Tensor) -> int:
        """Draw one of n candidates with probabilities softmax(logits), (n,)."""
        log_p = logits.log_softmax(dim=0)
        p = log_p.detach().exp()
        chosen = (
            int(torch.multinomial(p, 1, generator=self.generator)) if self.given is None else next(self.given)
        )
        self.draws.append(chosen)
        self.log_prob = self.log_prob + log_p[chosen]
        self.entropy += float(torch.special.entr(p).sum())
        return chosen

    def _set_of(self, logits: Tensor, count: int) -> list[int]:
        """Draw `count` different candidates one by one."""
        chosen: list[int] = []
        for _ in range(count):
            chosen.append(self._draw(_without(logits, chosen)))
        return chosen

    def _diverge(self, layer: str, q: Tensor) -> None:
        """Add the divergence of skips into a layer, (skips,)."""
        divergence = skip_divergence(q, self.controller.skip_target)
        self.skip_divergences[layer] = self.skip_divergences.get(layer, 0) + divergence

    def _any_set(self, logits: Tensor) -> list[int]:
        """Draw each candidate with probability sigmoid(logit), again while the set is empty."""
        p = logits.detach().sigmoid()
        self.entropy += float((torch.special.entr(p) + torch.special.entr(1 - p)).sum())
        included = torch.zeros_like(p)
        while not included.any():
            if self.given is None:
                included = torch.bernoulli(p, generator=self.generator)
            else:
                included = p.new_tensor([next(self.given) for _ in p])
        self.draws += [int(x) for x in included]
        signs = 2 * included - 1
        any_ = -torch.expm1(nn.functional.logsigmoid(-logits).sum())
        self.log_prob = self.log_prob + nn.functional.logsigmoid(signs * logits).sum() - any_.log()
        return included.nonzero()[:, 0].tolist()


def _options(group: Group) -> Sequence[object]:
    """Return the candidates of a group; of a range its parts, each value of it if there are few."""
    decision = group.decisions[0]
    return range(int(min(_PARTS, decision.cardinality))) if isinstance(decision, Interval) else group.columns


def _kind(group: Group) -> object:
    """Return a key that is equal for groups that share their layers."""
    return group.label if group.kind != "cell" else group.columns


def _without(logits: Tensor, taken: list[int]) -> Tensor:
    if not taken:
        return logits
    mask = torch.zeros(len(logits), dtype=torch.bool)
    mask[taken] = True
    return logits.masked_fill(mask, -torch.inf)
