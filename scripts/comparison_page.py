"""One page of several comparisons: python scripts/comparison_page.py FOLDER ... --out docs/comparison.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from msmlff.analysis.comparison_page import study_page, write_comparison


def main() -> None:
    """Write each folder's own page and pictures, then the page of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of msmlff compare")
    parser.add_argument("--out", type=Path, default=Path("docs/comparison.md"))
    arguments = parser.parse_args()
    for folder in arguments.folders:
        write_comparison(folder)
    print(study_page({folder.name: folder for folder in arguments.folders}, arguments.out))


if __name__ == "__main__":
    main()
