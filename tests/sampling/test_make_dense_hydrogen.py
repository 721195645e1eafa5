"""The script of the embedded pool, as a user runs it, in its quick form; and the pool that it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from msmlff.analysis.pairs import min_pair_distance
from msmlff.analysis.thermodynamics import density, pressure
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames
from msmlff.labeling import XTBEngine

SPLITS = {"pool": 25, "val": 2, "test": 10}


def run_quick(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "scripts" / "make_dense_hydrogen.py"), "--quick"]
    command += ["--workdir", str(folder / "work"), "--out", str(folder / "out"), "--processes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_quick_run_ships_labelled_frames_and_is_resumed(repository: Path, tmp_path: Path) -> None:
    first = run_quick(repository, tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    frames = {split: list(read_frames(tmp_path / "out" / f"{split}.extxyz.gz")) for split in SPLITS}
    assert {split: len(part) for split, part in frames.items()} == {"pool": 4, "val": 2, "test": 2}
    frame = frames["test"][1]
    labels = XTBEngine(electronic_temperature=30000.0).label(frame)
    assert frame.energy == pytest.approx(labels.energy, abs=2e-6)
    np.testing.assert_allclose(frame.forces, labels.forces, atol=2e-6)
    np.testing.assert_allclose(frame.stress, labels.stress, atol=1e-7)
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert card["frames"] == {"pool": 4, "val": 2, "test": 2}

    (tmp_path / "work" / "production-test.json").unlink()
    before = (tmp_path / "out" / "test.extxyz.gz").read_bytes()
    again = run_quick(repository, tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "test MD" in again.stdout
    assert "pool MD" not in again.stdout
    assert (tmp_path / "out" / "test.extxyz.gz").read_bytes() == before


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[Configuration]]:
    folder = Path(str(files("msmlff.data"))) / "pools" / "dense_hydrogen"
    return {split: list(read_frames(folder / f"{split}.extxyz.gz")) for split in SPLITS}


def test_the_shipped_pool_is_complete(shipped: dict[str, list[Configuration]]) -> None:
    wanted = np.linspace(0.98, 1.41, 23)
    for split, count in SPLITS.items():
        assert len(shipped[split]) == 23 * count
        np.testing.assert_allclose(density(shipped[split]), np.repeat(wanted, count), atol=1e-5)
        for frame in shipped[split]:
            assert len(frame) == 128
            assert frame.forces is not None
            assert frame.stress is not None
            assert np.isfinite(frame.energy)
            assert np.isfinite(frame.forces).all()
            np.testing.assert_allclose(frame.forces.sum(axis=0), 0.0, atol=1e-3)
    folder = Path(str(files("msmlff.data"))) / "pools" / "dense_hydrogen"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 1024 * 1024


def test_the_shipped_pool_makes_physical_sense(shipped: dict[str, list[Configuration]]) -> None:
    everything = [frame for part in shipped.values() for frame in part]
    assert min_pair_distance(everything).min() >= 0.5
    groups = np.round(density(everything), 3)
    pressures = pressure(everything, 1000.0)
    means = [pressures[groups == group].mean() for group in np.unique(groups)]
    assert len(means) == 23
    assert (np.diff(means) > 0).all()


def test_the_parts_share_no_trajectory(shipped: dict[str, list[Configuration]]) -> None:
    names = {split: {frame.info["trajectory"] for frame in part} for split, part in shipped.items()}
    assert all(len(part) == 23 for part in names.values())
    assert len(set.union(*names.values())) == 69


def test_a_shipped_label_is_calculated_again(shipped: dict[str, list[Configuration]]) -> None:
    frame = shipped["val"][0]
    labels = XTBEngine(electronic_temperature=30000.0).label(frame)
    assert frame.energy == pytest.approx(labels.energy, abs=1e-4)
    np.testing.assert_allclose(frame.forces, labels.forces, atol=1e-4)
    np.testing.assert_allclose(frame.stress, labels.stress, atol=1e-6)
