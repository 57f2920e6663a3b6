"""Real data sets and loaders for search and for retraining.

    splits = digits(seed=0)                                     # or cifar10()
    train, val = search_loaders(splits.train, batch_size=64)    # the two halves that DARTS searches on
    train, test = retrain_loaders(splits, batch_size=96)        # all training data; the held-out test set
    train = Episodes(splits.train, classes=range(5))            # few-shot tasks; other classes for validation
    graph = digits_graph()                                      # or karate_club(): nodes in three parts
    text = help_pages()                                         # or penn_treebank(folder): numbered words
    train, val = Windows(text.train, 64), Windows(text.val, 64)  # read in order by recurrent models

scikit-learn and torchvision are imported when a data set is asked for.
"""

from __future__ import annotations

from .cifar import Cutout as Cutout
from .cifar import cifar10 as cifar10
from .digits import digits as digits
from .episodes import Episode as Episode
from .episodes import Episodes as Episodes
from .graphs import Graph as Graph
from .graphs import GraphSplits as GraphSplits
from .graphs import ppi as ppi
from .graphs import side_by_side as side_by_side
from .mnist import small_mnist as small_mnist
from .modelnet import PointSplits as PointSplits
from .modelnet import modelnet as modelnet
from .node_splits import NodeSplits as NodeSplits
from .node_splits import digits_graph as digits_graph
from .node_splits import karate_club as karate_club
from .penn_treebank import penn_treebank as penn_treebank
from .splits import DataSplits as DataSplits
from .splits import retrain_loaders as retrain_loaders
from .splits import search_loaders as search_loaders
from .splits import split_half as split_half
from .text import TextSplits as TextSplits
from .text import Window as Window
from .text import Windows as Windows
from .text import help_pages as help_pages

__all__ = [
    "Cutout",
    "DataSplits",
    "Episode",
    "Episodes",
    "Graph",
    "GraphSplits",
    "NodeSplits",
    "PointSplits",
    "TextSplits",
    "Window",
    "Windows",
    "cifar10",
    "digits",
    "digits_graph",
    "help_pages",
    "karate_club",
    "modelnet",
    "penn_treebank",
    "ppi",
    "retrain_loaders",
    "search_loaders",
    "side_by_side",
    "small_mnist",
    "split_half",
]
