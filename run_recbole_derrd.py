"""Distil a RecBole model: ``python run_recbole_derrd.py --model=BPR --dataset=ml-100k --config_files=my.yaml``."""

import sys

from recbole_derrd.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
