"""PPI and ModelNet: small files of the published form, with what is in them by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import networkx as nx
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spacelang import SpaceError
from spacelang.evaluators import Nodes
from spacelang.evaluators.data import Graph, modelnet, ppi, side_by_side
from spacelang.hub import GraphCells, load

# -- PPI -----------------------------------------------------------------------------------------------

LINKS = [(0, 1), (1, 0), (1, 1), (2, 3), (4, 2)]  # two graphs: nodes 0, 1 and nodes 2, 3, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        graph = {
            "directed": False,
            "multigraph": False,
            "graph": {},
            "nodes": [{"id": i, "test": False} for i in range(5)],
            "links": [{"source": i, "target": j} for i, j in LINKS],
        }
        (tmp_path / f"{part}_graph.json").write_text(json.dumps(graph))
        np.save(tmp_path / f"{part}_feats.npy", rng.normal(size=(5, 50)))
        np.save(tmp_path / f"{part}_labels.npy", rng.integers(2, size=(5, 121)))
        np.save(tmp_path / f"{part}_graph_id.npy", np.array([21, 21, 22, 22, 22]))
    return tmp_path


def test_ppi(folder: Path) -> None:
    splits = ppi(folder)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [2, 2, 2]
    first, second = splits.train
    assert first.edge_index.tolist() == [[0, 1], [1, 0]]  # once, and without the node's own
    assert second.edge_index.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    features, labels = (np.load(folder / f"train_{name}.npy") for name in ("feats", "labels"))
    torch.testing.assert_close(second.x, torch.from_numpy(features[2:]).float())
    assert torch.equal(second.y, torch.from_numpy(labels[2:]).float())


def test_links_are_those_that_networkx_reads(folder: Path) -> None:
    content = json.loads((folder / "train_graph.json").read_text())
    read = nx.DiGraph(nx.node_link_graph(content, edges="links"))
    expected = {(i, j) for i, j in read.edges if i != j}
    joined = side_by_side(ppi(folder).train)
    assert set(map(tuple, joined.edge_index.T.tolist())) == expected
    assert joined.edge_index.shape[1] == len(expected)


def test_graphs_side_by_side_are_computed_as_each_alone(folder: Path) -> None:
    graphs = ppi(folder).train
    torch.manual_seed(0)
    model = GraphCells(width=4).eval()
    joined = side_by_side(graphs)
    torch.testing.assert_close(
        model(joined.x, joined.edge_index), torch.cat([model(g.x, g.edge_index) for g in graphs])
    )


@pytest.mark.slow
def test_ppi_trains(folder: Path) -> None:
    splits = ppi(folder)
    loaders = [DataLoader(part, 2, collate_fn=side_by_side) for part in (splits.train, splits.val)]  # type: ignore[arg-type]
    evaluator = Nodes(train_dataloaders=loaders[0], val_dataloaders=loaders[1], max_epochs=1)
    assert 0 <= evaluator.evaluate(load("sgas-cri2-ppi-2", width=4))["val_f1"] <= 1


def links(*pairs: tuple[Any, Any]) -> bytes:
    return json.dumps({"links": [{"source": i, "target": j} for i, j in pairs]}).encode()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("valid_graph.json", links((0, 5)), "links a node that is none of the 5"),
        ("valid_graph.json", links((0, -1)), "links a node that is none of the 5"),
        ("valid_graph.json", links((0, 3)), "links nodes of different graphs"),
        ("valid_graph.json", b"[]", r"cannot read '.*valid_graph\.json'.*expected train_graph\.json"),
        ("valid_graph.json", links((0, "a")), "cannot read"),
        ("test_feats.npy", b"no array", r"cannot read '.*test_feats\.npy'"),
        ("test_feats.npy", None, r"cannot read '.*test_feats\.npy': .*No such file"),
    ],
)
def test_damaged_files_of_ppi(folder: Path, file: str, content: bytes | None, message: str) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(SpaceError, match=message):
        ppi(folder)


def test_files_of_ppi_that_do_not_fit(folder: Path) -> None:
    np.save(folder / "test_labels.npy", np.zeros((4, 121)))
    with pytest.raises(SpaceError, match="5 features, 4 labels and 5 numbers of graphs"):
        ppi(folder)
    np.save(folder / "test_labels.npy", np.array([{}], dtype=object))
    with pytest.raises(SpaceError, match="allow_pickle"):
        ppi(folder)


def test_graph_is_a_batch() -> None:
    graph = Graph(torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2))
    assert len(side_by_side([graph, graph]).x) == 4


# -- ModelNet ------------------------------------------------------------------------------------------

SQUARE = "4 2 0\n0 0 0\n2 0 0\n2 2 0\n0 2 0\n3 0 1 2\n3 0 2 3\n"  # in the plane z = 0


def mesh(folder: Path, name: str, number: int, part: str, text: str) -> None:
    place = folder / name / part
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}_{number:04}.off").write_text(text)


def test_modelnet(tmp_path: Path) -> None:
    for part in ("train", "test"):
        mesh(tmp_path, "desk", 1, part, f"OFF\n{SQUARE}")
        mesh(tmp_path, "chair", 1, part, f"OFF{SQUARE}")  # as some files of ModelNet40
    (tmp_path / "README.txt").touch()
    splits = modelnet(tmp_path, points=256)
    assert splits.classes == ("chair", "desk")
    clouds, labels = splits.train.tensors  # type: ignore[attr-defined]
    assert (clouds.shape, clouds.dtype, labels.tolist()) == ((2, 3, 256), torch.float32, [0, 1])
    torch.testing.assert_close(clouds.mean(2), torch.zeros(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(clouds.norm(dim=1).max(1).values, torch.ones(2))
    assert (clouds[:, 2] == 0).all()
    again = modelnet(tmp_path, points=256).train.tensors[0]  # type: ignore[attr-defined]
    other = modelnet(tmp_path, points=256, seed=1).train.tensors[0]  # type: ignore[attr-defined]
    assert torch.equal(clouds, again)
    assert not torch.equal(clouds, other)
    assert GraphCells(width=2, form="points", num_classes=2).eval()(clouds).shape == (2, 2)


def test_points_are_uniform_on_the_surface(tmp_path: Path) -> None:
    """A triangle of area 1/2 and one of area 3/2, apart: one quarter and three quarters of 4,000 points."""
    text = "OFF\n6 2 0\n0 0 0\n1 0 0\n0 1 0\n10 0 0\n13 0 0\n10 1 0\n3 0 1 2\n3 3 4 5\n"
    for part in ("train", "test"):
        mesh(tmp_path, "a", 1, part, text)
    (cloud,) = modelnet(tmp_path, points=4_000).train.tensors[0]  # type: ignore[attr-defined]
    small = cloud[:, cloud[0] < cloud[0].mean() - 0.3]
    assert abs(small.shape[1] / 4_000 - 0.25) < 0.03  # 4 deviations
    scale = float(small[0].max() - small[0].min())
    inside = (small - small.amin(1, keepdim=True)) / scale
    assert float((inside[0] + inside[1]).max()) < 1.05  # in the triangle, not in the parallelogram
    assert abs(float(inside[0].mean()) - 1 / 3) < 0.04


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PLY", "it does not begin with OFF"),
        ("", "it does not begin with OFF"),
        ("OFF\n", "cannot read the mesh"),
        ("OFF\n1 1 0\n0 0 0\n3 0 0 1\n", "a face is not a triangle of its vertices"),
        ("OFF\n1 1 0\n0 0 0\n4 0 0 0\n", "a face is not a triangle of its vertices"),
        ("OFF\n3 1 0\n0 0 0\n", "cannot read the mesh"),
        ("OFF\n1 1 0\n0 0 0\n3 0 0 0\n", "has no surface"),
    ],
)
def test_damaged_meshes(tmp_path: Path, text: str, message: str) -> None:
    mesh(tmp_path, "a", 1, "train", text)
    with pytest.raises(SpaceError, match=message):
        modelnet(tmp_path)


def test_folders_without_meshes(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"has no meshes; expected the folder of ModelNet10\.zip"):
        modelnet(tmp_path)
    mesh(tmp_path, "a", 1, "train", f"OFF\n{SQUARE}")
    with pytest.raises(SpaceError, match="no meshes in 'a/test'"):
        modelnet(tmp_path)


def stored(path: Path, data: np.ndarray[Any, Any], labels: list[int]) -> None:
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data.astype(np.float32), np.array(labels, np.uint8)[:, None]


def test_modelnet_in_hdf5(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(4, 6, 3))
    stored(tmp_path / "ply_data_train1.h5", data[2:3], [0])
    stored(tmp_path / "ply_data_train0.h5", data[:2], [2, 1])
    stored(tmp_path / "ply_data_test0.h5", data[3:], [1])
    splits = modelnet(tmp_path, points=5)
    assert splits.classes == ("0", "1", "2")
    clouds, labels = splits.train.tensors  # type: ignore[attr-defined]
    assert (clouds.dtype, labels.tolist()) == (torch.float32, [2, 1, 0])
    np.testing.assert_array_equal(clouds.numpy(), data[:3, :5].transpose(0, 2, 1).astype(np.float32))
    assert splits.test.tensors[0].shape == (1, 3, 5)  # type: ignore[attr-defined]
    (tmp_path / "shape_names.txt").write_text("chair\ndesk\ntable\n")
    assert modelnet(tmp_path, points=5).classes == ("chair", "desk", "table")
    (tmp_path / "shape_names.txt").write_text("chair\n")
    with pytest.raises(SpaceError, match="has 1 names, but the clouds are of 3 classes"):
        modelnet(tmp_path, points=5)
    with pytest.raises(SpaceError, match=r"shape \(2, 6, 3\) and 2 labels; expected .* at least 1024 points"):
        modelnet(tmp_path)
    (tmp_path / "ply_data_train0.h5").write_bytes(b"no HDF5")
    with pytest.raises(SpaceError, match="expected 'data' and 'label' in HDF5"):
        modelnet(tmp_path, points=5)
    (tmp_path / "ply_data_test0.h5").unlink()
    with pytest.raises(SpaceError, match=r"has no 'ply_data_test0\.h5'"):
        modelnet(tmp_path, points=5)
