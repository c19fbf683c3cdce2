"""Arrays made of a teacher's embeddings: the embeddings themselves, and each entity's nearest neighbours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from recbole_derrd.errors import DataError, OptionError
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
        known: which entities have an embedding [n]; all of them if None. The others have no neighbours and are none.
    """

    side: str
    hint: str | None
    count: int
    components: int
    embeddings: Array
    settings: BuildSettings
    known: Array | None = None

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
        ids = torch.arange(1, len(self.embeddings)) if self.known is None else torch.from_numpy(self.known.nonzero()[0])
        if len(ids) <= self.count:
            raise OptionError(
                f"The teacher knows {len(ids)} {self.side}s by embeddings, so that none has {self.count} others near "
                "it. Ask for fewer neighbours, or take a teacher that knows more of them."
            )
        real = principal_components(torch.from_numpy(self.embeddings[ids.numpy()]).to(device), self.components)
        # Centring leaves the distances as they are and reduces their rounding errors.
        real = real - real.mean(dim=0)
        squares = real.square().sum(dim=1)
        at_once = entities_at_once(len(real), device)
        start, stop = shard_range(len(real))
        for low in tqdm(range(start, stop, at_once), desc=progress, ncols=100, disable=not progress):
            found = nearest(real, low, min(low + at_once, stop), self.count, squares)
            rows = ids[low : low + len(found)]
            # From the first of them to the last: rows between are of entities that are not known.
            block = torch.zeros(int(rows[-1] - rows[0]) + 1, self.count, dtype=torch.int32)
            block[rows - rows[0]] = ids[found.cpu()].to(torch.int32)
            file.write(int(rows[0]), block.numpy())
        return describe(file, components=self.components)
