"""The compiled C++ library: built on first use into the cache folder, then loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ...files import cache_folder

SOURCES = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w")
_OPENMP = "-fopenmp"  # not every compiler has it
_SECONDS = 300  # a compiler that takes longer hangs


class Unavailable(Exception):
    """The reason why there are no native kernels here."""


def native_library() -> ctypes.CDLL:
    """Return the library; the first call compiles it, which takes about fifteen seconds.

    Raises:
        Unavailable: There is no compiler, or it failed.
    """
    found = _load()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def why_not() -> str:
    """Return why there are no native kernels, or an empty text; compile them if that was not done yet."""
    found = _load()
    return found if isinstance(found, str) else ""


@functools.cache
def _load() -> ctypes.CDLL | str:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        return "no C++ compiler was found (g++, clang++, or the one that CXX names)"
    try:
        path = _built(compiler)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} could not build them: {_first_line(error)}"
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    for dtype in ("float32", "float64"):
        for name in ("forward", "backward"):
            getattr(library, f"{name}_{dtype}").argtypes = [pointer]
        update = getattr(library, f"update_{dtype}")
        update.argtypes = [number, number, pointer, pointer, pointer, pointer, number]
        update.restype = None
    library.vector_bytes.restype = number
    return library


def _built(compiler: str) -> Path:
    """Return the path of the library for this compiler and processor, compiled if it is not there."""
    sources = [path.read_bytes() for path in sorted([*SOURCES.glob("*.hpp"), *SOURCES.glob("*.cpp")])]
    # What `native` means differs by machine, and a cache folder may be shared by several.
    machine = _run([compiler, *_FLAGS, "-E", "-dM", "-x", "c++", os.devnull])
    flags = " ".join((compiler, *_FLAGS, _OPENMP)).encode()
    key = hashlib.sha256(b"\0".join([*sources, machine, flags])).hexdigest()
    path = cache_folder() / "native" / f"bundle-{key[:16]}.so"
    if not path.exists():
        print(f"spacelang: compiling native kernels with {compiler} (once, about 15 s)", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            rest = [*_FLAGS, str(SOURCES / "bundle.cpp"), "-o", str(made)]
            try:
                _run([compiler, _OPENMP, *rest])
            except subprocess.CalledProcessError:
                _run([compiler, *rest])
            made.replace(path)  # at once: another process sees all of it or nothing
    return path


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS).stdout


def _first_line(error: Exception) -> str:
    said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else ""
    return next((line for line in (said or str(error)).splitlines() if line.strip()), type(error).__name__)
