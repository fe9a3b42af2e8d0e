"""Random numbers from a passed generator, and the generator of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """A generator that depends on the numbers and their order alone, such as (seed, step, index)."""
    state = np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def below(limit: int, rng: torch.Generator) -> int:
    """A whole number in 0 .. limit - 1."""
    return int(torch.randint(limit, (), generator=rng))


def uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def within(size: float, rng: torch.Generator) -> float:
    """A number in -size .. size."""
    return uniform(-size, size, rng)


def chance(share: float, rng: torch.Generator) -> bool:
    """True that often. Draws in any case, so that what follows does not depend on the share."""
    return uniform(0, 1, rng) < share


def some(count: int, of: int, rng: torch.Generator) -> list[int]:
    """`count` different numbers in 0 .. of - 1, in random order; all of them if there are fewer."""
    return [int(i) for i in torch.randperm(of, generator=rng)[:count]]


def weighted(shares: Sequence[float], rng: torch.Generator) -> int:
    """The index of a share, drawn as often as it says. Shares need not sum to 1; one at least is positive."""
    at = uniform(0, sum(shares), rng)
    for index, share in enumerate(shares):
        at -= share
        if at < 0:
            return index
    return max(i for i, share in enumerate(shares) if share > 0)
