"""Following atoms through the operations of a network while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..graph.tensors import tensors_in
from .atoms import COUNTS_PIECES, Atom, Dims, current, fresh, refuse, regrouped, size_of, unify, within

Rule: TypeAlias = "Callable[[AtomFlow, Sequence[Any], Any], Any]"
"""Returns the dimensions of an operation's first output, of its arguments in order and that output."""


class AtomFlow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows the atoms of every tensor that is computed while it is active.

    An operation without a rule gives atoms of which nothing is known, and those of its inputs are not free.

    Args:
        place: Returns the path of the module that is running, for messages.

    Attributes:
        read: Tensors that operations got, with the place, in order.
    """

    def __init__(self, place: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place
        self._known: dict[int, tuple[Tensor, Dims]] = {}  # tensors are kept alive: identities stay theirs
        self._origins: dict[int, frozenset[int]] = {}  # last matrix products that a tensor comes from
        self._sums = False
        self.read: list[tuple[Tensor, str]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch loads its compiler at the first operation

    def dims(self, tensor: Tensor) -> Dims:
        """Return the atoms of a tensor; of one from elsewhere, such as a constant, they are new."""
        if id(tensor) not in self._known:
            self.note(tensor, fresh(tensor.shape))
        return tuple(current(atoms) for atoms in self._known[id(tensor)][1])

    def note(self, tensor: Tensor, dims: Dims) -> None:
        """Note the atoms of a tensor."""
        self._known[id(tensor)] = tensor, dims

    def why(self, operation: str) -> str:
        """Return the reason that an operation gives, with its place."""
        return f"{operation} in {self._place() or 'the network itself'}"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, outputs = tensors_in((args, kwargs)), tensors_in(result)
        place = self._place()
        self.read += [(tensor, place) for tensor in given]
        name = str(func._schema.name).removeprefix("aten::").rstrip("_")
        origins = [self._origins.get(id(tensor), frozenset()) for tensor in given]
        self._sums = name in ("add", "sub") and len(set(filter(None, origins))) > 1
        joined = frozenset[int]().union(*origins)
        for output in outputs:
            self._origins[id(output)] = frozenset((id(output),)) if name in _PRODUCTS else joined
        if not given or not outputs or all(any(o is g for g in given) for o in outputs):
            for output in outputs:  # in place: it keeps its atoms, and what is added has the same
                self.aligned([output, *given], output)
            return result
        rule = _RULES.get(name) or (_elementwise if torch.Tag.pointwise in func.tags else None)
        dims = rule(self, _in_order(func, args, kwargs), result) if rule is not None else None
        if dims is None:
            self._unknown(given, name)
        elif isinstance(result, Tensor):
            self.note(result, dims)
        else:
            several = dims if isinstance(dims, list) else [dims]
            for output, known in zip(outputs, several, strict=False):
                self.note(output, known)
        return result

    def _unknown(self, given: Iterable[Tensor], name: str) -> None:
        for tensor in given:
            for atoms in self.dims(tensor):
                refuse(atoms, self.why(f"{name!r} is not followed"))

    def aligned(self, tensors: Sequence[Tensor], output: Tensor) -> Dims:
        """Return the dimensions of an elementwise result; those of equal size are made the same."""
        found: list[tuple[Atom, ...]] = []
        every = [self.dims(tensor) for tensor in tensors]
        for back in range(1, output.dim() + 1):
            size = output.shape[-back]
            same = [dims[-back] for dims in every if len(dims) >= back and size_of(dims[-back]) == size > 1]
            for other in same[1:]:
                unify(same[0], other, self.why("a sum of tensors factored otherwise"))
            known = current(same[0]) if same else ()
            for atom in within(known):
                atom.is_summed |= self._sums and len(same) > 1
            found.append(known if size_of(known) == size else fresh([size])[0])
        return tuple(current(atoms) for atoms in reversed(found))

    def kept(self, source: Tensor, output: Tensor, reason: str) -> Dims:
        """Return the dimensions of a result that has those of its source where the sizes are equal."""
        found = []
        for atoms, size in zip(self.dims(source), output.shape, strict=True):
            if size_of(atoms) != size:
                refuse(atoms, self.why(reason))
                atoms = fresh([size], self.why(reason))[0]
            found.append(atoms)
        return tuple(found)


def _in_order(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments of an operation in the order of its schema, defaults filled in."""
    schema = func._schema.arguments
    rest = [
        kwargs.get(a.name, a.default_value if a.has_default_value() else None) for a in schema[len(args) :]
    ]
    return [*args, *rest]


# -- rules -------------------------------------------------------------------------------------------------


def _elementwise(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return flow.aligned(tensors_in(list(args)), out)


def _same(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return flow.dims(args[0])


def _softmax(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = flow.dims(args[0])
    for atom in within(dims[args[1]] if dims else ()):
        atom.is_reduced = True
    return dims


def _constant(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return fresh(out.shape)


def _view(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims, sizes = flow.dims(args[0]), list(out.shape)
    first = 0
    while first < min(len(dims), len(sizes)) and size_of(dims[first]) == sizes[first]:
        first += 1
    last = 0
    while last < min(len(dims), len(sizes)) - first and size_of(dims[-1 - last]) == sizes[-1 - last]:
        last += 1
    inner = [atom for atoms in dims[first : len(dims) - last] for atom in atoms]
    middle = regrouped(inner, sizes[first : len(sizes) - last])
    if middle is None:
        reason = flow.why(
            f"a view from {tuple(args[0].shape)} to {tuple(sizes)}, which divides it otherwise,"
        )
        refuse(inner, reason)
        middle = fresh(sizes[first : len(sizes) - last], reason)
    return (*dims[:first], *middle, *dims[len(dims) - last :])


def _permute(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = flow.dims(args[0])
    return tuple(dims[d] for d in args[1])


def _transpose(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = list(flow.dims(args[0]))
    a, b = (args[1], args[2]) if len(args) > 2 else (0, 1)
    if len(dims) > 1:
        dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


def _unsqueeze(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = list(flow.dims(args[0]))
    dims.insert(args[1] % (len(dims) + 1), ())
    return tuple(dims)


def _squeeze(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = flow.dims(args[0])
    dropped = range(len(dims)) if len(args) == 1 else args[1] if isinstance(args[1], list) else [args[1]]
    gone = {d % len(dims) for d in dropped if not dims[d]}
    return tuple(atoms for d, atoms in enumerate(dims) if d not in gone)


def _expand(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = flow.dims(args[0])
    added = len(out.shape) - len(dims)
    pairs = zip(((),) * added + dims, out.shape, strict=True)
    return tuple(atoms if size_of(atoms) == size else fresh([size])[0] for atoms, size in pairs)


def _select(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = list(flow.dims(args[0]))
    refuse(dims[args[1]], flow.why("one entry is taken by its index"))
    del dims[args[1] % len(dims)]
    return tuple(dims)


def _unbind(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = list(flow.dims(args[0]))
    refuse(dims[args[1]], flow.why("entries are taken apart"))
    del dims[args[1] % len(dims)]
    return [tuple(dims)] * len(out)


def _split(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims, dim = list(flow.dims(args[0])), (args[2] if len(args) > 2 else 0)
    sizes = [part.shape[dim] for part in out]
    parts = regrouped(dims[dim], (len(out), sizes[0])) if len(set(sizes)) == 1 else None
    if len(out) == 1:
        return [tuple(dims)]
    if parts is None:
        refuse(dims[dim], flow.why("it is split in unequal parts"))
        return [
            (*dims[:dim], *fresh([n], flow.why("part of a split")), *dims[dim % len(dims) + 1 :])
            for n in sizes
        ]
    refuse(parts[0], flow.why("it counts the parts of a split"))
    dims[dim] = parts[1]
    return [tuple(dims)] * len(out)


def _slice(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return flow.kept(args[0], out, "a part is sliced out")


def _pad(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return flow.kept(args[0], out, "it is padded")


def _cat(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    pieces = [tensor for tensor in args[0] if tensor.numel()]
    if not pieces:
        return fresh(out.shape)
    every = [flow.dims(piece) for piece in pieces]
    dim = (args[1] or 0) % out.dim()
    found = list(every[0])
    for d in range(out.dim()):
        if d != dim:
            for other in every[1:]:
                unify(found[d], other[d], flow.why("pieces of a concatenation differ"))
    pieces_atoms = [current(dims[dim]) for dims in every]
    if len(pieces) > 1:
        if all(atoms == pieces_atoms[0] for atoms in pieces_atoms) and pieces_atoms[0]:
            found[dim] = (Atom(len(pieces), flow.why(COUNTS_PIECES)), *pieces_atoms[0])
        else:
            # The pieces of a concatenation within are pieces of this one.
            inner = [a[0].pieces if len(a) == 1 and a[0].pieces else [a] for a in pieces_atoms]
            found[dim] = (Atom(out.shape[dim], pieces=[piece for several in inner for piece in several]),)
    return tuple(found)


def _reduced(at: int) -> Rule:
    """Return the rule of a reduction whose dimensions are argument `at`."""

    def rule(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
        dims = flow.dims(args[0])
        first = out if isinstance(out, Tensor) else out[0]
        given = args[at] if len(args) > at else None
        over = (
            range(len(dims))
            if given is None or given == []
            else given
            if isinstance(given, list)
            else [given]
        )
        gone = {d % len(dims) for d in over}
        for d in gone:
            for atom in within(dims[d]):
                atom.is_reduced = True
        keeps = first.dim() == len(dims)
        left = [() if d in gone else atoms for d, atoms in enumerate(dims) if keeps or d not in gone]
        return tuple(left) if isinstance(out, Tensor) else [tuple(left)] * len(tensors_in(out))

    return rule


def _pooling(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    first = out if isinstance(out, Tensor) else out[0]
    dims = flow.dims(args[0])
    pairs = zip(dims[-2:], first.shape[-2:], strict=True)
    spatial = [atoms if size_of(atoms) == size else fresh([size])[0] for atoms, size in pairs]
    return (*dims[:-2], *spatial)


def _convolution(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    x, weight, bias, transposed, groups = *args[:3], args[6], args[8]
    channels = -1 - (weight.dim() - 2)
    given, kernel = flow.dims(x), list(flow.dims(weight))
    reason = flow.why("a convolution reads channels that are factored otherwise")
    made, read = (1, 0) if transposed else (0, 1)
    if groups == 1:
        unify(given[channels], kernel[read], reason)
        returned = kernel[made]
    else:
        per_group = x.shape[channels] // groups
        inputs = regrouped(given[channels], (groups, per_group))
        rows = regrouped(kernel[0], (groups, weight.shape[0] // groups))
        if inputs is None or rows is None:
            refuse((*given[channels], *kernel[0], *kernel[1]), reason)
            return None
        unify(inputs[0], rows[0], reason)
        inner_read, inner_made = (rows[1], kernel[1]) if transposed else (kernel[1], rows[1])
        unify(inputs[1], inner_read, reason)
        for atom in current(rows[0]):
            atom.is_group |= per_group > 1
        returned = (*rows[0], *inner_made)
    if bias is not None:
        unify(flow.dims(bias)[0], returned, reason)
    spatial = fresh(out.shape[channels + 1 :]) if channels < -1 else ()
    return (*given[: x.dim() + channels], current(returned), *spatial)


def _product(flow: AtomFlow, a: Dims, b: Dims) -> Dims:
    """Return the dimensions of a matrix product, batches included."""
    reason = flow.why("a matrix product of features that are factored otherwise")
    unify(a[-1], b[-2], reason)
    for x, y in zip(a[:-2], b[:-2], strict=False):
        unify(x, y, reason)
    return (*a[:-2], a[-2], b[-1])


def _mm(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return _product(flow, flow.dims(args[0]), flow.dims(args[1]))


def _addmm(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims = _product(flow, flow.dims(args[1]), flow.dims(args[2]))
    added = flow.dims(args[0])
    for x, y in zip(reversed(dims), reversed(added), strict=False):
        if size_of(x) == size_of(y):
            unify(x, y, flow.why("a bias is factored otherwise"))
    return tuple(current(atoms) for atoms in dims)


def _mv(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    matrix, vector = flow.dims(args[0]), flow.dims(args[1])
    unify(matrix[1], vector[0], flow.why("a matrix product of features that are factored otherwise"))
    return (matrix[0],)


def _linear(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    x, weight = flow.dims(args[0]), flow.dims(args[1])
    reason = flow.why("a linear layer reads features that are factored otherwise")
    unify(x[-1], weight[1], reason)
    if args[2] is not None:
        unify(flow.dims(args[2])[0], weight[0], reason)
    return (*x[:-1], current(weight[0]))


def _attention(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    query, key, value = map(flow.dims, args[:3])
    reason = flow.why("attention reads features that are factored otherwise")
    for q, k, v in zip(query[:-2], key[:-2], value[:-2], strict=True):
        unify(k, v, reason)
        if size_of(q) == size_of(k):
            unify(q, k, reason)
        else:
            refuse((*q, *k), flow.why("heads share keys"))
    unify(query[-1], key[-1], reason)
    unify(key[-2], value[-2], reason)
    first = (*query[:-1], value[-1])
    return first if isinstance(out, Tensor) else [first]


def _norm_of_channels(parameters: Sequence[int], groups_at: int | None = None) -> Rule:
    """Return the rule of a norm of dimension 1 with parameters for each channel."""

    def rule(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
        dims = list(flow.dims(args[0]))
        reason = flow.why("a norm of channels that are factored otherwise")
        if groups_at is not None and 1 < args[groups_at] < size_of(dims[1]):
            parts = regrouped(dims[1], (args[groups_at], size_of(dims[1]) // args[groups_at]))
            if parts is None:
                refuse(dims[1], reason)
            else:
                for atom in parts[0]:
                    atom.is_group = True
                dims[1] = (*parts[0], *parts[1])
        if groups_at is not None:
            for atom in within(dims[1]):
                atom.is_reduced = True
        for position in parameters:
            if args[position] is not None:
                unify(flow.dims(args[position])[0], dims[1], reason)
        return [tuple(current(atoms) for atoms in dims)]

    return rule


def _layer_norm(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims, shape = flow.dims(args[0]), args[1]
    for parameter in args[2:4]:
        if isinstance(parameter, Tensor):
            for x, y in zip(dims[-len(shape) :], flow.dims(parameter), strict=True):
                unify(x, y, flow.why("a norm of features that are factored otherwise"))
    for atoms in dims[-len(shape) :]:
        for atom in within(atoms):
            atom.is_reduced = True
    dims = tuple(current(atoms) for atoms in dims)
    return dims if isinstance(out, Tensor) else [dims]


def _embedding(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    table = flow.dims(args[0])
    refuse(table[0], flow.why("entries are looked up by their index"))
    return (*flow.dims(args[1]), *table[1:])


def _index(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    dims, count = flow.dims(args[0]), len(args[1])
    reason = flow.why("entries are looked up by their index")
    if any(index is None for index in args[1]):
        return None
    for atoms in dims[:count]:
        refuse(atoms, reason)
    rest = dims[count:]
    return (*fresh(out.shape[: out.dim() - len(rest)], reason), *rest)


def _masked(flow: AtomFlow, args: Sequence[Any], out: Any) -> Any:
    return flow.aligned([args[0], args[1]], out)


_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "convolution")
_VIEWS = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "_reshape_alias")
_SAME = (
    *("clone", "alias", "detach", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy", "dropout"),
    *("native_dropout", "roll", "flip", "tril", "triu", "cumsum", "hardswish", "_conj"),
    *("zero", "fill", "threshold"),
)
_CONSTANTS = (
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "bernoulli"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "empty", "arange", "new_empty_strided"),
)
_POOLS = (
    *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    "_upsample_bilinear2d_aa",
)
_ATTENTIONS = (
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"),
    *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
    *("scaled_dot_product_attention", "_scaled_dot_product_fused_attention_overrideable"),
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_CONSTANTS, _constant),
    **dict.fromkeys(_POOLS, _pooling),
    **dict.fromkeys(_ATTENTIONS, _attention),
    **dict.fromkeys(("_softmax", "_safe_softmax", "softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(("transpose", "t", "numpy_T"), _transpose),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "logsumexp"), _reduced(1)),
    **dict.fromkeys(("var", "std", "var_mean"), _reduced(1)),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _reduced(2)),
    **dict.fromkeys(("mm", "bmm", "matmul"), _mm),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("native_layer_norm", "rms_norm", "_fused_rms_norm"), _layer_norm),
    **dict.fromkeys(("native_batch_norm", "batch_norm"), _norm_of_channels((1, 2, 3, 4))),
    "_native_batch_norm_legit_no_training": _norm_of_channels((1, 2, 3, 4)),
    "_native_batch_norm_legit": _norm_of_channels((1, 2, 3, 4)),
    "native_group_norm": _norm_of_channels((1, 2), groups_at=6),
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "constant_pad_nd": _pad,
    "cat": _cat,
    "convolution": _convolution,
    "mv": _mv,
    "linear": _linear,
    "embedding": _embedding,
    "index": _index,
    "masked_fill": _masked,
    "where": _elementwise,
    "gather": lambda flow, args, out: fresh(out.shape),
    "as_strided": lambda flow, args, out: flow.dims(args[0]) if out.shape == args[0].shape else None,
}
