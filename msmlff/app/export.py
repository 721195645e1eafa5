"""msmlff export: a model as compiled code for C++ programs, or as a file for a pair style of LAMMPS."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from msmlff.models.base import ForceField

DESCRIPTION = (
    "Write a model for other programs. package: compiled energy, forces and stress for C++ programs "
    "(AOTInductor). mliap: a file for LAMMPS's pair style mliap unified."
)
SUFFIXES = {"package": ".pt2", "mliap": ".mliap"}


def export_command(arguments: list[str]) -> int:
    """Write a file and say what it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="msmlff export", description=DESCRIPTION)
    parser.add_argument("model", type=Path, help="run folder or model file")
    parser.add_argument(
        "out", type=Path, nargs="?", help="default: the model file's name with .pt2, for mliap with .mliap"
    )
    parser.add_argument("--format", choices=list(SUFFIXES), default="package", help="default: package")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of the network; default: as trained")
    options = parser.parse_args(arguments)

    import torch  # these take seconds, and --help needs none

    from msmlff.data.model_path import model_file
    from msmlff.models.files import load_model, read_header
    from msmlff.simulation.files import OutputError

    file = model_file(options.model)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    out = options.out or file.with_suffix(SUFFIXES[options.format])
    model = load_model(file, dtype)
    write = _write_package if options.format == "package" else _write_mliap
    console = Console()
    try:
        facts = write(model, out, read_header(file)["record"], console)
    except OutputError as error:
        Console(stderr=True).print(
            f"[bold red]failed:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        return 1
    console.print(
        f"{out}: {type(model).__name__}, {str(model.dtype).removeprefix('torch.')}, "
        f"{out.stat().st_size / 2**20:.1f} MiB; {facts}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _write_package(model: ForceField, out: Path, record: dict[str, Any], console: Console) -> str:
    """Compiled code; what it differs from the model by."""
    from msmlff.simulation.export import export_package, load_package, parity

    with console.status("tracing and compiling"):
        export_package(model, out, record)
    function, _ = load_package(out)
    return f"largest difference of a force from the model's {parity(model, function).force:.1e} eV/Å"


def _write_mliap(model: ForceField, out: Path, record: dict[str, Any], console: Console) -> str:
    """A file for LAMMPS; the commands that read it."""
    from ase.data import chemical_symbols

    from msmlff.simulation.mliap import export_mliap

    export_mliap(model, out, record)
    elements = " ".join(chemical_symbols[z] for z in model.atomic_numbers)
    return (
        f"pair_style mliap unified {out} 0; pair_coeff * * and the element of each atom type, of {elements}"
    )
