"""Random numbers for training clips. Every function uses the generator that is passed to it and no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """Return a generator seeded by these integers and their order, for example (seed, step, index)."""
    state = np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def below(limit: int, rng: torch.Generator) -> int:
    """Return a random integer in 0 .. limit - 1."""
    return int(torch.randint(limit, (), generator=rng))


def uniform(low: float, high: float, rng: torch.Generator) -> float:
    """Return a random number between low and high, uniformly distributed."""
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def within(size: float, rng: torch.Generator) -> float:
    """Return a random number between -size and size, uniformly distributed."""
    return uniform(-size, size, rng)


def chance(share: float, rng: torch.Generator) -> bool:
    """Return True with probability `share`. One random number is used for any share, so later numbers do not depend on it."""
    return uniform(0, 1, rng) < share


def choose(count: int, of: int, rng: torch.Generator) -> list[int]:
    """Return `count` different integers in 0 .. of - 1 in random order, or all of them if `of` is smaller."""
    return [int(i) for i in torch.randperm(of, generator=rng)[:count]]


def weighted(shares: Sequence[float], rng: torch.Generator) -> int:
    """Return a random index with probability proportional to its share. Shares need not sum to 1; at least one is positive."""
    position = uniform(0, sum(shares), rng)
    for index, share in enumerate(shares):
        position -= share
        if position < 0:
            return index
    return max(i for i, share in enumerate(shares) if share > 0)
