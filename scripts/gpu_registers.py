"""Registers and spills of the Triton convolution's kernels, compiled for capability 9.0; it needs no GPU.

    python scripts/gpu_registers.py                                  with the tiles in use
    python scripts/gpu_registers.py --tile 16 32 1                   with another

In float32 at 128 channels, 64 radial functions, hidden l 1 and edges' l 3, the shapes of the benchmark's
MACE. What a spill costs, ``gpu_kernels.py --sweep`` says.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

from msmlff.nn.convolution import convolution_paths
from msmlff.nn.ops.triton_common import Tile
from msmlff.nn.ops.triton_convolution import TILES
from msmlff.nn.ops.triton_convolution_source import kernels

INTEGERS = {"sender", "receiver", "row_ptr", "by_sender", "sender_ptr"}
COUNTS = {"num_edges", "per_chunk"}
SIZES = {"K": 128, "N": 64, "NP": 64, "HM": 4, "YM": 16, "PRECISION": "tf32x3", "INDEX": tl.int32}


def main() -> None:
    """A line of Markdown for each kernel."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--tile", type=int, nargs=3, metavar=("EDGES", "CHANNELS", "WARPS"))
    other = arguments.parse_args().tile
    code = kernels(tuple(convolution_paths(1, 3, 3)))
    print(f"Triton {triton.__version__}\n")
    print("| kernel | tile | registers | bytes spilled a thread | read back |\n|---|---|--:|--:|--:|")
    for (name, tangent), tile in TILES.items():
        tile = Tile(*other) if other else tile
        kernel = f"{name}_tangent" if tangent else name
        shape = f"{tile.rows}, {tile.channels}, {tile.warps}"
        print(f"| {kernel} | {shape} | {' | '.join(compiled(code[kernel], tile, tangent))} |", flush=True)


def compiled(kernel: Any, tile: Tile, moves_weight: bool) -> list[str]:
    """Registers, bytes of spill stores and of spill loads, a thread."""
    constants = {**SIZES, "BE": tile.rows, "BK": tile.channels, "MOVES_W": moves_weight}
    types = dict.fromkeys(kernel.arg_names, "*fp32")
    types |= {n: "*i64" for n in types if n in INTEGERS} | {n: "i32" for n in types if n in COUNTS}
    types |= dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(kernel, types, constexprs=constants)
    options = {"num_warps": tile.warps, "num_stages": 1, "enable_fp_fusion": True}
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        command = [
            get_ptxas(90).path,
            "-v",
            "--gpu-name=sm_90a",
            str(file),
            "-o",
            str(file.with_suffix(".o")),
        ]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    patterns = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    return [re.findall(pattern, log)[0] for pattern in patterns]


if __name__ == "__main__":
    main()
