"""ModelNet as clouds of points, which SGAS classifies; the meshes are read, never fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from spacelang.errors import SpaceError, require_integer


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


def modelnet(folder: str | Path, points: int = 1024, seed: int = 0) -> PointSplits:
    """Return the objects of ModelNet10 or ModelNet40, each as points drawn from its surface, (3, points).

    Points are uniform on the surface. A cloud is moved to its centre, and scaled to a largest distance of 1.

    Args:
        folder: Folder of the unpacked `ModelNet10.zip` or `ModelNet40.zip`: a folder for each class with
            `train` and `test`, which hold meshes (`.off`). It is read at every call.
        points: Number of points of a cloud.
        seed: Seed of the points; the global generators are left as they are.

    Raises:
        SpaceError: There are no meshes, or one is damaged.

    Source: Z. Wu et al., 3D ShapeNets, arXiv:1406.5670.
    """
    require_integer("points", points, least=1)
    require_integer("seed", seed, least=0)
    root = Path(folder)
    classes = sorted(path.parent.name for path in root.glob("*/train") if path.is_dir())
    if not classes:
        raise SpaceError(
            f"'{root}' has no meshes; expected the folder of ModelNet10.zip or ModelNet40.zip, with folders "
            "such as 'bathtub/train'."
        )
    rng = np.random.default_rng(seed)
    parts = []
    for part in ("train", "test"):
        files = [
            (path, i) for i, name in enumerate(classes) for path in sorted((root / name / part).glob("*.off"))
        ]
        if not files:
            raise SpaceError(f"'{root}' has no meshes in '{classes[0]}/{part}' and the folders beside it.")
        clouds = torch.stack([_cloud(path, points, rng) for path, _ in files])
        parts.append(TensorDataset(clouds, torch.tensor([number for _, number in files])))
    return PointSplits(parts[0], parts[1], tuple(classes))


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
