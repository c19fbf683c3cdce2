"""The contract between distillation and a RecBole model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Callable, ClassVar

import torch
from torch import Tensor

from recbole_derrd.errors import OptionError
from recbole_derrd.ops.listed_scores import distinct_positions, listed_products
from recbole_derrd.runtime.randomness import kept_random_state

#: Lists this share of the catalogue long are scored against all of it: cheaper than finding their distinct items.
_WHOLE_CATALOGUE = 0.25


class Adapter:
    """Adapter around one unmodified RecBole model (teacher or student). It owns no parameter of its own.

    Ids are RecBole's: 0 is the padding id. Scores are raw logits, never probabilities.

    Args:
        model: the RecBole model.
    """

    #: Hint layers that the model's embeddings can be read from, default first; empty where it has no embeddings.
    hints: ClassVar[tuple[str, ...]] = ()
    #: Whether gradients reach the model through :meth:`score`, so that it can be a student.
    trainable: ClassVar[bool] = True
    #: Whether :meth:`start_at` can make its embeddings given ones.
    takes_start: ClassVar[bool] = False
    #: Whether an item that it scores -inf is ranked, behind all others, or never.
    ranks_all: bool = True
    #: The model's embedding tables of each side, by the names of their modules, where nothing else holds embeddings: a
    #: student of such tables can be trained in few bits.
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: Whether both sides' embeddings are propagated at once, by the model's ``forward``: such a student can be trained
    #: in few bits as well.
    propagates: ClassVar[bool] = False
    #: Whether :meth:`turn` can turn both sides by one rotation without a change of any score.
    rotates: ClassVar[bool] = False
    #: Whether :meth:`score` may use a faster way where there is one; equal within rounding.
    fused: bool = True

    def __init__(self, model: Any) -> None:
        """Wrap the model."""
        self.model = model
        self._shared: dict[tuple[str, bool], Any] | None = None

    @property
    def n_users(self) -> int:
        """Number of users, padding id 0 included."""
        return int(self.model.n_users)

    @property
    def n_items(self) -> int:
        """Number of items, padding id 0 included."""
        return int(self.model.n_items)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    def parameter_count(self) -> int:
        """Return how many parameters the model trains; those of distillers that are attached to it are not its own."""
        return sum(one.numel() for one in self.own_parameters() if one.requires_grad)

    def own_parameters(self) -> Iterator[Tensor]:
        """Yield the model's parameters without those of distillers that are attached to it."""
        return (one for name, one in self.model.named_parameters() if not name.startswith("distillers."))

    def propagated_numbers(self) -> int:
        """Return how many numbers a step gathers in propagations over a graph, forward and backward."""
        return 0

    def logit_work(self) -> int:
        """Return the multiply-adds of one logit: of a network, the parameters that are no table of users or items."""
        tables = (self.n_users, self.n_items)
        return sum(one.numel() for one in self.own_parameters() if not one.dim() or one.shape[0] not in tables)

    def user_embeddings(self, users: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the users' embeddings [n, d]; of all users where none are named."""
        raise OptionError(self._without_embeddings())

    def item_embeddings(self, items: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the items' embeddings [n, d]; of all items where none are named."""
        raise OptionError(self._without_embeddings())

    def embeddings(self, side: str, ids: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return :meth:`user_embeddings` or :meth:`item_embeddings`, by side: "user" or "item"."""
        return self.user_embeddings(ids, hint) if side == "user" else self.item_embeddings(ids, hint)

    @classmethod
    def catalogue_at_once(cls, model: type[Any]) -> bool:
        """Return whether :meth:`score_all` gives at once what this model class has no ``full_sort_predict`` for."""
        return False

    def start_at(self, users: Tensor, items: Tensor) -> None:
        """Set the weights so that the embeddings are these [n_users - 1, d], [n_items - 1, d]; padding stays."""
        raise OptionError(f"The embeddings of {self.name} cannot be set: take out warm_start.")

    def turn(self, rotation: Tensor) -> None:
        """Turn both sides' embeddings by a rotation [d, d], which leaves every score as it is; padding stays."""
        raise NotImplementedError

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K] of items [B, K] for users [B], differentiable."""
        raise NotImplementedError

    def score_users(self, items: Tensor, users: Tensor) -> Tensor:
        """Return the logits [B, K] of users [B, K] for items [B], differentiable: :meth:`score`, the sides swapped."""
        pairs = items.unsqueeze(1).expand_as(users)
        return self.score(users.reshape(-1), pairs.reshape(-1, 1)).view(users.shape)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items] of every item for users [B]."""
        raise NotImplementedError

    def layer(self, hint: str | None) -> str:
        """Return the hint layer asked for, the default where none is.

        Raises:
            OptionError: the model has no such layer.
        """
        if not self.hints:
            raise OptionError(self._without_embeddings())
        if hint is None:
            return self.hints[0]
        if hint not in self.hints:
            raise OptionError(f"{self.name} has no hint layer '{hint}'. It has: {', '.join(self.hints)}.")
        return hint

    @property
    def name(self) -> str:
        """The RecBole name of the model."""
        return type(self.model).__name__.replace("Distilled", "")

    def _without_embeddings(self) -> str:
        return (
            f"{self.name} has no user and item embeddings, so methods that learn from embeddings cannot use it, as "
            "teacher or student. Use distillers that learn from rankings or scores."
        )

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Within the block, what is costly and the same for every call (a graph propagation) is computed once."""
        if self._shared is not None:
            yield
            return
        self._shared = {}
        try:
            yield
        finally:
            self._shared = None

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Compute, or give what this block of :meth:`shared` has computed already."""
        if self._shared is None:
            return compute()
        # What was computed without gradients has none for who wants them; the other way round it serves.
        place = key, torch.is_grad_enabled() or (key, True) in self._shared
        if place not in self._shared:
            self._shared[place] = compute()
        return self._shared[place]

    def observed_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the student's own ``forward`` in its base loss; graph adapters remember the result for the distillers."""
        return forward(*args, **kwargs)


class EmbeddingAdapter(Adapter):
    """A model whose logit is the dot product of a user vector and an item vector."""

    hints: ClassVar[tuple[str, ...]] = ("embedding",)
    _width: int | None = None

    @torch.no_grad()
    def logit_work(self) -> int:
        """Return the multiply-adds of one logit: the width of the embeddings."""
        if self._width is None:
            # A propagation may draw.
            with kept_random_state():
                self._width = self.item_embeddings(torch.ones(1, dtype=torch.int64, device=self.device)).shape[1]
        return self._width

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        raise NotImplementedError

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        raise NotImplementedError

    def user_embeddings(self, users: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the users' embeddings [n, d]."""
        return self._users(users, self.layer(hint))

    def item_embeddings(self, items: Tensor | None = None, hint: str | None = None) -> Tensor:
        """Return the items' embeddings [n, d]."""
        return self._items(items, self.layer(hint))

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        layer = self.hints[0]
        with self.shared():
            user = self._users(users, layer)
            if self.fused and user.device.type == "cpu":
                return listed_products(user, *self._listed(items, layer))
            item = self._items(items.reshape(-1), layer).unflatten(0, items.shape)
        return torch.bmm(item, user.unsqueeze(2)).squeeze(2)

    def score_users(self, items: Tensor, users: Tensor) -> Tensor:
        """Return the logits [B, K] of users [B, K] for items [B]."""
        layer = self.hints[0]
        with self.shared():
            item = self._items(items, layer)
            if users.numel() >= _WHOLE_CATALOGUE * self.n_users:
                every, positions = self.once("all users", lambda: self._users(None, layer)), users.long()
            else:
                distinct, positions = distinct_positions(users.long(), self.n_users)
                every = self._users(distinct, layer)
        if self.fused and item.device.type == "cpu":
            return listed_products(item, every, positions)
        user = every.index_select(0, positions.reshape(-1)).unflatten(0, positions.shape)
        return torch.bmm(user, item.unsqueeze(2)).squeeze(2)

    def _listed(self, items: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """Return embeddings [m, d] that hold all of the listed items once, and each item's row in them."""
        if items.numel() >= _WHOLE_CATALOGUE * self.n_items:
            return self.once("all items", lambda: self._items(None, layer)), items.long()
        distinct, positions = distinct_positions(items.long(), self.n_items)
        return self._items(distinct, layer), positions

    def score_all(self, users: Tensor) -> Tensor:
        """Return the logits [B, n_items]."""
        with self.shared():
            items = self.once("all items", lambda: self._items(None, self.hints[0]))
            scores: Tensor = self._users(users, self.hints[0]) @ items.T
        return scores
