"""Search strategies."""

from ._derivation import top_architectures as top_architectures
from ._oneshot import OneShot as OneShot
from ._relaxation import Relaxation as Relaxation
from ._relaxation import Softmax as Softmax
from .darts import DARTS as DARTS
