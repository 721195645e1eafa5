"""The map of a pool, drawn in a process of its own: matplotlib is imported there while frames are chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Artist:
    """A process that waits for something to draw."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "msmlff.app.map_process"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._picture: Path | None = None

    def begin(self, chart: Path, picture: Path, title: str, groups: str) -> None:
        """Let it draw the map in the file ``chart`` (``PoolMap.save``)."""
        order = {"chart": str(chart), "path": str(picture), "title": title, "group_name": groups}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: ``finish`` says why
            self._process.stdin.write(json.dumps(order))
            self._process.stdin.close()
        self._process.stdin = None
        self._picture = picture

    def finish(self) -> None:
        """Returns when the picture is there.

        Raises:
            RuntimeError: with what the process said.
        """
        _, said = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"drawing {self._picture} failed:\n{said}")

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def drawing_process() -> Iterator[Artist]:
    """An artist, whose process ends with the block."""
    artist = Artist()
    try:
        yield artist
    finally:
        artist.stop()


def main() -> None:
    """Draw what comes on standard input, if anything does."""
    from msmlff.analysis.map_figure import save_map, warm_up  # matplotlib
    from msmlff.distill.pool_map import PoolMap

    warm_up()  # while there is nothing to do
    line = sys.stdin.read()
    if line:
        order = json.loads(line)
        save_map(PoolMap.load(order["chart"]), Path(order["path"]), order["title"], order["group_name"])


if __name__ == "__main__":
    main()
