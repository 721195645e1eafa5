"""The Triton kernels equal the reference, with first and second derivatives.

Without a GPU they run in Triton's interpreter, which must be chosen before Triton is imported: one test runs
this file again in a process of its own, where the others see TRITON_INTERPRET. On a GPU they run compiled,
with larger shapes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Any

import pytest
import torch
from systems import ethanol, make_batch
from torch import Tensor

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.models import MSMACE, MSMACEArchitecture
from msmlff.models.architecture import Scale
from msmlff.nn import ops
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.ops import reference
from msmlff.nn.ops.triton_common import interpreted
from msmlff.nn.ops.types import Path
from msmlff.nn.species import SpeciesGroups
from msmlff.nn.symmetric_contraction import SymmetricContraction

INSTALLED = importlib.util.find_spec("triton") is not None
DEVICE = "cpu" if interpreted() else "cuda"
LARGE = not interpreted()
ATOMS, CHANNELS, HIDDEN = (60, 40, 32) if LARGE else (6, 3, 5)

if interpreted():
    on_device = pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
else:
    on_device = pytest.mark.gpu


def large(*case: object) -> Any:
    """A parameter that takes the interpreter too long."""
    return pytest.param(*case, marks=pytest.mark.gpu)


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    if request.node.get_closest_marker("gpu") and not (INSTALLED and torch.cuda.is_available()):
        pytest.skip("no CUDA device; without one these run in the interpreter, by test_in_the_interpreter")


@pytest.mark.skipif(interpreted(), reason="this is the interpreter's process")
@pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
def test_in_the_interpreter() -> None:
    """All the others, on the CPU, and what a model keeps of an edge."""
    memory = "test_memory.py::test_hidden_layers_of_the_radial_network_are_not_kept[triton-cpu]"
    files = [__file__, str(File(__file__).with_name(memory))]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = File(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= 23


@pytest.mark.skipif(interpreted(), reason="it starts a process of its own")
@pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
def test_the_measurement_of_kernels_runs(tmp_path: File) -> None:
    """The script for GPUs, on a tiny case in the interpreter: every kernel has its line."""
    root = File(__file__).parents[2]
    command = [
        sys.executable,
        str(root / "scripts" / "gpu_kernels.py"),
        "--interpret",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    result = json.loads((tmp_path / "kernels.json").read_text())
    names = {row["name"] for row in result["rows"]}
    kernels = {"receive", "send", "edge", "weigh"}
    assert names >= kernels | {f"{kernel} tangent" for kernel in kernels} | {"density", "contraction"}
    assert all(row["ms"] > 0 for row in result["rows"])
    assert all(0 < error["largest_error"] < 1e-4 for error in result["errors"])
    assert "| receive |" in (tmp_path / "kernels.md").read_text()


INTEGERS = {"sender", "receiver", "row_ptr", "by_sender", "sender_ptr", "order", "species_ptr", "kind"}
COUNTS = {"num_edges", "per_chunk", "num_atoms"}


def compile_for_hopper(kernel: Any, dtype: str, constants: dict[str, Any], warps: int = 1) -> None:
    """Compiles a kernel to machine code of the GPUs of capability 9.0; none is needed for it."""
    import triton
    from triton.backends.compiler import GPUTarget

    types = {
        name: "constexpr"
        if name in constants
        else "i32"
        if name in COUNTS
        else "*i64"
        if name in INTEGERS
        else dtype
        for name in kernel.arg_names
    }
    source = triton.compiler.ASTSource(kernel, types, constexprs=constants)
    options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    assert "cubin" in triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm


@pytest.mark.skipif(interpreted(), reason="the interpreter does not compile")
@pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
@pytest.mark.parametrize(("dtype", "precision"), [("*fp32", "tf32x3"), ("*fp64", "ieee")])
def test_kernels_compile(dtype: str, precision: str) -> None:
    """The compiler is stricter about types than the interpreter."""
    import triton.language as tl

    from msmlff.nn.ops import triton_contraction_source, triton_convolution_source, triton_species
    from msmlff.nn.ops.triton_convolution import TILES

    sizes = {"K": 16, "N": 16, "NP": 16, "HM": 1, "YM": 4, "BE": 16, "BK": 16, "PRECISION": precision}
    kernels = triton_convolution_source.kernels((Path(0, 0, 0), Path(0, 1, 1)))
    for (name, tangent), tile in TILES.items():
        kernel = kernels[f"{name}_tangent" if tangent else name]
        index = tl.int64 if tangent else tl.int32
        compile_for_hopper(kernel, dtype, {**sizes, "INDEX": index, "MOVES_W": tangent}, tile.warps)
    sizes = {"K": 16, "BA": 4, "BK": 16, "PARTS": 2}
    for name in ("value", "gradient", "tangent", "weigh", "weigh_tangent"):
        kernel = triton_contraction_source.kernels(4, 2, 1, True)[name]
        compile_for_hopper(kernel, dtype, {**sizes, "SPECIES": 2})
    sizes = {"LM": 4, "LMP": 16, "N": 16, "NP": 16, "SPECIES": 2, "BE": 16, "PRECISION": precision}
    compile_for_hopper(triton_species.density_sum, dtype, {**sizes, "TWO": True})
    compile_for_hopper(triton_species.density_spread, dtype, sizes)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).to(DEVICE).requires_grad_()


def make_rows(degree: Sequence[int]) -> Rows:
    """Edges from random senders; atoms without any, with one, with more than a block of them."""
    receiver = torch.arange(len(degree)).repeat_interleave(torch.tensor(degree))
    sender = torch.randint(0, max(1, len(degree)), (len(receiver),))
    return Rows.build(sender.to(DEVICE), receiver.to(DEVICE), len(degree))


def degrees() -> list[int]:
    return [1, 0, 19, 2, 0, 3] + [(7 * i) % 50 for i in range(ATOMS - 6)]


class Case:
    """A convolution's inputs, and a function of them for a backend's operation."""

    def __init__(self, l_hidden: int, l_edge: int, rows: Rows, dtype: torch.dtype = torch.float64) -> None:
        self.rows, atoms, edges = rows, len(rows.row_ptr) - 1, len(rows.sender)
        module = ScaleConvolution(CHANNELS, l_hidden, CHANNELS, l_edge, l_edge, HIDDEN, [HIDDEN], 1.0)
        self.paths = module.paths
        self.inputs = (
            random(atoms, (l_hidden + 1) ** 2, CHANNELS, dtype=dtype),
            random(edges, HIDDEN, dtype=dtype),
            random(len(module.paths), HIDDEN, CHANNELS, dtype=dtype),
            random(edges, (l_edge + 1) ** 2, dtype=dtype),
        )
        self.couplings = [constant(self.inputs[0]) for constant in module._couplings]

    def edges(self, phi: Tensor, harmonics: Tensor) -> ScaleEdges:
        return ScaleEdges(self.rows, self.rows.sender, phi, harmonics, "triton")

    def run(self, operation: Callable[..., list[Tensor]], *inputs: Tensor) -> tuple[Tensor, ...]:
        h, phi, weight, harmonics = inputs
        edges = self.edges(phi, harmonics)
        return tuple(operation(h, phi, weight, self.couplings, self.paths, edges))


def derivatives(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], moved: Sequence[Tensor]
) -> list[Tensor]:
    """Values, first derivatives, and second ones of an objective in which the first by ``moved`` meet."""
    values = function(*inputs)
    energy = sum((v**3).sum() for v in values)
    first = torch.autograd.grad(energy, inputs, retain_graph=True)
    along = torch.autograd.grad(energy, moved, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in along), inputs)
    return [*values, *first, *second]


def assert_equal(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """To rounding, which grows with the size of the sums."""
    tolerance = 1e-11 if ours[0].dtype == torch.float64 else 2e-5
    for a, b in zip(ours, expected, strict=True):
        size = b.abs().max().item() if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * max(1.0, size))


@on_device
@pytest.mark.parametrize(("l_hidden", "l_edge"), [(0, 3), (1, 2), (2, 1), (1, 3), large(2, 3)])
def test_convolution(l_hidden: int, l_edge: int) -> None:
    from msmlff.nn.ops.triton_convolution import convolution

    many_paths = l_hidden > 0 and l_edge == 3
    case = Case(l_hidden, l_edge, make_rows([1, 0, 4, 2] if many_paths and interpreted() else degrees()))
    ours, expected = (
        derivatives(lambda *x, f=f: case.run(f, *x), case.inputs, case.inputs)
        for f in (convolution, reference.convolution)
    )
    assert_equal(ours, expected)


@on_device
def test_weight_may_rest_in_second_derivative() -> None:
    """As in training on forces, where the first pass asks for positions' derivatives alone."""
    from msmlff.nn.ops.triton_convolution import convolution

    case = Case(1, 1, make_rows(degrees()))
    moved = [x for i, x in enumerate(case.inputs) if i != 2]
    ours, expected = (
        derivatives(lambda *x, f=f: case.run(f, *x), case.inputs, moved)
        for f in (convolution, reference.convolution)
    )
    assert_equal(ours, expected)


@on_device
@pytest.mark.parametrize("degree", [[0, 0], [0, 1, 0]], ids=["no_edges", "one_neighbour"])
def test_convolution_of_few_edges(degree: list[int]) -> None:
    from msmlff.nn.ops.triton_convolution import convolution

    case = Case(1, 1, make_rows(degree))
    ours, expected = (
        derivatives(lambda *x, f=f: case.run(f, *x), case.inputs, case.inputs)
        for f in (convolution, reference.convolution)
    )
    assert_equal(ours, expected)


@on_device
def test_convolution_gradgradcheck() -> None:
    from msmlff.nn.ops.triton_convolution import convolution

    case = Case(1, 1, make_rows([1, 0, 1]))

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        return case.run(convolution, *inputs)

    assert torch.autograd.gradcheck(function, case.inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, case.inputs, fast_mode=True)


@on_device
def test_convolution_in_float32_and_its_repeatability() -> None:
    """Close to the float64 reference, and the same bits twice."""
    from msmlff.nn.ops.triton_convolution import convolution

    case = Case(1, 1, make_rows(degrees()), torch.float32)

    def ours() -> list[Tensor]:
        return derivatives(lambda *x: case.run(convolution, *x), case.inputs, case.inputs)

    once, twice = ours(), ours()
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    case.couplings = [c.double() for c in case.couplings]
    exact = [x.detach().double().requires_grad_() for x in case.inputs]
    expected = derivatives(lambda *x: case.run(reference.convolution, *x), exact, exact)
    assert_equal(once, [e.float() for e in expected])


@on_device
def test_foreign_couplings_are_refused() -> None:
    from msmlff.nn.ops.triton_convolution import convolution

    case = Case(0, 1, make_rows([1, 1]))
    case.paths = case.paths[::-1][:1]
    case.couplings = [2.0 * case.couplings[-1]]
    with pytest.raises(ValueError, match="3j symbols"):
        case.run(convolution, case.inputs[0], case.inputs[1], case.inputs[2][:1], case.inputs[3])


class SpeciesCase(Case):
    """As ``Case`` for features that depend on the sender's species alone; the first input is their table."""

    def __init__(self, l_edge: int, num_species: int, rows: Rows) -> None:
        super().__init__(0, l_edge, rows)
        self.inputs = (random(num_species, CHANNELS), *self.inputs[1:])
        self.species = (torch.arange(len(rows.row_ptr) - 1) % num_species).to(DEVICE)

    def run(self, operation: Callable[..., list[Tensor]], *inputs: Tensor) -> tuple[Tensor, ...]:
        table, phi, weight, harmonics = inputs
        edges = self.edges(phi, harmonics)
        return tuple(operation(table, self.species, phi, weight, self.paths, edges))


@on_device
@pytest.mark.parametrize(("l_edge", "num_species"), [(0, 2), (1, 4), (2, 1), (2, 3), (3, 2)])
def test_species_convolution(l_edge: int, num_species: int) -> None:
    from msmlff.nn.ops.triton_species import species_convolution

    case = SpeciesCase(l_edge, num_species, make_rows(degrees()))
    ours, expected = (
        derivatives(lambda *x, f=f: case.run(f, *x), case.inputs, case.inputs)
        for f in (species_convolution, reference.species_convolution)
    )
    assert_equal(ours, expected)


@on_device
@pytest.mark.parametrize("l_edge", [1, 3])
def test_species_convolution_gradgradcheck(l_edge: int) -> None:
    from msmlff.nn.ops.triton_species import species_convolution

    case = SpeciesCase(l_edge, 2, make_rows([1, 0, 2]))

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        return case.run(species_convolution, *inputs)

    assert torch.autograd.gradcheck(function, case.inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, case.inputs, fast_mode=True)


class ContractionCase:
    """A symmetric contraction's inputs, and a function of them for a backend's operation."""

    def __init__(self, module: SymmetricContraction, species: Tensor) -> None:
        n, self.module, num_species = module.correlation, module, module.weights[0].shape[0]
        self.groups = SpeciesGroups.build(species, num_species)
        module.double().to(DEVICE)
        grouped = [list(module.weights[l * n : (l + 1) * n]) for l in range(module.l_out_max + 1)]
        weights = [torch.cat(group, dim=1).detach().requires_grad_() for group in grouped]
        self.couplings = [constant(weights[0]) for constant in module._couplings]
        x = random(len(species), (module.l_max + 1) ** 2, module.weights[0].shape[2])
        self.inputs = (x, *weights)

    def run(self, operation: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor]:
        x, *weights = inputs
        return (operation(x, weights, self.couplings, self.module._table, self.groups),)


@on_device
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 2, 1), (2, 1, 3, 2), (1, 0, 4, 3), (3, 0, 3, 4), large((3, 1, 3, 4)), large((3, 2, 3, 1))],
    ids=str,
)
def test_symmetric_contraction(sizes: tuple[int, int, int, int]) -> None:
    """Of several correlation orders, several species, one of them absent where there are three or more."""
    from msmlff.nn.ops.triton_contraction import symmetric_contraction

    l_max, l_out, correlation, num_species = sizes
    module = SymmetricContraction(num_species, l_max, l_out, CHANNELS, correlation)
    species = (torch.arange(ATOMS) % (num_species if num_species < 3 else num_species - 1)).to(DEVICE)
    case = ContractionCase(module, species)
    for moved in (case.inputs, case.inputs[:1]):
        ours, expected = (
            derivatives(lambda *x, f=f: case.run(f, *x), case.inputs, moved)
            for f in (symmetric_contraction, reference.symmetric_contraction)
        )
        assert_equal(ours, expected)


@on_device
def test_contraction_gradgradcheck_and_repeatability() -> None:
    from msmlff.nn.ops.triton_contraction import symmetric_contraction

    species = torch.tensor([1, 0]).to(DEVICE)
    case = ContractionCase(SymmetricContraction(2, 1, 1, 2, 2), species)

    def function(*inputs: Tensor) -> tuple[Tensor]:
        return case.run(symmetric_contraction, *inputs)

    assert torch.autograd.gradcheck(function, case.inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, case.inputs, fast_mode=True)
    once, twice = (derivatives(function, case.inputs, case.inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@on_device
def test_a_model_its_forces_and_their_gradient() -> None:
    """A whole model of two scales and three species, as training differentiates it."""
    architecture = MSMACEArchitecture(
        scales=(Scale(2.0, 4, 2, (5,)), Scale(3.0, 3, 1, (4,))), channels=4, hidden_l_max=1, correlation=2
    )
    model = MSMACE((1, 6, 8), (0.0, 0.0, 0.0), architecture).double()
    frame = ethanol()
    batch = make_batch(model, Configuration(frame.numbers[:6], frame.positions[:6])).to(DEVICE)
    model.to(DEVICE).train()
    parameters = list(model.parameters())

    def results() -> list[Tensor]:
        prediction = model(batch)
        assert prediction.forces is not None
        loss = prediction.energy.square().sum() + prediction.forces.square().sum()
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return [prediction.energy, prediction.forces, *gradients]

    with ops.use_backend("reference"):
        expected = results()
    with ops.use_backend("triton"):
        ours = results()
    assert expected[1].abs().max() > 0.01
    assert_equal(ours, expected)


def test_where_it_can_run() -> None:
    """The registry says what is missing; without a GPU only the interpreter serves."""
    assert ("triton" in ops.available_backends("cpu")) == (INSTALLED and interpreted())
    if INSTALLED and not interpreted():
        with pytest.raises(InputError, match=r"ops\.backend=triton: it runs on CUDA GPUs, not on cpu"):
            ops.check_backend("triton", "cpu")
