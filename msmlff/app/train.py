"""The main job: pool -> selection -> model -> training -> test -> report, in one run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from msmlff.analysis.errors import error_table, save_error_table
from msmlff.analysis.report import write_report
from msmlff.analysis.tables import error_table_view, start_page
from msmlff.analysis.worst_frames import save_worst_frames
from msmlff.app.backend import check_choice, run_backend
from msmlff.app.config import check_values, typed
from msmlff.app.folder import CONFIG, claim, read_config
from msmlff.app.guard import Job, note_exit, run_guarded
from msmlff.app.loggers import close_loggers, make_loggers, send_results
from msmlff.app.prepare import DTYPES, Prepared, door_notes, prepare_run
from msmlff.app.record import Record, now, read_record
from msmlff.app.runtime import (
    PeakMemory,
    command_line,
    git_revision,
    pick_device,
    prepare,
    shown_path,
    versions,
)
from msmlff.app.settings import check_unchanged, deciding
from msmlff.data.pools import PoolSpec, load_pool
from msmlff.errors import InputError
from msmlff.models.files import save_model
from msmlff.models.message_passing import MessagePassingModel
from msmlff.nn.ops import set_backend
from msmlff.training.checkpoints import LAST, Interrupted, read_checkpoint
from msmlff.training.data_module import FrameSet
from msmlff.training.evaluate import predict
from msmlff.training.fit import FitResult, Run, fit
from msmlff.training.gate import check_forces
from msmlff.training.scale_shares import scale_shares


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """One job of a run or a sweep. A failed job of a sweep is reported and does not stop the others."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    sweep = hydra.mode == RunMode.MULTIRUN
    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(plain, DictConfig)
    plain.choices = {
        k: v for k, v in hydra.runtime.choices.items() if not k.startswith("hydra") and v is not None
    }
    overrides = [o for o in hydra.overrides.task if o.partition("=")[0].lstrip("+~") != "resume"]
    plain.overrides = overrides
    resume = False
    if sweep:
        done = _earlier_job(plain, folder)
        if done in ("finished", "diverged"):
            Console().print(f"[dim]{shown_path(folder)}: {done} before, skipped[/]")
            note_exit(done)
            return {"status": "skipped"}
        resume = done == "resumable"
    line = command_line("train", overrides)
    return _guarded(lambda console: run(plain, folder, console, resume), folder, line, keep_going=sweep)


def resume_job(folder: Path) -> dict[str, Any]:
    """Continue the run in ``folder`` where its last checkpoint was written.

    Raises:
        InputError: no run there, a finished one, no checkpoint, or one of another configuration; the folder
            is left as it is.
    """
    folder = folder.resolve()
    if not (folder / CONFIG).is_file():
        raise InputError(f"resume={folder}: no {CONFIG} there; give the folder of a run")
    if read_record(folder).get("status") == "finished":
        raise InputError(f"resume={folder}: that run is finished; its report is {folder / 'report.html'}")
    config = OmegaConf.load(folder / CONFIG)
    assert isinstance(config, DictConfig)
    check_unchanged(config, read_checkpoint(folder / "checkpoints" / LAST)["settings"], f"{folder / CONFIG}")
    line = command_line("train", list(config.overrides))
    return _guarded(lambda console: run(config, folder, console, resume=True), folder, line)


def _earlier_job(config: DictConfig, folder: Path) -> str:
    """ "finished", "resumable" or "" for what a sweep finds in a job's folder."""
    earlier = read_config(folder)
    if earlier is None or deciding(earlier) != deciding(config):
        return ""
    if OmegaConf.select(earlier, "pool.path") != OmegaConf.select(config, "pool.path"):
        return ""
    record = read_record(folder)
    status = record.get("status")
    if status in ("finished", "diverged"):  # bit for bit, a diverged run would diverge again
        return status if _same_pool(config, record) else ""
    return "resumable" if (folder / "checkpoints" / LAST).is_file() else ""


def _same_pool(config: DictConfig, record: dict[str, Any]) -> bool:
    """Whether the pool's files hold what they held; True where they cannot be read any more."""
    try:  # from the cache that the earlier job filled
        pool = load_pool(typed(PoolSpec, config.pool, "pool"))
    except InputError:
        return True
    return pool.train.hash == record.get("data", {}).get("pool_hash")


def _guarded(
    work: Callable[[Console], None], folder: Path, command: str, keep_going: bool = False
) -> dict[str, Any]:
    def ending(error: BaseException) -> tuple[str, str] | None:
        if isinstance(error, Interrupted):
            return "interrupted", f"{error}. Continue with: python train.py resume={shown_path(folder)}"
        if isinstance(error, torch.OutOfMemoryError):
            advice = "lower training.batch.frames or set training.batch.edges; also training.validation_batch"
            return "failed", f"{error}\nOut of memory: {advice}"
        return None

    return run_guarded(work, Job(folder, command, keep_going, ending, _report_what_there_is))


def _report_what_there_is(folder: Path) -> None:
    if (folder / "metrics.csv").is_file():
        write_report(folder)


def run(config: DictConfig, folder: Path, console: Console, resume: bool = False) -> None:
    """Do everything that a run is; see the module's docstring.

    Args:
        config: resolved configuration.
        folder: run folder; what is in it of an interrupted run is used when ``resume``.
        console: where to show it.
        resume: continue from checkpoints/last.ckpt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overrides = list(config.overrides)
    facts = {
        "command": command_line("train", overrides),
        "overrides": overrides,
        "version": versions()["msmlff"],
        "git_revision": git_revision(),
        "versions": versions(),
    }
    if not resume:
        claim(folder)
        OmegaConf.save(config, folder / CONFIG)
    record = Record(folder, facts)
    check_values(config)
    prepare(config.threads, config.seed)
    device, dtype = pick_device(config.device), DTYPES[config.dtype]
    check_choice(config.ops.backend, device)
    memory = PeakMemory(device)
    run_ = prepare_run(config, folder, console, device, dtype, resume)
    backend = run_backend(config.ops.backend, run_, device, record.content.get("backend"), console)
    record.update(**run_.facts, **backend)
    console.print(start_page(record.content, door_notes(run_.facts, run_.spec)))
    if config.gate:
        check_forces(run_.model, run_.train)
    loggers = make_loggers(config.logger, folder, config, resume)
    ended = {"status": "failed"}
    set_backend(backend["backend"])
    try:
        where = Run(folder, config.seed, device, resume, deciding(config), loggers, console=console)
        result = fit(run_.model, run_.train, run_.val, run_.spec, where)
        record.update(steps=result.steps, best_step=result.best_step, best_score=result.best_score,
                      peak_memory_mb=memory.mb(), **result.figures)  # fmt: skip
        save_model(result.model, folder / "model.safetensors", _model_record(record.content))
        _test(run_, result, folder, device, console)
        _share(run_, result, record, device, console)
        ended = {"status": "finished", "finished": now()}
        if result.stopped_early:
            ended["stop_reason"] = "stopped early: no better score"
        if config.report:
            write_report(folder, ended)
        send_results(loggers, folder)
    finally:
        set_backend(None)
        record.update()  # the time it took, however it ended
        close_loggers(loggers, ended["status"])
    record.update(**ended)  # last: a run called finished has everything
    _say_where(folder, config, console)


def _model_record(record: dict[str, Any]) -> dict[str, Any]:
    data = record["data"]
    return {
        "pool": data["pool"],
        "pool_hash": data["pool_hash"],
        "train_hash": data["train_hash"],
        "label": data["label"],
        "git_revision": record["git_revision"],
        "best_step": record["best_step"],
    }


def _test(run_: Prepared, result: FitResult, folder: Path, device: str, console: Console) -> None:
    """Predictions of the validation and test frames, the error table on disk and on the screen."""
    sets: dict[str, FrameSet | None] = {"val": run_.val, "test": run_.test}
    for name, frames in sets.items():
        if frames is None:
            continue
        predictions = predict(result.model, frames, run_.spec, device)
        predictions.save(folder / f"predictions_{name}.npz")
        if name == "test" or run_.test is None:
            save_worst_frames(predictions, frames.frames, folder)
        table = error_table(predictions)
        save_error_table(table, folder / f"{name}_metrics.json")
        if name == "test" or run_.test is None:
            console.print(error_table_view(table, f"{name} errors", run_.facts["data"]["group_name"]))


def _share(run_: Prepared, result: FitResult, record: Record, device: str, console: Console) -> None:
    """Of a multiscale model, what each scale contributes, in the record and on the screen."""
    frames = run_.test or run_.val
    model = result.model
    if frames is None or not isinstance(model, MessagePassingModel) or len(model.scale_cutoffs) < 2:
        return
    shares = scale_shares(model, frames, run_.spec, device)
    record.update(scale_shares=[asdict(share) for share in shares])
    texts = [
        f"{s.cutoff:g} Å {100 * s.energy:.1f} % of energies, {100 * s.forces:.1f} % of forces" for s in shares
    ]
    console.print(f"    scales  {'; '.join(texts)}", highlight=False, soft_wrap=True)


def _say_where(folder: Path, config: DictConfig, console: Console) -> None:
    shown = [("report", "report.html"), ("model", "model.safetensors"), ("selection", "selection.json")]
    for label, name in shown:
        if (folder / name).is_file():
            console.print(f"{label:>10}  {shown_path(folder / name)}", highlight=False, soft_wrap=True)
