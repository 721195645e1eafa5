"""Time and memory of the selectors; tables and figures go to benchmarks/selectors_MODE.{md,json}.

    python scripts/benchmark_selectors.py fps      # against scikit-matter: 100,000 frames x 256, 1,000 picks
    python scripts/benchmark_selectors.py scale    # pools of 1, 3 and 10 million environments x 64 on disk

``fps`` needs scikit-matter beside msmlff (pip install skmatter; it asks for scikit-learn < 1.9, so rather
in an environment of its own).
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

# Each mode is a module of this folder with add_arguments(parser) and run(arguments), imported when chosen.
MODES = {
    "fps": ("selectors_fps", "farthest-point sampling against scikit-matter"),
    "scale": ("selectors_scale", "time and memory with the size of the pool"),
}


def main() -> None:
    """Runs the mode that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=MODES, help="; ".join(f"{name}: {m[1]}" for name, m in MODES.items()))
    parser.add_argument("--threads", type=int, default=2, help="of the linear algebra library")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "benchmarks")
    known, _ = parser.parse_known_args([a for a in sys.argv[1:] if a not in ("-h", "--help")] or ["-h"])
    # Before numpy is imported, which reads it once.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(known.threads)
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    module = import_module(MODES[known.mode][0])
    module.add_arguments(parser)
    module.run(parser.parse_args())


if __name__ == "__main__":
    main()
