"""Real graphs that ship with networkx and scikit-learn, whose nodes have classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.errors import require_integer


@dataclass(frozen=True)
class NodeSplits:
    """One graph whose nodes have classes, and three parts of its nodes.

    Attributes:
        x: Features of nodes, (N, F).
        edge_index: Edges in both directions, (2, E).
        y: Class numbers, (N,).
        train, val, test: Nodes of each part, (N,) of booleans.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor
    train: Tensor
    val: Tensor
    test: Tensor


def karate_club(train: int = 4, val: int = 4, seed: int = 0) -> NodeSplits:
    """Return the 34 members of a karate club, 78 friendships, and the side each took when the club split.

    A member's features are one for the member alone, (34, 34): what a network knows of others comes along
    friendships. Each part has as many members of either side.

    Args:
        train: Members of each side to train with, of 17.
        val: Members of each side to compare models with; the others are the test.
        seed: Seed of the split; the global generators are left as they are.

    Source: W. Zachary, An information flow model for conflict and fission in small groups, 1977.
    """
    import networkx as nx

    graph = nx.karate_club_graph()
    pairs = torch.tensor(list(graph.edges)).T
    sides = torch.tensor([int(graph.nodes[node]["club"] == "Officer") for node in graph])
    edges = torch.cat([pairs, pairs.flip(0)], dim=1)
    return NodeSplits(torch.eye(len(sides)), edges, sides, *_parts(sides, train, val, seed))


def digits_graph(neighbours: int = 5, train: int = 20, val: int = 50, seed: int = 0) -> NodeSplits:
    """Return the 1,797 images of handwritten digits as a graph: an edge joins images that are alike.

    An image is joined with the `neighbours` nearest ones in the Euclidean distance of all 64 pixels, and with
    those that are as near as the last of them. Its features are its four pixels in the middle, (1797, 4), 0
    to 1. They tell little of the digit, so a network has to learn from the neighbours.

    Args:
        neighbours: Number of images that each is joined with; more where others are joined with it.
        train: Images of each digit to train with, of at least 174.
        val: Images of each digit to compare models with; the others are the test.
        seed: Seed of the split; the global generators are left as they are.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI), in scikit-learn.
    """
    from sklearn.datasets import load_digits

    require_integer("neighbours", neighbours, least=1, most=100)
    source = load_digits()
    pixels, labels = torch.from_numpy(source.data), torch.from_numpy(source.target)  # (N, 64) from 0 to 16
    squares = (pixels**2).sum(1)
    distances = squares[:, None] + squares - 2 * pixels @ pixels.T  # squared; exact, as they are integers
    distances.fill_diagonal_(torch.inf)
    near = distances <= distances.kthvalue(neighbours).values[:, None]
    middle = pixels.view(-1, 8, 8)[:, 3:5, 3:5].flatten(1).float() / 16
    return NodeSplits(middle, (near | near.T).nonzero().T, labels, *_parts(labels, train, val, seed))


def _parts(classes: Tensor, train: int, val: int, seed: int) -> list[Tensor]:
    """Return three parts of the nodes, each (N,): `train` of a class, `val` of a class, and the others."""
    fewest = int(classes.bincount().min())
    require_integer("train", train, least=1, most=fewest - 2)
    require_integer("val", val, least=1, most=fewest - 1 - train)
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.zeros(len(classes), dtype=torch.bool) for _ in range(3)]
    for number in range(int(classes.max()) + 1):
        nodes = torch.nonzero(classes == number)[:, 0]
        nodes = nodes[torch.randperm(len(nodes), generator=generator)]
        for part, chosen in zip(parts, nodes.tensor_split([train, train + val]), strict=True):
            part[chosen] = True
    return parts
