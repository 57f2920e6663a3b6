"""Strategies that propose architectures to be tried."""

from .bananas import Bananas as Bananas
from .bogcn import BOGCN as BOGCN
from .evolution import RegularizedEvolution as RegularizedEvolution
from .grid import Grid as Grid
from .local_search import LocalSearch as LocalSearch
from .nao import NAO as NAO
from .optuna import Optuna as Optuna
from .pnas import PNAS as PNAS
from .policy_gradient import PPO as PPO
from .policy_gradient import PolicyGradient as PolicyGradient
from .policy_gradient import Reinforce as Reinforce
from .random import Random as Random
from .seminas import SemiNAS as SemiNAS
from .wrappers import ASHA as ASHA
from .wrappers import Deduplicate as Deduplicate
from .wrappers import FewerEpochs as FewerEpochs
from .wrappers import Filter as Filter
from .wrappers import Hyperband as Hyperband
from .wrappers import LearningCurveStopping as LearningCurveStopping
from .wrappers import Repeated as Repeated
from .wrappers import Retry as Retry
from .wrappers import SmallerSpace as SmallerSpace
from .wrappers import SuccessiveHalving as SuccessiveHalving
from .wrappers import WarmStart as WarmStart
from .wrappers import nu_svr as nu_svr
