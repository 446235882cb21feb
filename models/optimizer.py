"""Muon for matrices, Adam for the rest."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from models.network import Weights


class Rates(Protocol):
    """What an optimizer asks a training plan."""

    @property
    def matrix_rate(self) -> float:
        """The learning rate of matrices."""

    @property
    def other_rate(self) -> float:
        """The learning rate of embeddings and norms."""

    def rate(self, step: int) -> float:
        """A factor for both at a step."""


class Optimizer:
    """Muon for the matrices of the layers, Adam for embeddings and norms.

    Muon (Jordan et al. 2024) replaces a matrix' momentum by the nearest orthogonal one, found by
    five Newton-Schulz steps; matrices of one shape go through them together.
    """

    def __init__(self, weights: Weights, plan: Rates) -> None:
        self.plan = plan
        is_matrix = {name: w.ndim == 2 and name.startswith("blk.") for name, w in weights.items()}
        self.groups: dict[Any, list[str]] = {}
        for name, weight in weights.items():
            if is_matrix[name]:
                self.groups.setdefault(tuple(weight.shape), []).append(name)
        self.matrices = {name: weights[name] for name in weights if is_matrix[name]}
        self.momentum = {name: torch.zeros_like(w) for name, w in self.matrices.items()}
        others = [w for name, w in weights.items() if not is_matrix[name]]
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, number: int) -> None:
        """Changes the weights by their gradients."""
        factor = self.plan.rate(number)
        self.adam.param_groups[0]["lr"] = self.plan.other_rate * factor
        self.adam.step()
        rate = self.plan.matrix_rate * factor
        momentum = 0.85 + 0.1 * min(1.0, number / 300)
        with torch.no_grad():
            for (rows, columns), names in self.groups.items():
                updates = []
                for name in names:
                    grad = self.matrices[name].grad
                    self.momentum[name].lerp_(grad, 1 - momentum)
                    updates.append(grad.lerp(self.momentum[name], momentum))
                scale = rate * max(1.0, rows / columns) ** 0.5
                for name, update in zip(names, orthogonal(torch.stack(updates)), strict=True):
                    self.matrices[name].mul_(1 - rate * 0.1).sub_(update, alpha=scale)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.adam.load_state_dict(state["adam"])
        for name, value in state["momentum"].items():
            self.momentum[name].copy_(value)


def orthogonal(matrices: Any) -> Any:
    """About the nearest orthogonal matrices to [count, rows, columns], float32."""
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if is_tall else x).float()
