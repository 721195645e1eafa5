"""Features of a pool on disk: computed once, in batches; killed, the computation goes on where it was.

While it is computed, ``.computing-NAME`` holds the array at its full length and a journal with one line a
finished batch (frames done, checksum of its rows). The finished folder appears in one rename. A lock file
lets one process compute and the others wait; it is the kernel's lock, so it dies with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from msmlff.data.array_folder import MANIFEST, damage, discard, file_sha256, load_array, read_manifest
from msmlff.data.store import FrameStore
from msmlff.errors import InputError

FORMAT = 1
ROWS = "rows"
JOURNAL = "journal.jsonl"
LOG_EVERY = 30.0  # seconds between two lines on the progress, where there is no terminal

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """What to compute.

    Attributes:
        folder: where the finished rows will be.
        offsets: [frames + 1] int64, first row of each frame.
        settings: settings of the descriptor, kept with the rows.
        make_batches: called when there is something to compute; gives ranges of frames, consecutive from 0.
        make_compute: called when there is something to compute; gives range of frames -> [their atoms, F].
    """

    folder: Path
    offsets: np.ndarray
    settings: Mapping[str, Any]
    make_batches: Callable[[], Sequence[tuple[int, int]]]
    make_compute: Callable[[], Callable[[range], np.ndarray]]


def cache_folder(frames: FrameStore, kind: str, settings: Mapping[str, Any]) -> Path:
    """Where rows computed from ``frames`` with ``settings`` lie: beside the frames, named by both hashes."""
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:16]
    return frames.directory.parent / f"{kind}-v{FORMAT}-{frames.hash[:24]}-{digest}"


def cached_rows(job: Job, verify: bool = False) -> np.ndarray:
    """[atoms, F] float32, memory-mapped: read from ``job.folder``, or computed into it.

    A folder that is damaged is thrown away and computed again.

    Args:
        job: what to compute.
        verify: read the whole of a folder that is there and compare its checksum; else its sizes alone are
            compared, which takes no time.

    Raises:
        InputError: a frame has features that are NaN or infinite, or the folder cannot be written.
    """
    if damage(job.folder, full=verify):
        with _locked(job.folder):
            problem = damage(job.folder, full=verify) if job.folder.exists() else ""
            if problem:
                log.warning("features in %s are damaged (%s): computing them again", job.folder, problem)
                discard(job.folder)
            if not job.folder.exists():
                _compute(job)
    read_manifest(job.folder, "features", FORMAT)
    return load_array(job.folder, ROWS)


def _compute(job: Job) -> None:
    partial = job.folder.with_name(f".computing-{job.folder.name}")
    partial.mkdir(exist_ok=True)
    batches = job.make_batches()
    done = _resume(partial, job, batches)
    if done:
        log.info("features: %d of %d frames were computed before; going on", done, len(job.offsets) - 1)
    todo = [batch for batch in batches if batch[0] >= done]
    if todo:
        _compute_batches(partial, job, todo)
    rows = partial / f"{ROWS}.npy"
    files = {rows.name: {"bytes": rows.stat().st_size, "sha256": file_sha256(rows)}}
    manifest = {"kind": "features", "format": FORMAT, "descriptor": dict(job.settings), "files": files}
    with (partial / MANIFEST).open("w") as stream:
        json.dump(manifest, stream, indent=1)
        _sync(stream)
    partial.rename(job.folder)
    (job.folder / JOURNAL).unlink()


def _compute_batches(partial: Path, job: Job, todo: Sequence[tuple[int, int]]) -> None:
    compute = job.make_compute()
    rows: np.memmap[Any, Any] | None = None
    if (partial / f"{ROWS}.npy").exists():
        rows = np.lib.format.open_memmap(partial / f"{ROWS}.npy", mode="r+")
    with (partial / JOURNAL).open("a") as journal:
        for start, stop in _with_progress(todo, job):
            block = np.ascontiguousarray(compute(range(start, stop)), dtype=np.float32)
            _check(block, start, job.offsets[start : stop + 1])
            if rows is None:
                shape = (int(job.offsets[-1]), block.shape[1])
                rows = np.lib.format.open_memmap(partial / f"{ROWS}.npy", "w+", np.float32, shape)
            rows[job.offsets[start] : job.offsets[stop]] = block
            rows.flush()
            journal.write(json.dumps({"start": start, "stop": stop, "crc": zlib.crc32(block.data)}) + "\n")
            _sync(journal)


def _check(block: np.ndarray, start: int, offsets: np.ndarray) -> None:
    if len(block) != offsets[-1] - offsets[0]:
        raise RuntimeError(f"descriptor gave {len(block)} rows for {offsets[-1] - offsets[0]} atoms")
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        atom = int(np.argmin(finite))
        frame = start + int(np.searchsorted(offsets - offsets[0], atom, side="right")) - 1
        raise InputError(
            f"frame {frame} of the pool has features that are NaN or infinite: check its positions, "
            "or take it "
            "out of the pool"
        )


def _resume(partial: Path, job: Job, batches: Sequence[tuple[int, int]]) -> int:
    """Frames whose rows are on disk and sound; the journal is cut to them. 0 and a clean folder if there
    are none."""
    entries = _sound_entries(partial, job, batches)
    if not entries:
        shutil.rmtree(partial)
        partial.mkdir()
    with (partial / JOURNAL).open("w") as journal:
        journal.writelines(json.dumps(entry) + "\n" for entry in entries)
        _sync(journal)
    return entries[-1]["stop"] if entries else 0


def _sound_entries(partial: Path, job: Job, batches: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    entries: list[dict[str, int]] = []
    try:
        rows = np.load(partial / f"{ROWS}.npy", mmap_mode="r", allow_pickle=False)
        lines = (partial / JOURNAL).read_text().splitlines()
        if rows.dtype != np.float32 or len(rows) != job.offsets[-1]:
            return []
        for line, (start, stop) in zip(lines, batches, strict=False):
            entry = json.loads(line)
            block = np.ascontiguousarray(rows[job.offsets[start] : job.offsets[stop]])
            if entry != {"start": start, "stop": stop, "crc": zlib.crc32(block.data)}:
                return entries
            entries.append(entry)
    except (OSError, ValueError, EOFError) as error:
        # A torn last line or a torn array is what a kill leaves behind: whatever came before it still counts.
        log.debug("features: %s ends at frame %s: %s", partial, entries[-1:], error)
    return entries


def _with_progress(todo: Sequence[tuple[int, int]], job: Job) -> Iterator[tuple[int, int]]:
    """The batches; meanwhile a bar on a terminal, or a line in the log every ``LOG_EVERY`` seconds."""
    console, total, first = Console(stderr=True), len(job.offsets) - 1, todo[0][0]
    name = str(job.settings.get("descriptor", "descriptor"))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total:.0f} frames, {task.fields[rate]}/s, left"),
        TimeRemainingColumn(),
    )
    start = logged = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=first, rate="-")
        for batch in todo:
            yield batch
            now = time.monotonic()
            rate = (batch[1] - first) / max(now - start, 1e-9)
            progress.update(task, completed=batch[1], rate=f"{rate:.3g}")
            if not console.is_terminal and now - logged >= LOG_EVERY:
                left = (total - batch[1]) / rate
                log.info(
                    "descriptor %s: %d of %d frames, %.3g/s, %.0f s left", name, batch[1], total, rate, left
                )
                logged = now


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder; waits for the process that has it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {folder.parent} ({error.strerror}): set MSMLFF_CACHE "
            "to a folder that "
            "can be written"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process computes the same features: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
