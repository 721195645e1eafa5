"""The map of a pool, drawn in a process of its own: matplotlib is imported there while frames are chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Process = subprocess.Popen[str]


@contextmanager
def drawing_process() -> Iterator[Process]:
    """A process that waits for :func:`draw`; one that never gets anything to draw ends with the block."""
    command = [sys.executable, "-m", "msmlff.app.map_process"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def draw(process: Process, chart: Path, picture: Path, title: str, groups: str) -> None:
    """Draw the map in the file ``chart`` (``PoolMap.save``); returns when ``picture`` is there.

    Raises:
        RuntimeError: with what the process said.
    """
    order = {"chart": str(chart), "path": str(picture), "title": title, "group_name": groups}
    _, said = process.communicate(json.dumps(order))
    if process.returncode:
        raise RuntimeError(f"drawing {picture} failed:\n{said}")


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
