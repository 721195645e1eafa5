"""A folder of .npy files that appears whole or not at all, and knows when it is damaged.

Everything is written to a temporary folder beside the final one, which is then renamed: a reader never sees
half a folder, and of two writers the second finds the first one's and uses it. ``manifest.json`` holds the
size and SHA-256 of each file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from msmlff.errors import InputError

MANIFEST = "manifest.json"
_FLUSH_BYTES = 4 << 20


def default_cache_dir() -> Path:
    """Folder of everything that can be made again: MSMLFF_CACHE, else ~/.cache/msmlff."""
    return Path(os.environ.get("MSMLFF_CACHE") or Path.home() / ".cache" / "msmlff")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class NpyAppender:
    """Writes an .npy file row by row without knowing its length beforehand.

    numpy leaves room in the header for the first axis to grow, so the header written at the end is as long as
    the one written at the start.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.rows = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._stream: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Adds rows: [k, *row_shape], cast to the file's type."""
        rows = np.asarray(rows)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows have shape {rows.shape[1:]}, the file {self.row_shape}")
        data = rows.astype(self.dtype, order="C").tobytes()
        self.rows += len(rows)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > _FLUSH_BYTES:
            self._flush()

    def close(self) -> None:
        """Writes what is pending and the true length."""
        if self._stream.closed:
            return
        self._flush()
        self._stream.seek(0)
        self._write_header()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def _flush(self) -> None:
        self._stream.writelines(self._pending)
        self._pending, self._pending_bytes = [], 0

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, header)


class ArrayFolderWriter:
    """Builds a folder under ``parent``; use as a context manager, call ``publish`` at the end.

    Raises:
        InputError: the parent folder cannot be written.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
        except OSError as error:
            raise InputError(
                f"cannot write to the cache folder {parent} ({error.strerror}): set MSMLFF_CACHE to a folder "
                "that can be written"
            ) from error
        self._appenders: dict[str, NpyAppender] = {}

    def __enter__(self) -> ArrayFolderWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for appender in self._appenders.values():
            appender.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def create(self, name: str, dtype: Any, row_shape: tuple[int, ...] = ()) -> NpyAppender:
        """A new array ``name``.npy of rows of one shape."""
        self._appenders[name] = NpyAppender(self.temporary / f"{name}.npy", np.dtype(dtype), row_shape)
        return self._appenders[name]

    def publish(self, name: str, record: Mapping[str, Any]) -> Path:
        """Makes the folder visible as ``parent/name``, or leaves the sound one that is already there."""
        for appender in self._appenders.values():
            appender.close()
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(self.temporary.iterdir())
        }
        with (self.temporary / MANIFEST).open("w") as stream:
            json.dump({**record, "files": files}, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        final = self.parent / name
        while not _renamed(self.temporary, final):
            # The lock keeps a second process from removing the sound folder that the first put in place of a
            # damaged one.
            with (self.parent / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not damage(final):
                    break
                discard(final)
                if _renamed(self.temporary, final):
                    break
        return final


def discard(folder: Path) -> None:
    """Removes a folder in one step for everybody else: it is renamed first."""
    grave = Path(tempfile.mkdtemp(prefix=".discarded-", dir=folder.parent))
    folder.rename(grave / folder.name)
    shutil.rmtree(grave, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Renames a folder; False if the target is there already."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def damage(folder: Path, full: bool = False) -> str:
    """What is wrong with a published folder: "" if nothing is.

    Args:
        folder: the folder with its manifest.
        full: compare checksums also; else sizes alone, which costs nothing.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"]
        for name, expected in files.items():
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes of {expected['bytes']}"
            if full and file_sha256(folder / name) != expected["sha256"]:
                return f"{name} differs from its checksum"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is not readable"
    return ""


def read_manifest(folder: Path, kind: str, version: int) -> dict[str, Any]:
    """The manifest of a sound folder.

    Raises:
        InputError: the folder is damaged, or of another kind or format.
    """
    problem = damage(folder)
    if problem:
        raise InputError(f"{folder} is damaged: {problem}. Delete the folder and build it again")
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    found = (manifest.get("kind"), manifest.get("format"))
    if found != (kind, version):
        raise InputError(f"{folder} holds {found[0]} of format {found[1]}, not {kind} of format {version}")
    return manifest


def load_array(folder: Path, name: str) -> np.ndarray:
    """A memory-mapped array of the folder; an ordinary one if it is empty (which cannot be mapped)."""
    path = folder / f"{name}.npy"
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if 0 in shape:
        return np.empty(shape, dtype)
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
