"""Search strategies."""

from spacelang.doors import open_door

from .extras.dropout import EdgeDropout as EdgeDropout
from .extras.dropout import OperationDropout as OperationDropout
from .extras.dropout import ScheduledDropPath as ScheduledDropPath
from .extras.dropout import SkipDropout as SkipDropout
from .extras.early_stop import StopOnEigenvalue as StopOnEigenvalue
from .extras.early_stop import StopOnSkips as StopOnSkips
from .extras.early_stop import StopOnStableRanking as StopOnStableRanking
from .extras.entropy import EntropyPenalty as EntropyPenalty
from .extras.monitor import Monitor as Monitor
from .extras.penalty import Penalty as Penalty
from .framework.derivation import top_architectures as top_architectures
from .framework.gradient import Differentiable as Differentiable
from .framework.gradient import Schedule as Schedule
from .framework.paths import PathSampling as PathSampling
from .framework.relaxation import Mixture as Mixture
from .framework.relaxation import Moment as Moment
from .framework.relaxation import Relaxation as Relaxation
from .framework.relaxation import Softmax as Softmax
from .framework.search import Extra as Extra
from .framework.search import OneShot as OneShot
from .framework.update import Update as Update
from .multi_trial import ASHA as ASHA
from .multi_trial import BOGCN as BOGCN
from .multi_trial import PNAS as PNAS
from .multi_trial import PPO as PPO
from .multi_trial import Bananas as Bananas
from .multi_trial import Deduplicate as Deduplicate
from .multi_trial import FewerEpochs as FewerEpochs
from .multi_trial import Filter as Filter
from .multi_trial import Grid as Grid
from .multi_trial import Hyperband as Hyperband
from .multi_trial import LearningCurveStopping as LearningCurveStopping
from .multi_trial import LocalSearch as LocalSearch
from .multi_trial import Optuna as Optuna
from .multi_trial import PolicyGradient as PolicyGradient
from .multi_trial import Random as Random
from .multi_trial import RegularizedEvolution as RegularizedEvolution
from .multi_trial import Reinforce as Reinforce
from .multi_trial import Repeated as Repeated
from .multi_trial import Retry as Retry
from .multi_trial import SmallerSpace as SmallerSpace
from .multi_trial import SuccessiveHalving as SuccessiveHalving
from .multi_trial import WarmStart as WarmStart
from .one_shot.darts import DARTS as DARTS
from .one_shot.drnas import DrNAS as DrNAS
from .one_shot.drnas import KLAnchor as KLAnchor
from .one_shot.enas import ENAS as ENAS
from .one_shot.gumbel import GDAS as GDAS
from .one_shot.gumbel import GumbelDARTS as GumbelDARTS
from .one_shot.pcdarts import PCDARTS as PCDARTS
from .one_shot.pdarts import PDARTS as PDARTS
from .one_shot.proxyless import ProxylessNAS as ProxylessNAS
from .one_shot.random_oneshot import RandomOneShot as RandomOneShot
from .one_shot.sgas import SGAS as SGAS
from .one_shot.spos import SPOS as SPOS

open_door(globals())
