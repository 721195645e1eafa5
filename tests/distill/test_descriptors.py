"""Descriptors made of models: fixed weights, invariance, files."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.statistics import Statistics
from msmlff.data.store import FrameStore
from msmlff.distill.descriptors import (
    BATCH_ATOMS,
    DESCRIPTOR_VERSION,
    Descriptor,
    MACECheckpoint,
    TrainedModel,
    UntrainedMACE,
)
from msmlff.errors import InputError
from msmlff.models import MSMACE, MSMACEArchitecture, Scale
from msmlff.models.files import save_model
from msmlff.models.import_mace import mace_input

SMALL = UntrainedMACE(cutoff=3.0, channels=4, l_max=2, device="cpu")


@pytest.fixture
def store(frames: list[Configuration], tmp_path: Path) -> FrameStore:
    return FrameStore.build(frames, tmp_path / "cache")


def fresh(store: FrameStore, folder: Path) -> FrameStore:
    """The same pool in another cache folder, where nothing is computed yet."""
    shutil.copytree(store.directory, folder / store.directory.name)
    return FrameStore.open(folder / store.directory.name)


def test_same_bits_whatever_the_state_of_the_generators(store: FrameStore, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = SMALL(store)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = SMALL(fresh(store, tmp_path / "other"))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(default)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert first.rows.filename != again.rows.filename  # type: ignore[attr-defined]
    assert first.rows.shape == (store.num_atoms.sum(), 8)


GOLDEN = {
    "untrained": [
        [0.02775018, 0.01768765, -0.00367239, -0.02184807],
        [-0.00893873, 0.03346969, 0.02448522, -0.01586899],
        [-0.01160402, 0.04847955, 0.03465707, -0.02271434],
    ],
    "two scales": [
        [-3.3519146e-04, 3.2834065e-04, 2.7926327e-04, 1.4513715e-04],
        [-3.6424669e-04, 4.7898233e-05, -1.7913990e-04, -1.5774411e-04],
        [-3.9338463e-04, 4.2085579e-05, -1.9266225e-04, -1.6605222e-04],
    ],
}
"""Features of the frame below by DESCRIPTOR_VERSION 1."""


def test_numbers_are_those_of_the_descriptor_version(tmp_path: Path) -> None:
    """Features cached by earlier code are used as long as DESCRIPTOR_VERSION stays: so must the numbers."""
    water = Configuration(
        np.array([8, 1, 1]),
        np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
        np.diag([3.0, 3.2, 3.4]),
        np.ones(3, dtype=bool),
    )
    scales = [Scale(2.0, 3, 2, (4,)), Scale(3.5, 2, 1, (4,))]
    statistics = Statistics((3.0, 15.0), (0.0, 0.0), 1.0)
    architecture = MSMACEArchitecture(scales=scales, channels=2, hidden_l_max=1)
    model = MSMACE([1, 8], [0.0, 0.0], architecture, statistics).double()
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight.copy_(torch.sin(torch.arange(weight.numel(), dtype=torch.float64) + i).view_as(weight))
    save_model(model, tmp_path / "model.safetensors", {})
    descriptors: dict[str, Descriptor] = {
        "untrained": UntrainedMACE(cutoff=3.0, channels=2, dtype="float64", device="cpu"),
        "two scales": TrainedModel(str(tmp_path / "model.safetensors"), dtype="float64", device="cpu"),
    }
    store = FrameStore.build([water], tmp_path / "cache")
    for name, descriptor in descriptors.items():
        rows = descriptor(store).rows
        np.testing.assert_allclose(
            rows,
            GOLDEN[name],
            rtol=1e-4,
            atol=1e-9,
            err_msg=f"the features ({name}) have changed: raise DESCRIPTOR_VERSION and put these numbers "
            f"into GOLDEN:\n{np.array2string(np.asarray(rows), separator=', ')}",
        )
    assert DESCRIPTOR_VERSION == 1, "the numbers above are of another version"


def test_progress_is_logged_where_there_is_no_terminal(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("msmlff.distill.feature_cache.LOG_EVERY", 0.0)
    monkeypatch.setitem(BATCH_ATOMS, "cpu", 40)
    with caplog.at_level("INFO", logger="msmlff.distill.feature_cache"):
        SMALL(store)
    lines = [r.getMessage() for r in caplog.records if "descriptor UntrainedMACE" in r.getMessage()]
    assert len(lines) >= 2
    assert f"{len(store)} of {len(store)} frames" in lines[-1]
    assert lines[-1].endswith("/s, 0 s left")


def test_seed_decides_the_weights(store: FrameStore) -> None:
    other = replace(SMALL, seed=1)(store)
    assert not np.allclose(SMALL(store).rows, other.rows, rtol=0.1)


def test_frames_differ_and_every_column_says_something(store: FrameStore) -> None:
    pooled = SMALL(store).pooled("mean")
    assert (pooled.std(axis=0) > 1e-3 * np.abs(pooled).mean()).all()


def test_rotation_translation_and_order_of_atoms_change_nothing(
    frames: list[Configuration], tmp_path: Path
) -> None:
    rotation = Rotation.random(random_state=1).as_matrix()
    moved = [replace(f, positions=(f.positions @ rotation.T + 7.0)[::-1], forces=None) for f in frames]
    plain = [replace(f, forces=None) for f in frames]
    exact = replace(SMALL, dtype="float64")
    a, b = (exact(FrameStore.build(x, tmp_path / "cache")) for x in (plain, moved))
    for i in range(len(frames)):
        np.testing.assert_allclose(a[i], b[i][::-1], rtol=1e-5, atol=1e-6)


def test_settings_of_the_device_are_no_settings() -> None:
    assert SMALL.settings() == replace(SMALL, device="auto").settings()
    assert SMALL.settings() != replace(SMALL, cutoff=3.5).settings()


def saved(path: Path, numbers: list[int], seed: int = 0) -> MSMACE:
    torch.manual_seed(seed)
    scales = [Scale(2.5, 4, 2), Scale(4.0, 2, 1)]
    statistics = Statistics((3.0, 6.0), (0.0,) * len(numbers), 1.0)
    architecture = MSMACEArchitecture(scales=scales, channels=4, layers=1)
    model = MSMACE(numbers, [0.0] * len(numbers), architecture, statistics)
    path.parent.mkdir(exist_ok=True)
    save_model(model, path, {})
    return model


def test_trained_model_by_file_and_by_run_folder(store: FrameStore, tmp_path: Path) -> None:
    saved(tmp_path / "run" / "model.safetensors", [1, 8])
    by_folder = TrainedModel(str(tmp_path / "run"), device="cpu")
    features = by_folder(store)
    assert features.rows.shape == (store.num_atoms.sum(), 4)
    assert by_folder.settings() == TrainedModel(str(tmp_path / "run" / "model.safetensors")).settings()
    np.testing.assert_array_equal(
        MACECheckpoint(str(tmp_path / "run" / "model.safetensors"), device="cpu")(store).rows, features.rows
    )


def test_new_weights_under_the_same_name_give_new_features(store: FrameStore, tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.safetensors"
    descriptor = TrainedModel(str(path), device="cpu")
    saved(path, [1], seed=0)
    first = np.array(descriptor(store).rows)
    saved(path, [1], seed=1)
    assert not np.allclose(first, descriptor(store).rows)


def test_elements_the_model_does_not_know(store: FrameStore, tmp_path: Path) -> None:
    saved(tmp_path / "run" / "model.safetensors", [6, 8])
    with pytest.raises(InputError, match=r"knows the elements \[6, 8\], the pool has \[1\]"):
        TrainedModel(str(tmp_path / "run"), device="cpu")(store)


def test_absent_files(store: FrameStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        MACECheckpoint(str(tmp_path / "none.model"))(store)
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        TrainedModel(str(tmp_path))(store)


@pytest.fixture
def mace_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, torch.nn.Module]:
    """A small mace-torch model with random weights and invariant hidden features, and the file of it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")  # mace-torch sets it; put back after the test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from msmlff.nn.e3nn_import import o3  # isort: skip  (before mace-torch, which imports e3nn as it is)
        from mace import modules

        torch.manual_seed(5)
        model = modules.ScaleShiftMACE(
            r_max=3.0,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=1,
            hidden_irreps=o3.Irreps("6x0e"),
            MLP_irreps=o3.Irreps("4x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.zeros(1),
            avg_num_neighbors=3.0,
            atomic_numbers=[1],
            correlation=2,
            radial_MLP=[8],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        torch.save(model, tmp_path / "small.model")
    return tmp_path / "small.model", model


def test_checkpoint_of_mace_torch_gives_its_node_features(
    store: FrameStore, mace_torch: tuple[Path, torch.nn.Module]
) -> None:
    path, module = mace_torch
    frames = list(store)
    neighbors = [neighbor_list(f.positions, f.cell, f.pbc, 3.0) for f in frames]
    expected = module(mace_input(collate(frames, neighbors, [1]), 1, torch.float32), compute_force=False)[
        "node_feats"
    ]
    features = MACECheckpoint(str(path), trust=True, device="cpu")(store)
    np.testing.assert_allclose(features.rows, expected.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_pickle_needs_trust(store: FrameStore, tmp_path: Path) -> None:
    (tmp_path / "small.model").write_bytes(b"whatever it holds")
    with pytest.raises(InputError, match=r"descriptor\.trust=true"):
        MACECheckpoint(str(tmp_path / "small.model"))(store)


@pytest.mark.parametrize(
    ("key", "message"), [("device", "auto, cpu or cuda"), ("dtype", "float32 or float64")]
)
def test_unknown_choices(store: FrameStore, key: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **{key: "tpu"})(store)
