"""The backend of a run: forced by ``ops.backend``, that of the run it continues, or the fastest."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from msmlff.app.prepare import Prepared
from msmlff.data.collate import collate
from msmlff.models.backend import choose_backend
from msmlff.nn.ops import available_backends, check_backend
from msmlff.training.data_module import FrameDataModule

AUTO = "auto"


def check_choice(name: str, device: str) -> None:
    """Raises InputError where ``ops.backend`` names one that cannot run on the device."""
    if name != AUTO:
        check_backend(name, device)


def run_backend(
    name: str, run: Prepared, device: str, earlier: str | None, console: Console
) -> dict[str, Any]:
    """Entries of the run's record: "backend" and, where they were measured, "backend_ms".

    Args:
        name: ``ops.backend``.
        run: the model and its training frames.
        device: "cpu" or "cuda".
        earlier: the backend of the run that is resumed: another would not give the same bits.
        console: where the measurement is shown.
    """
    if name != AUTO:
        return {"backend": name}
    if earlier in available_backends(device):
        return {"backend": earlier}
    data = FrameDataModule(run.train, run.val, run.model.atomic_numbers, run.spec, seed=0)
    ids = next(iter(data.sampler(run.train, run.spec.batch, shuffle=False)))
    frames, lists = [run.train.frames[i] for i in ids], [run.train.neighbors[i] for i in ids]
    batch = collate(frames, lists, run.model.atomic_numbers)
    with console.status("measuring backends"):
        choice = choose_backend(run.model.to(device), batch.to(device), training=True)
    run.model.cpu()
    for other, reason in choice.failed.items():
        console.print(f"backend {other}: {reason}", highlight=False)
    return {"backend": choice.name, "backend_ms": choice.milliseconds}
