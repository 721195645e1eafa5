"""Exported packages against the models they were made from, for sizes and cells they were not traced with."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from msmlff.data.neighbors import neighbor_list
from msmlff.errors import InputError, MSMLFFError
from msmlff.models import (
    ANI,
    MACE,
    MSMACE,
    ANIArchitecture,
    ForceField,
    MACEArchitecture,
    MSMACEArchitecture,
    MSNequIP,
    MSNequIPArchitecture,
)
from msmlff.models.architecture import Scale
from msmlff.nn.ops import reference
from msmlff.nn.ops.types import MonomialTable
from msmlff.simulation import MSMLFFCalculator, export
from msmlff.simulation.export import (
    INPUTS,
    OUTPUTS,
    compile_package,
    export_package,
    exported_program,
    load_package,
    parity,
)

SPECIES, E0S = [1, 6, 8], [-13.6, -1029.1, -2041.7]
SCALES = (
    Scale(cutoff=3.0, channels=4, l_max=2, radial_mlp=(8,)),
    Scale(cutoff=4.5, channels=2, l_max=1, radial_mlp=(8,)),
)


def make(kind: str) -> ForceField:
    torch.manual_seed(3)
    if kind == "small":  # compiles in less time
        settings: Any = MACEArchitecture(cutoff=3.0, channels=4, l_max=1, correlation=1, layers=1, zbl=True)
        return MACE(SPECIES, E0S, settings).double().eval()
    if kind == "msmace":
        settings = MSMACEArchitecture(
            scales=SCALES, channels=4, hidden_l_max=1, correlation=2, layers=2, zbl=True, shift="environment"
        )
        return MSMACE(SPECIES, E0S, settings).double().eval()
    if kind == "msnequip":
        settings = MSNequIPArchitecture(scales=SCALES, channels=4, hidden_l_max=1, layers=2)
        return MSNequIP(SPECIES, E0S, settings).double().eval()
    one = MACEArchitecture(cutoff=4.0, channels=4, l_max=1, correlation=3, layers=1)
    return MACE([6], [-1029.1], one).double().eval()


def systems(kind: str) -> list[Atoms]:
    """Crystals and a molecule of several sizes, rattled."""
    if kind == "mace":
        found = [bulk("C", cubic=True), bulk("C").repeat((1, 1, 2)), bulk("C", cubic=True).repeat(2)]
    else:
        found = [molecule("CH3CH2OH"), bulk("CO", "rocksalt", a=4.1, cubic=True)]
        found.append(bulk("CO", "rocksalt", a=4.3, cubic=True).repeat((2, 1, 1)))
    for i, atoms in enumerate(found):
        atoms.rattle(0.1, seed=i)
    return found


def inputs(model: ForceField, atoms: Atoms, skin: float = 0.0) -> list[Tensor]:
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff + skin)
    species = np.searchsorted(model.atomic_numbers, atoms.numbers)
    real = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (atoms.positions, atoms.cell.array))
    whole = (torch.from_numpy(np.asarray(a, dtype=np.int64)) for a in (species, found.sender, found.receiver))
    return [*real, *whole, torch.from_numpy(found.shift.astype(np.float64))]


def check(model: ForceField, atoms: Atoms, found: Any, tolerance: float) -> None:
    calculator = MSMLFFCalculator(model, backend="reference")
    calculator.calculate(atoms)
    energy, atomic, forces, stress = (t.numpy() for t in found)
    expected = calculator.results
    assert energy == pytest.approx(expected["energy"], abs=tolerance * len(atoms))
    np.testing.assert_allclose(atomic, expected["energies"], atol=tolerance)
    np.testing.assert_allclose(forces, expected["forces"], atol=tolerance)
    if atoms.pbc.all():
        np.testing.assert_allclose(
            stress, calculator.get_stress(atoms)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]], atol=tolerance
        )
    else:
        assert np.isnan(stress).all()


@pytest.mark.parametrize("kind", ["mace", "msmace", "msnequip"])
def test_the_graph_is_the_model(kind: str) -> None:
    """Before compilation, for sizes other than the traced ones, and with edges beyond the cutoff."""
    model = make(kind).train()
    graph = exported_program(model).module()
    assert model.training  # it is left as it was
    assert all(p.requires_grad for p in model.parameters())
    for atoms in systems(kind):
        check(model, atoms, graph(*inputs(model, atoms)), 1e-9)
        check(model, atoms, graph(*inputs(model, atoms, skin=1.0)), 1e-9)


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
def test_the_contraction_is_that_of_the_reference(correlation: int) -> None:
    """With its gradient: monomials are made otherwise here."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    table = MonomialTable.build(4, correlation)
    features, weights = draw(5, 4, 3).requires_grad_(), [draw(2, 3), draw(1, 3)]
    couplings = [draw(m * 4 * len(table.degrees), w.shape[0]) for m, w in zip((1, 3), weights, strict=True)]
    found = [c(features, weights, couplings, table) for c in (export._contraction, reference._contraction)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    sums = [(f * torch.arange(f.numel()).view(f.shape)).sum() for f in found]
    gradients = [torch.autograd.grad(total, features)[0] for total in sums]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


PROGRAM = """
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <iostream>

int main(int, char** argv) {
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    auto real = at::TensorOptions().dtype(at::kDouble), whole = at::TensorOptions().dtype(at::kLong);
    at::Tensor positions = at::tensor({0.0, 0.0, 0.0, 1.5, 0.1, 0.0}, real).view({2, 3});
    at::Tensor species = at::zeros({2}, whole), cell = at::zeros({3, 3}, real);
    at::Tensor shift = at::zeros({2, 3}, real);
    at::Tensor sender = at::tensor({1, 0}, whole), receiver = at::tensor({0, 1}, whole);
    std::vector<at::Tensor> out = model.run({positions, cell, species, sender, receiver, shift});
    std::cout.precision(12);
    std::cout << out[0].item<double>() << " " << out[2][1][0].item<double>() << " "
              << model.get_metadata()["msmlff"] << std::endl;
}
"""


def in_cpp(package: Path, folder: Path) -> list[str]:
    """What a C++ program without Python says of two atoms: energy, a force, the description."""
    torch_folder = Path(torch.__file__).parent
    (folder / "main.cpp").write_text(PROGRAM)
    command = ["c++", "-std=c++20", "-O0", "-w", "main.cpp", f"-I{torch_folder / 'include'}"]
    command += [f"-I{torch_folder / 'include/torch/csrc/api/include'}", f"-L{torch_folder / 'lib'}"]
    command += ["-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_folder / 'lib'}", "-o", "main"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    done = subprocess.run([folder / "main", package], check=True, capture_output=True, text=True)
    return done.stdout.split(" ", 2)


needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


@needs_compiler
def test_what_is_summed_is_read_afterwards(tmp_path: Path) -> None:
    """PyTorch 2.13 alone fuses the last two operations' loops and then has the sum read before it is made."""

    def compute(x: Tensor, y: Tensor, a: Tensor, b: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        scaled = x * y.unsqueeze(2)
        total = torch.zeros_like(x).index_add(0, row, (a @ b).view(-1, 9, 16))
        return scaled, total + x

    class Compute(torch.nn.Module):
        forward = staticmethod(compute)

    generator = torch.Generator().manual_seed(0)
    shapes = (3, 9, 16), (3, 9), (12, 5), (5, 144)
    arguments = (*(torch.rand(*n, generator=generator) for n in shapes), torch.arange(12) % 3)
    compile_package(torch.export.export(Compute(), arguments), tmp_path / "sum.pt2", {})
    found = torch._inductor.aoti_load_package(str(tmp_path / "sum.pt2"))(*arguments)
    torch.testing.assert_close(tuple(found), compute(*arguments))


@cache
def traced() -> tuple[ForceField, torch.nn.Module]:
    model = make("small")
    return model, exported_program(model).module()


def small_error(size: int, results: list[Tensor]) -> list[Tensor]:
    return [*results[:2], results[2] + 1e-3, results[3]]


def error_of_large_systems(size: int, results: list[Tensor]) -> list[Tensor]:
    return [*results[:2], results[2] * (1.1 if size > 30 else 1.0), results[3]]


def error_of_energies(size: int, results: list[Tensor]) -> list[Tensor]:
    return [results[0], results[1] + 1e-3, *results[2:]]


def error_of_stress(size: int, results: list[Tensor]) -> list[Tensor]:
    return [*results[:3], results[3] * 1.001]


def not_a_number(size: int, results: list[Tensor]) -> list[Tensor]:
    return [*results[:2], results[2] * (float("nan") if size == 8 else 1.0), results[3]]


@pytest.mark.parametrize(
    "error", [small_error, error_of_large_systems, error_of_energies, error_of_stress, not_a_number]
)
def test_wrong_code_is_not_written(error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler has been seen to make code whose forces are not the model's."""
    model, graph = traced()
    assert parity(model, graph).relative < 1e-12

    def wrong(*arguments: Tensor) -> list[Tensor]:
        return error(len(arguments[0]), list(graph(*arguments)))

    def compile_nothing(program: object, *, package_path: str, **_: object) -> None:
        Path(package_path).write_text("")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_nothing)
    monkeypatch.setattr(export, "exported_program", lambda model: None)
    monkeypatch.setattr(export, "load_package", lambda path: (wrong, {}))
    with pytest.raises(MSMLFFError, match=r"model.pt2 was not written: .* of the largest"):
        export_package(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_a_package_runs_without_the_model(tmp_path: Path) -> None:
    model = make("small")
    path = export_package(model, tmp_path / "model.pt2", {"label_level": "none"})
    function, description = load_package(path)
    for atoms in systems("small"):
        check(model, atoms, function(*inputs(model, atoms)), 1e-8)
    assert description["elements"] == SPECIES
    assert description["cutoff"] == 3.0
    assert description["dtype"] == "float64"
    assert description["record"] == {"label_level": "none"}
    assert (tuple(description["inputs"]), tuple(description["outputs"])) == (INPUTS, OUTPUTS)
    energy, force, text = in_cpp(path, tmp_path)
    pair = Atoms("H2", [[0, 0, 0], [1.5, 0.1, 0]], calculator=MSMLFFCalculator(model, backend="reference"))
    assert float(energy) == pytest.approx(pair.get_potential_energy(), abs=1e-7)
    assert float(force) == pytest.approx(pair.get_forces()[1, 0], abs=1e-7)
    assert json.loads(text) == description


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    ani = ANI([1, 8], [0.0, 0.0], ANIArchitecture(cutoff=4.0, angular_cutoff=3.0))
    with pytest.raises(InputError, match="ANI cannot be exported"):
        export_package(ani, tmp_path / "ani.pt2")
    with pytest.raises(InputError, match=r"ends in \.pt2"):
        export_package(make("mace"), tmp_path / "model.pt")
    with pytest.raises(InputError, match="does not exist"):
        export_package(make("mace"), tmp_path / "nowhere" / "model.pt2")
    with pytest.raises(InputError, match="no such file"):
        load_package(tmp_path / "absent.pt2")
    (tmp_path / "torn.pt2").write_bytes(b"no package")
    with pytest.raises(InputError, match="not a package"):
        load_package(tmp_path / "torn.pt2")
