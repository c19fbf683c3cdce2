"""``python -m recbole_derrd`` is the console script, which also finds one's own models in the working directory."""

import os
import sys

import recbole_derrd
from recbole_derrd.cli import main

_HERE = os.getcwd()
# Python looks there first, where a stray colorlog.py would be taken for the package; but for a checkout of our own.
_FIRST = not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [_HERE]
if _FIRST and os.path.dirname(os.path.dirname(os.path.abspath(recbole_derrd.__file__))) != _HERE:
    sys.path.append(sys.path.pop(0))

sys.exit(main())
