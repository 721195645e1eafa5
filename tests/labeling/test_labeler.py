"""The labeller: every kind of failure costs one frame; nothing is calculated twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import BUG, DIE, HANG, HUGE, NAN, OK, SCF, Scripted, frame

from msmlff.errors import InputError
from msmlff.labeling import Labeler, LabelResult, labeler, with_labels
from msmlff.labeling.cache import LabelCache, label_key


def calls(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_each_frame_gets_its_own_status(tmp_path: Path) -> None:
    engine = Scripted(str(tmp_path / "log"))
    kinds = [OK, SCF, NAN, HUGE, BUG, DIE, OK, HANG, OK]
    labeler = Labeler(engine, tmp_path / "cache", processes=2, timeout=3.0)
    results = labeler.label([frame(kind, i) for i, kind in enumerate(kinds)])
    expected = ["ok", "scf_failed", "nan", "implausible", "error", "error", "ok", "timeout", "ok"]
    assert [r.status for r in results] == expected
    assert [r.energy for r in results if r.ok] == [0.0, 6.0, 8.0]
    assert "250 cycles" in results[1].message
    assert "ZeroDivisionError" in results[4].message
    assert "exit code 3" in results[5].message
    assert all(r.forces is None for r in results if not r.ok)


def test_workers_run_one_thread(tmp_path: Path) -> None:
    engine = Scripted(str(tmp_path / "log"))
    Labeler(engine, tmp_path / "cache", processes=1).label([frame(OK)])
    assert calls(tmp_path / "log") == ["0 0 1"]


def test_nothing_is_calculated_twice(tmp_path: Path) -> None:
    engine = Scripted(str(tmp_path / "log"))
    frames = [frame(OK, 1), frame(SCF, 2), frame(OK, 1)]
    seen: list[tuple[int, int, str]] = []
    first = Labeler(engine, tmp_path / "cache", 1).label(
        frames, lambda d, n, r: seen.append((d, n, r.status))
    )
    assert [r.status for r in first] == ["ok", "scf_failed", "ok"]
    assert [s[:2] for s in seen] == [(1, 3), (2, 3), (3, 3)]
    again = Labeler(engine, tmp_path / "cache", 1).label(frames)
    assert len(calls(tmp_path / "log")) == 2
    assert all(r.cached for r in again)
    assert [r.energy for r in again if r.ok] == [1.0, 1.0]
    assert again[1].message == first[1].message


def test_a_worker_that_dies_while_idle_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give, tasks = labeler.Worker.give, []

    def give_to_the_dead(worker: labeler.Worker, *task: Any) -> bool:
        tasks.append(task[0])
        if len(tasks) == 2:
            worker.process.kill()
            worker.process.join()
        return give(worker, *task)

    monkeypatch.setattr(labeler.Worker, "give", give_to_the_dead)
    results = Labeler(Scripted(str(tmp_path / "log")), tmp_path / "cache", 1).label(
        [frame(OK, i) for i in range(3)]
    )
    assert [(r.status, r.energy) for r in results] == [("ok", 0.0), ("ok", 1.0), ("ok", 2.0)]
    assert tasks == [0, 1, 1, 2]


def test_start_of_a_worker_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for an hour while the worker starts: no real time decides."""
    lab = Labeler(Scripted(str(tmp_path / "log")), tmp_path / "cache", 1, timeout=1800.0)
    now, seen, collect = [0.0], [], lab._collect

    def collect_after_an_hour(worker: labeler.Worker) -> LabelResult | None:
        if not worker.up:
            seen.append((lab._limit(worker), worker.started))
            now[0] += 3600.0
        result = collect(worker)
        seen.append((lab._limit(worker), worker.started))
        return result

    monkeypatch.setattr(labeler.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(labeler, "START_LIMIT", 1e6)
    monkeypatch.setattr(lab, "_collect", collect_after_an_hour)
    assert lab.label([frame(OK)])[0].ok
    assert seen[0] == (1e6, 0.0)
    assert seen[-1] == (1800.0, 3600.0)


def test_settings_and_geometry_are_part_of_the_key(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    Labeler(Scripted(log), tmp_path / "cache", 1).label([frame(OK, 1)])
    other = Labeler(Scripted(log, stiffness=2.0), tmp_path / "cache", 1).label([frame(OK, 1)])
    assert not other[0].cached
    np.testing.assert_array_equal(other[0].forces, 2.0)
    moved = frame(OK, 1)
    moved.positions[0, 2] = 1e-12
    assert label_key(moved, {}) != label_key(frame(OK, 1), {})


def test_timeouts_and_crashes_are_tried_again(tmp_path: Path) -> None:
    engine = Scripted(str(tmp_path / "log"))
    for _ in range(2):
        assert Labeler(engine, tmp_path / "cache", 1).label([frame(DIE)])[0].status == "error"
    assert len(calls(tmp_path / "log")) == 2


def test_limit_of_plausibility_acts_on_cached_results(tmp_path: Path) -> None:
    engine = Scripted(str(tmp_path / "log"), stiffness=5.0)
    loose = Labeler(engine, tmp_path / "cache", 1, max_force=10.0).label([frame(OK)])[0]
    tight = Labeler(engine, tmp_path / "cache", 1, max_force=1.0).label([frame(OK)])[0]
    assert loose.ok
    assert tight.status == "implausible"
    assert len(calls(tmp_path / "log")) == 1


def test_a_killed_run_keeps_what_was_done(tmp_path: Path) -> None:
    """kill -9 while a frame hangs: the finished ones are in the cache, and no worker survives."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from engines import *\nfrom msmlff.labeling import Labeler\n"
        "if __name__ == '__main__':\n"
        f"    labeler = Labeler(Scripted({str(tmp_path / 'log')!r}), {str(tmp_path / 'cache')!r}, 1)\n"
        "    labeler.label([frame(OK, 1), frame(OK, 2), frame(HANG)])\n"
    )
    (tmp_path / "run.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py")])
    deadline = time.monotonic() + 60
    while len(calls(tmp_path / "log")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    engine = Scripted(str(tmp_path / "log"))
    results = Labeler(engine, tmp_path / "cache", 1).label([frame(OK, 1), frame(OK, 2)])
    assert [r.cached for r in results] == [True, True]


def test_a_damaged_cache_file_counts_as_none(tmp_path: Path) -> None:
    cache = LabelCache(tmp_path / "cache")
    stored = LabelResult("ok", 4.0, np.ones((3, 3)), np.eye(3))
    cache.put("ab" * 32, stored)
    assert cache.get("ab" * 32).energy == 4.0
    path = cache.path("ab" * 32)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert cache.get("ab" * 32) is None
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        found = cache.get("ab" * 32)
        assert found is None or found == replace(found, energy=4.0)
    for head in ('{"status": "ok", "colour": 1}', "[1]", "no json"):
        np.savez(path, head=head, energy=1.0)
        assert cache.get("ab" * 32) is None


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        LabelCache(tmp_path).put("ab" * 32, LabelResult("ok", 4.0, np.ones((3, 3))))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_labels_go_into_the_frame(tmp_path: Path) -> None:
    good, bad = Labeler(Scripted(str(tmp_path / "log")), tmp_path / "cache", 1).label(
        [frame(OK, 7), frame(SCF)]
    )
    assert with_labels(frame(OK, 7), good).energy == 7.0
    with pytest.raises(ValueError, match="scf_failed"):
        with_labels(frame(SCF), bad)


@pytest.mark.parametrize(("key", "value"), [("processes", 0), ("timeout", 0.0)])
def test_bad_settings_are_named(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(InputError, match=key):
        Labeler(Scripted(""), tmp_path, **{key: value})
