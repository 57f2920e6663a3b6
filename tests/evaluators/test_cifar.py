"""CIFAR-10 on small files in the published format, written here."""

from __future__ import annotations

import hashlib
import io
import pickle  # noqa: TID251  # the published format; the test writes it, torchvision reads it
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from spacelang.errors import SpaceError
from spacelang.evaluators.data import cifar10, search_loaders

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGES = 10  # in each batch file


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Batch files by name, with their checksums in torchvision's lists. The network is out of reach."""
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    contents = {
        name: pickle.dumps(
            {
                "batch_label": name,
                "labels": rng.permutation(10).tolist(),
                "data": rng.integers(0, 256, (IMAGES, 3072), dtype=np.uint8),
                "filenames": [f"{name}_{i}.png" for i in range(IMAGES)],
            }
        )
        for name in names
    }
    contents["batches.meta"] = pickle.dumps({"label_names": CLASSES, "num_cases_per_batch": IMAGES})
    listed = {name: _md5(data) for name, data in contents.items()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, listed[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", listed["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": listed["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return contents


def unpack(files: dict[str, bytes], root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_values_labels_and_order(files: dict[str, bytes], tmp_path: Path) -> None:
    unpack(files, tmp_path)
    splits = cifar10(tmp_path, download=False, augment=False)
    assert (len(splits.train), len(splits.test)) == (50, 10)
    assert (splits.image_shape, splits.num_classes) == ((3, 32, 32), 10)
    batch = pickle.loads(files["data_batch_2"])
    image, label = splits.train[13]
    assert label == batch["labels"][3]
    pixels = torch.from_numpy(batch["data"][3].reshape(3, 32, 32)).float() / 255
    mean = torch.tensor([0.49139968, 0.48215827, 0.44653124]).view(3, 1, 1)
    std = torch.tensor([0.24703233, 0.24348505, 0.26158768]).view(3, 1, 1)
    torch.testing.assert_close(image, (pixels - mean) / std)


def test_training_images_are_shifted_or_flipped_and_test_images_are_not(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    unpack(files, tmp_path)
    plain, augmented = cifar10(tmp_path, augment=False), cifar10(tmp_path)
    assert torch.equal(augmented.test[0][0], plain.test[0][0])
    torch.manual_seed(0)
    original = plain.train[0][0]
    black = -torch.tensor(plain.mean) / torch.tensor(plain.std)  # the padding, normalised
    padded = torch.empty(3, 40, 40)
    padded[:] = black.view(3, 1, 1)
    padded[:, 4:36, 4:36] = original
    views = [padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    views += [view.flip(2) for view in views]
    seen = set()
    for _ in range(20):
        image = augmented.train[0][0]
        matches = [i for i, view in enumerate(views) if torch.allclose(image, view, atol=1e-6)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 10


def test_augmentation_follows_torchs_global_seed(files: dict[str, bytes], tmp_path: Path) -> None:
    unpack(files, tmp_path)
    train = cifar10(tmp_path, cutout=16).train
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.stack([train[i][0] for i in range(5)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_cutout_comes_after_the_normalisation(files: dict[str, bytes], tmp_path: Path) -> None:
    unpack(files, tmp_path)
    cut = cifar10(tmp_path, augment=False, cutout=16)
    plain = cifar10(tmp_path, augment=False)
    torch.manual_seed(0)
    image, original = cut.train[0][0], plain.train[0][0]
    zero = (image == 0).all(0)
    assert 64 <= int(zero.sum()) <= 256
    assert torch.equal(image[:, ~zero], original[:, ~zero])
    assert torch.equal(cut.test[0][0], plain.test[0][0])


def test_halves_for_a_search(files: dict[str, bytes], tmp_path: Path) -> None:
    unpack(files, tmp_path)
    for loader in search_loaders(cifar10(tmp_path).train, batch_size=25):
        images, labels = next(iter(loader))
        assert (images.shape, labels.shape, labels.dtype) == ((25, 3, 32, 32), (25,), torch.int64)


def test_archive_is_fetched_checked_and_kept_in_the_cache(
    files: dict[str, bytes], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _archive(files)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", _md5(archive))
    with _served(archive) as (url, requests):
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        assert len(cifar10().train) == 50
        assert (folders / "cache/data/cifar-10-batches-py/test_batch").is_file()
        first = len(requests)
        assert first > 0
        assert len(cifar10().train) == 50
        assert len(requests) == first  # nothing is fetched twice


def test_a_damaged_archive_is_refused(
    files: dict[str, bytes], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _archive(files)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", _md5(archive))
    with _served(archive[:-1] + bytes([archive[-1] ^ 1])) as (url, _):
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        with pytest.raises(SpaceError, match="not available"):
            cifar10()
    assert not (folders / "cache/data/cifar-10-batches-py").exists()


def test_offline_says_what_to_do(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"not available in .*cifar-10-batches-py.*refused.*connection"):
        cifar10(tmp_path)


def test_missing_files_without_download(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="pass download=True"):
        cifar10(tmp_path, download=False)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_changed_file_is_refused_before_it_is_unpickled(
    files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "executed"
    unpack(files | {name: _creates(mark)}, tmp_path)
    with pytest.raises(SpaceError, match="not available"):
        cifar10(tmp_path, download=False)
    assert not mark.exists()
    pickle.loads(_creates(mark))  # the control: the file does run code when it is unpickled
    assert mark.exists()


def _archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@contextmanager
def _served(data: bytes) -> Iterator[tuple[str, list[str]]]:
    """Serve one file on this machine; yield its address and the growing list of requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _creates(path: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""

    class Payload:
        def __reduce__(self):
            return Path.touch, (path,)

    return pickle.dumps(Payload())
