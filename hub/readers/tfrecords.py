"""Reader of TFRecord files, without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from spacelang.errors import SpaceError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
_LONGEST = 1 << 24  # bytes; rows of NAS-Bench-101 have about 400


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[crc & 0xFF ^ byte]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a CRC as TFRecord files store it: rotated by 15 bits, and a constant added."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file.

    A record is its length (8 bytes), the checksum of the length, the data, and the checksum of the data.

    Raises:
        SpaceError: The file is missing, damaged, or ends within a record; names the byte.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise SpaceError(
            f"cannot read '{path}': {error.strerror or error}; expected a TFRecord file."
        ) from error
    with file, tqdm(total=path.stat().st_size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        place = 0
        while head := file.read(12):
            length = _checked_length(head, path, place)
            data, end = file.read(length), file.read(4)
            if len(data) < length or len(end) < 4:
                raise SpaceError(f"'{path}' ends within the record at byte {place}; download it again.")
            if masked(crc32c(data)) != struct.unpack("<I", end)[0]:
                raise SpaceError(f"'{path}' is damaged: the checksum of the record at byte {place} is wrong.")
            yield data
            place += length + 16
            bar.update(length + 16)


def _checked_length(head: bytes, path: Path, place: int) -> int:
    if len(head) < 12:
        raise SpaceError(f"'{path}' ends within the record at byte {place}; download it again.")
    length, crc = struct.unpack("<QI", head)
    if masked(crc32c(head[:8])) != crc or length > _LONGEST:
        raise SpaceError(
            f"'{path}' is not a TFRecord file, or damaged: at byte {place} stands no length of a record."
        )
    return int(length)
