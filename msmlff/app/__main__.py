"""python -m msmlff.app: the msmlff command."""

import sys

from msmlff.app.cli import main

sys.exit(main())
