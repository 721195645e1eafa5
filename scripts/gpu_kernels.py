"""The Triton kernels one by one: time, operations and bytes a second, against what the GPU can do.

    python scripts/gpu_kernels.py --out benchmarks/gpu            on a CUDA GPU
    python scripts/gpu_kernels.py --sweep                         instead: the convolution with other tiles
    python scripts/gpu_kernels.py --sweep receive "edge tangent"  of these kernels alone
    python scripts/gpu_kernels.py --interpret --out DIR           a tiny run in Triton's interpreter

Every row is written when it is measured (kernels.json, kernels.md): a run that was ended goes on. A kernel's
first launch compiles it, for up to a minute each.

Shapes are those of the benchmark's MACE: 128 channels, hidden l 1, edges' l 3, 40 neighbours. Ceilings are a
copy and a float32 product of matrices as torch makes it, timed once for the file ("tf32x3": without TF32;
three products of TF32 may be faster). Operations and bytes are the least a kernel must do, gathers from the
cache not counted. The larger of the two floors bounds the kernel; its share of the time says what is left to
win.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path as File
from statistics import median
from typing import Any

import gpu_peers
import torch
from gpu_work import Inputs, Shape, Work, all_work, convolution_work

_KERNELS = ("receive", "send", "edge", "weigh")
#: That have tiles to choose.
SWEPT = [*_KERNELS, *(f"{kernel} tangent" for kernel in _KERNELS)]
#: Tiles tried for each of the convolution's kernels: edges, channels, warps.
SWEEP = [
    (16, 16, 1),
    (16, 16, 2),
    (16, 16, 4),
    (16, 16, 8),
    (16, 32, 1),
    (16, 32, 2),
    (16, 64, 2),
    (32, 32, 2),
    (16, 32, 4),
    (32, 32, 4),
    (64, 32, 4),
]


@dataclass(frozen=True)
class Row:
    """A line of the result; floors are those at the ceilings of the same machine, milliseconds."""

    atoms: int
    name: str
    precision: str
    ms: float
    tflops: float
    gb_s: float
    arithmetic_ms: float
    memory_ms: float
    bound_by: str
    share_of_floor: float


def main() -> None:
    """Measures what is missing; exit code 1 if something failed."""
    arguments = parse_arguments()
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU: --interpret makes a tiny run without one")
    small = Shape(4, channels=16, neighbors=2, l_hidden=1, l_edge=1, radial=4, species=2, correlation=2)
    shapes = [small] if arguments.interpret else [Shape(n) for n in arguments.atoms]
    bench = Bench("cpu" if arguments.interpret else "cuda", arguments.repeats)
    results = Results(arguments.out, machine(bench))
    if arguments.sweep is not None:
        for shape in shapes:
            sweep(shape, bench, results, arguments.sweep or SWEPT)
    else:
        for precision in ("tf32x3", "tf32"):
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            for shape in shapes:
                measure(shape, bench, results, precision)
        torch.backends.cuda.matmul.allow_tf32 = False
        for shape in shapes:
            peers(shape, bench, results)
    print(page(results.found))
    if results.failures:
        raise SystemExit(f"failed: {', '.join(results.failures)}")


class Results:
    """``kernels.json`` and its page, written after each row; rows that are there are not measured again.

    Args:
        folder: of both files.
        machine: where it runs; a file of another one is refused.
    """

    def __init__(self, folder: File, machine: dict[str, Any]) -> None:
        self.folder, self.failures = folder, list[str]()
        self.found: dict[str, Any] = {"machine": machine, "rows": [], "errors": [], "peers": [], "tiles": []}
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "kernels.json"
        if file.is_file():
            self.found = json.loads(file.read_text())
            if {key: self.found["machine"].get(key) for key in machine} != machine:
                raise SystemExit(f"{file}: measured on {self.found['machine']}; write another --out")

    def add(self, part: str, key: dict[str, Any], measured: Callable[[], dict[str, Any]]) -> None:
        """A row of a part, measured and written unless one of that key is there; a failure is noted."""
        if any(key.items() <= row.items() for row in self.found[part]):
            return
        try:
            self.found[part].append({**key, **measured()})
        except Exception as error:  # the others are measured all the same
            name = " ".join(str(value) for value in key.values())
            self.failures.append(name)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            return
        self.write()

    def write(self) -> None:
        """Both files."""
        (self.folder / "kernels.json").write_text(json.dumps(self.found, indent=1) + "\n")
        (self.folder / "kernels.md").write_text(page(self.found))

    def ceilings(self, bench: Bench, precision: str) -> tuple[float, float]:
        """TFLOP/s of a product of matrices, GB/s of a copy; measured once."""
        known, name = self.found["machine"], f"gemm_tflops_{precision}"
        for key, measured in ((name, bench.product), ("copy_gb_s", bench.copy)):
            known[key] = known.get(key) or measured()
        self.write()
        return known[name], known["copy_gb_s"]


def measure(shape: Shape, bench: Bench, results: Results, precision: str) -> None:
    """Every kernel on one shape, and the error of the convolution."""
    ceilings = results.ceilings(bench, precision)
    for work in all_work(shape, bench.device):
        key = {"atoms": shape.atoms, "name": work.name, "precision": precision}

        def measured(work: Work = work) -> dict[str, Any]:
            return asdict(bench.row(work, shape.atoms, precision, ceilings))

        results.add("rows", key, measured)
    key = {"atoms": shape.atoms, "precision": precision}
    results.add("errors", key, lambda: error(shape, bench.device, precision))


def peers(shape: Shape, bench: Bench, results: Results) -> None:
    """Whole operations, of our backends and of cuEquivariance."""
    for name, make in gpu_peers.operations(shape, Inputs.make(shape, bench.device)):
        key = {"atoms": shape.atoms, "name": name}
        results.add("peers", key, partial(gpu_peers.measured, make, bench))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=File, default=File("benchmarks/gpu"))
    parser.add_argument("--atoms", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--sweep",
        nargs="*",
        choices=SWEPT,
        metavar="KERNEL",
        help=f"time other tiles instead: of {', '.join(SWEPT)}; default all",
    )
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

    def product(self) -> float:
        """TFLOP/s of a float32 product of matrices."""
        size = 64 if self.device == "cpu" else 8192
        a, b = (torch.randn(size, size, device=self.device) for _ in range(2))
        return 2e-9 * size**3 / self.ms(lambda: a @ b)

    def copy(self) -> float:
        """GB/s of a copy, read and written."""
        source = torch.randn(1 << 10 if self.device == "cpu" else 1 << 28, device=self.device)
        target = torch.empty_like(source)
        return 8e-6 * len(source) / self.ms(lambda: target.copy_(source))

    def row(self, work: Work, atoms: int, precision: str, ceilings: tuple[float, float]) -> Row:
        """Times a call and compares it with its floor."""
        ms, size = self.ms(work.run), 4e-9 * work.numbers
        floors = 1e-9 * work.operations / ceilings[0], 1e3 * size / ceilings[1]
        rates = 1e-9 * work.operations / ms, 1e3 * size / ms
        bound = "arithmetic" if floors[0] > floors[1] else "memory"
        return Row(atoms, work.name, precision, ms, *rates, *floors, bound, max(floors) / ms)


def machine(bench: Bench) -> dict[str, Any]:
    """Where it runs."""
    import triton

    name = torch.cuda.get_device_name() if bench.device == "cuda" else "interpreter"
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__}


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
    return {"largest_error": largest}


def sweep(shape: Shape, bench: Bench, results: Results, kernels: list[str]) -> None:
    """Times of the convolution's kernels with other tiles; null where a tile does not fit."""
    from msmlff.nn.ops.triton_convolution import TILES

    for work in convolution_work(shape, Inputs.make(shape, bench.device)):
        if work.name not in kernels:
            continue
        kernel, tangent = work.name.split()[0], work.name.endswith("tangent")
        for size in SWEEP:

            def measured(work: Work = work) -> dict[str, Any]:
                try:
                    return {"ms": bench.ms(work.run)}
                except Exception as reason:  # a tile that does not fit is a result, too
                    return {"ms": None, "reason": str(reason)[:200]}

            with replaced(TILES, (kernel, tangent), size):
                key = {"atoms": shape.atoms, "name": work.name, "tile": list(size)}
                results.add("tiles", key, measured)


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
        "| atoms | kernel | precision | ms | TFLOP/s | GB/s | arithmetic floor ms | memory floor ms "
        "| bound by | share reached |",
        "|---|---|---|" + "--:|" * 5 + "---|--:|",
    ]
    for r in result["rows"]:
        rates = f"{r['ms']:.4g} | {r['tflops']:.3g} | {r['gb_s']:.3g}"
        floors = f"{r['arithmetic_ms']:.3g} | {r['memory_ms']:.3g} | {r['bound_by']}"
        start = f"| {r['atoms']} | {r['name']} | {r['precision']}"
        lines.append(f"{start} | {rates} | {floors} | {r['share_of_floor']:.0%} |")
    lines += ["", "Largest error of the convolution's values, over their root mean square:"]
    lines += [f"- {e['atoms']} atoms, {e['precision']}: {e['largest_error']:.2g}" for e in result["errors"]]
    if result["peers"]:
        lines += ["", "| atoms | peer | forward ms | with backward ms |", "|---|---|--:|--:|"]
    for p in result["peers"]:
        lines.append(f"| {p['atoms']} | {p['name']} | {p['forward_ms']:.4g} | {p['with_backward_ms']:.4g} |")
    if result["tiles"]:
        lines += ["", "| atoms | kernel | tile: edges, channels, warps | ms |", "|---|---|---|--:|"]
    for t in sorted(result["tiles"], key=lambda t: (t["atoms"], t["name"], t["ms"] or float("inf"))):
        ms = "does not fit" if t["ms"] is None else f"{t['ms']:.4g}"
        lines.append(f"| {t['atoms']} | {t['name']} | {', '.join(map(str, t['tile']))} | {ms} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
