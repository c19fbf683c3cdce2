"""One JSON file a run, beside those of other runs."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from recbole_derrd.report.schema import RunRecord
from recbole_derrd.runtime.files import replacing_file
from recbole_derrd.runtime.json_files import with_text_keys
from recbole_derrd.runtime.locks import clearing_folder


def write_record(record: RunRecord, folder: Path, name: str) -> Path:
    """Write a record into a file of its own, whose name is the given one and the time."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
    path = Path(folder) / f"{name}-{stamp}.json"
    attempt = 1
    while path.exists():
        path = Path(folder) / f"{name}-{stamp}-{attempt}.json"
        attempt += 1
    # No later record has this one's name, so what a killed process leaves is removed by the next record of any name.
    with clearing_folder(path.parent, ".json", "records"), replacing_file(path) as partial:
        partial.write_text(json.dumps(with_text_keys(record.to_json()), indent=1, default=str) + "\n", encoding="utf-8")
    return path
