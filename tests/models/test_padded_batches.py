"""Predictions, loss, gradients and errors do not depend on padding, nor on who found the edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from fake_cuda_graphs import FakeGraph, install
from physics import E0S, SPECIES
from systems import crystal, ethanol, make_batch
from test_pair_terms import DISPERSION, SCALES, msmace
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.padding import pad, padded_size
from msmlff.models import (
    ANI,
    MACE,
    ANIArchitecture,
    ForceField,
    MACEArchitecture,
    MSNequIP,
    MSNequIPArchitecture,
    NequIP,
    NequIPArchitecture,
)
from msmlff.nn import ops
from msmlff.nn.layout import lay_out
from msmlff.nn.ops.twice import backward
from msmlff.training.captured import Captured, CudaGraph
from msmlff.training.data_module import Preparation
from msmlff.training.loss import Loss, LossSpec, LossTerm
from msmlff.training.metrics import ErrorSums

TARGETS = ("energy", "forces", "stress")
MODELS: dict[str, Callable[[], ForceField]] = {
    "mace": lambda: MACE(SPECIES, E0S, MACEArchitecture(cutoff=4.0, l_max=2, channels=4, radial_mlp=(8,))),
    "msmace": msmace,
    "nequip": lambda: NequIP(
        SPECIES, E0S, NequIPArchitecture(cutoff=4.0, l_max=1, channels=4, radial_mlp=(8,))
    ),
    "msnequip": lambda: MSNequIP(SPECIES, E0S, MSNequIPArchitecture(scales=SCALES, channels=4, layers=2)),
    "ani": lambda: ANI(
        SPECIES, E0S, ANIArchitecture(cutoff=4.4, angular_cutoff=3.2, start=0.6, hidden=(12, 8))
    ),
    "with pair terms": lambda: msmace(zbl=True, dispersion=DISPERSION),
}


def labelled(model: ForceField) -> Batch:
    """Two frames; the crystal has a stress, the molecule none and a weight of its own."""
    batch = make_batch(model, ethanol(), crystal())
    generator = torch.Generator().manual_seed(0)
    stress = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    stress[0] = torch.nan
    return replace(
        batch,
        energy=torch.tensor([-8000.0, -12000.0], dtype=torch.float64),
        forces=torch.randn(batch.num_atoms, 3, generator=generator, dtype=torch.float64),
        stress=stress,
        weight=torch.tensor([0.3, 1.0], dtype=torch.float64),
    )


def results(model: ForceField, batch: Batch) -> dict[str, Tensor | dict[str, float]]:
    """All that a step and a validation make of a batch; of frames and atoms the real ones."""
    model.zero_grad()
    huber = LossTerm("huber", delta=0.5)
    loss = Loss(LossSpec(energy=huber, forces=LossTerm("mae"), stress=huber), TARGETS)
    prediction = model.train()(batch, stress=True)
    parts = loss(prediction, batch, 0.5)
    backward(parts["loss"], model.parameters())
    sums = ErrorSums(TARGETS)
    sums.update(prediction, batch)
    frames, atoms = batch.size.frames, batch.size.atoms
    found: dict[str, Tensor | dict[str, float]] = {
        "energy": prediction.energy[:frames],
        "atomic energies": prediction.atomic_energies[:atoms],
        "forces": prediction.forces[:atoms],
        "stress": prediction.stress[1],
        "errors": sums.compute(),
    }
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, **parts, **gradients}


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_has_no_influence(name: str, backend: str) -> None:
    torch.manual_seed(3)
    model = MODELS[name]().double()
    batch = labelled(model)
    padded = pad(batch, *padded_size(batch, len(SPECIES)))
    cutoffs = [*model.scale_cutoffs, *(term.cutoff for term in model.pair_terms)]
    with ops.use_backend(None if backend == "auto" else backend):
        expected = results(model, batch)
        for other in (padded, lay_out(padded, cutoffs, len(SPECIES)), lay_out(batch, cutoffs, len(SPECIES))):
            found = results(model, other)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9, msg=f"{name} {key}")
    assert expected["forces"].abs().max() > 0.01


def test_edges_of_a_layout_are_those_below_the_cutoffs() -> None:
    """In a padded batch their numbers are of the ladder, and padding atoms alone receive the rest."""
    model = msmace()
    batch = make_batch(model, ethanol(), crystal(), skin=0.7)
    frames, atoms, edges = padded_size(batch, len(SPECIES))
    for given in (batch, pad(batch, frames, atoms, edges)):
        layout = lay_out(given, model.scale_cutoffs, len(SPECIES)).layout
        lengths = model.edge_vectors(given).norm(dim=1)
        for cutoff in model.scale_cutoffs:
            within = layout.within(cutoff)
            real = within.edge < batch.num_edges
            assert torch.equal(within.edge[real], (lengths < cutoff).nonzero()[:, 0])
            assert torch.equal(within.rows.receiver, given.receiver[within.edge])
            assert (within.rows.receiver[~real] >= batch.num_atoms).all()
            assert (within.rows.receiver.diff() >= 0).all()
            fresh = replace(within.rows, senders=None).by_sender
            assert all(map(torch.equal, within.rows.by_sender, fresh))
    assert layout.within(9.9) is None


@pytest.mark.parametrize("name", [name for name in MODELS if name != "ani"])
def test_a_step_reads_all_it_needs_from_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured with one batch and replayed with another: nothing of the first is left in it."""
    install(monkeypatch)
    torch.manual_seed(3)
    model = MODELS[name]().double().train()

    def step(batch: Batch) -> list[Tensor]:
        with ops.use_backend("reference"):
            found = model(batch, stress=True)
            loss = found.forces.square().sum() + found.stress[1].square().sum()
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        given = torch.cat([g.flatten() for g in gradients if g is not None])
        return [found.energy, found.forces, found.stress, given]

    captured = Captured(partial(CudaGraph, pool=None), torch.float64)
    prepare, crystals = Preparation.of(model, padded=True), (crystal(0), crystal(0))
    crystals[1].positions[:] += 1e-3 * crystal(5).positions  # hardly other edges
    for other in crystals:
        captured(step, prepare(make_batch(model, ethanol(), other)))
    assert captured.failed is None  # both were compared
    assert [graph.replays for graph in FakeGraph.made] == [2]
