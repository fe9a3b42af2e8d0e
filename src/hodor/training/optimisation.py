"""Optimiser and learning-rate schedule of a recipe."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hodor.models.model import Model
from hodor.training.recipe import Recipe


def optimiser_of(recipe: Recipe, network: Model, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimiser of the trainable weights.

    The parameter groups are the network's own weights, those of its backbone and, with `decay_embeddings` off, its embeddings.
    Each group has a key "share": the factor of the learning rate.

    Args:
        recipe: the recipe; `optimiser`, `weight_decay`, `eps`, `backbone_lr` and `decay_embeddings` are used.
        network: the network; parameters without `requires_grad` are left out.
        device: device of the weights; the fused implementation is used except on "mps".
    """
    backbone = set(map(id, network.backbone.parameters()))
    embeddings = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    embeddings |= {id(p) for name, p in network.named_parameters() if not name.endswith(("weight", "bias"))}
    undecayed = embeddings - backbone if not recipe.decay_embeddings else set()
    trained = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in backbone | undecayed], "share": 1.0},
        {"params": [p for p in trained if id(p) in backbone], "share": recipe.backbone_lr},
    ]
    if undecayed:
        groups.append({"params": [p for p in trained if id(p) in undecayed], "share": 1.0, "weight_decay": 0.0})
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=device.type != "mps"
        )
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, weight_decay=recipe.weight_decay, eps=recipe.eps, fused=device.type != "mps")


def rate_of(recipe: Recipe, step: int) -> float:
    """Return the factor of the learning rate at a step, in [0, 1]: see `Recipe.schedule`."""
    if recipe.schedule == "steps":
        rise = min(step / recipe.warmup, 1.0) if recipe.warmup else 1.0
        return rise * float(recipe.drop ** sum(step >= m for m in recipe.milestones))
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if recipe.schedule == "exponential":
        begin = recipe.milestones[0] if recipe.milestones else recipe.warmup
        return float(recipe.final_lr ** (max(step - begin, 0) / max(recipe.steps - begin, 1)))
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
