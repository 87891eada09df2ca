"""Losses on attention itself: the truth says where a word has to look, so looking there can be taught directly.

Cross attention learned from answers alone has to find its queries, its keys and its values at once, and stays at chance
for thousands of steps. A cross entropy on the attention's own logits teaches queries and keys at once; values follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["self", "cross"]


class Attention:
    """Keeps the queries and keys of a BLIP text model's layers during a forward pass.

    ``layers`` are ``BertLayer`` modules with ``attention.self`` and ``crossattention.self``, of ``heads`` heads each.
    """

    def __init__(self, layers: Iterable[Any], heads: int) -> None:
        self.heads = heads
        self._seen: dict[tuple[int, Kind, str], Tensor] = {}
        for index, layer in enumerate(layers):
            modules: dict[Kind, Any] = {"self": layer.attention.self, "cross": layer.crossattention.self}
            for kind, module in modules.items():
                for part in ("query", "key"):
                    getattr(module, part).register_forward_hook(self._keep(index, kind, part))

    def _keep(self, index: int, kind: Kind, part: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Tensor) -> None:  # noqa: ARG001
            self._seen[index, kind, part] = out

        return hook

    def logits(self, index: int, kind: Kind, texts: Tensor, positions: Tensor, count: int) -> Tensor:
        """What ``count`` heads of a layer have at those places before their softmax: (N, count, keys)."""
        query, key = (self._seen[index, kind, part] for part in ("query", "key"))
        width = query.shape[-1] // self.heads
        asked = query[texts, positions].unflatten(-1, (self.heads, width))[:, :count]
        offered = key.unflatten(-1, (self.heads, width))[texts][:, :, :count]
        return torch.einsum("nhd,nkhd->nhk", asked, offered) / width**0.5

    def forget(self) -> None:
        """Let go of what was kept."""
        self._seen.clear()


def nats(logits: Tensor, wanted: Tensor) -> Tensor:
    """Summed cross entropy of attention (N, heads, keys), spread evenly over ``wanted`` (N, keys); mean over heads."""
    even = wanted.float() / wanted.sum(dim=-1, keepdim=True)
    return -(even[:, None] * logits.float().log_softmax(-1)).sum(-1).mean(-1).sum()


def or_class_token(cells: Tensor) -> Tensor:
    """Cells (N, 9) to image tokens (N, 10): the class token, which stands first, where no cell is wanted."""
    none = cells.sum(dim=-1, keepdim=True) == 0
    return torch.cat([none, cells > 0], dim=-1)
