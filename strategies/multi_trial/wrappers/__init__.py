"""Strategies around a strategy, which change its proposals, its trials, or its view of them."""

from .bohb import BOHB as BOHB
from .fidelity import ASHA as ASHA
from .fidelity import Hyperband as Hyperband
from .fidelity import SuccessiveHalving as SuccessiveHalving
from .learning_curve import LearningCurveStopping as LearningCurveStopping
from .learning_curve import nu_svr as nu_svr
from .parametric_curves import ParametricCurveStopping as ParametricCurveStopping
from .proxies import FewerEpochs as FewerEpochs
from .proxies import SmallerSpace as SmallerSpace
from .repeating import Repeated as Repeated
from .repeating import Retry as Retry
from .screening import Deduplicate as Deduplicate
from .screening import Filter as Filter
from .screening import Promising as Promising
from .warm_start import WarmStart as WarmStart
