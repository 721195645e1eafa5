"""The share of each scale of a multiscale model."""

from __future__ import annotations

import pytest
import torch
from emt_pool import emt_frames

from msmlff.data.store import FrameStore
from msmlff.models import MSMACE, MSMACEArchitecture
from msmlff.training.data_module import FrameSet
from msmlff.training.scale_shares import scale_shares, without_scale
from msmlff.training.specs import TrainingSpec

SHORT = {"cutoff": 3.0, "channels": 4, "l_max": 1, "radial_mlp": [8]}
LONG = {"cutoff": 4.5, "channels": 2, "l_max": 1, "radial_mlp": [8]}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameSet:
    return FrameSet.at_cutoff(FrameStore.build(emt_frames(4, 1), tmp_path_factory.mktemp("cache")), 4.5)


def make_model(frames: FrameSet) -> MSMACE:
    torch.manual_seed(0)
    numbers = sorted({int(z) for frame in frames.frames for z in frame.numbers})
    architecture = MSMACEArchitecture(scales=(SHORT, LONG), channels=4, correlation=2, hidden_l_max=1)
    return MSMACE(numbers, [0.0] * len(numbers), architecture).double()


def test_a_scale_without_weights_has_no_share(frames: FrameSet) -> None:
    model, spec = make_model(frames), TrainingSpec()
    both = scale_shares(model, frames, spec)
    assert [share.cutoff for share in both] == [3.0, 4.5]
    assert all(share.energy > 0.01 and share.forces > 0.01 for share in both)
    with torch.no_grad():
        for layer in model.layers:
            for weight in layer.scales[1].up.weights:
                weight.zero_()
    short, long = scale_shares(model, frames, spec)
    assert long.energy == long.forces == 0
    assert short.forces == pytest.approx(1.0)  # nothing else is left
    assert short.energy == pytest.approx(1.0)


def test_the_model_is_whole_again_afterwards(frames: FrameSet) -> None:
    model = make_model(frames)
    hooks = [module for module in model.modules() if module._forward_hooks]

    def leave_early() -> None:
        with without_scale(model, 0):
            assert any(module._forward_hooks for module in model.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        leave_early()
    assert [module for module in model.modules() if module._forward_hooks] == hooks == []
