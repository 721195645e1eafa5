"""Files that grow in chunks and can be cut back to any of their states."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msmlff.errors import InputError, MSMLFFError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutputError(MSMLFFError):
    """A file of a simulation could not be written; what was whole before is as it was."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system refuses while ``path`` is written becomes an OutputError."""
    try:
        yield
    except OSError as error:
        reason = "there is no room left for it" if error.errno in NO_ROOM else error.strerror or str(error)
        raise OutputError(f"{path} cannot be written: {reason}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, also if the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with explained(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


class GrowingFile:
    """A file that is appended to; an append that fails leaves it as it was.

    Attributes:
        length: bytes that count.

    Args:
        path: of the file; made by the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.length = path, 0

    def append(self, content: bytes) -> None:
        """Write at the end, to the disk.

        Raises:
            OutputError: it cannot be written.
        """
        if not content:
            return
        # unbuffered: what a buffer still holds after a failure would be written when the file is closed
        with explained(self.path), self.path.open("ab", buffering=0) as file:
            try:
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), self.length)
                raise
        self.length += len(content)

    def restore(self, length: int) -> None:
        """Cut the file back to a length it had.

        Raises:
            InputError: it is shorter now: somebody changed it.
        """
        found = self.path.stat().st_size if self.path.is_file() else 0
        if found < length:
            raise InputError(
                f"{self.path} has {found} bytes and had {length} when the simulation was saved: put the file "
                "back, or start a new run"
            )
        if found:
            with self.path.open("r+b") as file:
                file.truncate(length)
        self.length = length
