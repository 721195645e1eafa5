"""Descriptors of trained models: last-layer gradients by autograd, predictions of a committee."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.statistics import Statistics
from msmlff.data.store import FrameStore
from msmlff.distill.committee import AtomicUncertainty, CommitteeDeviation
from msmlff.distill.descriptor_committee import CommitteePredictions
from msmlff.distill.descriptor_gradients import LastLayerGradients, last_layer_gradients
from msmlff.distill.gradients import LCMD
from msmlff.errors import InputError
from msmlff.models import MSMACE, MSMACEArchitecture, Scale
from msmlff.models.base import ForceField
from msmlff.models.files import save_model


@pytest.fixture
def store(frames: list[Configuration], tmp_path: Path) -> FrameStore:
    return FrameStore.build(frames, tmp_path / "cache")


def made(seed: int, numbers: tuple[int, ...] = (1, 8), layers: int = 2, e0: float = 0.0) -> MSMACE:
    torch.manual_seed(seed)
    scales = [Scale(2.0, 3, 2, (4,)), Scale(3.5, 2, 1, (4,))]
    statistics = Statistics((3.0, 6.0), (0.2,) * len(numbers), 0.7)
    architecture = MSMACEArchitecture(scales=scales, channels=4, layers=layers, hidden_l_max=1)
    return MSMACE(numbers, [e0] * len(numbers), architecture, statistics).double()


def saved(path: Path, model: ForceField) -> str:
    path.mkdir(parents=True)
    save_model(model, path / "model.safetensors", {})
    return str(path)


def batch_of(frames: list[Configuration], model: ForceField) -> Batch:
    neighbors = [neighbor_list(f.positions, f.cell, f.pbc, model.cutoff) for f in frames]
    return collate(frames, neighbors, model.atomic_numbers)


@pytest.mark.parametrize("layers", [1, 2])
def test_last_layer_gradients_are_those_of_autograd(frames: list[Configuration], layers: int) -> None:
    """Atomic energies of the whole model, differentiated one by one, scale and shift included."""
    model = made(0, layers=layers)
    batch = batch_of(frames[:4], model)
    weights = [list(readout.parameters())[-1] for readout in model.readouts]
    energies = model(batch, forces=False).atomic_energies
    expected = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(e, weights, retain_graph=True)])
            for e in energies
        ]
    )
    found = last_layer_gradients(model, batch)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    last = last_layer_gradients(model, batch, last_only=True)
    torch.testing.assert_close(last, expected[:, -weights[-1].numel() :], rtol=1e-10, atol=1e-12)


def test_last_layer_gradients_leave_the_model_as_it_is(frames: list[Configuration]) -> None:
    model = made(0)
    batch = batch_of(frames[:4], model)
    before = model(batch).forces
    with torch.no_grad():
        last_layer_gradients(model, batch)
    assert torch.equal(before, model(batch).forces)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_last_layer_descriptor(store: FrameStore, tmp_path: Path) -> None:
    path = saved(tmp_path / "run", made(0))
    descriptor = LastLayerGradients(path, dtype="float64", device="cpu")
    features = descriptor(store)
    model = made(0)
    expected = last_layer_gradients(model, batch_of(list(store), model))
    np.testing.assert_allclose(features.rows, expected.numpy(), rtol=1e-5, atol=1e-8)
    last = replace(descriptor, readouts="last")
    assert last.settings() != descriptor.settings()
    assert last(store).rows.shape[1] == features.rows.shape[1] - 4
    assert len(LCMD().select(features, 5, seed=0)) == 5


def test_last_layer_of_an_unknown_choice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"descriptor\.readouts=first is unknown"):
        LastLayerGradients("run", readouts="first")
    with pytest.raises(InputError, match=r"descriptor\.path=.*does not exist"):
        LastLayerGradients(str(tmp_path / "none")).settings()


def test_committee_rows_are_energies_and_forces_of_each_model(store: FrameStore, tmp_path: Path) -> None:
    models = [made(0), made(1, e0=-2.0), made(2)]
    paths = [saved(tmp_path / f"run{i}", model) for i, model in enumerate(models)]
    features = CommitteePredictions(paths, dtype="float64", device="cpu")(store)
    rows = features.rows.reshape(len(features.rows), 3, 4)
    for i, model in enumerate(models):
        predicted = model(batch_of(list(store), model))
        # E0 of the first model is 0, so these are the atomic energies themselves.
        np.testing.assert_allclose(rows[:, i, 0], predicted.atomic_energies.detach(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows[:, i, 1:], predicted.forces.detach(), rtol=1e-4, atol=1e-6)
    for selector in (CommitteeDeviation(abnormal="last"), AtomicUncertainty()):
        assert selector.select(features, 4, seed=0).record["details"]["models"] == 3


def test_committee_energies_keep_their_digits(store: FrameStore, tmp_path: Path) -> None:
    """With the E0 of heavy elements in them, float32 rows would round to 2 meV."""
    paths = [saved(tmp_path / f"run{i}", made(i, e0=-20000.0)) for i in range(2)]
    plain = [saved(tmp_path / f"plain{i}", made(i)) for i in range(2)]
    rows = [CommitteePredictions(p, dtype="float64", device="cpu")(store).rows for p in (paths, plain)]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5, atol=1e-9)


def test_committee_settings(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"run{i}", made(i)) for i in range(2)]
    settings = CommitteePredictions(paths).settings()
    assert settings["models"] == len(set(settings["sha256"])) == 2
    file_names = [f"{path}/model.safetensors" for path in paths]
    assert CommitteePredictions(file_names, device="cpu").settings() == settings


def test_committees_that_are_none(store: FrameStore, tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", made(0)), saved(tmp_path / "two", made(0))
    with pytest.raises(InputError, match=r"descriptor\.paths has 1 model"):
        CommitteePredictions([one])
    with pytest.raises(InputError, match=r"descriptor\.paths has 1 model"):
        CommitteePredictions(one)
    with pytest.raises(InputError, match="are the same model"):
        CommitteePredictions([one, two]).settings()
    with pytest.raises(InputError, match=r"descriptor\.paths=.*does not exist"):
        CommitteePredictions([one, str(tmp_path / "none")]).settings()
    carbon = saved(tmp_path / "carbon", made(1, numbers=(1, 6)))
    with pytest.raises(InputError, match=r"knows the elements \[1, 6\], .* \[1, 8\]"):
        CommitteePredictions([one, carbon], device="cpu")(store)
    oxygen = [saved(tmp_path / f"oxygen{i}", made(i, numbers=(6, 8))) for i in range(2)]
    with pytest.raises(InputError, match=r"the pool has \[1\] too"):
        CommitteePredictions(oxygen, device="cpu")(store)
