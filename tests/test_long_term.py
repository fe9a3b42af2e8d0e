"""Long-term memory: what leaves the working memory becomes prototypes; bounds, late objects, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hodor.models.base import Entry, Memory
from hodor.models.long_term import consolidate, count, forget_least_used, keep

KEY, VALUE, TOKENS = 4, 6, 12


def entry(seed: int, known: Sequence[bool], given: bool = False, batch: int = 1) -> Entry:
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, 2 * KEY + 1, 3, TOKENS // 3, generator=g)
    key, shrinkage, selection = maps.split([KEY, 1, KEY], 1)
    shared = {"key": key, "shrinkage": 1 + shrinkage**2, "selection": selection.sigmoid()}
    valid_BN = torch.tensor([list(known)] * batch)
    values = torch.randn(batch, len(known), VALUE, 3, TOKENS // 3, generator=g) * valid_BN[..., None, None, None]
    return Entry(values, shared, valid_BN, valid_BN & given, torch.ones(batch, dtype=torch.bool))


def read_all(memory: Memory, seed: int = 0) -> Memory:
    """The memory after a read that used its tokens at random."""
    tokens = sum(e.shared["key"][0, 0].numel() for e in memory.frames.values())
    return count(memory, torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed)))


def long(memory: Memory) -> int:
    return sum(e.shared["key"].shape[2] for i, e in memory.frames.items() if i < 0)


def walk(frames: int, maximum: int = 40, prototypes: int = 8, late: int = 10**9) -> list[Memory]:
    """One object given on frame 0, another on frame `late`; a memory frame at every step."""
    memory, seen = Memory((1,)), []
    for t in range(frames):
        if t == late:
            memory = memory.with_objects([1, 2])
        memory = read_all(memory, t) if memory.frames else memory
        memory = memory.add(t, entry(t, [True] * len(memory.objects), given=t in (0, late)))
        memory = keep(memory, 10, True, prototypes=prototypes, max_prototypes=maximum)
        seen.append(memory)
    return seen


def test_frames_beyond_the_tenth_become_prototypes_but_for_the_first_and_the_latest_four() -> None:
    seen = walk(10)
    assert list(seen[8].frames) == list(range(9))
    assert list(seen[9].frames) == [-1, 0, 6, 7, 8, 9]
    assert seen[9].frames[-1].per_object.shape == (1, 1, VALUE, 8)
    shapes = {name: tuple(each.shape) for name, each in seen[9].frames[-1].shared.items()}
    assert shapes == {"key": (1, KEY, 8), "shrinkage": (1, 1, 8), "selection": (1, KEY, 8)}


def test_the_memory_stops_growing() -> None:
    sizes = [(long(m), sum(i >= 0 for i in m.frames), len(m.tally)) for m in walk(120)]
    assert max(s[0] for s in sizes) == 40
    assert max(s[1] for s in sizes) == 9
    assert max(s[2] for s in sizes) <= 10


def test_prototypes_are_the_most_used_tokens_and_values_are_read_with_them() -> None:
    memory = Memory((1,)).add(0, entry(0, [True])).add(1, entry(1, [True]))
    use = torch.rand(1, 2 * TOKENS, generator=torch.Generator().manual_seed(1))
    made = consolidate(count(memory, use), [0, 1], 5).frames[-1]
    entries = memory.frames.values()
    values = torch.cat([e.per_object.flatten(3) for e in memory.frames.values()], 3)[0, 0]
    chosen = use[0].topk(5).indices.sort().values
    key, shrinkage, selection = (
        torch.cat([e.shared[name].flatten(2) for e in entries], 2)[0] for name in ("key", "shrinkage", "selection")
    )
    shrinkage = shrinkage[0]
    assert torch.equal(made.shared["key"][0], key[:, chosen])
    for p, token in enumerate(chosen.tolist()):
        # section 3.2: S = -s sum_c e_c (k_c - q_c)^2 / sqrt(C)
        far = (selection[:, token, None] * (key - key[:, token, None]) ** 2).sum(0)
        weights = (-shrinkage * far / KEY**0.5).softmax(0)
        torch.testing.assert_close(made.per_object[0, 0, :, p], values @ weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.shared["shrinkage"][0, 0, p], shrinkage @ weights, rtol=1e-4, atol=1e-5)


def test_use_is_a_mean_over_the_reads_a_token_took_part_in() -> None:
    memory = Memory((1,)).add(0, entry(0, [True]))
    memory = count(count(memory, torch.full((1, TOKENS), 1.0)), torch.full((1, TOKENS), 1.0))
    memory = memory.add(1, entry(1, [True]))
    for new, best in ((0.6, 0), (0.7, 1)):  # the old frame's mean is 2 / 3: its sum is larger, what it had last smaller
        counted = count(memory, torch.tensor([[0.0] * TOKENS + [new] * TOKENS]))
        kept = consolidate(counted, [0, 1], TOKENS)
        assert torch.equal(kept.frames[-1].shared["key"], memory.frames[best].shared["key"].flatten(2))


def test_fewer_candidates_than_prototypes_are_all_kept() -> None:
    memory = Memory((1,)).add(0, entry(0, [True]))
    assert consolidate(memory, [0], 128).frames[-1].shared["key"].shape[2] == TOKENS


@pytest.mark.parametrize("maximum", [8, 40])
def test_a_late_object_joins_a_full_long_term_memory(maximum: int) -> None:
    """The original stops there with a NotImplementedError."""
    seen = walk(90, maximum=maximum, late=60)
    assert long(seen[59]) == maximum
    assert max(long(m) for m in seen) <= maximum
    both = [e for i, e in seen[-1].frames.items() if i < 0 and e.valid_BN.all()]
    assert both
    assert both[0].per_object[:, 1].abs().sum() > 0


def test_an_object_reads_only_tokens_that_knew_it() -> None:
    first, second = entry(0, [True, False]), entry(1, [True, True])
    memory = Memory((1, 2), {0: first, 1: second})
    use = torch.rand(1, 2 * TOKENS, generator=torch.Generator().manual_seed(2))
    made = consolidate(count(memory, use), [0, 1], 12)
    patterns = {tuple(e.valid_BN[0].tolist()): e for i, e in made.frames.items() if i < 0}
    assert patterns.keys() == {(True, False), (True, True)}
    assert not patterns[True, False].per_object[:, 1].any()
    alone = consolidate(count(memory.only([1]), torch.ones(1, TOKENS)), [1], TOKENS).frames[-1]
    mine = patterns[True, True]
    for p in range(mine.shared["key"].shape[2]):  # of object 2, the same as without the frame that does not know it
        place = (alone.shared["key"] == mine.shared["key"][..., p : p + 1]).all(1)[0].nonzero().item()
        torch.testing.assert_close(mine.per_object[0, 1, :, p], alone.per_object[0, 1, :, place], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(mine.per_object[0, 0, :, p], alone.per_object[0, 0, :, place], rtol=1e-3)


def test_nothing_of_a_removed_object_stays() -> None:
    memory = walk(40, late=5)[-1]
    gone = keep(memory.with_objects([2]), 10, True)
    assert all(e.valid_BN.any() for i, e in gone.frames.items() if i < 0)
    empty = keep(memory.with_objects([3]), 10, True)
    assert not any(i < 0 for i in empty.frames)
    assert not any(name.startswith("used.-") for name in empty.tally)


def test_the_least_used_prototypes_are_forgotten() -> None:
    memory = walk(40)[-1]
    sizes = {i: e.shared["key"][0, 0].numel() for i, e in memory.frames.items()}
    use = {i: torch.rand(1, size, generator=torch.Generator().manual_seed(9 + i)) for i, size in sizes.items()}
    memory = count(replace(memory, tally={}), torch.cat([use[i] for i in sizes], 1))
    left = forget_least_used(memory, 10)
    assert long(left) == 10
    best = use[-1][0].topk(10).indices.sort().values
    assert torch.equal(left.frames[-1].shared["key"], memory.frames[-1].shared["key"][..., best])
    assert torch.equal(left.tally["used.-1"][0, 0], use[-1][0, best])


def test_given_frames_stay_and_without_pinning_go() -> None:
    memory = walk(60, late=20)[-1]
    assert [i for i in memory.frames if i >= 0][:2] == [0, 20]
    assert 0 not in keep(memory, 4, False).frames


def test_several_clips_are_refused() -> None:
    memory = Memory((1,), {i: entry(i, [True], batch=2) for i in range(12)})
    with pytest.raises(ValueError, match=r"^expected a memory of 1 clip to consolidate, got 2$"):
        keep(memory, 10, False)


def kept_bytes(memory: Memory) -> int:
    tensors: list[Tensor] = [t for e in memory.frames.values() for t in e.tensors().values()]
    return sum(t.numel() * t.element_size() for t in [*tensors, *memory.tally.values()])


def test_bytes_are_bounded_while_objects_come_and_go() -> None:
    memory, sizes = Memory((1,)), []
    for t in range(300):
        if t % 20 == 10:
            memory = memory.with_objects([*memory.objects[-2:], 100 + t])
        memory = read_all(memory, t) if memory.frames else memory
        memory = memory.add(t, entry(t, [True] * len(memory.objects), given=t % 20 in (0, 10)))
        memory = keep(memory, 10, True, prototypes=8, max_prototypes=40)
        sizes.append(kept_bytes(memory))
        assert long(memory) <= 40
    assert max(sizes[200:]) <= 1.2 * max(sizes[60:200])
