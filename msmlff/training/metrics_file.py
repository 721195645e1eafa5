"""metrics.csv: one row a logged step, appended and flushed, so that a killed run keeps what it logged."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from msmlff.training.metrics import ERRORS, SCORE, STABILITY

COLUMNS = (
    ["epoch", "step", "lr"]
    + [f"train/{name}" for name in ("loss", "energy", "forces", "stress")]
    + [f"val/{name}" for name in [*ERRORS, SCORE, *STABILITY]]
)


class MetricsFile(Logger):
    """Logger to a CSV file that a resumed run continues (Lightning's own deletes what it finds).

    Args:
        path: the file.
        resume_step: rows after this step, written by a run that was killed later than its checkpoint, are
            dropped.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if resume_step is not None and path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if _step(row) < resume_step]
        temporary = path.with_suffix(".writing")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(path)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writerow({"step": step, **metrics})


def _step(row: dict[str, str]) -> int:
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return 2**62  # a line torn by a kill
