"""The Triton kernels one by one: time, operations and bytes a second, against what the GPU can do.

    python scripts/gpu_kernels.py --out benchmarks/gpu               on a CUDA GPU
    python scripts/gpu_kernels.py --sweep --out benchmarks/gpu       the convolution's tiles, too
    python scripts/gpu_kernels.py --interpret --out DIR              a tiny run in Triton's interpreter

Shapes are those of the benchmark's MACE: 128 channels, hidden l 1, edges' l 3, 40 neighbours. Ceilings are a
copy and a float32 product of matrices as torch makes it, timed in the same run ("tf32x3": without TF32; three
products of TF32 may be faster). Operations and bytes are the least a kernel must do, gathers from the cache
not counted: the share of the floor says what is left to win.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path as File
from statistics import median
from typing import Any

import gpu_peers
import torch
from torch import Tensor

#: Tiles tried for each of the convolution's kernels: edges, channels, warps.
SWEEP = [
    (16, 16, 1),
    (16, 32, 1),
    (16, 32, 2),
    (16, 64, 2),
    (32, 32, 2),
    (16, 32, 4),
    (32, 32, 4),
    (64, 32, 4),
]


@dataclass(frozen=True)
class Shape:
    """What is computed."""

    atoms: int
    channels: int = 128
    neighbors: int = 40
    l_hidden: int = 1
    l_edge: int = 3
    radial: int = 64
    species: int = 4
    correlation: int = 3


@dataclass(frozen=True)
class Work:
    """One measured call.

    Attributes:
        name: kernel.
        run: the call.
        operations: floating-point operations it must do.
        numbers: numbers it must read and write.
    """

    name: str
    run: Callable[[], Any]
    operations: float
    numbers: float


@dataclass(frozen=True)
class Row:
    """A line of the result; shares are of the ceilings of the same run."""

    atoms: int
    name: str
    precision: str
    ms: float
    tflops: float
    gb_s: float
    floor_ms: float
    share_of_floor: float


def main() -> None:
    """Measures and writes ``kernels.json`` and ``kernels.md``."""
    arguments = parse_arguments()
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU: --interpret makes a tiny run without one")
    small = Shape(4, channels=16, neighbors=2, l_hidden=1, l_edge=1, radial=4, species=2, correlation=2)
    shapes = [small] if arguments.interpret else [Shape(n) for n in arguments.atoms]
    bench = Bench("cpu" if arguments.interpret else "cuda", arguments.repeats)
    result: dict[str, Any] = {"machine": machine(bench), "rows": [], "peers": [], "tiles": [], "errors": []}
    for shape in shapes:
        for precision in ("tf32x3", "tf32"):
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            rate, bandwidth = bench.ceilings()
            result["machine"][f"gemm_tflops_{precision}"], result["machine"]["copy_gb_s"] = rate, bandwidth
            for work in all_work(shape, bench.device):
                result["rows"].append(asdict(bench.row(work, shape.atoms, precision, (rate, bandwidth))))
            result["errors"].append(error(shape, bench.device, precision))
        torch.backends.cuda.matmul.allow_tf32 = False
        result["peers"] += gpu_peers.measure(shape, Inputs.make(shape, bench.device), bench)
        if arguments.sweep:
            result["tiles"] += sweep(shape, bench)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "kernels.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "kernels.md").write_text(page(result))
    print(page(result))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=File, default=File("benchmarks/gpu"))
    parser.add_argument("--atoms", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sweep", action="store_true", help="time other tiles of the convolution's kernels")
    parser.add_argument("--interpret", action="store_true", help="a tiny run in Triton's interpreter")
    return parser.parse_args()


class Bench:
    """Timing on one device."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = device, 1 if device == "cpu" else repeats

    def ms(self, call: Callable[[], Any]) -> float:
        """Median milliseconds of a call, after one that compiles it."""
        if self.device == "cpu":
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        for _ in range(3):
            call()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.repeats)]
        for begin, end in events:
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return median(begin.elapsed_time(end) for begin, end in events)

    def ceilings(self) -> tuple[float, float]:
        """TFLOP/s of a float32 product of matrices, GB/s read and written of a copy."""
        size, count = (64, 1 << 10) if self.device == "cpu" else (8192, 1 << 28)
        a, b = (torch.randn(size, size, device=self.device) for _ in range(2))
        rate = 2e-9 * size**3 / self.ms(lambda: a @ b)
        source = torch.randn(count, device=self.device)
        target = torch.empty_like(source)
        return rate, 8e-6 * count / self.ms(lambda: target.copy_(source))

    def row(self, work: Work, atoms: int, precision: str, ceilings: tuple[float, float]) -> Row:
        """Times a call and compares it with its floor."""
        ms, size = self.ms(work.run), 4e-9 * work.numbers
        floor = max(1e-9 * work.operations / ceilings[0], 1e3 * size / ceilings[1])
        rates = 1e-9 * work.operations / ms, 1e3 * size / ms
        return Row(atoms, work.name, precision, ms, *rates, floor, floor / ms)


def machine(bench: Bench) -> dict[str, Any]:
    """Where it runs."""
    import triton

    name = torch.cuda.get_device_name() if bench.device == "cuda" else "interpreter"
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__}


@dataclass(frozen=True)
class Inputs:
    """Random inputs of all operations: a graph whose senders are near their receivers in number."""

    rows: Any
    edges: Any
    paths: list[Any]
    features: Tensor
    phi: Tensor
    weight: Tensor
    harmonics: Tensor
    species: Tensor

    @classmethod
    def make(cls, shape: Shape, device: str) -> Inputs:
        """Of one shape."""
        from msmlff.nn.convolution import convolution_paths
        from msmlff.nn.edges import Rows, ScaleEdges

        torch.manual_seed(0)
        receiver = torch.arange(shape.atoms, device=device).repeat_interleave(shape.neighbors)
        away = torch.randint(1, max(2, min(shape.atoms, 500)), receiver.shape, device=device)
        rows = Rows.build((receiver + away) % shape.atoms, receiver, shape.atoms)
        paths = convolution_paths(shape.l_hidden, shape.l_edge, shape.l_edge)
        edges, channels = len(receiver), shape.channels
        phi = torch.randn(edges, shape.radial, device=device)
        harmonics = torch.randn(edges, (shape.l_edge + 1) ** 2, device=device)
        return cls(
            rows,
            ScaleEdges(rows, rows.sender, phi, harmonics, "triton"),
            paths,
            torch.randn(shape.atoms, (shape.l_hidden + 1) ** 2, channels, device=device),
            phi,
            torch.randn(len(paths), shape.radial, channels, device=device) / shape.radial,
            harmonics,
            torch.arange(shape.atoms, device=device) % shape.species,
        )

    @property
    def four(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The convolution's inputs."""
        return self.features, self.phi, self.weight, self.harmonics


def all_work(shape: Shape, device: str) -> Iterator[Work]:
    """Every kernel of one shape."""
    inputs = Inputs.make(shape, device)
    yield from convolution_work(shape, inputs)
    yield from density_work(shape, inputs)
    yield from contraction_work(shape, inputs)


def convolution_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The convolution's kernels and their tangents along (h, phi, Y)."""
    from msmlff.nn.ops import triton_convolution as conv

    four = inputs.four
    spec = conv.Spec.build(conv.PathTable(tuple(inputs.paths)), inputs.rows, four)
    v = conv.Direction.build(four, [four[0], four[1], None, four[3]])
    grads = [torch.randn_like(a) for a in conv.receive(spec, four)]
    edges, k = len(inputs.phi), shape.channels
    radial = 2.0 * shape.radial * len(inputs.paths) * k * edges
    coupled = 2.0 * sum((2 * p.l1 + 1) * (2 * p.l3 + 1) for p in inputs.paths) * k * edges
    of_edges, of_h = inputs.phi.numel() + inputs.harmonics.numel(), inputs.features.numel()
    of_a, of_weight = sum(g.numel() for g in grads), inputs.weight.numel()
    base = of_edges + of_h + of_a + of_weight
    yield Work("receive", lambda: conv.receive(spec, four), radial + coupled, base)
    yield Work("send", lambda: conv.send(spec, four, grads), radial + coupled, base)
    yield Work("edge", lambda: conv.edge(spec, four, grads), 2 * (radial + coupled), base + of_edges)
    yield Work("weigh", lambda: conv.weigh(spec, four, grads), radial + coupled, base)
    moved = base + of_edges
    yield Work("receive tangent", lambda: conv.receive(spec, four, v), 2 * (radial + coupled), moved + of_h)
    yield Work("send tangent", lambda: conv.send(spec, four, grads, v), 2 * (radial + coupled), moved)
    numbers = moved + of_edges + of_h
    yield Work("edge tangent", lambda: conv.edge(spec, four, grads, v), 3 * radial + 4 * coupled, numbers)
    yield Work(
        "weigh tangent", lambda: conv.weigh(spec, four, grads, v), 2 * (radial + coupled), moved + of_h
    )


def density_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The first layer's sum over neighbours."""
    from msmlff.nn.ops.triton_species import Density

    kind = inputs.species[inputs.rows.sender]
    density, pair = Density(inputs.rows, kind, shape.species), (inputs.harmonics, inputs.phi)
    (value,) = density.value(pair)
    products = 2.0 * inputs.harmonics.shape[1] * inputs.phi.numel()
    ends = inputs.harmonics.numel() + inputs.phi.numel()
    both = (True, True)
    yield Work("density", lambda: density.value(pair), products, ends + value.numel())
    yield Work(
        "density gradient",
        lambda: density.gradient(pair, [value], both),
        2 * products,
        2 * ends + value.numel(),
    )
    yield Work(
        "density second",
        lambda: density.second(pair, [value], pair, both),
        4 * products,
        4 * ends + 2 * value.numel(),
    )


def contraction_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The symmetric contraction with L up to the hidden one."""
    from msmlff.nn.ops.triton_contraction import Contraction, SortedAtoms
    from msmlff.nn.ops.triton_contraction_source import polynomials
    from msmlff.nn.species import SpeciesGroups

    device, dim = inputs.features.device, (shape.l_edge + 1) ** 2
    key = (dim, shape.correlation, shape.l_hidden)
    terms = len(polynomials(*key).terms)
    groups = SpeciesGroups.build(inputs.species, shape.species)
    operation = Contraction(key, SortedAtoms.build(groups, device))
    x = torch.randn(shape.atoms, dim, shape.channels, device=device)
    c = torch.randn(shape.species, terms, shape.channels, device=device)
    (out,) = operation.value((x, c))
    flops, ends = 2.0 * terms * shape.atoms * shape.channels, x.numel() + out.numel() + c.numel()
    forces, both = (True, False), (True, True)
    yield Work("contraction", lambda: operation.value((x, c)), flops, ends)
    gradient = ends + x.numel()
    yield Work("contraction dE/dx", lambda: operation.gradient((x, c), [out], forces), 2 * flops, gradient)
    yield Work("contraction dE/dc", lambda: operation.gradient((x, c), [out], (False, True)), flops, ends)
    yield Work(
        "contraction second",
        lambda: operation.second((x, c), [out], (x, None), both),
        7 * flops,
        2 * gradient + x.numel(),
    )


def error(shape: Shape, device: str, precision: str) -> dict[str, Any]:
    """Largest error of the convolution's values in float32 against float64, over their root mean square."""
    from msmlff.nn.ops import triton_convolution as conv

    inputs = Inputs.make(shape, device)
    spec = conv.Spec.build(conv.PathTable(tuple(inputs.paths)), inputs.rows, inputs.four)
    values = conv.receive(spec, inputs.four)
    h, phi, weight, y = (t.double() for t in inputs.four)
    exact = conv.receive(spec, (h, phi, weight, y))
    largest = max(
        ((a - b).abs().max() / b.square().mean().sqrt()).item() for a, b in zip(values, exact, strict=True)
    )
    return {"atoms": shape.atoms, "precision": precision, "largest_error": largest}


def sweep(shape: Shape, bench: Bench) -> list[dict[str, Any]]:
    """Times of the convolution's kernels with other tiles."""
    from msmlff.nn.ops.triton_convolution import TILES

    found = []
    inputs = Inputs.make(shape, bench.device)
    for work in convolution_work(shape, inputs):
        kernel, tangent = work.name.split()[0], work.name.endswith("tangent")
        for size in SWEEP:
            with replaced(TILES, (kernel, tangent), size):
                try:
                    ms = bench.ms(work.run)
                except Exception as reason:  # a tile that does not fit is a result, too
                    print(f"{work.name} {size}: {reason}")
                    continue
            found.append({"atoms": shape.atoms, "name": work.name, "tile": size, "ms": ms})
    return found


@contextmanager
def replaced(
    tiles: dict[tuple[str, bool], Any], key: tuple[str, bool], size: tuple[int, int, int]
) -> Iterator[None]:
    """Another tile for the time of a with statement."""
    from msmlff.nn.ops.triton_common import Tile

    before, tiles[key] = tiles[key], Tile(*size)
    try:
        yield
    finally:
        tiles[key] = before


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result["machine"].items()
    )
    lines = ["# Triton kernels", "", machine, ""]
    lines += [
        "| atoms | kernel | precision | ms | TFLOP/s | GB/s | floor ms | share of floor |",
        "|---|---|---|" + "--:|" * 5,
    ]
    for r in result["rows"]:
        rates = f"{r['ms']:.4g} | {r['tflops']:.3g} | {r['gb_s']:.3g} | {r['floor_ms']:.3g}"
        lines.append(
            f"| {r['atoms']} | {r['name']} | {r['precision']} | {rates} | {r['share_of_floor']:.0%} |"
        )
    lines += ["", "Largest error of the convolution's values, over their root mean square:"]
    lines += [f"- {e['atoms']} atoms, {e['precision']}: {e['largest_error']:.2g}" for e in result["errors"]]
    if result["peers"]:
        lines += ["", "| atoms | peer | forward ms | with backward ms |", "|---|---|--:|--:|"]
    for p in result["peers"]:
        lines.append(f"| {p['atoms']} | {p['name']} | {p['forward_ms']:.4g} | {p['with_backward_ms']:.4g} |")
    if result["tiles"]:
        lines += ["", "| atoms | kernel | tile | ms |", "|---|---|---|--:|"]
    for t in sorted(result["tiles"], key=lambda t: (t["atoms"], t["name"], t["ms"])):
        lines.append(f"| {t['atoms']} | {t['name']} | {t['tile']} | {t['ms']:.4g} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
