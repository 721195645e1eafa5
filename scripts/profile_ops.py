"""Time of each operation of the compiled CPU backend over its two floors: arithmetic and memory traffic.

    python scripts/profile_ops.py [--atoms 600 --neighbors 24 --channels 128 --threads 2 --dtype float32]

The floors are those of this machine, measured first: the rates of a large matrix product and of copying
memory. Times are processor milliseconds divided by the threads (least of the repeats), so that other work
on the machine hardly counts. Passes are those of ``nn.ops.twice``: the value; its gradient as forces ask
for it, by all but the weights; as the loss asks for it, by all but the geometry; and the gradient of the
forces' pass ("second").
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from msmlff.nn.convolution import convolution_paths
from msmlff.nn.edges import Pairs, Rows
from msmlff.nn.ops.cpu_contraction import Contraction, _tree
from msmlff.nn.ops.cpu_convolution import Convolution, _table
from msmlff.nn.ops.cpu_pairs import PairConvolution, PairDensity, find_pairs
from msmlff.nn.ops.cpu_perceptron import Network
from msmlff.nn.ops.cpu_species_sum import Density
from msmlff.nn.ops.twice import Operation
from msmlff.nn.species import SpeciesGroups


@dataclass(frozen=True)
class Case:
    """An operation, its inputs, and what one pass of it has to do at the least.

    Attributes:
        operations: of one pass that computes the value (a multiplication and an addition are two).
        factors: how many times that the other passes do: forces, weights, second.
    """

    name: str
    operation: Operation
    inputs: list[Tensor]
    operations: float
    factors: tuple[float, float, float]


def processor_ms(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of a call, divided by the threads."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * min(times) / torch.get_num_threads()


def rates(dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Operations and bytes a millisecond."""
    a = torch.randn(1536, 1536, dtype=dtype)
    product = processor_ms(lambda: a @ a, repeats)
    big = torch.zeros(1 << 26, dtype=torch.uint8)
    target = torch.empty_like(big)
    copy = processor_ms(lambda: target.copy_(big), repeats)
    return 2 * 1536**3 / product, 2 * big.numel() / copy


def graph(atoms: int, neighbors: int) -> tuple[Rows, Pairs]:
    """Edges there and back between random atoms of frames of 120."""
    half = atoms * neighbors // 2
    one = torch.randint(0, atoms, (half,))
    other = (one // 120 * 120 + torch.randint(0, min(120, atoms), (half,))).clamp(max=atoms - 1)
    vectors = torch.randn(half, 3)
    receiver, order = torch.cat([one, other]).sort(stable=True)
    rows = Rows.build(torch.cat([other, one])[order], receiver, atoms)
    return rows, find_pairs(rows, torch.cat([vectors, -vectors])[order])


def cases(options: argparse.Namespace, dtype: torch.dtype) -> list[Case]:
    """The operations of a MACE with hidden l 1, edges' l 3, radial network 64-64-64, correlation 3."""
    atoms, k, n = options.atoms, options.channels, 64
    rows, pairs = graph(atoms, options.neighbors)
    edges, of_pairs = len(rows.sender), len(pairs.edge)
    paths = tuple(convolution_paths(1, 3, 3))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    products = sum((2 * p.l1 + 1) * (2 * p.l3 + 1) for p in paths)
    per_edge = len(paths) * n * k
    phi, y = random(edges, n), random(edges, 16)
    weights = [random(8, n), random(n, n) / 8, random(n, n) / 8]
    layer = 8 * n + 2 * n * n
    tree = _tree(16, 3, 2)
    nodes, terms = len(tree.variable), len(tree.last)
    convolution = Convolution(_table(paths), rows, k)
    species = torch.zeros(atoms, dtype=torch.long)
    groups, kind = SpeciesGroups.build(species, 1), species[rows.sender]
    return [
        # R, then R's adjoint for phi, or for phi and W; R, v_R, and adjoints for phi and (twice) W
        Case("convolution", convolution, [random(atoms, 4, k), phi, random(len(paths), n, k), y],
             2.0 * edges * (per_edge + products * k), (2, 3, 5)),
        Case("on pairs", PairConvolution(_table(paths), rows, k, pairs),
             [random(atoms, 4, k), phi[:of_pairs], random(len(paths), n, k), y],
             2.0 * (of_pairs * per_edge + edges * products * k), (2, 3, 5)),
        Case("species sum", Density(rows, kind, 1), [y, phi], 2.0 * edges * 16 * n, (2, 1, 2)),
        Case("on pairs", PairDensity(rows, kind, 1, pairs), [y, phi[:of_pairs]],
             2.0 * edges * 16 * n, (2, 1, 2)),
        Case("radial network", Network(), [random(edges, 8), *weights], 2.0 * edges * layer, (2, 3, 6)),
        Case("contraction", Contraction(tree, groups), [random(atoms, 16, k), random(1, terms, k)],
             atoms * k * (nodes + 2.0 * terms), (2.5, 3.5, 6)),
    ]  # fmt: skip


def size(tensors: list[Tensor | None]) -> float:
    """Bytes."""
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def passes(case: Case) -> list[tuple[str, Callable[[], object], float, float]]:
    """Name, call, operations and bytes of each pass."""
    op, inputs = case.operation, case.inputs
    grads = [torch.randn_like(o) for o in op.value(inputs)]
    kinds = [*op.kinds, *op.kinds[-1:] * (len(inputs) - len(op.kinds))]
    of_forces, of_weights = [kind != "weight" for kind in kinds], [kind != "geometry" for kind in kinds]
    v = [None if kind == "weight" else torch.randn_like(t) for t, kind in zip(inputs, kinds, strict=True)]
    read, written = size([*inputs]), size([*grads])
    moved = size([t for t, kind in zip(inputs, kinds, strict=True) if kind != "weight"])
    forces, weights, second = (case.operations * factor for factor in case.factors)
    return [
        ("value", lambda: op.value(inputs), case.operations, read + written),
        ("forces", lambda: op.gradient(inputs, grads, of_forces), forces, read + moved + written),
        ("weights", lambda: op.gradient(inputs, grads, of_weights), weights, 2 * read + written),
        ("second", lambda: op.second(inputs, grads, v, of_weights), second, 2 * (read + moved + written)),
    ]


def main() -> None:
    """Prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    defaults = {"atoms": 600, "neighbors": 24, "channels": 128, "threads": 2, "repeats": 7}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    arithmetic, memory = rates(dtype, options.repeats)
    print(f"{arithmetic / 1e6:.0f} GFLOP/s in a matrix product, {memory / 1e6:.1f} GB/s copying\n")
    print("| operation | pass | ms | arithmetic floor | over it | memory floor |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in cases(options, dtype):
        for name, work, operations, moved in passes(case):
            took, floor = processor_ms(work, options.repeats), operations / arithmetic
            numbers = (took, floor, took / floor, moved / memory)
            print(f"| {case.name} | {name} | {' | '.join(f'{x:.2f}' for x in numbers)} |")


if __name__ == "__main__":
    main()
