"""Graphs as batches of one form, and PPI, the graphs on which SGAS searches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spacelang.errors import SpaceError, short
from spacelang.files import require_sha256

_PARTS = ("train", "valid", "test")
_FILES = (
    "train_graph.json, train_feats.npy, train_labels.npy, train_graph_id.npy, and the same of valid and test"
)


class Graph(NamedTuple):
    """A graph whose nodes have features and labels.

    Attributes:
        x: Features of nodes, (N, F).
        edge_index: Edges j -> i, (2, E): nodes j in row 0 and i in row 1.
        y: Class numbers (N,), or for several labels a node zeros and ones (N, L).
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor


@dataclass(frozen=True)
class GraphSplits:
    """Whole graphs in three parts.

    Attributes:
        train: Graphs to search and train with.
        val: Graphs to compare models with.
        test: Graphs for the final number only.
    """

    train: tuple[Graph, ...]
    val: tuple[Graph, ...]
    test: tuple[Graph, ...]


def side_by_side(graphs: Sequence[Graph]) -> Graph:
    """Return several graphs as one, as the `collate_fn` of a DataLoader; no edges are between them."""
    starts = np.cumsum([0, *(len(graph.x) for graph in graphs)]).tolist()
    return Graph(
        torch.cat([graph.x for graph in graphs]),
        torch.cat([g.edge_index + start for g, start in zip(graphs, starts, strict=False)], dim=1),
        torch.cat([graph.y for graph in graphs]),
    )


def ppi(folder: str | Path, *, sha256: Mapping[str, str] | None = None) -> GraphSplits:
    """Return PPI: 20, 2 and 2 graphs of proteins that interact in a human tissue, with 121 labels a protein.

    A protein has 50 features. Each interaction is an edge in both directions, counted once; those of a
    protein with itself are left out. No trusted checksum of the files is known here; pass `sha256` for
    your own.

    Args:
        folder: Folder of the unpacked `ppi.zip` of the authors of GraphSAGE: `train_graph.json`,
            `train_feats.npy`, `train_labels.npy`, `train_graph_id.npy`, and the same of valid and test.
        sha256: Checksums to compare files with before they are read, {path in the folder: 64 hexadecimal
            digits}; None for no check.

    Raises:
        SpaceError: A file is missing or damaged, or files do not fit together.

    Source: W. Hamilton et al., Inductive representation learning on large graphs, arXiv:1706.02216.
    """
    require_sha256(Path(folder), sha256)
    train, val, test = (_part(Path(folder), part) for part in _PARTS)
    return GraphSplits(train, val, test)


def _part(folder: Path, part: str) -> tuple[Graph, ...]:
    features, labels, numbers = (
        _array(folder / f"{part}_{name}.npy") for name in ("feats", "labels", "graph_id")
    )
    links = _links(folder / f"{part}_graph.json")
    count = len(numbers)
    if numbers.ndim != 1 or not len(features) == len(labels) == count:
        raise SpaceError(
            f"the files of {part!r} in '{folder}' have {len(features)} features, {len(labels)} labels and "
            f"{count} numbers of graphs; expected one of each a node."
        )
    if links.numel() and not 0 <= int(links.min()) <= int(links.max()) < count:
        raise SpaceError(f"'{folder / part}_graph.json' links a node that is none of the {count}.")
    x, y, graphs = (
        torch.from_numpy(features).float(),
        torch.from_numpy(labels).float(),
        torch.from_numpy(numbers),
    )
    if not torch.equal(graphs[links[0]], graphs[links[1]]):
        raise SpaceError(f"'{folder / part}_graph.json' links nodes of different graphs.")
    position = torch.empty(count, dtype=torch.int64)  # of a node in its graph
    found = []
    for number in np.unique(numbers):
        inside = graphs == number
        position[inside] = torch.arange(int(inside.sum()))
        found.append(Graph(x[inside], position[links[:, inside[links[0]]]], y[inside]))
    return tuple(found)


def _array(path: Path) -> np.ndarray[Any, Any]:
    """Read an array of numbers; NumPy refuses pickles unless told otherwise."""
    try:
        array: np.ndarray[Any, Any] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise SpaceError(f"cannot read '{path}': {error}; expected {_FILES}.") from error
    return array


def _links(path: Path) -> Tensor:
    """Return the links of a graph that networkx wrote, in both directions, each once, (2, E)."""
    try:
        content = json.loads(path.read_bytes())
        pairs = [(link["source"], link["target"]) for link in content["links"]]
        one_way = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpaceError(f"cannot read '{path}': {short(str(error))}; expected {_FILES}.") from error
    one_way = one_way[one_way[:, 0] != one_way[:, 1]]
    return torch.from_numpy(np.unique(np.concatenate([one_way, one_way[:, ::-1]]), axis=0).T.copy())
