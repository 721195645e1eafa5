"""python -m msmlff.native: compile the kernels in place."""

from __future__ import annotations

import sys

from msmlff.native.build import LIBRARIES, BuildError, build


def main() -> int:
    """Returns the exit code."""
    try:
        flags = build()
    except (BuildError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{', '.join(map(str, LIBRARIES.values()))} ({' '.join(flags)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
