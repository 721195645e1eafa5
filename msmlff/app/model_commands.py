"""msmlff import-mace and msmlff report."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from msmlff.analysis.report import write_report
from msmlff.models.files import save_model
from msmlff.models.import_mace import import_mace


def import_mace_command(arguments: list[str]) -> int:
    """Convert a mace-torch checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(prog="msmlff import-mace", description=import_mace.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, help="a whole model as mace-torch saves it (.model)")
    parser.add_argument("out", type=Path, nargs="?", help="default: the same name with .safetensors")
    parser.add_argument(
        "--trust", action="store_true", help="unpickle the file: it can run any code, so only files you trust"
    )
    options = parser.parse_args(arguments)
    out = options.out or options.file.with_suffix(".safetensors")
    model = import_mace(options.file, trust=options.trust)
    save_model(model, out, {"imported_from": options.file.name})
    count = sum(p.numel() for p in model.parameters())
    Console().print(
        f"{out}: {type(model).__name__}, {count:,} parameters, cutoff {model.cutoff:g} Å", soft_wrap=True
    )
    return 0


def report_command(arguments: list[str]) -> int:
    """Write report.html of a run folder again; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="msmlff report", description="Write report.html of a run folder again."
    )
    parser.add_argument("folder", type=Path)
    Console().print(str(write_report(parser.parse_args(arguments).folder)), soft_wrap=True)
    return 0
