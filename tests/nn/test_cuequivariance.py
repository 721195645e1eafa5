"""The cuEquivariance backend: where it serves, what it says where it cannot, whole models.

Its operations are in the parity suite of ``test_backends``; on a CUDA GPU its kernels are tested here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from physics import E0S, SPECIES
from systems import crystal, ethanol, make_batch
from torch import Tensor

from msmlff.errors import InputError
from msmlff.models import MSMACE, ForceField, MSMACEArchitecture, MSNequIP, MSNequIPArchitecture
from msmlff.nn import ops
from msmlff.nn.ops import backends, cuequivariance
from msmlff.nn.ops.twice import backward

SHORT = {"cutoff": 2.6, "channels": 8, "l_max": 2, "radial_mlp": [8, 8]}
LONG = {"cutoff": 4.4, "channels": 4, "l_max": 1, "radial_mlp": [6, 8]}
NAME = "cuequivariance"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of packages that the backend finds."""
    names: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in names else None)
    backends._resolve.cache_clear()
    yield names
    backends._resolve.cache_clear()


def test_without_the_package_it_says_what_to_install(installed: list[str]) -> None:
    for device in ("cpu", "cuda"):
        with pytest.raises(InputError, match=r"ops\.backend=cuequivariance: .*'msmlff\[cuequivariance\]'"):
            ops.check_backend(NAME, device)
        assert NAME not in ops.available_backends(device)


def test_a_model_that_is_forced_to_it_says_so_too(installed: list[str]) -> None:
    with ops.use_backend(NAME), pytest.raises(InputError, match="cuEquivariance is not installed"):
        ops.radial_network(torch.ones(1, 1), [torch.ones(1, 1)])


def test_without_its_kernels_it_runs_on_the_cpu_alone(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.append("cuequivariance_torch")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    ops.check_backend(NAME, "cpu")
    with pytest.raises(InputError, match="pip install cuequivariance-ops-torch-cu13"):
        ops.check_backend(NAME, "cuda")


def test_it_is_chosen_from_on_cuda_alone(installed: list[str]) -> None:
    installed += ["cuequivariance_torch", "cuequivariance_ops_torch"]
    assert NAME in ops.available_backends("cuda")
    assert ops.available_backends("cuda").index(NAME) < ops.available_backends("cuda").index("torch")
    assert NAME not in ops.available_backends("cpu")


def ms_mace() -> ForceField:
    architecture = MSMACEArchitecture(scales=(SHORT, LONG), channels=6, hidden_l_max=1)
    return MSMACE(SPECIES, E0S, architecture)


def ms_nequip() -> ForceField:
    architecture = MSNequIPArchitecture(scales=(SHORT, LONG), channels=6, hidden_l_max=1, layers=3)
    return MSNequIP(SPECIES, E0S, architecture)


def results(model: ForceField, backend: str, device: str) -> dict[str, Tensor]:
    """Energy, forces, stress and the parameters' gradients of a loss on all three."""
    batch = make_batch(model, ethanol(), crystal()).to(device)
    model.to(device).zero_grad()
    with ops.use_backend(backend):
        p = model.train()(batch, stress=True)
        assert p.forces is not None
        assert p.stress is not None
        loss = p.energy.pow(2).mean() * 1e-6 + p.forces.pow(2).sum() + p.stress[1].pow(2).sum()
        backward(loss, model.parameters())
    gradients = {name: w.grad.cpu() for name, w in model.named_parameters() if w.grad is not None}
    return {"energy": p.energy.cpu(), "forces": p.forces.cpu(), "stress": p.stress[1].cpu(), **gradients}


@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        ("cpu", torch.float64, 1e-9),
        pytest.param("cuda", torch.float64, 1e-9, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.float32, 1e-4, marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("make", [ms_mace, ms_nequip])
def test_whole_models(make, device: str, dtype: torch.dtype, tolerance: float) -> None:  # type: ignore[no-untyped-def]
    """The same state, the same numbers as the reference."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    reason = cuequivariance.missing(device)
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(3)
    model = make().double()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = results(model, "reference", "cpu")
    ours = results(model.to(dtype), NAME, device)
    assert model.state_dict().keys() == state.keys()
    assert expected["forces"].abs().max() > 0.05
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.detach().abs().max().item()
        torch.testing.assert_close(
            ours[name].double(), value, rtol=0, atol=tolerance * max(scale, 1e-6), msg=name
        )
