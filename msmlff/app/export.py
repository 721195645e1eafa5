"""msmlff export: a model as compiled code that C++ programs run without Python."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

DESCRIPTION = "Compile energy, forces and stress of a model into a package for C++ programs (AOTInductor)."


def export_command(arguments: list[str]) -> int:
    """Write a package and compare it with the model on a structure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="msmlff export", description=DESCRIPTION)
    parser.add_argument("model", type=Path, help="run folder or model file")
    parser.add_argument("out", type=Path, nargs="?", help="default: the model file's name with .pt2")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of the network; default: as trained")
    options = parser.parse_args(arguments)

    import torch  # these take seconds, and --help needs none

    from msmlff.data.model_path import model_file
    from msmlff.models.files import load_model, read_header
    from msmlff.simulation.export import export_package, load_package, parity

    file = model_file(options.model)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    out = options.out or file.with_suffix(".pt2")
    model = load_model(file, dtype)
    console = Console()
    with console.status("tracing and compiling"):
        export_package(model, out, read_header(file)["record"])
    function, _ = load_package(out)
    console.print(
        f"{out}: {type(model).__name__}, {str(model.dtype).removeprefix('torch.')}, "
        f"{out.stat().st_size / 2**20:.1f} MiB; largest difference of a force from the model's "
        f"{parity(model, function):.1e} eV/Å",
        highlight=False,
        soft_wrap=True,
    )
    return 0
