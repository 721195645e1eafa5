"""Features on disk: killed and gone on, two processes at once, damaged files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msmlff.data.array_folder import file_sha256
from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.descriptors import Compute, Descriptor
from msmlff.distill.features import Features
from msmlff.errors import InputError


@dataclass(frozen=True)
class Distances(Descriptor):
    """Three numbers an atom. Notes every batch in a file; with ``stop_at`` it hangs there, with
    ``fail_at`` it fails."""

    notes: Path
    stop_at: int = -1
    fail_at: int = -1
    width: float = 1.0

    def settings(self) -> dict[str, Any]:
        return {"descriptor": "Distances", "width": self.width}

    @property
    def batch_atoms(self) -> int:
        return 12

    def compute(self, frames: FrameStore) -> Compute:
        def rows(ids: range) -> np.ndarray:
            if self.stop_at in ids:
                self.note("hangs")
                time.sleep(600)
            if self.fail_at in ids:
                raise RuntimeError("out of memory")
            self.note(f"{ids.start}-{ids.stop}")
            return np.concatenate([self.of_frame(frames[i]) for i in ids])

        return rows

    def note(self, text: str) -> None:
        with self.notes.open("a") as stream:
            stream.write(text + "\n")

    def noted(self) -> list[str]:
        return self.notes.read_text().split() if self.notes.exists() else []

    def of_frame(self, frame: Configuration) -> np.ndarray:
        r = np.linalg.norm(frame.positions[:, None] - frame.positions, axis=2) / self.width
        return np.stack([r.sum(axis=1), (r**2).sum(axis=1), np.exp(-r).sum(axis=1)], axis=1)


@pytest.fixture
def store(frames: list[Configuration], tmp_path: Path) -> FrameStore:
    return FrameStore.build(frames, tmp_path / "cache")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def check(features: Features, store: FrameStore, descriptor: Distances) -> None:
    """The features are those of every frame, in order."""
    expected = np.concatenate([descriptor.of_frame(f) for f in store]).astype(np.float32)
    np.testing.assert_array_equal(features.rows, expected)
    assert features.num_atoms.tolist() == store.num_atoms.tolist()
    assert features.pool_hash == store.hash
    assert features.descriptor == descriptor.settings()


def folder_of(features: Features) -> Path:
    assert isinstance(features.rows, np.memmap)
    return Path(str(features.rows.filename)).parent


def partial_folders(store: FrameStore) -> list[Path]:
    return list(store.directory.parent.glob(".computing-*"))


def start(store: FrameStore, arguments: str) -> subprocess.Popen[bytes]:
    """A process that computes the features of the store."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_feature_cache import Distances\n"
        "from msmlff.data.store import FrameStore\n"
        f"Distances({arguments})(FrameStore.open({str(store.directory)!r}))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root})


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, "the process ended before its time"
        time.sleep(0.1)
    raise AssertionError("waited a minute in vain")


def test_computed_once(store: FrameStore, notes: Path) -> None:
    descriptor = Distances(notes)
    check(descriptor(store), store, descriptor)
    batches = descriptor.noted()
    assert len(batches) > 3
    again = descriptor(FrameStore.open(store.directory))
    check(again, store, descriptor)
    assert isinstance(again.rows, np.memmap)
    assert descriptor.noted() == batches
    assert partial_folders(store) == []


def test_other_settings_and_other_pools_have_features_of_their_own(store: FrameStore, notes: Path) -> None:
    for width in (1.0, 2.0):
        check(Distances(notes, width=width)(store), store, Distances(notes, width=width))
    part = store.subset(range(5, 15))
    check(Distances(notes)(part), part, Distances(notes))


def test_failure_in_the_middle_goes_on_where_it_was(store: FrameStore, notes: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        Distances(notes, fail_at=12)(store)
    before = Distances(notes).noted()
    assert before
    check(Distances(notes)(store), store, Distances(notes))
    batches = Distances(notes).noted()
    assert batches[: len(before)] == before
    assert len(set(batches)) == len(batches)
    assert partial_folders(store) == []


def test_killed_in_the_middle_goes_on_where_it_was(store: FrameStore, notes: Path) -> None:
    process = start(store, f"Path({str(notes)!r}), stop_at=16")
    wait_for(lambda: "hangs" in Distances(notes).noted(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = Distances(notes).noted()
    check(Distances(notes)(store), store, Distances(notes))
    batches = Distances(notes).noted()
    assert len(before) > 2
    assert len(set(batches)) == len(batches)


def test_waiting_process_takes_over_from_a_killed_one(store: FrameStore, notes: Path) -> None:
    first = start(store, f"Path({str(notes)!r}), stop_at=16")
    wait_for(lambda: "hangs" in Distances(notes).noted(), first)
    before = Distances(notes).noted()
    second = start(store, f"Path({str(notes)!r})")
    time.sleep(3)
    assert second.poll() is None
    assert Distances(notes).noted() == before  # it waits, and computes nothing twice
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait(timeout=120) == 0
    batches = Distances(notes).noted()
    assert len(set(batches)) == len(batches)
    check(Distances(notes)(store), store, Distances(notes))
    assert Distances(notes).noted() == batches


def test_two_processes_share_the_work_of_one(store: FrameStore, notes: Path) -> None:
    processes = [start(store, f"Path({str(notes)!r})") for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    batches = Distances(notes).noted()
    assert len(set(batches)) == len(batches)
    check(Distances(notes)(store), store, Distances(notes))
    assert Distances(notes).noted() == batches


@pytest.mark.parametrize("harm", ["torn line", "wrong rows", "no array", "torn array", "other length"])
def test_damage_to_an_unfinished_computation(store: FrameStore, notes: Path, harm: str) -> None:
    with pytest.raises(RuntimeError):
        Distances(notes, fail_at=16)(store)
    (partial,) = partial_folders(store)
    rows, journal = partial / "rows.npy", partial / "journal.jsonl"
    if harm == "torn line":
        journal.write_text(journal.read_text()[:-9])
    elif harm == "wrong rows":
        flip_byte(rows, 140)
    elif harm == "no array":
        rows.unlink()
    elif harm == "torn array":
        rows.write_bytes(rows.read_bytes()[:-50])
    else:
        np.save(rows, np.zeros((3, 3), dtype=np.float32))
    check(Distances(notes)(store), store, Distances(notes))


@pytest.mark.parametrize("harm", ["truncated", "flipped byte", "no array", "bad manifest", "no manifest"])
def test_damaged_features_are_computed_again(
    store: FrameStore, notes: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(Distances(notes)(store))
    rows, manifest = folder / "rows.npy", folder / "manifest.json"
    if harm == "truncated":
        rows.write_bytes(rows.read_bytes()[:-40])
    elif harm == "flipped byte":
        flip_byte(rows, 200)
    elif harm == "no array":
        rows.unlink()
    elif harm == "bad manifest":
        manifest.write_text("{")
    else:
        manifest.unlink()
    check(Distances(notes)(store, verify=harm == "flipped byte"), store, Distances(notes))
    assert "damaged" in caplog.text


def test_features_are_read_whole_on_demand_alone(
    store: FrameStore, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Distances(notes)(store)
    read: list[Path] = []

    def note(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr("msmlff.data.array_folder.file_sha256", note)
    folder = folder_of(Distances(notes)(store))
    assert read == []
    Distances(notes)(store, verify=True)
    assert read == [folder / "rows.npy"]


def test_features_that_are_not_numbers_name_the_frame(store: FrameStore, notes: Path) -> None:
    class Broken(Distances):
        def of_frame(self, frame: Configuration) -> np.ndarray:
            return super().of_frame(frame) * (np.nan if frame.info["step"] == 13 else 1.0)

    with pytest.raises(InputError, match="frame 13 of the pool"):
        Broken(notes)(store)


def test_folder_that_cannot_be_written(
    store: FrameStore, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = store.directory.parent / "file"
    blocked.write_text("")
    monkeypatch.setattr(store, "directory", blocked / "frames")
    with pytest.raises(InputError, match="MSMLFF_CACHE"):
        Distances(notes)(store)


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)
