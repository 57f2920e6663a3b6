"""Reader of the table of HW-NAS-Bench."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from spacelang.errors import SpaceError, require_one_of, short
from spacelang.files import require_sha256

from ..notations import from_nasbench201
from .columns import Table, read_bytes
from .data_pickles import Array, read_data
from .nasbench201_rows import DATASETS

_EXPECTED = "HW-NAS-Bench-v1_0.pickle"
_CONFIG = "config"


def read_hw_nas_bench(
    path: str | os.PathLike[str],
    *,
    dataset: Literal["cifar10", "cifar100", "ImageNet16-120"] = "cifar10",
    sha256: str | None = None,
) -> Table:
    """Read latencies and energies of the cells of NAS-Bench-201 on six devices.

    To search for accuracy and latency together, join it with `read_nasbench201` by `arch`:

        accuracies = pandas.DataFrame(read_nasbench201(folder))
        Tabular(accuracies.merge(pandas.DataFrame(read_hw_nas_bench(file)), on="arch"))

    Args:
        path: `HW-NAS-Bench-v1_0.pickle`.
        dataset: "cifar10", "cifar100" or "ImageNet16-120".
        sha256: Checksum to compare the file with before it is read, 64 hexadecimal digits; None for no check.

    Returns:
        The columns `arch`, and as in the file `edgegpu_latency`, `edgegpu_energy`, `raspi4_latency`,
        `edgetpu_latency`, `pixel3_latency`, `eyeriss_latency`, `eyeriss_energy`,
        `eyeriss_arithmetic_intensity`, `fpga_latency` and `fpga_energy`: milliseconds and millijoules.

    Raises:
        SpaceError: The file is missing, damaged, holds more than data, or is another one.

    Source: arXiv:2103.10584; github.com/GATECH-EIC/HW-NAS-Bench.
    """
    require_one_of("dataset", dataset, DATASETS)
    file = Path(path)
    require_sha256(file, sha256)
    content = read_data(read_bytes(file, _EXPECTED), str(file))
    try:
        metrics: dict[str, Any] = content["nasbench201"][dataset]
        cells = [json.dumps(from_nasbench201(config["arch_str"])) for config in metrics[_CONFIG]]
        measured = {
            name: list(values.values if isinstance(values, Array) else values)
            for name, values in metrics.items()
            if name != _CONFIG
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise SpaceError(
            f"'{file}' is not {_EXPECTED} ({type(error).__name__}: {error}); it begins {short(content)}."
        ) from error
    short_columns = [name for name, values in measured.items() if len(values) != len(cells)]
    if short_columns:
        name = short_columns[0]
        raise SpaceError(
            f"'{file}': {name!r} has {len(measured[name]):,} values for {len(cells):,} architectures."
        )
    return {"arch": cells, **measured}
