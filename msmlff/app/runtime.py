"""The process a command runs in: allocator, threads, device, seeds.

torch is imported where it is used: that takes seconds, and some commands need none.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msmlff import __version__
from msmlff.errors import InputError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep freed memory.

    By default the large temporaries of every training step go back to the kernel and half of the step is page
    faults. Elsewhere than on glibc, or with another allocator preloaded, this does nothing.
    """
    if not sys.platform.startswith("linux") or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20)):
        mallopt(parameter, value)


def prepare(threads: int | None, seed: int, tf32: bool = True) -> None:
    """Allocator, threads, seeds and precision of this process.

    Args:
        threads: of the CPU; None: as they are.
        seed: of torch and NumPy.
        tf32: dense products of float32 on a GPU may round their factors to TF32, as training does; False:
            they may not. No effect on the CPU.
    """
    import torch

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global state that libraries draw from)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


def limit_threads(threads: int | None) -> None:
    """Threads of the linear algebra, and of torch where it is, or will be, imported; None: as it is."""
    if threads is None:
        return
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def pick_device(name: str) -> str:
    """ "cpu" or "cuda" for auto, cpu, cuda.

    Raises:
        InputError: cuda where there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch sees no CUDA GPU; write device=auto or device=cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


class PeakMemory:
    """Largest memory since this object was made: of the GPU's allocator on CUDA, else resident memory."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            return
        gc.collect()  # what an earlier job of the process left
        self.reset = _reset_peak()
        self.before = resident_peak_mb()

    def mb(self) -> float | None:
        """MB; None where the system keeps one mark for the whole process and an earlier job's was higher."""
        if self.device == "cuda":
            import torch

            return round(torch.cuda.max_memory_allocated() / 2**20, 1)
        peak = round(resident_peak_mb(), 1)
        return peak if self.reset or peak > self.before else None


def _reset_peak() -> bool:
    """Give freed memory back and forget the largest resident memory so far; False where that cannot be."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def resident_peak_mb() -> float:
    """Largest resident memory of the process in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the process that started this one
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found.group(1)) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device: str) -> str:
    """The device in words."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_model() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.is_file() else None
    return found.group(1).strip() if found else f"CPU ({platform.processor() or platform.machine()})"


def versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    from importlib.metadata import version

    names = ("torch", "pytorch-lightning", "hydra-core", "e3nn", "torch-scatter", "ase", "numpy", "vesin")
    return {"msmlff": __version__, "python": platform.python_version(), **{n: version(n) for n in names}}


def git_revision(file: Path = Path(__file__)) -> str:
    """The commit of the checkout that ``file`` belongs to, with "+" where files differ from it.

    "" outside a checkout, also where another repository merely has the installed package below it.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(file.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        if git("ls-files", "--error-unmatch", file.name) is None:
            return ""
        head = git("rev-parse", "--short=12", "HEAD") or ""
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:  # no git here
        return ""


def command_line(command: str, overrides: Sequence[str]) -> str:
    """The line that does this run alone (also where a sweep started it), quoted for a shell."""
    script = command == "train" and sys.argv[0].endswith("train.py")
    return shlex.join([*(["python", "train.py"] if script else ["msmlff", command]), *overrides])


def shown_path(path: Path) -> Path:
    """The path as a user would write it: relative where it lies below the working directory."""
    working = Path.cwd()
    return path.relative_to(working) if path.is_relative_to(working) else path
