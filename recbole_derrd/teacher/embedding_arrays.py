"""Arrays made of a teacher's embeddings: the embeddings themselves, and each entity's nearest neighbours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from recbole_derrd.errors import DataError
from recbole_derrd.runtime.processes import is_main_process, shard_range
from recbole_derrd.teacher.array_builder import About, BuildSettings, create_shared, describe
from recbole_derrd.teacher.array_checks import Expected, fault_of_embeddings
from recbole_derrd.teacher.array_file import ArrayFile
from recbole_derrd.teacher.knowledge import Array
from recbole_derrd.teacher.neighbours import entities_at_once, nearest, principal_components
from recbole_derrd.teacher.ranking_arrays import expected_rankings
from recbole_derrd.teacher.source import LazyTeacher


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The embeddings of all users or items at a hint layer [n, d], float32.

    Attributes:
        side: "user" or "item".
        hint: the teacher's hint layer; its default if None.
        entities: number of users or items, padding included.
    """

    side: str
    hint: str | None
    entities: int

    @property
    def name(self) -> str:
        """What the array is called."""
        return f"{self.side}-embeddings-{self.hint or 'default'}"

    @property
    def expected(self) -> Expected:
        """Finite numbers; the teacher alone knows how many dimensions."""
        return Expected(np.float32, self.entities, None, fault_of_embeddings)

    @torch.no_grad()
    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Ask the teacher for all embeddings at once; the main process writes them."""
        with teacher.adapter.shared():
            embeddings = teacher.adapter.embeddings(self.side, None, self.hint).float().cpu().numpy()
        # In parts: the answers for all numbers at once would take a quarter of the embeddings' memory again.
        if not all(np.isfinite(part).all() for part in np.array_split(embeddings, max(1, len(embeddings) >> 16))):
            raise DataError(
                "The teacher's embeddings hold values that are not finite numbers; train the teacher again."
            )
        if not is_main_process():
            return {}
        # Not np.save: on a full disk numpy may lose the last 4 KB without an error.
        count, width = embeddings.shape
        file = ArrayFile.create(path, (count, width), embeddings.dtype)
        file.write(0, embeddings)
        return describe(file)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The ids of each entity's nearest others, nearest first [n, count], int32; row 0 is padding.

    Attributes:
        side: "user" or "item".
        hint: the hint layer of the embeddings; the default if None.
        count: neighbours of each.
        components: principal components that distances are taken in, at most the embeddings' dimensions.
        embeddings: of all entities, the padding id's first [n, d].
        settings: whether to show a progress bar.
    """

    side: str
    hint: str | None
    count: int
    components: int
    embeddings: Array
    settings: BuildSettings

    @property
    def name(self) -> str:
        """What the array is called."""
        return f"{self.side}-neighbours-{self.hint or 'default'}-{self.count}-{self.components}"

    @property
    def expected(self) -> Expected:
        """Rankings of entities without the entity itself."""
        return expected_rankings(len(self.embeddings), self.count, len(self.embeddings), own=True)

    @torch.no_grad()
    def write(self, path: Path, teacher: LazyTeacher) -> About:
        """Compare all entities with all others, on the teacher's device."""
        device, progress = teacher.adapter.device, self.settings.progress(f"Nearest {self.side}s")
        file = create_shared(path, len(self.embeddings), self.count)
        real = principal_components(torch.from_numpy(self.embeddings[1:]).to(device), self.components)
        # Centring leaves the distances as they are and reduces their rounding errors.
        real = real - real.mean(dim=0)
        squares = real.square().sum(dim=1)
        at_once = entities_at_once(len(real), device)
        start, stop = shard_range(len(real))
        for low in tqdm(range(start, stop, at_once), desc=progress, ncols=100, disable=not progress):
            found = nearest(real, low, min(low + at_once, stop), self.count, squares)
            file.write(low + 1, (found + 1).to(torch.int32).cpu().numpy())
        return describe(file, components=self.components)
