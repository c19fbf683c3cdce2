"""What there is: Python, torch, the card and the libraries; and what is missing, in a sentence."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any


def facts(kind: str) -> dict[str, Any]:
    """Return the machine's facts."""
    import torch

    from recbole_derrd.report.environment import git_commit, versions

    found: dict[str, Any] = {
        **versions(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
        "checked": {"cuda": "the card", "cpu": "the CPU", "pretend": "the CPU, pretending to be a card"}[kind],
        "cuda": torch.version.cuda,
        "cards": torch.cuda.device_count(),
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found.update(
            card=card.name,
            memory_gib=round(card.total_memory / 2**30, 1),
            capability=f"{card.major}.{card.minor}",
            multiprocessors=card.multi_processor_count,
            cudnn=torch.backends.cudnn.version(),
        )
    return found


def sentence(found: dict[str, Any]) -> str:
    """Say in one line what there is."""
    libraries = ", ".join(
        f"{name} {found.get(name)}" for name in ("python", "torch", "numpy", "scipy", "pandas", "recbole")
    )
    card = f"{found['card']} ({found['memory_gib']} GiB), CUDA {found['cuda']}" if "card" in found else "no card"
    return f"Checked: {found['checked']}. {libraries}; {card}; {found['cores']} cores."
