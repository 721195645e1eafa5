"""A model's state and numbers do not depend on the backend of the operations."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from physics import E0S, SPECIES
from systems import crystal, ethanol, make_batch

from msmlff.models import MACE, MSMACE, ForceField, MACEArchitecture, MSMACEArchitecture
from msmlff.models import backend as chooser
from msmlff.models.backend import choose_backend
from msmlff.nn import ops
from msmlff.nn.ops.twice import backward

OTHERS = [name for name in ops.available_backends("cpu") if name != "reference"]
SHORT = {"cutoff": 2.6, "channels": 8, "l_max": 3, "radial_mlp": [8, 8]}
LONG = {"cutoff": 4.4, "channels": 4, "l_max": 1, "radial_mlp": [6, 8]}


def mace() -> ForceField:
    torch.manual_seed(3)
    return MACE(SPECIES, E0S, MACEArchitecture(cutoff=4.0, l_max=3, channels=16, radial_mlp=(8, 16))).double()


def ms_mace() -> ForceField:
    torch.manual_seed(3)
    architecture = MSMACEArchitecture(scales=(SHORT, LONG), channels=6, hidden_l_max=2)
    return MSMACE(SPECIES, E0S, architecture).double()


MODELS = pytest.mark.parametrize("make", [mace, ms_mace])


def results(model: ForceField, backend: str) -> dict[str, torch.Tensor]:
    """Energy, forces, stress and the parameters' gradients of a loss on all three."""
    batch = make_batch(model, ethanol(), crystal())
    model.zero_grad()
    with ops.use_backend(backend):
        p = model.train()(batch, stress=True)
        loss = p.energy.pow(2).mean() * 1e-6 + p.forces.pow(2).sum() + p.stress[1].pow(2).sum()
        backward(loss, model.parameters())
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    return {"energy": p.energy, "forces": p.forces, "stress": p.stress[1], **gradients}


@MODELS
@pytest.mark.parametrize("backend", OTHERS)
def test_same_numbers(make, backend: str) -> None:  # type: ignore[no-untyped-def]
    expected, ours = results(make(), "reference"), results(make(), backend)
    assert ours.keys() == expected.keys()
    assert expected["forces"].abs().max() > 0.05
    for name, value in expected.items():
        scale = value.detach().abs().max().item()
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9 * max(scale, 1e-9), msg=name)


@MODELS
@pytest.mark.parametrize("backend", OTHERS)
def test_float32_agrees(make, backend: str) -> None:  # type: ignore[no-untyped-def]
    expected = results(make(), "reference")
    ours = results(make().float(), backend)
    for name, value in expected.items():
        scale = value.detach().abs().max().item()
        torch.testing.assert_close(ours[name].double(), value, rtol=0, atol=1e-4 * max(scale, 1e-6), msg=name)


@MODELS
def test_same_state(make) -> None:  # type: ignore[no-untyped-def]
    states = []
    for backend in ("reference", *OTHERS):
        with ops.use_backend(backend):
            states.append({name: value.shape for name, value in make().state_dict().items()})
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize("backend", OTHERS)
def test_isolated_atom_and_no_edges(backend: str) -> None:
    model = mace()
    frame = ethanol()
    far = type(frame)(frame.numbers[:2], frame.positions[:2] * 100.0)
    batch = make_batch(model, far)
    assert batch.num_edges == 0
    with ops.use_backend(backend):
        p = model.train()(batch)
        backward(p.energy.sum() + p.forces.sum(), model.parameters())
    assert p.energy.item() == pytest.approx(sum(E0S[int(z)] for z in far.numbers))
    assert not p.forces.any()


@pytest.mark.parametrize("training", [True, False])
def test_choice_leaves_the_model_alone(training: bool) -> None:
    model = mace()
    batch = make_batch(model, ethanol())
    model.embedding.grad = torch.ones_like(model.embedding)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choice = choose_backend(model, batch, training)
    assert choice.name in OTHERS
    if len(OTHERS) > 1:
        assert set(choice.milliseconds) == set(OTHERS)
    assert choice.failed == {}
    assert torch.equal(model.embedding.grad, torch.ones_like(model.embedding))
    assert model.readouts[0].weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("times", "chosen"),
    [([10.0, 30.0], "first"), ([30.0, 10.0], "second"), ([12.0, 10.0], "first"), ([None, 10.0], "second")],
)
def test_the_first_that_is_about_as_fast_as_the_fastest_is_chosen(
    monkeypatch: pytest.MonkeyPatch, times: list[float | None], chosen: str
) -> None:
    """With given times: the first name where they are near, the others where it is slower or fails."""
    given = iter(times)

    def take(*_: object) -> float:
        time = next(given)
        if time is None:
            raise RuntimeError("no memory\nmore of it")
        return time

    monkeypatch.setattr(chooser, "_milliseconds", take)
    monkeypatch.setattr(chooser, "available_backends", lambda device: ["first", "second", "reference"])
    monkeypatch.setattr(chooser, "use_backend", lambda name: nullcontext())
    choice = choose_backend(mace(), make_batch(mace(), ethanol()), training=False)
    assert choice.name == chosen
    assert choice.failed == ({"first": "no memory"} if None in times else {})
