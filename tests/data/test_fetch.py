"""Fetching a published set: archives made here, a server on this machine, every accident."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from msmlff.data import fetch
from msmlff.data.configuration import Configuration
from msmlff.data.fetch import fetch_cheng2020
from msmlff.data.formats import read_frames
from msmlff.data.runner import write_runner
from msmlff.errors import InputError

DENSITIES = {5.0: 40, 4.8: 24, 4.6: 26}  # length of the cell, Å: frames


def _archive(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    frames = [
        Configuration(
            np.ones(4, int),
            rng.random((4, 3)) * length,
            cell=np.eye(3) * length,
            pbc=np.ones(3, bool),
            energy=float(rng.normal()),
            forces=rng.normal(size=(4, 3)),
        )
        for length, count in DENSITIES.items()
        for _ in range(count)
    ]
    data = path.with_suffix(".plain")
    write_runner(data, frames)
    with tarfile.open(path, "w:gz") as tar:
        junk = tarfile.TarInfo("._set.data")
        junk.size = 3
        tar.addfile(junk, io.BytesIO(b"\x00\x01\x02"))
        tar.add(data, "set.data")
    data.unlink()
    return path


@pytest.fixture
def archive(tmp_path) -> Path:
    return _archive(tmp_path / "a.tar.gz")


class _Server:
    """Serves one file with ranges; ``cut`` bytes at most per answer."""

    def __init__(self, content: bytes) -> None:
        self.cut: int | None = None
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:][: server.cut])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/a.tar.gz"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(archive) -> Iterator[_Server]:
    running = _Server(archive.read_bytes())
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.mark.parametrize("as_address", [False, True])
def test_an_archive_becomes_three_parts(as_address, archive, tmp_path) -> None:
    folder = fetch_cheng2020(tmp_path / "out", archive.as_uri() if as_address else archive)
    parts = {name: list(read_frames(folder / f"{name}.extxyz.gz")) for name in ("pool", "val", "test")}
    assert {name: len(p) for name, p in parts.items()} == {"pool": 57, "val": 6, "test": 12}
    for length in DENSITIES:
        blocks = [
            [f.info["source_index"] for f in part if abs(f.cell[0, 0] - length) < 1e-6]
            for part in parts.values()
        ]
        joined = [i for block in blocks for i in block]
        assert joined == list(range(joined[0], joined[0] + len(joined)))  # consecutive, in order of time
    density = 4 * 1.008 / 6.02214076e23 / (5e-8) ** 3
    assert parts["pool"][0].info["density_g_cm3"] == pytest.approx(density, abs=1e-4)
    record = json.loads((folder / "source.json").read_text())
    assert record["parts"] == {"pool": 57, "val": 6, "test": 12}
    assert record["sha256"] in (folder / "data_card.md").read_text()
    assert not list(folder.glob("download*"))


def test_a_broken_download_is_continued(server, tmp_path) -> None:
    server.cut = 1000
    with pytest.raises(InputError, match="run the same command again"):
        fetch_cheng2020(tmp_path / "out", server.address)
    server.cut = None
    fetch_cheng2020(tmp_path / "out", server.address)
    assert server.ranges == [None, "bytes=1000-"]
    assert (tmp_path / "out" / "pool.extxyz.gz").is_file()


def test_a_part_longer_than_the_file_starts_over(server, archive, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "download.tar.gz.part").write_bytes(b"x" * (len(archive.read_bytes()) + 5))
    fetch_cheng2020(tmp_path / "out", server.address)
    assert server.ranges[-1] is None


def test_a_known_checksum_must_match(server, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(fetch.SHA256, server.address, "0" * 64)
    with pytest.raises(InputError, match=r"not 0000.*changed or damaged on the way"):
        fetch_cheng2020(tmp_path / "out", server.address)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(archive, tmp_path) -> None:
    fetch_cheng2020(tmp_path / "out", archive)
    fetch_cheng2020(tmp_path / "out", archive)
    _archive(archive, seed=1)
    with pytest.raises(InputError, match=r"if it changed on purpose, remove .*source\.json"):
        fetch_cheng2020(tmp_path / "out", archive)


def test_a_damaged_archive_is_named_and_removed(archive, tmp_path) -> None:
    for content, message in (
        (archive.read_bytes()[:-200], "damaged"),
        (b"<html>not found</html>", "damaged"),
    ):
        broken = tmp_path / "broken.tar.gz"
        broken.write_bytes(content)
        with pytest.raises(InputError, match=message):
            fetch_cheng2020(tmp_path / "out", broken)
        assert list((tmp_path / "out").iterdir()) == []
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"holds no \.data file"):
        fetch_cheng2020(tmp_path / "out", tmp_path / "empty.tar.gz")


def test_absent_sources(server, tmp_path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        fetch_cheng2020(tmp_path / "out", tmp_path / "nothing.tar.gz")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(InputError, match=r"the download failed.*--source=FILE"):
        fetch_cheng2020(tmp_path / "out", server.address)
    with pytest.raises(InputError, match="the download failed"):
        fetch_cheng2020(tmp_path / "out", "gopher://nowhere/a.tar.gz")
