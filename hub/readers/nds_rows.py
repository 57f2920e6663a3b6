"""Reader of the tables of "On Network Design Spaces"."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from spacelang.errors import SpaceError, quoted, short
from spacelang.files import require_sha256

from ..notations import Genotype, from_genotype, to_genotype
from .columns import Table, as_columns, read_bytes

_CELLS = "NASNet.json, Amoeba.json, PNAS.json, ENAS.json or DARTS.json, or one of their variants"
_SIZES = {"width": "width", "depth": "num_cells"}


def read_nds(path: str | os.PathLike[str], *, sha256: str | None = None) -> Table:
    """Read a sweep over cells of NASNet, AmoebaNet, PNAS, ENAS or DARTS.

    A row is one training. The table has errors in percent, so minimise them. Where widths and depths differ
    they are decisions, `width` and `num_cells`, as those of the space DARTS(width=[...], num_cells=[...]);
    where they do not (`..._fix-w-d.json`), they are arguments of the space.

    Args:
        path: `NASNet.json`, `Amoeba.json`, `PNAS.json`, `ENAS.json`, `DARTS.json` or a variant, such as
            `DARTS_fix-w-d.json` or `..._reruns.json`, out of `data.zip`.
        sha256: Checksum to compare the file with before it is read, 64 hexadecimal digits; None for no check.

    Returns:
        The columns `arch`, `params`, `flops`, `test_error@` and `train_error@` of every epoch, and
        `min_test_error`, the smallest over the epochs.

    Raises:
        SpaceError: The file is damaged, or not a sweep over cells: residual networks have no space here.

    Source: arXiv:1905.13214; github.com/facebookresearch/nds.
    """
    file = Path(path)
    require_sha256(file, sha256)
    data = read_bytes(file, _CELLS)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise SpaceError(f"'{file}' is not JSON: {error}; expected {_CELLS}.") from error
    jobs = [job for part in content.values() for job in part] if isinstance(content, dict) else content
    try:
        sizes = {name for name in _SIZES if len({job["net"][name] for job in jobs}) > 1}
        return as_columns(_rows(jobs, sizes))
    except SpaceError as error:
        raise SpaceError(f"'{file}': {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise SpaceError(
            f"'{file}' is not a sweep of cells ({type(error).__name__}: {error}); expected {_CELLS}. "
            f"It begins {short(jobs)}."
        ) from error


def _rows(jobs: list[dict[str, Any]], sizes: set[str]) -> Iterator[dict[str, Any]]:
    merged: set[Literal["all", "loose_end"]] = {
        "all",
        "loose_end",
    }  # ways to concatenate that fit every cell so far
    for number, job in enumerate(jobs):
        net = job["net"]
        if "genotype" not in net:
            raise SpaceError(
                f"job {number} trained a residual network ({quoted(net)}), for which the hub has no space; "
                f"expected {_CELLS}."
            )
        try:
            cells = Genotype(**net["genotype"])
        except SpaceError as error:
            raise SpaceError(f"job {number}: {error}") from error
        arch = from_genotype(cells)
        merged &= {way for way in merged if to_genotype(arch, way) == cells}
        if not merged:
            raise SpaceError(
                f"job {number}: its cells concatenate neither all nodes nor those that no node reads, or not "
                "as those of the jobs before it do."
            )
        yield {
            "arch": json.dumps(arch | {_SIZES[name]: net[name] for name in sorted(sizes)}),
            "params": job["params"],
            "flops": job["flops"],
            "min_test_error": job["min_test_top1"],
            **{f"test_error@{epoch}": error for epoch, error in enumerate(job["test_ep_top1"])},
            **{f"train_error@{epoch}": error for epoch, error in enumerate(job["train_ep_top1"])},
        }
