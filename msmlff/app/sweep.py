"""What a sweep prints and writes when its jobs are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from msmlff.analysis.sweep import sweep_table
from msmlff.app.record import RECORD
from msmlff.app.runtime import shown_path


class SweepSummary(Callback):
    """Hydra callback: one table over the runs in the sweep's folder, those of earlier sweeps included, shown
    and written as summary.md and summary.csv.
    """

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the job's folder."""
        if job_return.hydra_cfg is not None:
            self.folders.append(Path(job_return.hydra_cfg.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and show the table."""
        target = Path(config.hydra.sweep.dir).absolute()
        earlier = sorted(path.parent for path in target.glob(f"*/{RECORD}"))
        folders = [folder for folder in dict.fromkeys([*self.folders, *earlier]) if folder.is_dir()]
        if not folders:
            return
        table = sweep_table(folders)
        (target / "summary.md").write_text(table.markdown, encoding="utf-8")
        (target / "summary.csv").write_text(table.csv, encoding="utf-8")
        console = Console()
        console.print(table.view)
        console.print(f"summary  {shown_path(target / 'summary.md')}", highlight=False, soft_wrap=True)
