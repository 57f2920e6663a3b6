"""Reader of the tables of NAS-Bench-201 and NATS-Bench."""

from __future__ import annotations

import bz2
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch.serialization import safe_globals
from tqdm import tqdm

from spacelang.errors import SpaceError, quoted, require_integer, require_one_of, short
from spacelang.files import Checksums, require_sha256

from ..notations import from_nasbench201
from .columns import Table, as_columns, read_bytes
from .data_pickles import NAMES, read_data

Dataset = Literal["cifar10", "cifar100", "ImageNet16-120"]

DATASETS = ("cifar10", "cifar100", "ImageNet16-120")
_EXPECTED = "a folder 'NATS-...-simple' of files 000000.pickle.pbz2, ..., or a file 'NAS-Bench-201-....pth'"
_OLD_NAMES = {12: "less", 200: "full"}
_LARGEST = 1 << 26  # bytes of one architecture, unpacked; published ones have about half a million
_COSTS_OF = 888  # seed whose sizes the authors use where the trainings of one architecture disagree


def read_nasbench201(
    path: str | os.PathLike[str],
    *,
    dataset: Dataset = "cifar10",
    epochs: int = 200,
    sha256: Checksums | None = None,
) -> Table:
    """Read NAS-Bench-201, or the topology or size space of NATS-Bench.

    A row is one training. Accuracies are in percent. For CIFAR-10 the validation is that of trainings on one
    half of the training images, and the test that of the training on all of them with the same seed, where
    there is one. For the others both are of the same training, on two halves of the published test images.

    Args:
        path: Folder `NATS-tss-v1_0-3ffb9-simple` or `NATS-sss-v1_0-50262-simple`, in which a file is an
            architecture (files may be missing; all of them take about an hour), or
            `NAS-Bench-201-v1_0-e61699.pth` or `-v1_1-096897.pth`, which take tens of GB of memory.
        dataset: "cifar10", "cifar100" or "ImageNet16-120".
        epochs: Length of the trainings: 200 or 12; in the size space 90, 12 or 1. A training of 12 epochs is
            not the beginning of another one: its learning rate ends there.
        sha256: Checksum to compare the file with before it is read, 64 hexadecimal digits; of a folder a
            dict, {name of a file in it: digits}. None for no check.

    Returns:
        The columns `arch`, `seed`, `val_acc`, `test_acc`, `train_acc`, `seconds` (training and one
        validation), `params`, `flops`, `latency` (seconds for 256 images), and `val_acc@` for every epoch
        that has it. The five widths of the size space are `width_0` to `width_4`.

    Raises:
        SpaceError: Nothing is there, a file is damaged or holds more than data, or there is no such training.

    Source: arXiv:2001.00326 and arXiv:2009.00437; github.com/D-X-Y/NATS-Bench.
    """
    require_one_of("dataset", dataset, DATASETS)
    require_integer("epochs", epochs, least=1)
    place = Path(path)
    require_sha256(place, sha256)
    found: set[str] = set()
    table = as_columns(
        row
        for origin, lengths in (_of_folder(place) if place.is_dir() else _of_file(place))
        for row in _rows(origin, lengths, dataset, epochs, found)
    )
    if not table:
        raise SpaceError(
            f"'{place}' has no training of {epochs} epochs on {dataset}; it has trainings of "
            f"{quoted(sorted(found))} epochs, where 'less' is 12 and 'full' is 200."
        )
    return table


def _of_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and content of every architecture's file."""
    files = sorted(folder.glob("[0-9]*.pickle.pbz2"))
    if not files:
        raise SpaceError(f"there are no architectures in '{folder}'; expected {_EXPECTED}.")
    for file in tqdm(files, disable=None, leave=False):
        yield f"'{file}'", read_data(_unpacked(file), str(file))


def _unpacked(file: Path) -> bytes:
    packed = read_bytes(file, _EXPECTED)
    unpacker = bz2.BZ2Decompressor()
    try:
        data = unpacker.decompress(packed, max_length=_LARGEST)
    except (OSError, ValueError) as error:
        raise SpaceError(f"'{file}' is not a bz2 file: {error}; expected {_EXPECTED}.") from error
    if not unpacker.eof:
        raise SpaceError(f"'{file}' is cut off, or more than {_LARGEST:,} bytes; expected one architecture.")
    return data


def _of_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the number and content of every architecture in a file of torch."""
    if path.suffix != ".pth":
        raise SpaceError(f"expected {_EXPECTED}; got '{path}'.")
    try:
        with safe_globals([(stands_for, name) for name, stands_for in NAMES.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        infos = content["arch2infos"]
    except OSError as error:
        raise SpaceError(f"cannot read '{path}': {error.strerror or error}; expected {_EXPECTED}.") from error
    except Exception as error:  # pickle's errors, those of damaged archives, and of other content
        reason = str(error).strip().partition("\n")[0]
        raise SpaceError(
            f"'{path}' was refused, and nothing in it was run ({reason}); expected {_EXPECTED}."
        ) from error
    for number in sorted(infos):
        yield f"architecture {number} of '{path}'", infos[number]


def _rows(origin: str, lengths: Any, dataset: str, epochs: int, found: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of an architecture; `found` collects which trainings there are."""
    try:
        found |= set(lengths)
        name = next((n for n in (f"{epochs:02d}", _OLD_NAMES.get(epochs)) if n in lengths), None)
        if name is None:
            return
        arch = json.dumps(_architecture(lengths[name]["arch_str"]))
        results: Mapping[tuple[str, int], Any] = lengths[name]["all_results"]
        yield from ({"arch": arch, **row} for row in _trainings(results, dataset))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise SpaceError(
            f"{origin} is not an architecture of NAS-Bench-201 or NATS-Bench ({type(error).__name__}: "
            f"{error}); it begins {short(lengths)}."
        ) from error


def _architecture(text: str) -> dict[str, Any]:
    """Translate a cell, or five widths such as 8:16:24:32:64."""
    if "|" in text:
        return dict(from_nasbench201(text))
    return {f"width_{place}": int(width) for place, width in enumerate(text.split(":"))}


def _trainings(results: Mapping[tuple[str, int], Any], dataset: str) -> Iterator[dict[str, Any]]:
    validated = "cifar10-valid" if dataset == "cifar10" else dataset
    runs = {int(seed): run for (name, seed), run in results.items() if name == validated}
    if not runs:
        return
    sizes = runs.get(_COSTS_OF, next(iter(runs.values())))
    for seed, run in runs.items():
        last = int(run["epochs"]) - 1
        tested = results.get(("cifar10", seed)) if dataset == "cifar10" else run
        part = "ori-test" if dataset == "cifar10" else "x-test"
        latency = run["latency"]
        yield {
            "seed": seed,
            "val_acc": run["eval_acc1es"][f"x-valid@{last}"],
            "test_acc": None if tested is None else tested["eval_acc1es"][f"{part}@{last}"],
            "train_acc": run["train_acc1es"][last],
            "seconds": sum(run["train_times"].values()) + run["eval_times"][f"x-valid@{last}"],
            "params": round(1e6 * sizes["params"]),
            "flops": round(1e6 * sizes["flop"]),
            "latency": sum(latency) / len(latency) if latency else None,
            **{
                f"val_acc@{epoch}": run["eval_acc1es"][f"x-valid@{epoch}"]
                for epoch in range(last + 1)
                if f"x-valid@{epoch}" in run["eval_acc1es"]
            },
        }
