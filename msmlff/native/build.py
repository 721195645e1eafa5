"""Compiles the kernels in ``sources``: ``python -m msmlff.native``.

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

HERE = Path(__file__).parent
SOURCES = HERE / "sources"
LIBRARIES = {name: HERE / f"{name}.so" for name in ("operations", "rows")}
NOTE = HERE / "compiled.json"  # the processor and the source they were compiled for
COMMAND = "python -m msmlff.native"
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
    parts = [p.name.encode() + b"\0" + p.read_bytes() for p in sorted(SOURCES.rglob("*")) if p.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def build() -> list[str]:
    """Compiles the libraries for this machine's processor and returns the flags that were used.

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
            _compile(compiler, more)
        except subprocess.CalledProcessError as error:
            said = said or error.stderr.strip()[-1500:]
            continue
        native = "-march=native" in more
        note = {**processor(), "native": native, "openmp": "-fopenmp" in more, "sources": sources_hash()}
        NOTE.write_text(json.dumps(note) + "\n")
        return [*FLAGS, *more]
    raise BuildError(f"{' '.join(compiler)} failed:\n{said}")


def _compile(compiler: list[str], more: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=HERE) as name:
        folder = Path(name)
        jobs = []
        for source in sorted(SOURCES.glob("*/*.cpp")):
            # Distillation needs no torch and so no OpenMP: its kernels have threads of their own.
            flags = more if source.parent.name == "operations" else (*(set(more) - {"-fopenmp"}), "-pthread")
            command = [*compiler, *FLAGS, f"-I{SOURCES}", *flags, "-c", str(source)]
            target = folder / f"{source.parent.name}_{source.stem}.o"
            jobs.append(subprocess.Popen([*command, "-o", str(target)], stderr=subprocess.PIPE, text=True))
        errors = [job.communicate()[1] for job in jobs]
        for job, error in zip(jobs, errors, strict=True):
            if job.returncode:
                raise subprocess.CalledProcessError(job.returncode, "c++", stderr=error)
        shared = ["-shared", *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
        for library, path in LIBRARIES.items():
            objects = sorted(map(str, folder.glob(f"{library}_*.o")))
            link = [*compiler, *shared, *objects, *(["-pthread"] if library == "rows" else [])]
            subprocess.run(
                [*link, "-o", str(folder / path.name)], check=True, stderr=subprocess.PIPE, text=True
            )
        for path in LIBRARIES.values():
            os.replace(folder / path.name, path)  # whole or not at all
