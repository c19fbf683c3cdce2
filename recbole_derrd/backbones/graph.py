"""Graph models: vectors are embeddings propagated over the user-item graph, once per step."""

from __future__ import annotations

from typing import Any, Callable

from torch import Tensor

from recbole_derrd.backbones.base import VectorBackbone
from recbole_derrd.backbones.factors import rows


class GraphBackbone(VectorBackbone):
    """Models whose ``forward`` returns every user's and every item's vector (LightGCN, NGCF, DGCF, SpectralCF, NCL)."""

    hints = ("final", "ego")

    def _arguments(self) -> tuple[Any, ...]:
        return ()

    def observed_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Remember the propagation of the base loss, or reuse the one that is remembered."""
        whole_graph = all(given is own for given, own in zip(args, self._arguments()))
        if not whole_graph:
            return forward(*args, **kwargs)
        return self.once("propagation", lambda: forward(*args, **kwargs))

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


class SGLBackbone(GraphBackbone):
    """SGL's ``forward`` takes a graph; the vectors are those of the whole one."""

    def _arguments(self) -> tuple[Any, ...]:
        return (self.model.train_graph,)


class GCMCBackbone(VectorBackbone):
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
        vectors: Tensor = (every if users is None else every[users]) @ bilinear
        return vectors

    def _items(self, items: Tensor | None, layer: str) -> Tensor:
        every = self._encoded()[1]
        return every if items is None else every[items]
