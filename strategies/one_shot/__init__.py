"""One-shot strategies, a file each."""

from .darts import DARTS as DARTS
from .dartsminus import DARTSMinus as DARTSMinus
from .dartspt import DARTSPT as DARTSPT
from .drnas import DrNAS as DrNAS
from .dropnas import DropNAS as DropNAS
from .enas import ENAS as ENAS
from .fairdarts import FairDARTS as FairDARTS
from .gaea import GAEA as GAEA
from .gaea import GAEAGDAS as GAEAGDAS
from .gaea import GAEAPCDARTS as GAEAPCDARTS
from .gumbel import GDAS as GDAS
from .gumbel import GumbelDARTS as GumbelDARTS
from .pcdarts import PCDARTS as PCDARTS
from .pdarts import PDARTS as PDARTS
from .proxyless import ProxylessNAS as ProxylessNAS
from .random_oneshot import RandomOneShot as RandomOneShot
from .rdarts import RDARTS as RDARTS
from .sdarts import SDARTS as SDARTS
from .setn import SETN as SETN
from .sgas import SGAS as SGAS
from .snas import DSNAS as DSNAS
from .snas import SNAS as SNAS
from .spos import SPOS as SPOS
from .zodarts import ZODARTS as ZODARTS
from .zodarts import ZODARTSPlus as ZODARTSPlus
from .zodarts_sizes import ZODARTSPlusPlus as ZODARTSPlusPlus
