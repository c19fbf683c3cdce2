"""``python -m recbole_derrd`` is the console script, which also finds one's own models in the working directory."""

import os
import sys

# Before anything else is imported: Python looks here first, where a stray yaml.py would be taken for the package. But
# for a checkout of our own.
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
try:
    _HERE = os.getcwd()
except OSError:  # the folder is gone
    _HERE = _OWN
if not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [_HERE] and _OWN != _HERE:
    sys.path.append(sys.path.pop(0))

from recbole_derrd.cli import main  # noqa: E402

sys.exit(main())
