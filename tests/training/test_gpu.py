"""What needs a CUDA device: equal numbers, a whole run, resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from msmlff.data.collate import collate
from msmlff.data.packing import BatchBudget
from msmlff.models import MSMACE
from msmlff.training.data_module import FrameSet
from msmlff.training.evaluate import predict
from msmlff.training.fit import Run, fit
from msmlff.training.optim import OptimizerSpec, ScheduleSpec
from msmlff.training.specs import TrainingSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

Sets = tuple[FrameSet, FrameSet]
MakeModel = Callable[..., MSMACE]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-10)])
def test_cuda_equals_cpu(
    frame_sets: Sets, make_model: MakeModel, dtype: torch.dtype, tolerance: float
) -> None:
    """Energy, forces, stress and the gradient of a force loss."""
    train = frame_sets[0]
    batch = collate([train.frames[i] for i in range(4)], [train.neighbors[i] for i in range(4)], (13, 29))
    found = {}
    for device in ("cpu", "cuda"):
        model = make_model(dtype=dtype).to(device)
        result = model(batch.to(device), forces=True, stress=True, create_graph=True)
        result.forces.square().mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[device] = [
            x.detach().cpu().double() for x in (result.energy, result.forces, result.stress, gradients)
        ]
    for cpu, cuda in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=tolerance, atol=tolerance * float(cpu.abs().max()))


def test_a_run_on_cuda(frame_sets: Sets, make_model: MakeModel, tmp_path: Path) -> None:
    spec = TrainingSpec(
        steps=60,
        validations=3,
        batch=BatchBudget(frames=5),
        schedule=ScheduleSpec(warmup_steps=5),
        optimizer=OptimizerSpec(lr=0.03),
    )
    run = Run(tmp_path, device="cuda", console=Console(quiet=True))
    result = fit(make_model(), *frame_sets, spec, run)
    first = fit(
        make_model(),
        *frame_sets,
        replace(spec, steps=6, validations=1),
        replace(run, folder=tmp_path / "short"),
    )
    assert result.best_score < first.best_score
    on_gpu = predict(result.model, frame_sets[1], spec, "cuda")
    on_cpu = predict(result.model, frame_sets[1], spec, "cpu")
    torch.testing.assert_close(torch.tensor(on_gpu.forces), torch.tensor(on_cpu.forces), rtol=1e-3, atol=1e-3)
