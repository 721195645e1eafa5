"""Train a force field: python train.py model=msmace data=cpd_200 (--help shows every choice)."""

import sys

from msmlff.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
