"""Notations of papers, to and from architecture dicts; text is parsed, never evaluated."""

from __future__ import annotations

from .blocks import from_blocks as from_blocks
from .blocks import to_blocks as to_blocks
from .genotypes import Genotype as Genotype
from .genotypes import from_genotype as from_genotype
from .genotypes import to_genotype as to_genotype
from .mbconv import from_mbconv as from_mbconv
from .mbconv import to_mbconv as to_mbconv
from .nasbench_strings import from_nasbench101 as from_nasbench101
from .nasbench_strings import from_nasbench201 as from_nasbench201
from .nasbench_strings import to_nasbench101 as to_nasbench101
from .nasbench_strings import to_nasbench201 as to_nasbench201
from .recurrent_genotypes import from_recurrent_genotype as from_recurrent_genotype
from .recurrent_genotypes import to_recurrent_genotype as to_recurrent_genotype
from .sparse_genotypes import from_sparse_genotype as from_sparse_genotype
from .sparse_genotypes import to_sparse_genotype as to_sparse_genotype
