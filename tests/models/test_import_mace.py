"""mace-torch is the oracle: converted models give its energies, forces and stresses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from systems import crystal, ethanol, hydrogen, make_batch
from torch import nn

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.models.import_mace import convert_mace, import_mace, mace_input, mace_modules
from msmlff.nn.e3nn_import import o3

ORGANIC = (1, 6, 8)


def make_mace(
    hidden: str,
    layers: int = 2,
    correlation: int = 3,
    max_ell: int = 3,
    numbers: tuple[int, ...] = ORGANIC,
    first: str = "RealAgnosticInteractionBlock",
    shift: float | None = 0.3,
    **options: object,
) -> nn.Module:
    """A mace-torch model with random weights in float64."""
    modules = mace_modules()
    torch.manual_seed(3)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    arguments: dict[str, object] = dict(  # noqa: C408
        r_max=4.0,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=max_ell,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes[first],
        num_interactions=layers,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=nn.functional.silu,
        atomic_energies=np.linspace(-3.0, -1.0, len(numbers)),
        avg_num_neighbors=7.3,
        atomic_numbers=list(numbers),
        correlation=correlation,
        radial_MLP=[12, 10],
    )
    arguments.update(options)
    try:
        if shift is None:
            return modules.MACE(**arguments)
        return modules.ScaleShiftMACE(atomic_inter_scale=1.7, atomic_inter_shift=shift, **arguments)
    finally:
        torch.set_default_dtype(default)


def assert_equal(module: nn.Module, *frames: Configuration) -> None:
    model = convert_mace(module)
    batch = make_batch(model, *frames)
    expected = module(mace_input(batch, len(model.atomic_numbers), torch.float64), compute_stress=True)
    ours = model.eval()(batch, stress=True)
    np.testing.assert_allclose(ours.energy.numpy(), expected["energy"].detach().numpy(), rtol=1e-9)
    forces = expected["forces"].numpy()
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(ours.forces.numpy(), forces, rtol=1e-9, atol=1e-9 * np.abs(forces).max())
    periodic = [i for i, frame in enumerate(frames) if frame.pbc.all()]
    stress = expected["stress"].numpy()[periodic]
    limit = 1e-9 * np.abs(stress).max(initial=0.0)
    np.testing.assert_allclose(ours.stress.numpy()[periodic], stress, rtol=1e-9, atol=limit)


@pytest.mark.parametrize(
    ("hidden", "layers", "correlation", "max_ell"),
    [
        ("16x0e", 1, 3, 3),
        ("16x0e", 2, 1, 2),
        ("16x0e+16x1o", 2, 3, 3),
        ("16x0e+16x1o", 3, 2, 2),
        ("8x0e+8x1o+8x2e", 2, 3, 3),
    ],
)
def test_several_species(hidden: str, layers: int, correlation: int, max_ell: int) -> None:
    assert_equal(make_mace(hidden, layers, correlation, max_ell), ethanol(), crystal(), ethanol(1))


def test_one_species_without_scale_and_shift() -> None:
    module = make_mace("16x0e+16x1o", numbers=(1,), shift=None)
    assert_equal(module, hydrogen(), hydrogen(10, seed=1))


def test_more_species_than_the_first_layer_sums_over() -> None:
    assert_equal(make_mace("8x0e", max_ell=2, numbers=(1, 6, 7, 8, 9)), ethanol(), crystal())


def test_residual_first_interaction() -> None:
    module = make_mace("8x0e+8x1o", max_ell=2, first="RealAgnosticResidualInteractionBlock")
    assert_equal(module, ethanol(), crystal())


def test_correlation_four() -> None:
    assert_equal(make_mace("8x0e", correlation=4, max_ell=1), ethanol(), crystal())


def test_checkpoint_in_float32(tmp_path: Path) -> None:
    module = make_mace("8x0e", max_ell=2).float()
    torch.save(module, tmp_path / "trained.model")
    before = dict(os.environ)
    model = import_mace(tmp_path / "trained.model", trust=True)
    assert dict(os.environ) == before
    assert model.dtype == torch.float32
    batch = make_batch(model, ethanol())
    expected = module.double()(mace_input(batch, 3, torch.float64))
    energy = model.double()(batch, forces=False).energy
    np.testing.assert_allclose(energy.detach().numpy(), expected["energy"].detach().numpy(), rtol=1e-6)


def test_reduced_basis_is_converted() -> None:
    """A module whose couplings are linear combinations of the standard ones, as cuEquivariance makes them."""
    module = make_mace("8x0e", max_ell=2)
    contraction = module.products[0].symmetric_contractions.contractions[0]
    paths = contraction.U_matrix_2.shape[-1]
    mixing = torch.linalg.qr(torch.randn(paths, paths, dtype=torch.float64))[0]
    contraction.U_matrix_2 = contraction.U_matrix_2 @ mixing
    assert_equal(module, ethanol())


def test_untrusted_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trust"):
        import_mace(tmp_path / "any.model")


def test_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "foreign.model").write_bytes(b"not a pickle")
    with pytest.raises(InputError, match=r"foreign\.model"):
        import_mace(tmp_path / "foreign.model", trust=True)
    with pytest.raises(InputError, match="no such file"):
        import_mace(tmp_path / "absent.model", trust=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"radial_type": "gaussian"}, "GaussianBasis"),
        ({"distance_transform": "Agnesi"}, "AgnesiTransform"),
        ({"pair_repulsion": True}, "pair repulsion"),
        ({"first": "RealAgnosticDensityInteractionBlock"}, "RealAgnosticDensityInteractionBlock"),
    ],
)
def test_unsupported_variant_is_named(options: dict[str, object], named: str) -> None:
    module = make_mace("4x0e", layers=1, correlation=1, max_ell=1, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=named):
        convert_mace(module)


def test_a_difference_is_noticed() -> None:
    module = make_mace("4x0e", layers=1, correlation=1, max_ell=1, gate=torch.tanh, shift=None)
    module.radial_embedding.bessel_fn.bessel_weights.mul_(1.1)
    with pytest.raises(InputError, match="the original gives"):
        convert_mace(module)
