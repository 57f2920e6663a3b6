"""Search strategies; a name is loaded on first use, so that trials by themselves need no Lightning."""

from typing import TYPE_CHECKING

from spacelang.doors import open_door

if TYPE_CHECKING:
    from .extras import EdgeDropout as EdgeDropout
    from .extras import EntropyPenalty as EntropyPenalty
    from .extras import Judge as Judge
    from .extras import Monitor as Monitor
    from .extras import OperationDropout as OperationDropout
    from .extras import OperationStrength as OperationStrength
    from .extras import Penalty as Penalty
    from .extras import RaiseWeightDecay as RaiseWeightDecay
    from .extras import ScheduledDropPath as ScheduledDropPath
    from .extras import SkipDropout as SkipDropout
    from .extras import StopOnEigenvalue as StopOnEigenvalue
    from .extras import StopOnSkips as StopOnSkips
    from .extras import StopOnStableRanking as StopOnStableRanking
    from .framework import CostReward as CostReward
    from .framework import Differentiable as Differentiable
    from .framework import Extra as Extra
    from .framework import LogitsExtra as LogitsExtra
    from .framework import Mixture as Mixture
    from .framework import Moment as Moment
    from .framework import OneShot as OneShot
    from .framework import PathSampling as PathSampling
    from .framework import Relaxation as Relaxation
    from .framework import Schedule as Schedule
    from .framework import Softmax as Softmax
    from .framework import Update as Update
    from .framework import top_architectures as top_architectures
    from .multi_trial import ASHA as ASHA
    from .multi_trial import BOGCN as BOGCN
    from .multi_trial import BOHB as BOHB
    from .multi_trial import EAS as EAS
    from .multi_trial import NAO as NAO
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
    from .multi_trial import ParametricCurveStopping as ParametricCurveStopping
    from .multi_trial import PolicyGradient as PolicyGradient
    from .multi_trial import PredictedEvolution as PredictedEvolution
    from .multi_trial import Promising as Promising
    from .multi_trial import Random as Random
    from .multi_trial import RegularizedEvolution as RegularizedEvolution
    from .multi_trial import Reinforce as Reinforce
    from .multi_trial import Repeated as Repeated
    from .multi_trial import Retry as Retry
    from .multi_trial import SemiNAS as SemiNAS
    from .multi_trial import SmallerSpace as SmallerSpace
    from .multi_trial import SuccessiveHalving as SuccessiveHalving
    from .multi_trial import TournamentEvolution as TournamentEvolution
    from .multi_trial import TransferNeuralAutoML as TransferNeuralAutoML
    from .multi_trial import WarmStart as WarmStart
    from .one_shot import DARTS as DARTS
    from .one_shot import DARTSPT as DARTSPT
    from .one_shot import DSNAS as DSNAS
    from .one_shot import ENAS as ENAS
    from .one_shot import GAEA as GAEA
    from .one_shot import GAEAGDAS as GAEAGDAS
    from .one_shot import GAEAPCDARTS as GAEAPCDARTS
    from .one_shot import GDAS as GDAS
    from .one_shot import PCDARTS as PCDARTS
    from .one_shot import PDARTS as PDARTS
    from .one_shot import RDARTS as RDARTS
    from .one_shot import SDARTS as SDARTS
    from .one_shot import SETN as SETN
    from .one_shot import SGAS as SGAS
    from .one_shot import SMASH as SMASH
    from .one_shot import SNAS as SNAS
    from .one_shot import SPOS as SPOS
    from .one_shot import ZODARTS as ZODARTS
    from .one_shot import DARTSMinus as DARTSMinus
    from .one_shot import DenseNAS as DenseNAS
    from .one_shot import DrNAS as DrNAS
    from .one_shot import DropNAS as DropNAS
    from .one_shot import FairDARTS as FairDARTS
    from .one_shot import GumbelDARTS as GumbelDARTS
    from .one_shot import MetAdapt as MetAdapt
    from .one_shot import Opening as Opening
    from .one_shot import ProgressiveShrinking as ProgressiveShrinking
    from .one_shot import ProxylessNAS as ProxylessNAS
    from .one_shot import RandomOneShot as RandomOneShot
    from .one_shot import Sandwich as Sandwich
    from .one_shot import ZODARTSPlus as ZODARTSPlus
    from .one_shot import ZODARTSPlusPlus as ZODARTSPlusPlus

open_door(globals())
