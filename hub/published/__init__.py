"""Published architectures: the entries, the base class of their spaces, and where weights come from."""

from __future__ import annotations

from ._entries import Entry as Entry
from ._entries import architecture as architecture
from ._entries import list_models as list_models
from ._entries import read_entry as read_entry
from ._space import PublishedSpace as PublishedSpace
from ._weights import Pretrained as Pretrained
