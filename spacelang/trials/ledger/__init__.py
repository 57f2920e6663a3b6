"""Ledger: studies and their trials in a database, claimed by workers for the time of a lease."""

from .database import LedgerUnavailable as LedgerUnavailable
from .database_url import hidden_password as hidden_password
from .ledger import Claim as Claim
from .ledger import Ledger as Ledger
from .owner import dead_owners as dead_owners
from .owner import new_owner as new_owner
from .studies import DEFAULT_STUDY as DEFAULT_STUDY
