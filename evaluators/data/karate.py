"""Zachary's karate club: a real graph that ships with networkx."""

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

    for name, count in (("train", train), ("val", val)):
        require_integer(name, count, least=1, most=16 - (train if name == "val" else 0))
    graph = nx.karate_club_graph()
    pairs = torch.tensor(list(graph.edges)).T
    sides = torch.tensor([int(graph.nodes[node]["club"] == "Officer") for node in graph])
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.zeros(len(sides), dtype=torch.bool) for _ in range(3)]
    for side in (0, 1):
        members = torch.nonzero(sides == side)[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        for part, chosen in zip(parts, members.tensor_split([train, train + val]), strict=True):
            part[chosen] = True
    return NodeSplits(torch.eye(len(sides)), torch.cat([pairs, pairs.flip(0)], dim=1), sides, *parts)
