"""Adam with less memory traffic: all of an update in one pass, and no dense gradient made of mostly zeros.

Stock Adam reads and writes its three tables and the gradient seven times a step, and autograd first fills a zeroed
table for each lookup in an embedding and then adds these tables up. Here the update is torch's fused one, and lookups
give only their rows (``Embedding.sparse``), which are added into one kept table that is cleared by rows afterwards.
The update itself is dense Adam's, not SparseAdam's: rows without a gradient move as they do in stock RecBole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


class _RowGradients:
    """Mixed in over torch's Adam and AdamW: takes gradients by rows as if they were dense."""

    param_groups: list[dict[str, Any]]
    _tables: dict[Tensor, Tensor]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build torch's optimizer."""
        super().__init__(*args, **kwargs)
        self._tables = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters."""
        lent = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None or not gradient.is_sparse:
                    continue
                if parameter not in self._tables:
                    self._tables[parameter] = torch.zeros_like(parameter)
                table, rows = self._tables[parameter], gradient._indices()[0]
                table.index_add_(0, rows, gradient._values())
                parameter.grad = table
                lent.append((parameter, table, rows))
        result = super().step(closure)  # type: ignore[misc]
        for parameter, table, rows in lent:
            table.index_fill_(0, rows, 0)
            parameter.grad = None
        return result


class RowAdam(_RowGradients, torch.optim.Adam):
    """Adam that takes gradients by rows."""


class RowAdamW(_RowGradients, torch.optim.AdamW):
    """AdamW that takes gradients by rows."""


_QUICK: dict[type[torch.optim.Optimizer], Any] = {
    torch.optim.Adam: RowAdam,
    torch.optim.AdamW: RowAdamW,
}


def quick_adam(stock: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the fused form of a new Adam or AdamW; any other optimizer, or where torch has none, the stock one."""
    kind = _QUICK.get(type(stock))
    if kind is None:
        return stock
    settings = {name: stock.defaults[name] for name in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
    try:
        fused: torch.optim.Optimizer = kind(
            [{"params": group["params"]} for group in stock.param_groups], fused=True, **settings
        )
        return fused
    except (RuntimeError, TypeError):
        return stock


def takes_rows(optimizer: Any) -> bool:
    """Say whether an optimizer takes gradients by rows as if they were dense."""
    return isinstance(optimizer, _RowGradients)


def give_rows(model: nn.Module) -> None:
    """Let the embeddings of a model give their gradients by rows."""
    for module in model.modules():
        # A table that is computed of its parameters takes its gradients whole.
        if isinstance(module, nn.Embedding) and not module.scale_grad_by_freq and not is_parametrized(module):
            module.sparse = True
