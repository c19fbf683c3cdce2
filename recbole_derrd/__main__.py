"""``python -m recbole_derrd`` is the console script."""

import sys

from recbole_derrd.cli import main

sys.exit(main())
