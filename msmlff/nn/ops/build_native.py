"""Compiles the kernels of ``native``: ``python -m msmlff.nn.ops.build_native``.

The installation does the same; this is for a machine that had no compiler then, or has another processor.
It uses the standard library alone, so that the build hook can import it by its path.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
LIBRARY = Path(__file__).parent / "_native.so"
COMMAND = "python -m msmlff.nn.ops.build_native"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast")


class BuildError(Exception):
    """No compiler, or it failed."""


def processor() -> dict[str, str]:
    """What compiled code depends on: the architecture and the instruction sets of this machine."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info.read_text(), re.M) if info.is_file() else None
    return {"machine": platform.machine(), "flags": found.group(1) if found else ""}


def sources_hash() -> str:
    """Of the kernels' source: a library of other source would misread its arguments."""
    parts = [p.name.encode() + b"\0" + p.read_bytes() for p in sorted(SOURCES.iterdir()) if p.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def note_of(library: Path) -> Path:
    """Where the processor that a library was compiled for is noted."""
    return library.with_suffix(".json")


def build(library: Path = LIBRARY) -> list[str]:
    """Compiles the kernels for this machine's processor and returns the flags that were used.

    Raises:
        BuildError: with what the compiler said.
    """
    named = os.environ.get("CXX", "").split()
    compiler = named or [found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))][:1]
    if not compiler or shutil.which(compiler[0]) is None:
        raise BuildError(f"no C++ compiler ({' '.join(named) or 'g++, clang++ or c++'}) on this machine")
    # OpenMP's runtime is not linked: the library must share that of torch, which is loaded first.
    attempts = [("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ()]
    said = ""
    for more in attempts:
        try:
            _compile(compiler, (*FLAGS, *more), library)
        except subprocess.CalledProcessError as error:
            said = said or error.stderr.strip()[-1500:]
            continue
        native = "-march=native" in more
        note = {**processor(), "native": native, "openmp": "-fopenmp" in more, "sources": sources_hash()}
        note_of(library).write_text(json.dumps(note) + "\n")
        return [*FLAGS, *more]
    raise BuildError(f"{' '.join(compiler)} failed:\n{said}")


def _compile(compiler: list[str], flags: tuple[str, ...], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        sources = sorted(SOURCES.glob("*.cpp"))
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        jobs = [
            subprocess.Popen(
                [*compiler, *flags, "-c", str(source), "-o", target], stderr=subprocess.PIPE, text=True
            )
            for source, target in zip(sources, objects, strict=True)
        ]
        errors = [job.communicate()[1] for job in jobs]
        for job, error in zip(jobs, errors, strict=True):
            if job.returncode:
                raise subprocess.CalledProcessError(job.returncode, "c++", stderr=error)
        made = str(Path(folder) / "library.so")
        shared = ["-shared", *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
        subprocess.run(
            [*compiler, *shared, *objects, "-o", made], check=True, stderr=subprocess.PIPE, text=True
        )
        os.replace(made, library)  # whole or not at all


def main() -> int:
    """Builds the library in place; returns the exit code."""
    try:
        flags = build()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{LIBRARY} ({' '.join(flags)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
