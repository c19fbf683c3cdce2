"""Graph models: embeddings are embeddings propagated over the user-item graph, once per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_derrd.adapters.base import EmbeddingAdapter
from recbole_derrd.adapters.factors import rows, turn_tables


class GraphAdapter(EmbeddingAdapter):
    """Models whose ``forward`` returns every user's and every item's vector (NGCF, DGCF, SpectralCF, NCL)."""

    hints = ("final", "ego")
    propagates: ClassVar[bool] = True
    #: What stands between a side's propagated embeddings and whoever reads them: a quantiser.
    readers: Mapping[str, Callable[[Tensor], Tensor]] = {}

    def propagated_numbers(self) -> int:
        """Return how many numbers a step gathers: of each edge, both ways, in each layer, forward and backward."""
        interactions = getattr(self.model, "interaction_matrix", None)
        edges = 0 if interactions is None else 2 * int(interactions.nnz)
        return 2 * edges * self.logit_work() * int(getattr(self.model, "n_layers", 1))

    def _arguments(self) -> tuple[Any, ...]:
        return ()

    def observed_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Remember the propagation of the base loss as it is read, or reuse the one that is remembered."""
        own = self._arguments()
        # A subclass may ask for another propagation, a perturbed one for instance.
        usual = not kwargs and len(args) == len(own) and all(given is known for given, known in zip(args, own))
        if not usual:
            return forward(*args, **kwargs)
        return self.once("propagation", lambda: self._read(forward(*args, **kwargs)))

    def _read(self, output: Any) -> Any:
        if not self.readers:
            return output
        sides = (self.readers.get(side, nn.Identity())(every) for side, every in zip(("user", "item"), output))
        return (*sides, *output[2:])

    def _propagated(self) -> tuple[Tensor, Tensor]:
        output = self.once("propagation", lambda: self.model.forward(*self._arguments()))
        return output[0], output[1]

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        if layer == "ego":
            return rows(self.model.user_embedding, users)
        every = self._propagated()[0]
        return every if users is None else every[users]

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        if layer == "ego":
            return rows(self.model.item_embedding, items)
        every = self._propagated()[1]
        return every if items is None else every[items]


#: Steps that a start may take; two layers have a condition number of 4, so that each leaves at most 3/5 of an error.
_START_STEPS = 40


class LightGCNAdapter(GraphAdapter):
    """LightGCN, whose embeddings P E are linear in the tables E; P, a mean of the graph's powers, is symmetric.

    Where the graph has an eigenvalue a in [-1, 1], P has (1 + a + ... + a^L) / (L + 1): it is singular for an odd
    number of layers, and well conditioned for an even one.
    """

    takes_start = True
    rotates = True

    def turn(self, rotation: Tensor) -> None:
        """Turn both tables, and with them what is propagated of them."""
        turn_tables(self.model, rotation)

    def start_at(self, users: Tensor, items: Tensor) -> None:
        """Fill the tables with what is propagated to these embeddings, or as near to them as it can be."""
        tables = self.model.user_embedding.weight, self.model.item_embedding.weight
        padding = [table[0].clone() for table in tables]

        def propagated(ego: Tensor) -> Tensor:
            own_users, own_items = ego.split([self.n_users, self.n_items])
            tables[0].copy_(own_users)
            tables[1].copy_(own_items)
            return torch.cat(self._propagated())

        with torch.no_grad():
            wanted = torch.cat([functional.pad(side, (0, 0, 1, 0)) for side in (users, items)])
            solution = least_squares(propagated, wanted, _START_STEPS)
            for table, filled, pad in zip(tables, solution.split([self.n_users, self.n_items]), padding):
                table.copy_(filled)
                table[0] = pad


def least_squares(matrix: Callable[[Tensor], Tensor], wanted: Tensor, steps: int, norm: float = 1.0) -> Tensor:
    """Minimise ||M X - wanted||² by conjugate gradients (Hestenes and Stiefel, 1952), as far as so many steps come.

    Args:
        matrix: X [n, d] to M X, for a symmetric M, singular or not.
        wanted: the right sides [n, d], each column by itself.
        steps: two products with M each.
        norm: M's largest singular value, or a little more: what is smaller than its rounding is taken for 0.
    """
    solution, residual = torch.zeros_like(wanted), wanted.clone()
    gradient = matrix(residual)
    direction, error = gradient.clone(), gradient.square().sum(0)
    precision = torch.finfo(wanted.dtype)
    rounding = 16 * len(wanted) * (precision.eps * norm) ** 2
    for _ in range(steps):
        image = matrix(direction)
        # Beyond this only rounding is left of the gradient, which a singular M would blow up.
        solved = rounding * residual.square().sum(0) + precision.tiny
        stride = torch.where(error > solved, error / image.square().sum(0).clamp(min=precision.tiny), 0.0)
        solution += stride * direction
        residual -= stride * image
        gradient = matrix(residual)
        error, before = gradient.square().sum(0), error
        direction = gradient + error / before.clamp(min=precision.tiny) * direction
    return solution


class SGLAdapter(GraphAdapter):
    """SGL's ``forward`` takes a graph; the embeddings are those of the whole one."""

    def _arguments(self) -> tuple[Any, ...]:
        return (self.model.train_graph,)


class GCMCAdapter(EmbeddingAdapter):
    """GCMC's decoder is bilinear in the encoded nodes: its matrices, weighted for class 1, go with the user.

    ``predict`` ranks by class 1 before the softmax, and so does this.
    """

    hints = ("encoded",)

    def observed_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Encode once per step, with one draw of dropout for the base loss and the distillers."""
        if self._shared is None or kwargs or len(args) != 4 or args[0] is not self.model.user_features:
            return forward(*args, **kwargs)
        return self.model.BiDecoder(*self._encoded(), *args[2:])

    def _encoded(self) -> tuple[Tensor, Tensor]:
        encode = self.model.GcEncoder
        nodes: tuple[Tensor, Tensor] = self.once(
            "encoded", lambda: encode(self.model.user_features, self.model.item_features)
        )
        return nodes

    def _users(self, users: Tensor | None, layer: str) -> Tensor:
        decoder = self.model.BiDecoder
        bilinear = sum(share * matrix for share, matrix in zip(decoder.dense_layer.weight[1], decoder.weights))
        every = self._encoded()[0]
        embeddings: Tensor = (every if users is None else every[users]) @ bilinear
        return embeddings

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        every = self._encoded()[1]
        return every if items is None else every[items]
