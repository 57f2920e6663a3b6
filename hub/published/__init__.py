"""Published architectures: their entries, the base class of their spaces, and their weights."""

from __future__ import annotations

from .entries import Entry as Entry
from .entries import architecture as architecture
from .entries import list_models as list_models
from .entries import read_entry as read_entry
from .published_space import PublishedSpace as PublishedSpace
from .published_space import build as build
from .published_space import convert_weights as convert_weights
from .weights import Pretrained as Pretrained
