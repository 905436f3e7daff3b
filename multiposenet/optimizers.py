"""Optimisers that are made of PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Muon (Jordan et al., 2024) for the weights of layers, AdamW for everything else; both are PyTorch's own.

    Muon makes the steps of a matrix orthogonal. It takes matrices only, so a convolution's weights [O, I, h, w] go in
    as [O, I h w], which is what its arithmetic is. Its rate is scaled to the size of AdamW's steps, so that one rate
    and one schedule serve both.

    Args:
        params: of a model.
        lr, weight_decay: of both, decoupled.
        fused: of AdamW.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, fused: bool | None = None
    ) -> None:
        params = list(params)
        self._layers = [p for p in params if p.ndim >= 2]
        rest = [p for p in params if p.ndim < 2]
        # The same memory in another shape: what Muon does to a matrix happens to the layer.
        self._matrices = [nn.Parameter(_as_matrix(p.detach())) for p in self._layers]
        common = {"lr": lr, "weight_decay": weight_decay}
        self._parts: dict[str, Optimizer] = {}
        if self._matrices:
            self._parts["muon"] = Muon(self._matrices, **common, adjust_lr_fn="match_rms_adamw")
        if rest:
            self._parts["adamw"] = AdamW(rest, **common, fused=fused)
        groups = [{"params": part, **common} for part in (self._layers, rest) if part]
        super().__init__(groups, common)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step on the gradients that are there; layers without one stay as they are."""
        for group, part in zip(self.param_groups, self._parts.values(), strict=True):
            for own in part.param_groups:
                own["lr"], own["weight_decay"] = group["lr"], group["weight_decay"]
        for matrix, layer in zip(self._matrices, self._layers, strict=True):
            matrix.grad = None if layer.grad is None else _as_matrix(layer.grad, like=layer)
        for part in self._parts.values():
            part.step()

    def state_dict(self) -> dict[str, dict]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, dict]) -> None:
        for (name, part), group in zip(self._parts.items(), self.param_groups, strict=True):
            part.load_state_dict(state_dict[name])
            group["lr"] = part.param_groups[0]["lr"]


def _as_matrix(weights: Tensor, like: Tensor | None = None) -> Tensor:
    """[O, ...] -> [O, rest] in the order in which ``like`` (by default the weights) lies in memory: a view of it."""
    like = weights if like is None else like
    if like.ndim == 4 and not like.is_contiguous():
        weights = weights.permute(0, 2, 3, 1)
        like = like.permute(0, 2, 3, 1)
    if not like.is_contiguous():
        raise ValueError(f"weights of shape {tuple(like.shape)} and strides {like.stride()} are no matrix in memory")
    return weights.reshape(len(weights), -1)
