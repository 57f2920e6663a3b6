"""ModelNet as clouds of points, which SGAS classifies; meshes or points are read, never fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from spacelang.errors import SpaceError, require_integer
from spacelang.files import require_sha256

_PARTS = ("train", "test")


@dataclass(frozen=True)
class PointSplits:
    """Clouds of points with class numbers, in two parts.

    Attributes:
        train: Clouds (3, N) to search and train with; split them further for validation.
        test: Clouds for the final number only.
        classes: Names of the classes in the order of their numbers.
    """

    train: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]


def modelnet(
    folder: str | Path, points: int = 1024, seed: int = 0, *, sha256: Mapping[str, str] | None = None
) -> PointSplits:
    """Return the objects of ModelNet10 or ModelNet40, each as points of its surface, (3, points).

    Of meshes, points are drawn uniformly on the surface; a cloud is moved to its centre, and scaled to a
    largest distance of 1. Of clouds in HDF5, the first points are taken as they are, which is the version
    that PointNet and SGAS read. No trusted checksum of either is known here; pass `sha256` for your own.

    Args:
        folder: Folder of the unpacked `ModelNet10.zip` or `ModelNet40.zip`: a folder for each class with
            `train` and `test`, which hold meshes (`.off`). Or that of `modelnet40_ply_hdf5_2048.zip`, with
            `ply_data_train0.h5` and so on, which needs h5py. It is read at every call.
        points: Number of points of a cloud; of clouds in HDF5 at most 2,048.
        seed: Seed of the points of meshes; the global generators are left as they are.
        sha256: Checksums to compare files with before they are read, {path in the folder: 64 hexadecimal
            digits}; None for no check.

    Raises:
        SpaceError: There is neither, or a file is damaged.

    Source: Z. Wu et al., 3D ShapeNets, arXiv:1406.5670; clouds in HDF5: C. Qi et al., arXiv:1612.00593.
    """
    require_integer("points", points, least=1)
    require_integer("seed", seed, least=0)
    root = Path(folder)
    require_sha256(root, sha256)
    clouds = {part: sorted(root.glob(f"ply_data_{part}*.h5")) for part in _PARTS}
    if any(clouds.values()):
        return _of_hdf5(root, clouds, points)
    return _of_meshes(root, points, seed)


def _of_meshes(root: Path, points: int, seed: int) -> PointSplits:
    classes = sorted(path.parent.name for path in root.glob("*/train") if path.is_dir())
    if not classes:
        raise SpaceError(
            f"'{root}' has no meshes; expected the folder of ModelNet10.zip or ModelNet40.zip, with folders "
            "such as 'bathtub/train', or of modelnet40_ply_hdf5_2048.zip, with 'ply_data_train0.h5'."
        )
    rng = np.random.default_rng(seed)
    parts = []
    for part in _PARTS:
        files = [
            (path, i) for i, name in enumerate(classes) for path in sorted((root / name / part).glob("*.off"))
        ]
        if not files:
            raise SpaceError(f"'{root}' has no meshes in '{classes[0]}/{part}' and the folders beside it.")
        clouds = torch.stack([_cloud(path, points, rng) for path, _ in files])
        parts.append(TensorDataset(clouds, torch.tensor([number for _, number in files])))
    return PointSplits(parts[0], parts[1], tuple(classes))


def _of_hdf5(root: Path, files: dict[str, list[Path]], points: int) -> PointSplits:
    missing = [part for part in _PARTS if not files[part]]
    if missing:
        raise SpaceError(f"'{root}' has no 'ply_data_{missing[0]}0.h5', but the other part.")
    train, test = (_joined([_points(path, points) for path in files[part]]) for part in _PARTS)
    names, count = root / "shape_names.txt", int(max(train.tensors[1].max(), test.tensors[1].max())) + 1
    classes = names.read_text(encoding="utf-8").split() if names.exists() else list(map(str, range(count)))
    if len(classes) < count:
        raise SpaceError(f"'{names}' has {len(classes)} names, but the clouds are of {count} classes.")
    return PointSplits(train, test, tuple(classes))


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> TensorDataset:
    return TensorDataset(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _points(path: Path, points: int) -> tuple[Tensor, Tensor]:
    """Read clouds (n, 3, points) and class numbers (n,): `data` (n, N, 3) and `label` (n, 1) of a file."""
    try:
        import h5py
    except ImportError as error:
        raise SpaceError(
            f"'{path}' is read with the package h5py. Type: pip install 'spacelang-nas[hdf5]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            data, labels = np.asarray(file["data"]), np.asarray(file["label"]).astype(np.int64).ravel()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SpaceError(f"cannot read '{path}': {error}; expected 'data' and 'label' in HDF5.") from error
    if data.ndim != 3 or data.shape[1] < points or data.shape[2] != 3 or len(labels) != len(data):
        raise SpaceError(
            f"'{path}' has 'data' of shape {data.shape} and {len(labels)} labels; expected (clouds, "
            f"points, 3) with at least {points} points, and a label each."
        )
    clouds = torch.from_numpy(data[:, :points].astype(np.float32)).transpose(1, 2).contiguous()
    return clouds, torch.from_numpy(labels)


def _cloud(path: Path, points: int, rng: np.random.Generator) -> Tensor:
    """Draw points from the surface of a mesh, (3, points), centred and scaled."""
    vertices, faces = _mesh(path)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not areas.sum() > 0:
        raise SpaceError(f"the mesh '{path}' has no surface.")
    chosen = rng.choice(len(faces), points, p=areas / areas.sum())
    u, v = rng.random((2, points, 1))
    outside = u + v > 1  # the other half of the parallelogram
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    cloud = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    cloud -= cloud.mean(axis=0)
    cloud /= max(np.linalg.norm(cloud, axis=1).max(), 1e-12)
    return torch.from_numpy(cloud.T.copy()).float()


def _mesh(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read the vertices (V, 3) and triangles (F, 3) of an OFF file.

    The counts stand on the second line, in some files of ModelNet40 behind OFF on the first.
    """
    try:
        words = path.read_text(encoding="ascii").split()
        if not words or not words[0].startswith("OFF"):
            raise ValueError("it does not begin with OFF")
        if words[0] == "OFF":
            words = words[1:]
        else:
            words[0] = words[0].removeprefix("OFF")
        n_vertices, n_faces = int(words[0]), int(words[1])
        numbers = words[3 : 3 + 3 * n_vertices]
        vertices = np.array(numbers, dtype=np.float64).reshape(n_vertices, 3)
        faces = np.array(words[3 + 3 * n_vertices :][: 4 * n_faces], dtype=np.int64).reshape(n_faces, 4)
        if (faces[:, 0] != 3).any() or faces[:, 1:].min() < 0 or faces[:, 1:].max() >= n_vertices:
            raise ValueError("a face is not a triangle of its vertices")
    except (OSError, ValueError, IndexError) as error:
        raise SpaceError(f"cannot read the mesh '{path}': {error}.") from error
    return vertices, faces[:, 1:]
