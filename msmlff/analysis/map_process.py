"""Draws map.png in a process of its own, which imports matplotlib while the frames are being chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from msmlff.errors import InputError


class MapProcess:
    """A process that gets ready at once and draws when it is told what.

    A context manager: at its end the process is gone, also where there was nothing to draw.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._path: Path | None = None

    def draw(self, chart: Path, path: Path, title: str, group_name: str) -> None:
        """Start drawing the map saved at ``chart`` to ``path``; see ``map_figure.save_map``."""
        assert self._process.stdin is not None
        self._path = path
        order = {"chart": str(chart), "path": str(path), "title": title, "group_name": group_name}
        with suppress(BrokenPipeError), self._process.stdin as stream:  # wait() says why it broke
            stream.write(json.dumps(order))
        self._process.stdin = None

    def wait(self) -> None:
        """Until the picture is there.

        Raises:
            InputError: it could not be drawn or written.
        """
        _, said = self._process.communicate()
        if self._path is not None and self._process.returncode != 0:
            reason = (said.strip().splitlines() or ["the process ended"])[-1]
            raise InputError(f"{self._path}: the map could not be drawn ({reason}); map=false leaves it out")

    def __enter__(self) -> MapProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _main() -> None:
    from msmlff.analysis.map_figure import save_map
    from msmlff.distill.pool_map import PoolMap

    order = sys.stdin.read()
    if order:
        content = json.loads(order)
        chart = PoolMap.load(content["chart"])
        save_map(chart, Path(content["path"]), content["title"], content["group_name"])


if __name__ == "__main__":
    _main()
