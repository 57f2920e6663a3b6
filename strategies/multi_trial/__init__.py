"""Strategies that propose architectures to be tried."""

from .bananas import Bananas as Bananas
from .bogcn import BOGCN as BOGCN
from .evolution import RegularizedEvolution as RegularizedEvolution
from .fidelity import ASHA as ASHA
from .fidelity import Hyperband as Hyperband
from .fidelity import SuccessiveHalving as SuccessiveHalving
from .grid import Grid as Grid
from .learning_curve import LearningCurveStopping as LearningCurveStopping
from .learning_curve import nu_svr as nu_svr
from .local_search import LocalSearch as LocalSearch
from .optuna import Optuna as Optuna
from .pnas import PNAS as PNAS
from .policy_gradient import PPO as PPO
from .policy_gradient import PolicyGradient as PolicyGradient
from .policy_gradient import Reinforce as Reinforce
from .proxies import FewerEpochs as FewerEpochs
from .proxies import SmallerSpace as SmallerSpace
from .random import Random as Random
from .repeating import Repeat as Repeat
from .repeating import Retry as Retry
from .screening import Deduplicate as Deduplicate
from .screening import Filter as Filter
from .warm_start import WarmStart as WarmStart
