"""Search strategies."""

from ._derivation import top_architectures as top_architectures
from ._differentiable import Differentiable as Differentiable
from ._extra import Extra as Extra
from ._oneshot import OneShot as OneShot
from ._relaxation import Mixture as Mixture
from ._relaxation import Moment as Moment
from ._relaxation import Relaxation as Relaxation
from ._relaxation import Softmax as Softmax
from ._schedule import Schedule as Schedule
from ._update import Update as Update
from .darts import DARTS as DARTS
from .gumbel import GDAS as GDAS
from .gumbel import GumbelDARTS as GumbelDARTS
from .sgas import SGAS as SGAS
