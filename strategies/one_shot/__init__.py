"""One-shot strategies, a file each."""

from .darts import DARTS as DARTS
from .drnas import DrNAS as DrNAS
from .enas import ENAS as ENAS
from .gumbel import GDAS as GDAS
from .gumbel import GumbelDARTS as GumbelDARTS
from .pcdarts import PCDARTS as PCDARTS
from .pdarts import PDARTS as PDARTS
from .proxyless import ProxylessNAS as ProxylessNAS
from .random_oneshot import RandomOneShot as RandomOneShot
from .sgas import SGAS as SGAS
from .spos import SPOS as SPOS
