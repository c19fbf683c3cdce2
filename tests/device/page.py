"""The results as a Markdown page, made from their JSON alone."""

from __future__ import annotations

from typing import Any

#: What each group of checks is about, in the order of the page.
GROUPS = {
    "loss": "Every method's loss: value and gradients on the device against the readable formula on the CPU in "
    "float32. Numbers are the largest error over the variants, as a share of the largest number of the same tensor.",
    "fast": "The quick ways and their parts, against the CPU.",
    "checkpoint": "Checkpoints and resumption.",
    "training": "Whole runs on ml-100k, on the device and on the CPU, from the same start.",
    "search": "Top-N rankings and full ranking.",
    "processes": "Two processes.",
    "model": "RecBole's models in their adapters: scores and gradients against the CPU.",
}


def shown(value: Any) -> str:
    """Return a number as it is shown."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    return str(value)


def page_of(content: dict[str, Any]) -> str:
    """Return the page."""
    facts, checks = content["facts"], content["checks"]
    counts = {status: sum(check["status"] == status for check in checks) for status in ("PASS", "FAIL", "SKIP")}
    form = "small form" if content["small"] else "whole form"
    lines = ["# On a device", "", f"Made by `python tests/device/check.py --page` ({form}) from its JSON.", ""]
    lines += ["| what | |", "|---|---|", *(f"| {name} | {shown(value)} |" for name, value in facts.items())]
    summary = f"{counts['PASS']} checks passed, {counts['FAIL']} failed, {counts['SKIP']} were skipped"
    lines += ["", f"{summary}, in {content['seconds']:.0f} s."]
    for group, about in GROUPS.items():
        own = [check for check in checks if check["name"].split("/")[0] == group]
        if own:
            lines += ["", f"## {group.capitalize()}", "", about, "", *_lines_of(own)]
    for size in dict.fromkeys(check["name"].split("/")[1] for check in checks if check["name"].startswith("speed/")):
        own = [check for check in checks if check["name"].startswith(f"speed/{size}/")]
        lines += ["", *_speed_lines(size, own)]
    return "\n".join(lines) + "\n"


def _lines_of(checks: list[dict[str, Any]]) -> list[str]:
    rows = ["| check | | seconds | numbers |", "|---|---|---:|---|"]
    for check in checks:
        numbers = ", ".join(f"{name} {shown(value)}" for name, value in check["numbers"].items())
        said = "; ".join(filter(None, (numbers, check["message"].replace("|", "/").replace("\n", " "))))
        rows.append(f"| {check['name'].split('/', 1)[1]} | {check['status']} | {check['seconds']:.1f} | {said} |")
    return rows


def _speed_lines(size: str, checks: list[dict[str, Any]]) -> list[str]:
    """Return the table of epochs of one size: ratios need the plain students' own rows."""
    lines = [f"## Epochs, {size}'s size", ""]
    about = next((check["numbers"]["data"] for check in checks if "data" in check["numbers"]), "")
    lines += [f"{about} Step and epoch are computed from a fixed number of steps.", ""] if about else []
    lines += ["| epoch of | | step (ms) | begin of an epoch (s) | epoch (s) | to plain | to stock | peak (MiB) |",
              "|---|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for check in checks:
        numbers = check["numbers"]
        cells = [numbers.get(name) for name in ("step ms", "begin s", "epoch s", "to plain", "to stock", "peak MiB")]
        note = check["message"].replace("|", "/") if check["status"] != "PASS" else ""
        shown_cells = " | ".join(shown(cell) for cell in cells)
        lines.append(f"| {check['name'].split('/', 2)[2]} | {check['status']} {note} | {shown_cells} |")
    return lines
