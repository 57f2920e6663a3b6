"""Reader of the table of NAS-Bench-101."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from spacelang.errors import SpaceError, require_one_of, short
from spacelang.files import require_sha256

from ..nasbench.matrices import GraphLimits
from ..nasbench.nasbench101 import MOST_EDGES, MOST_VERTICES
from ..notations import from_nasbench101
from .columns import Table, as_columns
from .tfrecords import read_records

EPOCHS = (4, 12, 36, 108)
_ACCURACIES = {"train_acc": "train_accuracy", "val_acc": "validation_accuracy", "test_acc": "test_accuracy"}
_DOUBLES = ("current_epoch", "training_time", *_ACCURACIES.values())


def read_nasbench101(path: str | os.PathLike[str], *, epochs: int = 108, sha256: str | None = None) -> Table:
    """Read `nasbench_only108.tfrecord` or `nasbench_full.tfrecord`, without TensorFlow.

    A row is one of three trainings of a cell; the file does not tell their seeds. Accuracies are fractions.
    There are metrics in the middle of the training and at its end. The file holds one of several isomorphic
    cells, so look up by the benchmark's hash:

        space = NASBench101()
        Tabular(read_nasbench101("nasbench_only108.tfrecord"), key=space.hash, metrics=["val_acc", "seconds"])

    Isomorphic cells may differ in their number of parameters; `params` is that of the cell in the file.

    Args:
        path: The file, of 0.5 or 2 GB. The first has the SHA-256
            4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1, the other
            3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c. Each record has a checksum of
            its own, which is compared, and so is the hash of each cell.
        epochs: Length of the trainings: 108, or 4, 12 or 36, which only the full file has.
        sha256: Checksum to compare the file with before it is read, 64 hexadecimal digits; None for no check.

    Returns:
        The columns `arch`, `seed` (0, 1, 2 in the order of the file), `params`, and for both epochs
        `train_acc@`, `val_acc@`, `test_acc@` and `seconds@`.

    Raises:
        SpaceError: The file is damaged, is another one, or has no training of that length.

    Source: arXiv:1902.09635; github.com/google-research/nasbench.
    """
    require_one_of("epochs", epochs, EPOCHS)
    file = Path(path)
    require_sha256(file, sha256)
    table = as_columns(_rows(file, epochs))
    if not table:
        raise SpaceError(f"'{file}' has no training of {epochs} epochs. Only nasbench_full.tfrecord has all.")
    return table


def _rows(path: Path, epochs: int) -> Iterator[dict[str, Any]]:
    known: dict[str, str] = {}
    runs: Counter[str] = Counter()
    for number, record in enumerate(read_records(path)):
        try:
            module, length, matrix, operations, metrics = json.loads(record)
            if length != epochs:
                continue
            if module not in known:
                known[module] = _architecture(module, matrix, operations.split(","))
            row = _metrics(base64.b64decode(metrics, validate=True))
        except (ValueError, TypeError, AttributeError) as error:  # a SpaceError is a ValueError
            raise SpaceError(
                f"record {number} of '{path}' is not of NAS-Bench-101: {error} Expected the hash, epochs, "
                f"matrix, operations and metrics; got {short(record)}."
            ) from error
        yield {"arch": known[module], "seed": runs[module], **row}
        runs[module] += 1


def _architecture(module: str, matrix: str, operations: list[str]) -> str:
    """Return an architecture dict as JSON; its hash must be the one in the file."""
    size = len(operations)
    if len(matrix) != size * size:
        raise SpaceError(f"{size} operations need a matrix of {size * size} digits.")
    rows = [[int(digit) for digit in matrix[i * size : (i + 1) * size]] for i in range(size)]
    arch = from_nasbench101(rows, operations)
    found = GraphLimits(MOST_VERTICES, MOST_EDGES).graph(arch).fingerprint()
    if found != module:
        raise SpaceError(f"the hash of the cell is {found}, not {short(module)}.")
    return json.dumps(arch)


def _metrics(data: bytes) -> dict[str, float]:
    """Return the metrics of a training, by column."""
    from google.protobuf.message import DecodeError

    message = _message()()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise SpaceError(f"its metrics are damaged ({error}).") from error
    row = {"params": message.trainable_parameters}
    for evaluation in message.evaluation_data[1:]:  # the first is before the training
        epoch = round(evaluation.current_epoch) - 1
        row[f"seconds@{epoch}"] = evaluation.training_time
        row |= {f"{name}@{epoch}": getattr(evaluation, field) for name, field in _ACCURACIES.items()}
    return row


@cache
def _message() -> Any:
    """Return the class of the benchmark's messages (`model_metrics.proto` in its repository)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="nasbench101.proto", package="nasbench101", syntax="proto2"
    )
    evaluation = file.message_type.add(name="EvaluationData")
    for number, name in enumerate(_DOUBLES, start=1):
        evaluation.field.add(name=name, number=number, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL)
    evaluation.field.add(name="checkpoint_path", number=6, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    metrics = file.message_type.add(name="ModelMetrics")
    metrics.field.add(
        name="evaluation_data",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".nasbench101.EvaluationData",
        label=kinds.LABEL_REPEATED,
    )
    metrics.field.add(
        name="trainable_parameters", number=2, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL
    )
    metrics.field.add(name="total_time", number=3, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench101.ModelMetrics"))
