"""The loggers of a run: metrics.csv always, TensorBoard and Weights & Biases by choice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger
from rich.console import Console
from rich.markup import escape

from msmlff.analysis.errors import Predictions
from msmlff.training.checkpoints import LAST, read_checkpoint
from msmlff.training.metrics_file import MetricsFile


def make_loggers(choice: DictConfig, folder: Path, config: DictConfig, resume: bool) -> list[Logger]:
    """The loggers, continued where ``resume``."""
    step = int(read_checkpoint(folder / "checkpoints" / LAST)["global_step"]) if resume else None
    loggers: list[Logger] = [MetricsFile(folder / "metrics.csv", step)]
    if choice.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=step))
    if choice.wandb is not None:
        loggers.append(_wandb_logger(choice.wandb, folder, config))
    return loggers


def _wandb_logger(choice: DictConfig, folder: Path, config: DictConfig) -> WandbLogger:
    import wandb

    mode = choice.mode
    if mode is None:
        has_key = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    id_file = folder / "wandb_id.txt"
    if not id_file.is_file():
        id_file.write_text(secrets.token_hex(4) + "\n")
    if wandb.run is not None:
        with warn_of_failure("finishing the run before this one"):
            wandb.finish()  # of an earlier job in this process: two runs must not merge
    logger = SafeWandbLogger(
        name=choice.name or folder.name,
        save_dir=folder,
        project=choice.project,
        entity=choice.entity,
        id=id_file.read_text().strip(),
        resume="allow",
        mode=mode,
        settings=wandb.Settings(silent=True),
    )
    logger.experiment.config.update(OmegaConf.to_container(config), allow_val_change=True)
    return logger


def send_results(loggers: list[Logger], folder: Path) -> None:
    """Hand the results of a finished run to Weights & Biases; what fails there is a warning."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with warn_of_failure("sending the results to Weights & Biases"):
                _send_results(logger, folder)


def close_loggers(loggers: list[Logger], status: str) -> None:
    """Close every logger, whatever the run's end was; Weights & Biases' run is always finished."""
    for logger in loggers:
        with warn_of_failure(f"closing {type(logger).__name__}"):
            logger.finalize(status)
        if isinstance(logger, WandbLogger):
            with warn_of_failure("finishing the run at Weights & Biases"):
                logger.experiment.finish(exit_code=0 if status == "finished" else 1)


@contextmanager
def warn_of_failure(what: str) -> Iterator[None]:
    """What fails inside is a warning: everything it would have logged is in the run folder as well."""
    try:
        yield
    except Exception as error:
        text = escape(f"{what} failed ({type(error).__name__}: {error})")
        Console(stderr=True).print(
            f"[yellow]warning:[/] {text}; the run goes on, its folder has everything",
            highlight=False,
            soft_wrap=True,
        )


class SafeWandbLogger(WandbLogger):
    """Lightning's logger, except that a failure while training is a warning, and ends the logging."""

    broken = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.broken:
            self.broken = True
            with warn_of_failure("logging to Weights & Biases"):
                super().log_metrics(metrics, step)
                self.broken = False


def _send_results(logger: WandbLogger, folder: Path) -> None:
    import wandb

    run = logger.experiment
    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={"folder": folder.name})
    for name in ("model.safetensors", "selection.json", "test_metrics.json", "config.yaml"):
        if (folder / name).is_file():
            artifact.add_file(str(folder / name))
    run.log_artifact(artifact)
    predictions = folder / "predictions_test.npz"
    if predictions.is_file():
        run.log(_panels(Predictions.load(predictions)))
    if (folder / "report.html").is_file():
        run.log({"report": wandb.Html(str(folder / "report.html"))})


def _panels(predictions: Predictions) -> dict[str, Any]:
    """Parity pictures and error figures of the test frames."""
    import matplotlib.pyplot as plt
    import wandb

    from msmlff.analysis.errors import error_table
    from msmlff.analysis.plots import parity_figure

    figure = parity_figure(predictions)
    panels: dict[str, Any] = {"test/parity": wandb.Image(figure)}
    plt.close(figure)
    overall = error_table(predictions)["overall"]
    panels |= {f"test/{k}": v for k, v in overall.items() if isinstance(v, float | int)}
    by_group = error_table(predictions)["by_group"]
    if by_group:
        rows = [[g, e["energy_rmse"], e["force_rmse"]] for g, e in by_group.items()]
        panels["test/by_group"] = wandb.Table(["group", "energy_rmse", "force_rmse"], rows)
    return panels
