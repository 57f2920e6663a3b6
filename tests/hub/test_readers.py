"""Published tables: small files of the real form, read without the projects that wrote them."""

from __future__ import annotations

import base64
import bz2
import json
import math
import pickle  # noqa: TID251  # the form in which two tables are published; the reader does not use it
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import SpaceError
from spacelang.evaluators import Tabular
from spacelang.hub import (
    Genotype,
    NASBench101,
    NASBench201,
    from_genotype,
    from_nasbench101,
    from_nasbench201,
    read_hw_nas_bench,
    read_nasbench101,
    read_nasbench201,
    read_nds,
)
from spacelang.hub.readers.data_pickles import Array, read_data
from spacelang.hub.readers.tfrecords import crc32c, masked, read_records

# -- NAS-Bench-101 -------------------------------------------------------------------------------------

METRICS = (  # made with the authors' message class
    "Ci0JAAAAAAAAAAARAAAAAAAAAAAZmpmZmZmZuT8hmpmZmZmZuT8pmpmZmZmZuT8KLQkAAAAAAAAAQBEAAAAAAAAlQBkAAAAAAADgPyHN"
    "zMzMzMzcPykpXI/C9SjcPwotCQAAAAAAABBAEQAAAAAAADVAGQAAAAAAAOg/IWZmZmZmZuY/KQAAAAAAAOY/EIq5pAEZAAAAAABAN0A="
)
C1, C3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
CELLS: dict[str, tuple[tuple[str, ...], list[str]]] = {  # hash, rows of the matrix, operations
    "28cfc7874f6d200472e1a9dcd8650aa0": (  # the Inception-like cell of the authors' README
        ("0111010", "0000001", "0000001", "0000100", "0000001", "0000001", "0000000"),
        [C1, C3, C3, C3, POOL],
    ),
    "043721b9c7fe8c5fad811d47d83132ec": (("01", "00"), []),
    "b5fb4f6193360330b6ff6a52cbf0cad7": (("0101", "0010", "0001", "0000"), [C3, C3]),
    "d1269d9156ddc027c40473008192958a": (("010", "001", "000"), [C1]),
}
CHAIN = "b5fb4f6193360330b6ff6a52cbf0cad7"


def cell(matrix: tuple[str, ...], operations: list[str]) -> dict[str, Any]:
    return from_nasbench101([list(map(int, line)) for line in matrix], ["input", *operations, "output"])


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked(crc32c(length))), data, struct.pack("<I", masked(crc32c(data))))
    )


def row(module: str, epochs: int = 4, metrics: str = METRICS) -> bytes:
    matrix, operations = CELLS[module]
    names = ",".join(["input", *operations, "output"])
    return json.dumps([module, epochs, "".join(matrix), names, metrics]).encode()


def test_a_record_of_tensorflow() -> None:
    published = bytes.fromhex("0800000000000000ff86240f5b2278222c20345d5ce6a19e")
    assert frame(b'["x", 4]') == published


@pytest.mark.parametrize("module", CELLS)
def test_the_hash_of_nasbench101(module: str) -> None:
    assert NASBench101(width=2, num_cells=1).hash(cell(*CELLS[module])) == module


def test_nasbench101(tmp_path: Path) -> None:
    file = tmp_path / "nasbench_full.tfrecord"
    file.write_bytes(b"".join(map(frame, (row(CHAIN), row(CHAIN), row(CHAIN, 12), row(next(iter(CELLS)))))))
    table = read_nasbench101(file, epochs=4)
    assert table["seed"] == [0, 1, 0]
    assert table["params"] == [2_694_282] * 3
    curves = {
        name: (table[f"{name}@1"][2], table[f"{name}@3"][2])
        for name in ("train_acc", "val_acc", "test_acc", "seconds")
    }
    assert curves == {
        "train_acc": (0.5, 0.75),
        "val_acc": (0.45, 0.7),
        "test_acc": (0.44, 0.6875),
        "seconds": (10.5, 21.0),
    }
    evaluator = Tabular(table)
    assert len(evaluator) == 2
    assert evaluator.mean(json.loads(table["arch"][0]))["val_acc"] == 0.7
    assert len(read_nasbench101(file, epochs=12)["arch"]) == 1


def test_isomorphic_cells_share_a_row(tmp_path: Path) -> None:
    """The file holds one order of the parallel branches; a search may propose any."""
    file = tmp_path / "table.tfrecord"
    file.write_bytes(frame(row(next(iter(CELLS)))))
    space = NASBench101(width=2, num_cells=1)
    evaluator = Tabular(read_nasbench101(file, epochs=4), key=space.hash, metrics=["val_acc"])
    (stored,) = evaluator.architectures()
    proposed = cell(
        ("0111100", "0000001", "0000001", "0000001", "0000010", "0000001", "0000000"), [C3, C1, POOL, C3, C3]
    )
    assert proposed != stored
    assert evaluator.evaluate_architecture(proposed) == evaluator.mean(proposed) == {"val_acc": 0.7}
    with pytest.raises(SpaceError, match="does not have the architecture"):
        evaluator.evaluate_architecture(cell(*CELLS[CHAIN]))
    with pytest.raises(SpaceError, match="does not have the architecture"):
        Tabular(read_nasbench101(file, epochs=4)).evaluate_architecture(proposed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (frame(row(CHAIN))[:-5], "ends within the record at byte 0"),
        (frame(row(CHAIN)) + frame(row(CHAIN))[:7], r"ends within the record at byte \d\d\d"),
        (frame(row(CHAIN))[:-9] + b"!" + frame(row(CHAIN))[-8:], "the checksum of the record at byte 0 is"),
        (b"PK\x03\x04 no TFRecord", "is not a TFRecord file, or damaged: at byte 0"),
        (frame(b"[1, 4]"), "record 0 of .* is not of NAS-Bench-101"),
        (frame(b'[1, 4, "01", "input,output", ""]'), "2 operations need a matrix of 4 digits"),
        (frame(b'["a", 4, "0100", "input,output", ""]'), "the hash of the cell is 043721b9c7fe8c5fad8"),
        (frame(row(CHAIN, metrics="!")), "record 0 of .* is not of NAS-Bench-101"),
        (frame(row(CHAIN, metrics=base64.b64encode(b"\n\xff").decode())), "its metrics are damaged"),
        (frame(row(CHAIN, 12)), r"no training of 4 epochs\. Only nasbench_full\.tfrecord has all"),
    ],
)
def test_files_that_are_not_nasbench101(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "table.tfrecord").write_bytes(content)
    with pytest.raises(SpaceError, match=message):
        read_nasbench101(tmp_path / "table.tfrecord", epochs=4)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"epochs.*5"):
        read_nasbench101(tmp_path, epochs=5)
    with pytest.raises(SpaceError, match="expected a TFRecord file"):
        list(read_records(tmp_path / "none"))


# -- NAS-Bench-201 and NATS-Bench ----------------------------------------------------------------------

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|"


def number(value: float) -> Any:
    """NumPy's numbers, as the published files have them."""
    return np.float64(value)


def training(name: str, seed: int, epochs: int, valid: dict[str, float], **sizes: float) -> dict[str, Any]:
    return {
        "name": "infer.tiny",
        "train_acc1es": OrderedDict((epoch, number(50 + epoch)) for epoch in range(epochs)),
        "train_acc5es": None,
        "train_losses": {epoch: number(1.0) for epoch in range(epochs)},
        "train_times": {epoch: number(2.0) for epoch in range(epochs)},
        "arch_config": {"name": "infer.tiny", "C": 16, "N": 5, "arch_str": CELL, "num_classes": 10},
        "params": sizes.get("params", 0.802426),
        "flop": sizes.get("flop", 113.95137),
        "seed": f"{seed:04d}",
        "epochs": epochs,
        "latency": [0.016, 0.018],
        "eval_names": ["x-valid", "ori-test"],
        "eval_acc1es": {key: number(value) for key, value in valid.items()},
        "eval_losses": {key: number(0.5) for key in valid},
        "eval_times": {key: number(0.25) for key in valid},
        "net_state_dict": None,
    }


def lengths(arch: str = CELL, name: str = "200") -> dict[str, Any]:
    results = {
        ("cifar10-valid", 777): training(
            "cifar10-valid", 777, 3, {"x-valid@0": 20, "x-valid@1": 30, "x-valid@2": 41.5, "ori-test@2": 1}
        ),
        ("cifar10-valid", 111): training("cifar10-valid", 111, 3, {"x-valid@2": 42.5}),
        ("cifar10", 777): training("cifar10", 777, 3, {f"ori-test@{e}": 60 + e for e in range(3)}),
        ("cifar100", 777): training("cifar100", 777, 3, {"x-valid@2": 7, "x-test@2": 8}, params=0.9),
        ("cifar100", 888): training("cifar100", 888, 3, {"x-valid@2": 9, "x-test@2": 6}, params=0.808276),
    }
    one = {
        "arch_index": 11,
        "arch_str": arch,
        "all_results": results,
        "dataset_seed": {"cifar10-valid": [777, 111], "cifar10": [777], "cifar100": [777, 888]},
        "clear_net_done": True,
    }
    return {name: one}


def nats(folder: Path, content: Any, protocol: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "meta.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps({"meta_archs": [CELL]})))
    (folder / "000011.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(content, protocol)))
    return folder


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nats_bench(tmp_path: Path, protocol: int) -> None:
    table = read_nasbench201(nats(tmp_path / "NATS-tss-v1_0-3ffb9-simple", lengths(), protocol))
    assert table == {
        "arch": [json.dumps(from_nasbench201(CELL))] * 2,
        "seed": [777, 111],
        "val_acc": [41.5, 42.5],
        "test_acc": [62.0, None],
        "train_acc": [52.0, 52.0],
        "seconds": [6.25, 6.25],
        "params": [802_426] * 2,
        "flops": [113_951_370] * 2,
        "latency": pytest.approx([0.017] * 2),
        "val_acc@0": [20.0, None],
        "val_acc@1": [30.0, None],
        "val_acc@2": [41.5, 42.5],
    }
    arch = from_nasbench201(CELL)
    NASBench201(width=2, num_cells=1).validate(arch)
    found = Tabular(table, average=True).evaluate_architecture(arch)
    assert found["val_acc"] == 42
    assert math.isnan(found["test_acc"])


def test_sizes_are_those_of_seed_888(tmp_path: Path) -> None:
    table = read_nasbench201(nats(tmp_path / "simple", lengths()), dataset="cifar100")
    assert (table["val_acc"], table["test_acc"]) == ([7.0, 9.0], [8.0, 6.0])
    assert table["params"] == [808_276] * 2


def test_the_size_space_of_nats_bench(tmp_path: Path) -> None:
    table = read_nasbench201(nats(tmp_path / "simple", lengths("8:16:24:32:64", "90")), epochs=90)
    assert json.loads(table["arch"][0]) == {
        "width_0": 8,
        "width_1": 16,
        "width_2": 24,
        "width_3": 32,
        "width_4": 64,
    }


def test_nasbench201_in_one_file(tmp_path: Path) -> None:
    content = {
        "meta_archs": [CELL],
        "arch2infos": {0: lengths(name="full")},
        "evaluated_indexes": {0},
        "total_archs": 1,
    }
    torch.save(content, tmp_path / "NAS-Bench-201-v1_1-096897.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    table = read_nasbench201(nats(tmp_path / "simple", lengths()))
    assert read_nasbench201(tmp_path / "NAS-Bench-201-v1_1-096897.pth") == table
    assert read_nasbench201(tmp_path / "old.pth") == table


class Payload:
    """A pickle of it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    bad = nats(tmp_path / "simple", {"200": Payload(mark)}, protocol)
    with pytest.raises(SpaceError, match=r"was refused at byte \d+, and nothing in it was run"):
        read_nasbench201(bad)
    torch.save({"arch2infos": Payload(mark)}, tmp_path / "table.pth")
    with pytest.raises(SpaceError, match="was refused, and nothing in it was run"):
        read_nasbench201(tmp_path / "table.pth")
    (tmp_path / "hw.pickle").write_bytes(pickle.dumps(Payload(mark), protocol))
    with pytest.raises(SpaceError, match="and nothing in it was run"):
        read_hw_nas_bench(tmp_path / "hw.pickle")
    assert not mark.exists()
    pickle.loads((tmp_path / "hw.pickle").read_bytes())  # the control: it does run code
    assert mark.exists()


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"", "was refused at byte 0"),
        (b"\x80\x02}", "was refused"),  # cut off
        (b"\x80\x02(K\x01\x85R.", "was refused"),  # calls a number
        (b"\x80\x02K\x01K\x02.", "was refused"),  # two values
        (b"\x80\x02h\x05.", "was refused at byte 2"),  # recalls what was never kept
        (b"\x80\x02K\x01K\x02a.", "expected list"),
        (b"\x80\x02}]K\x01s.", "unhashable"),
        (pickle.dumps(np.array([{}], dtype=object)), "is not an array of numbers"),
        (pickle.dumps(Path), "it names"),
        (pickle.dumps(OrderedDict(a=1)).replace(b"OrderedDict", b"defaultdict"), "it names 'collections.def"),
    ],
)
def test_damaged_pickles(pickled: bytes, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        read_data(pickled, "file")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_data_are_read_as_they_were_written(protocol: int) -> None:
    shared = [1, -2, 1 << 70, 2.5, None, True, "é"]
    data = {
        "a": shared,
        "b": (shared, (), (1, 2, 3, 4), {1, 2} if protocol > 3 else 0),
        3: {},
        "c": b"\x00\xff" if protocol > 2 else 0,
    }
    read = read_data(pickle.dumps(data, protocol), "file")
    assert read == data
    assert read["a"] is read["b"][0]
    for order in "<>":
        array = np.arange(6, dtype=f"{order}i4").reshape(2, 3)
        found = read_data(pickle.dumps([array, np.asfortranarray(array)], min(protocol, 4)), "file")
        assert [type(one) for one in found] == [Array, Array]
        assert [one.values for one in found] == [array.tolist()] * 2


def test_folders_that_are_not_nats_bench(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"no architectures in .*; expected a folder 'NATS-\.\.\.-simple'"):
        read_nasbench201(tmp_path)
    with pytest.raises(SpaceError, match=r"expected a folder.*got '.*NATS-tss-v1_0-3ffb9\.pickle\.pbz2'"):
        read_nasbench201(tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2")
    folder = nats(tmp_path / "simple", lengths())
    with pytest.raises(SpaceError, match=r"no training of 12 epochs on cifar10; it has trainings of '200'"):
        read_nasbench201(folder, epochs=12)
    with pytest.raises(SpaceError, match="dataset"):
        read_nasbench201(folder, dataset="cifar1")  # type: ignore[arg-type]
    file = folder / "000011.pickle.pbz2"
    with pytest.raises(SpaceError, match="is not an architecture of NAS-Bench-201 or NATS-Bench"):
        read_nasbench201(nats(folder, {"200": [1]}))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SpaceError, match="is cut off, or more than 67,108,864 bytes"):
        read_nasbench201(folder)
    file.write_bytes(b"no archive")
    with pytest.raises(SpaceError, match="is not a bz2 file"):
        read_nasbench201(folder)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spacelang.hub.readers.nasbench201_rows._LARGEST", 1_000)
    with pytest.raises(SpaceError, match="or more than 1,000 bytes"):
        read_nasbench201(nats(tmp_path / "simple", ["x" * 10_000]))


# -- HW-NAS-Bench --------------------------------------------------------------------------------------


def hardware(**changes: Any) -> dict[str, Any]:
    """Two architectures; the first is entry 0 of the published file, with its numbers."""
    first = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    metrics: dict[str, Any] = {
        "edgegpu_latency": [5.807418537139893, 1.0],
        "edgegpu_energy": np.array([24.226614330768584, 2.0]),
        "pixel3_latency": [np.float64(3.60585), np.float64(3.0)],
        "config": [
            {"name": "infer.tiny", "C": 16, "N": 5, "arch_str": arch, "num_classes": 10}
            for arch in (first, CELL)
        ],
    }
    return {"nasbench201": {"cifar10": {**metrics, **changes}}, "fbnet": {}}


def test_hw_nas_bench_joins_with_accuracies(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path / "HW-NAS-Bench-v1_0.pickle"
    file.write_bytes(pickle.dumps(hardware()))
    table = read_hw_nas_bench(file)
    assert {name: column[0] for name, column in table.items() if name != "arch"} == {
        "edgegpu_latency": 5.807418537139893,
        "edgegpu_energy": 24.226614330768584,
        "pixel3_latency": 3.60585,
    }
    accuracies = read_nasbench201(nats(tmp_path / "simple", lengths()))
    joined = pandas.DataFrame(accuracies).merge(pandas.DataFrame(table), on="arch")
    found = Tabular(joined, average=True).evaluate_architecture(from_nasbench201(CELL))
    assert (found["val_acc"], found["pixel3_latency"]) == (42.0, 3.0)


@pytest.mark.parametrize(
    ("content", "dataset", "message"),
    [
        (hardware(), "cifar100", r"is not HW-NAS-Bench-v1_0\.pickle \(KeyError: 'cifar100'\)"),
        (hardware(pixel3_latency=[1.0]), "cifar10", "'pixel3_latency' has 1 values for 2 architectures"),
        ([1], "cifar10", r"is not HW-NAS-Bench-v1_0\.pickle \(TypeError"),
    ],
)
def test_files_that_are_not_hw_nas_bench(tmp_path: Path, content: Any, dataset: Any, message: str) -> None:
    (tmp_path / "table.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(SpaceError, match=message):
        read_hw_nas_bench(tmp_path / "table.pickle", dataset=dataset)


# -- NDS -----------------------------------------------------------------------------------------------

GENOTYPE = {
    "normal": [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 2], ["dil_conv_3x3", 0]],
    "normal_concat": [2, 3],
    "reduce": [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 1], ["dil_conv_3x3", 0]],
    "reduce_concat": [2, 3],
}
LOOSE = {**GENOTYPE, "normal_concat": [3]}


def job(width: int = 16, genotype: Any = GENOTYPE, **net: Any) -> dict[str, Any]:
    return {
        "job_id": 1,
        "rng_seed": 1,
        "params": 1_000,
        "flops": 2_000,
        "net": {"depth": 8, "width": width, "aux": True, "drop_prob": 0.1, "genotype": genotype, **net},
        "optim": {"base_lr": 0.1, "wd": 1e-4, "max_ep": 2},
        "min_test_top1": 10.5,
        "train_ep_top1": [40.0, 20.0],
        "test_ep_top1": [10.5, math.nan],
    }


def test_nds(tmp_path: Path) -> None:
    file = tmp_path / "DARTS.json"
    file.write_text(json.dumps([job(), job(32)]))
    table = read_nds(file)
    assert [json.loads(text)["width"] for text in table["arch"]] == [16, 32]
    assert "num_cells" not in json.loads(table["arch"][0])  # equal everywhere: an argument of the space
    assert (table["test_error@0"], table["train_error@1"]) == ([10.5] * 2, [20.0] * 2)
    assert math.isnan(table["test_error@1"][0])  # as in the published files
    assert (table["min_test_error"], table["params"], table["flops"]) == (
        [10.5] * 2,
        [1_000] * 2,
        [2_000] * 2,
    )
    file.write_text(json.dumps({"top": [job(genotype=LOOSE)], "mid": [job(genotype=LOOSE)]}))
    arch = from_genotype(Genotype(**LOOSE))
    assert Tabular(read_nds(file)).evaluate_architecture(arch)["min_test_error"] == 10.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "is not JSON"),
        ("[1]", "is not a sweep of cells"),
        (json.dumps([{"net": {"block_type": "res", "width": 1, "depth": 2}}]), "a residual network"),
        (json.dumps([job(), job(genotype=LOOSE)]), "job 1: its cells concatenate neither"),
        (json.dumps([job(genotype={**GENOTYPE, "normal": [["x", 9]]})]), "job 0: genotype: normal"),
        (json.dumps([job(genotype={"normal": []})]), "is not a sweep of cells"),
    ],
)
def test_files_that_are_not_nds(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(SpaceError, match=message):
        read_nds(tmp_path / "table.json")
    with pytest.raises(SpaceError, match=r"cannot read .*none\.json': No such file.*; expected NASNet\.json"):
        read_nds(tmp_path / "none.json")
