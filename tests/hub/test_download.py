"""Weights from a server on this machine: whole, broken off, damaged, hostile, and out of reach."""

from __future__ import annotations

import hashlib
import http.server
import io
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from spacelang import SpaceError
from spacelang.hub import DARTS, load
from spacelang.hub.published import Entry, entries, read_entry
from spacelang.hub.published.download import cached_path, download

SMALL = {"width": 2, "num_cells": 3, "dataset": [1, 8, 10]}


@dataclass
class Server:
    """What a server sends, and what it was asked."""

    address: str = ""
    data: bytes = b""
    break_after: list[int] = field(default_factory=list)  # bytes sent of each next answer
    asked: list[str | None] = field(default_factory=list)  # the Range of each request

    def url(self, name: str = "net.safetensors") -> str:
        return f"{self.address}/some/{name}?download=true"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range"))
            if not state.data:
                self.send_error(404)
                return
            self.send_response(200)
            body = state.data
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def publish(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the server and a new entry "here" hold some bytes."""

    def publish(data: bytes, file: str = "net.safetensors", sha256: str | None = None) -> None:
        server.data = data
        record = {"url": server.url(file), "sha256": sha256 or digest(data)}
        known = read_entry("darts-v2")
        entry = Entry("here", "DARTS", SMALL, known.architecture, "a test", (), (), record)
        monkeypatch.setattr(entries, "_catalogue", lambda: {"here": entry})

    return publish


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def trained() -> dict[str, torch.Tensor]:
    """A state dict of the entry's network that no fresh network has."""
    torch.manual_seed(1)
    return {
        name: torch.rand_like(w) if w.is_floating_point() else w + 7
        for name, w in load("darts-v2", **SMALL).state_dict().items()
    }


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# -- the connection ------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(server: Server, cache: Path) -> None:
    server.data = bytes(range(256)) * 1000
    sha256 = digest(server.data)
    for _ in range(3):
        assert download(server.url(), sha256) == server.data
    assert server.asked == [None]
    assert files(cache) == [f"{sha256[:16]}-net.safetensors"]


def test_a_broken_download_leaves_nothing(server: Server, cache: Path) -> None:
    server.data = bytes(range(256)) * 1000
    server.break_after = [100_000]
    with pytest.raises(SpaceError, match=r"cannot download .*Without a connection"):
        download(server.url(), digest(server.data))
    assert files(cache) == []
    assert download(server.url(), digest(server.data)) == server.data


def test_threads_may_want_the_same_file(server: Server, cache: Path) -> None:
    server.data = bytes(range(256)) * 1000
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(download(server.url(), digest(server.data))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [server.data] * 4
    assert len(files(cache)) == 1


def test_a_wrong_file_is_refused(server: Server, cache: Path) -> None:
    server.data = b"something else"
    with pytest.raises(SpaceError, match=f"is not the published file.*{digest(server.data)}"):
        download(server.url(), "0" * 64)
    assert files(cache) == []
    assert server.asked == [None]


def test_a_damaged_file_in_the_cache_is_downloaded_again(server: Server) -> None:
    server.data = b"weights" * 100
    download(server.url(), digest(server.data))
    path = cached_path(server.url(), digest(server.data))
    path.write_bytes(server.data.replace(b"w", b"W", 1))
    assert download(server.url(), digest(server.data)) == server.data
    assert server.asked == [None, None]


def test_offline_says_where_the_file_belongs(server: Server) -> None:
    url = "http://127.0.0.1:9/net.safetensors"  # nothing listens on the discard port
    data = b"by hand"
    target = cached_path(url, digest(data))
    with pytest.raises(SpaceError) as error:
        download(url, digest(data))
    assert f"cannot download {url}: " in str(error.value)
    assert "refused" in str(error.value)
    assert f"save it as '{target}' (SHA-256 {digest(data)})" in str(error.value)
    target.write_bytes(data)
    assert download(url, digest(data)) == data


def test_an_answer_that_is_no_file(server: Server) -> None:
    with pytest.raises(SpaceError, match=r"cannot download .*: 404 .*Without a connection"):
        download(server.url(), "0" * 64)
    assert server.asked == [None]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/net.safetensors", "http://host"])
def test_addresses_that_are_not_read(url: str) -> None:
    with pytest.raises(SpaceError, match=r"from http\(s\) addresses of a file"):
        download(url, "0" * 64)


def test_no_bar_without_a_terminal(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.data = b"weights" * 100
    download(server.url(), digest(server.data))
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    server.data = b"weights" * 100
    download(server.url(), digest(server.data))
    out, err = capsys.readouterr()
    assert out == ""
    assert "700/700" in err


# -- the file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_published_weights_are_loaded(publish: Callable[..., None], file: str) -> None:
    weights = trained()
    publish(save(weights) if file.endswith("safetensors") else saved(weights), file)
    for model in (load("here", pretrained=True), DARTS.load_searched_model("here", pretrained=True)):
        assert_equal(model, weights)
    assert not torch.equal(load("here").state_dict()["classifier.weight"], weights["classifier.weight"])


def saved(data: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def assert_equal(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_what_does_not_fit_is_named(publish: Callable[..., None]) -> None:
    weights = trained()
    weights["new.weight"] = weights.pop("classifier.bias")
    weights["classifier.weight"] = torch.zeros(7, 32)
    publish(save(weights))
    with pytest.raises(SpaceError) as error:
        load("here", pretrained=True)
    for part in (
        "the weights of 'here' (http://127.0.0.1",
        "do not fit DARTS: 1 missing: 'classifier.bias'; 1 unknown: 'new.weight'; ",
        "'classifier.weight' is (7, 32), in the network (10, 32)",
    ):
        assert part in str(error.value)


class Hostile:
    """Pickled, it writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_hostile_files_run_nothing(
    publish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool, name: str
) -> None:
    target = tmp_path / "it ran"
    data = saved({"classifier.weight": Hostile(target)})
    torch.load(io.BytesIO(data), weights_only=False)  # it is hostile indeed
    assert target.exists()
    target.unlink()
    if force:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    publish(data, name)
    with pytest.raises(SpaceError, match=r"was refused, and nothing in it was run|is not a safetensors file"):
        load("here", pretrained=True)
    assert not target.exists()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme", "no weights")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "file", "message"),
    [
        (b"", "net.safetensors", "is not a safetensors file"),
        (b"\xff" * 100, "net.safetensors", "is not a safetensors file"),
        (b"nonsense", "net.pth", "was refused"),
        (archive(), "net.pth", "was refused"),
        (saved([torch.zeros(2)]), "net.pth", "holds a list; expected a state dict"),
        (saved({1: torch.zeros(2)}), "net.pth", "holds a dict; expected a state dict"),
        (saved({"classifier.bias": 3}), "net.pth", "'classifier.bias' is int, in the network"),
        (b"x", "net.bin.zip", "weights are read from '.safetensors', '.pth'"),
    ],
)
def test_what_is_no_state_dict(publish: Callable[..., None], data: bytes, file: str, message: str) -> None:
    publish(data or b" ", file)
    with pytest.raises(SpaceError, match=message):
        load("here", pretrained=True)
