"""A tiny model and the frames it trains on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emt_pool import E0S, emt_frames

from msmlff.data.statistics import dataset_statistics
from msmlff.data.store import FrameStore
from msmlff.models import MSMACE, MSMACEArchitecture
from msmlff.training.data_module import FrameSet


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrameStore, FrameStore]:
    """Training (12 frames) and validation (4 frames) stores."""
    cache = tmp_path_factory.mktemp("cache")
    return FrameStore.build(emt_frames(12, 1), cache), FrameStore.build(emt_frames(4, 2), cache)


@pytest.fixture(scope="session")
def frame_sets(stores: tuple[FrameStore, FrameStore]) -> tuple[FrameSet, FrameSet]:
    """The same with neighbour lists at 4.0 Å."""
    return FrameSet.at_cutoff(stores[0], 4.0), FrameSet.at_cutoff(stores[1], 4.0)


@pytest.fixture
def make_model(frame_sets: tuple[FrameSet, FrameSet]) -> Callable[..., MSMACE]:
    """A tiny two-scale model with the statistics of the training frames."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> MSMACE:
        train = frame_sets[0]
        scales = [
            {"cutoff": 3.2, "channels": 8, "l_max": 2, "radial_mlp": [8]},
            {"cutoff": 4.0, "channels": 4, "l_max": 0, "radial_mlp": [8]},
        ]
        statistics = dataset_statistics(train.frames, train.neighbors, [3.2, 4.0], E0S)
        torch.manual_seed(seed)
        architecture = MSMACEArchitecture(scales=scales, channels=8, correlation=2, layers=2)
        return MSMACE((13, 29), E0S, architecture, statistics).to(dtype)

    return make


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """An empty run folder."""
    return tmp_path / "run"
