"""Whose a run folder is: nothing is written over, or taken away, that is not of an earlier run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from msmlff.app.record import RECORD, read_record
from msmlff.app.runtime import shown_path
from msmlff.errors import InputError

CONFIG = "config.yaml"
LAST = "checkpoints/last.ckpt"
CHART = "pool_map.npz"
CHOSEN = ("selection.json", "selected.extxyz", CHART)  # of a selection, in a run of any command
MAP = "map.png"  # of distill alone
# every file of a training run that has a name of its own
FILES = (
    CONFIG, RECORD, *CHOSEN, "metrics.csv", "metrics.writing",
    "predictions_val.npz", "predictions_test.npz", "val_metrics.json", "test_metrics.json",
    "worst_frames.extxyz", "observables.json", "model.safetensors", "report.html", "wandb_id.txt",
    "checkpoints/best.ckpt", LAST,
    "checkpoints/best.writing", "checkpoints/last.writing", "tensorboard/hparams.yaml",
)  # fmt: skip
EVENTS = "events.out.tfevents."  # TensorBoard's files, named by time and host
LINES = {"train": ("python train.py", "msmlff train"), "distill": ("msmlff distill",)}
OTHER = "name another folder (hydra.run.dir=FOLDER, for a sweep hydra.sweep.dir=FOLDER)"


class TakenFolderError(InputError):
    """The folder is another's: nothing was, and nothing may be, written into it."""


def is_of(command: str, folder: Path) -> bool:
    """Whether the folder's record.json was written by ``command`` ("train" or "distill")."""
    try:
        record = read_record(folder)
    except InputError:
        return False
    return isinstance(record, dict) and str(record.get("command", "")).startswith(LINES[command])


def read_config(folder: Path) -> DictConfig | None:
    """The configuration of the training run in ``folder``; None where there is no such run."""
    if not is_of("train", folder) or not (folder / CONFIG).is_file():
        return None
    try:
        config = OmegaConf.load(folder / CONFIG)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError):
        return None
    return config if isinstance(config, DictConfig) and {"choices", "overrides"} <= config.keys() else None


def claim(folder: Path) -> None:
    """Take away what a run that came to nothing left: nothing of it may pass for the new run's.

    Raises:
        TakenFolderError: a finished run, one that can be continued, or files of somebody else's are there;
            nothing was changed.
    """
    shown = shown_path(folder)
    if read_config(folder) is None:
        found = next((name for name in FILES if (folder / name).exists()), None)
        if found:
            raise TakenFolderError(f"{shown} is no run folder and has {found}: {OTHER}, or move that away")
        return
    status = read_record(folder).get("status")
    if status == "finished":
        raise TakenFolderError(f"{shown} holds a finished run: {OTHER}, or delete this one")
    if (folder / LAST).exists():
        raise TakenFolderError(
            f"{shown} holds an unfinished run ({status}): continue it with resume={shown}, or delete it, or "
            f"{OTHER}"
        )
    events = [path for path in (folder / "tensorboard").glob("*") if path.name.startswith(EVENTS)]
    for path in [*(folder / name for name in FILES), *events]:
        path.unlink(missing_ok=True)
    for name in ("checkpoints", "tensorboard"):
        with suppress(OSError):  # absent, or with files of somebody else's
            (folder / name).rmdir()


def claim_for_distill(folder: Path) -> None:
    """Take away what a selection that came to nothing left.

    Raises:
        TakenFolderError: a finished selection, another command's run or files of somebody else's are there;
            nothing was changed.
    """
    shown = shown_path(folder)
    if (folder / RECORD).exists() and not is_of("distill", folder):
        raise TakenFolderError(f"{shown}: the {RECORD} there is not of distill; {OTHER}")
    files = [name for name in (*CHOSEN, MAP) if (folder / name).exists()]
    if not (folder / RECORD).exists():
        if files:
            raise TakenFolderError(f"{shown} is no run folder and has {files[0]}: {OTHER}, or move that away")
        return
    if read_record(folder).get("status") == "finished":
        raise TakenFolderError(f"{shown} holds a finished selection: {OTHER}, or delete this one")
    for name in (*files, RECORD):
        (folder / name).unlink()
