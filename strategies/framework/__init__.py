"""The parts that one-shot strategies and their extras are made of."""

from spacelang.doors import open_door

from .controller import Controller as Controller
from .controller import Sample as Sample
from .curvature import largest_eigenvalue as largest_eigenvalue
from .curvature import validation_eigenvalue as validation_eigenvalue
from .derivation import Rule as Rule
from .derivation import top_architectures as top_architectures
from .gradient import Differentiable as Differentiable
from .gradient import GradientSearch as GradientSearch
from .gradient import LogitsExtra as LogitsExtra
from .gradient import Schedule as Schedule
from .gradient import runs_several as runs_several
from .logits import ArchitectureParameters as ArchitectureParameters
from .operations import Operations as Operations
from .operations import candidates as candidates
from .operations import chosen_columns as chosen_columns
from .operations import count_skips as count_skips
from .operations import is_decided as is_decided
from .operations import no_such_skips as no_such_skips
from .operations import operations as operations
from .operations import skips as skips
from .operations import skips_of_cells as skips_of_cells
from .operations import takes_part as takes_part
from .paths import TRIES as TRIES
from .paths import Measure as Measure
from .paths import PathSampling as PathSampling
from .paths import PathSearch as PathSearch
from .paths import Unseen as Unseen
from .relaxation import GreedySoftmax as GreedySoftmax
from .relaxation import Mixture as Mixture
from .relaxation import Moment as Moment
from .relaxation import Phase as Phase
from .relaxation import Rate as Rate
from .relaxation import Relaxation as Relaxation
from .relaxation import Softmax as Softmax
from .relaxation import alive_logits as alive_logits
from .relaxation import alive_mask as alive_mask
from .relaxation import annealed as annealed
from .relaxation import masked_softmax as masked_softmax
from .relaxation import offered_mask as offered_mask
from .relaxation import rate_at as rate_at
from .relaxation import require_rate as require_rate
from .relaxation import running as running
from .scoring import Scorer as Scorer
from .scoring import untouched as untouched
from .search import Extra as Extra
from .search import OneShot as OneShot
from .search import OneShotSearch as OneShotSearch
from .search import Scored as Scored
from .stages import load_optimizer_states as load_optimizer_states
from .stages import optimizer_states as optimizer_states
from .trainer import Training as Training
from .update import FirstOrder as FirstOrder
from .update import SecondOrder as SecondOrder
from .update import Step as Step
from .update import Update as Update
from .update import restored as restored
from .watch import Watch as Watch

open_door(globals())
