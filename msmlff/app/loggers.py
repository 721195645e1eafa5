"""The loggers of a run: metrics.csv always, TensorBoard and Weights & Biases by choice."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger

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
        wandb.finish()  # of a job before this one in the same process: two runs must not merge
    logger = WandbLogger(
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
    """Hand the results of a finished run to Weights & Biases."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _send_results(logger, folder)


def close_loggers(loggers: list[Logger], status: str) -> None:
    """Close every logger, whatever the run's end was; Weights & Biases' run is always finished."""
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=0 if status == "finished" else 1)


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
