"""Ledger: studies and their trials in a database, claimed by workers for the time of a lease."""

from .database import LedgerDamaged as LedgerDamaged
from .database import LedgerUnavailable as LedgerUnavailable
from .database_url import hidden_password as hidden_password
from .inspection import Inspection as Inspection
from .inspection import inspect as inspect
from .ledger import Claim as Claim
from .ledger import Ledger as Ledger
from .owner import dead_owners as dead_owners
from .owner import new_owner as new_owner
from .owner import process_is_dead as process_is_dead
from .schema import SCHEMA as SCHEMA
from .studies import DEFAULT_STUDY as DEFAULT_STUDY
