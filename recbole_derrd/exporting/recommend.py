"""Users' rankings from a checkpoint, as its model scores them, without an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recbole_derrd.experiment.log import deprecations_hidden
from recbole_derrd.exporting.checkpoint import Trained, load_trained
from recbole_derrd.exporting.request import Source
from recbole_derrd.exporting.scores import Embeddings, embeddings_of, rankings, scorer_of
from recbole_derrd.serving.ids import Ids
from recbole_derrd.serving.lists import named_users


def recommended(
    source: Source, users: str, k: int, *, keep_seen: bool
) -> tuple[list[str], Iterator[tuple[str, int, str, float]]]:
    """Return the users that are asked for, and the rows of their rankings: (user, rank, item, score).

    Args:
        source: the checkpoint.
        users: whose rankings, see :func:`recbole_derrd.serving.lists.named_users`.
        k: length of a ranking.
        keep_seen: leave the users' training items in.

    Raises:
        DistillError: something the user can mend, such as unknown users; before anything is scored.
    """
    with deprecations_hidden():
        trained = load_trained(source)
    every, _ = trained.tokens
    asked = named_users(users, every)
    rows = Ids(every, "user", f"in the data of '{source.checkpoint}'").rows(asked)
    embeddings = embeddings_of(trained.adapter, 32, trained.config["seed"])
    return asked, ranking_rows(trained, embeddings, k, keep_seen=keep_seen, users=rows)


def ranking_rows(
    trained: Trained, embeddings: Embeddings | None, count: int, *, keep_seen: bool, users: Sequence[int] | None = None
) -> Iterator[tuple[str, int, str, float]]:
    """Yield the rows of users' rankings, scored in blocks of users; everybody's unless ``users`` are given."""
    tokens, items = trained.tokens
    score = scorer_of(trained.adapter, embeddings)
    for user, places, scores in rankings(score, trained.data.history, count, keep_seen=keep_seen, users=users):
        for rank, (place, value) in enumerate(zip(places, scores), start=1):
            yield tokens[user], rank, items[place], float(value)
