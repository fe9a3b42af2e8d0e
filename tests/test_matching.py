"""matching.py: similarity of keys, reading by it, and bringing objects together, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hodor.models import matching
from hodor.models.base import Entry, Memory
from hodor.models.matching import Tokens, aggregate, others, read, recall, settle, similarity, tokens
from hodor.models.memory_blocks import GatedState, KeyProjection


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_definition(keys: Tensor, query: Tensor, shrinkage: Tensor | None, selection: Tensor | None) -> Tensor:
    squares = (keys[..., None] - query[:, :, None]).square()
    squares = squares if selection is None else squares * selection[:, :, None]
    out = -squares.sum(1) / math.sqrt(keys.shape[1])
    return out if shrinkage is None else out * shrinkage[..., None]


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_similarity_is_the_papers_up_to_what_a_query_has_in_common(shrunk: bool, selected: bool, batch: int) -> None:
    keys, query = random(batch, 8, 50), random(batch, 8, 11, seed=1)
    shrinkage = 1 + random(batch, 50, seed=2).square() if shrunk else None
    selection = random(batch, 8, 11, seed=3).sigmoid() if selected else None
    mine, theirs = similarity(keys, query, shrinkage, selection), by_definition(keys, query, shrinkage, selection)
    assert mine.shape == (batch, 50, 11)
    torch.testing.assert_close(mine.softmax(1), theirs.softmax(1), atol=1e-5, rtol=1e-4)
    if shrunk:
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


def test_similarity_with_gradients_and_without_agree() -> None:
    keys, query = random(1, 64, 300), random(1, 64, 40, seed=1).requires_grad_()
    graded = similarity(keys, query)
    with torch.inference_mode():
        torch.testing.assert_close(similarity(keys, query), graded.detach(), atol=1e-4, rtol=1e-5)
    graded.sum().backward()
    assert query.grad is not None


def test_reading_all_is_a_softmax_of_values() -> None:
    alike, values = random(2, 30, 7), random(2, 3, 5, 30, seed=1)
    readout, use = read(alike, values)
    torch.testing.assert_close(readout, torch.einsum("bncm,bmp->bncp", values, alike.softmax(1)))
    torch.testing.assert_close(use, alike.softmax(1).sum(2))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 60), top=st.integers(1, 70), objects=st.integers(1, 3), seed=st.integers(0, 100))
def test_reading_the_top_is_a_softmax_over_the_largest_alone(count: int, top: int, objects: int, seed: int) -> None:
    alike, values = random(2, count, 7, seed=seed), random(2, objects, 5, count, seed=seed + 1)
    readout, use = read(alike, values, top_k=top)
    least = alike.topk(min(top, count), 1).values[:, -1:]
    weights = alike.masked_fill(alike < least, -math.inf).softmax(1)
    torch.testing.assert_close(readout, torch.einsum("bncm,bmp->bncp", values, weights), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(use, weights.sum(2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top", [None, 4, 30])
def test_an_object_reads_only_what_speaks_for_it(top: int | None) -> None:
    alike, values = random(1, 12, 5), random(1, 4, 3, 12, seed=1)
    known = torch.ones(1, 4, 12, dtype=torch.bool)
    known[0, 1, :10] = False  # fewer than top
    known[0, 2] = False
    readout, use = read(alike, values, known, top)
    both, _ = read(alike, values[:, [0, 3]], None, top)
    torch.testing.assert_close(readout[:, [0, 3]], both)
    late, late_use = read(alike[:, 10:], values[:, 1:2, :, 10:], None, top)
    torch.testing.assert_close(readout[:, 1:2], late)
    assert (readout[0, 2] == 0).all()
    _, all_use = read(alike, values, None, top)
    expected = all_use * 2
    expected[:, 10:] += late_use
    torch.testing.assert_close(use, expected / 3)
    assert float(use.sum()) == pytest.approx(5)


@pytest.mark.parametrize("top", [None, 4])
def test_clips_of_a_batch_may_know_different_objects(top: int | None) -> None:
    alike, values = random(2, 12, 5), random(2, 2, 3, 12, seed=1)
    known = torch.ones(2, 2, 12, dtype=torch.bool)
    known[1, 1] = False
    known[0, 0, :6] = False
    readout, use = read(alike, values, known, top)
    assert (readout[1, 1] == 0).all()
    for clip in range(2):
        alone, used = read(alike[clip : clip + 1], values[clip : clip + 1], known[clip : clip + 1], top)
        torch.testing.assert_close(readout[clip : clip + 1], alone)
        torch.testing.assert_close(use[clip : clip + 1], used)


@pytest.mark.parametrize("top", [None, 3])
@pytest.mark.parametrize("far", [-200.0, -1e5, -1e30, 1e5])
def test_far_keys_give_numbers_and_gradients(top: int | None, far: float) -> None:
    alike = (far + random(1, 9, 4)).requires_grad_()
    values = random(1, 2, 3, 9).requires_grad_()
    known = torch.ones(1, 2, 9, dtype=torch.bool)
    known[0, 1] = False
    readout, use = read(alike, values, known, top)
    assert readout.isfinite().all()
    assert float(use.detach().sum()) == pytest.approx(4)
    readout.square().sum().backward()
    for leaf in (alike, values):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("top", [None, 5])
def test_chunks_of_query_cells_change_nothing(top: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    valid, shrinkage = torch.ones(1, 2, 40, dtype=torch.bool), 1 + random(1, 40).square()
    memory = Tokens(random(1, 8, 40), random(1, 2, 6, 40), valid, shrinkage)
    query, selection = random(1, 8, 23, seed=2), random(1, 8, 23).sigmoid()
    whole = recall(memory, query, selection_BDP=selection, top_k=top)
    sizes = []
    real = matching.similarity
    monkeypatch.setattr(matching, "similarity", lambda *args: sizes.append(args[1].shape[2]) or real(*args))
    monkeypatch.setattr(matching, "CHUNK", 200)
    parts = recall(memory, query, selection_BDP=selection, top_k=top)
    assert sizes == [5, 5, 5, 5, 3]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top", [None, 5])
def test_a_growing_memory_has_products_of_few_sizes(top: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = matching.similarity
    monkeypatch.setattr(matching, "similarity", lambda *args: sizes.append(args[0].shape[2]) or real(*args))
    query, selection = random(1, 8, 7, seed=2), random(1, 8, 7).sigmoid()
    for count in (1, 40, 511, 512, 513, 700, 1000):
        valid, shrinkage = torch.ones(1, 2, count, dtype=torch.bool), 1 + random(1, count).square()
        memory = Tokens(random(1, 8, count), random(1, 2, 6, count), valid, shrinkage)
        more = {"selection_BDP": selection, "top_k": top}
        want = recall(memory, query, **more)
        with torch.inference_mode():
            torch.testing.assert_close(recall(memory, query, **more), want, atol=1e-5, rtol=1e-4)
    # each count first with gradients, as it is, and then without
    assert sizes == [1, 512, 40, 512, 511, 512, 512, 512, 513, 1024, 700, 1024, 1000, 1024]


def test_bfloat16_is_read_and_matched_in_float32() -> None:
    memory = Tokens(random(1, 8, 40).bfloat16(), random(1, 2, 6, 40).bfloat16(), torch.ones(1, 2, 40, dtype=torch.bool))
    for top in (None, 5):
        readout, use = recall(memory, random(1, 8, 9).bfloat16(), top_k=top)
        assert (readout.dtype, use.dtype) == (torch.bfloat16, torch.float32)
        exact, _ = recall(Tokens(*(t.float() for t in memory[:2]), memory[2]), random(1, 8, 9).bfloat16(), top_k=top)
        torch.testing.assert_close(readout.float(), exact, atol=0.05, rtol=0.02)


def test_autocast_leaves_keys_likeness_and_state_in_float32() -> None:
    keys, query, map_of_frame = random(1, 16, 30), random(1, 16, 9), random(1, 12, 5, 6)
    shrinkage, selection = random(1, 30).abs() + 1, random(1, 16, 9).sigmoid()
    projection, gated = KeyProjection(12, 8, shrinkage=True, selection=True), GatedState(4, 4)
    seen, state = random(1, 2, 4, 5, 6), random(1, 2, 4, 5, 6, seed=3)

    def all_of() -> list[Tensor]:
        made = [similarity(keys, query), similarity(keys, query, shrinkage, selection), gated(seen, state)]
        return made + [k for k in projection(map_of_frame) if k is not None]

    wanted = all_of()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = all_of()
        assert projection.key(map_of_frame).dtype == torch.bfloat16
        halved = projection(map_of_frame.bfloat16()).key, gated(seen.bfloat16(), state)
    assert all(torch.equal(a, b) for a, b in zip(wanted, rounded, strict=True))
    assert {t.dtype for t in halved} == {torch.float32}


def entry(seed: int, known: list[bool], cells: tuple[int, ...] = (2, 3)) -> Entry:
    row = torch.tensor([known])
    return Entry(random(1, 2, 4, *cells, seed=seed), {"key": random(1, 5, *cells, seed=seed + 50)}, row, row, torch.ones(1) > 0)


def test_tokens_follow_the_order_of_frames_and_cells() -> None:
    first, second = entry(0, [True, False]), entry(1, [True, True], (4,))
    kept = tokens(Memory((1, 2), {3: first, 9: second}))
    assert (kept.keys_BDM.shape, kept.values_BNCM.shape) == ((1, 5, 10), (1, 2, 4, 10))
    assert torch.equal(kept.keys_BDM[..., :6], first.shared["key"].flatten(2))
    assert torch.equal(kept.values_BNCM[..., :6], first.per_object.flatten(3))
    assert torch.equal(kept.values_BNCM[..., 6:], second.per_object)
    assert kept.valid_BNM[0].tolist() == [[True] * 10, [False] * 6 + [True] * 4]
    with pytest.raises(ValueError, match=r"^the memory is empty: give a mask before segmenting$"):
        tokens(Memory((1, 2)))


@settings(max_examples=30, deadline=None)
@given(objects=st.integers(0, 4), seed=st.integers(0, 100))
def test_aggregated_logits_are_log_odds_of_each_and_of_none(objects: int, seed: int) -> None:
    soft = torch.rand(2, objects, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = torch.cat([torch.ones(2, 1, 3, 4) if not objects else (1 - soft).prod(1, keepdim=True), soft], 1)
    expected = torch.special.logit(p.clamp(1e-7, 1 - 1e-7))
    logits = aggregate(soft)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, atol=0.5, rtol=1e-4)  # 1 - 1e-7 is coarse in float32
    inner = (p > 1e-3) & (p < 0.999)
    torch.testing.assert_close(logits.double()[inner], expected[inner], atol=1e-3, rtol=1e-3)


def test_aggregating_what_nobody_knows_lets_it_win_nowhere() -> None:
    soft = torch.tensor([0.0, 0.3, 1.0])[None, :, None, None] * torch.tensor([1.0, 0.0])
    logits = aggregate(soft)
    assert logits.argmax(1).flatten().tolist() == [3, 0]
    assert float(logits[0, 1].max()) == pytest.approx(math.log(1e-7), abs=1e-3)


def test_gradients_of_aggregation_are_finite_at_both_ends() -> None:
    soft = torch.tensor([0.0, 1.0, 1.0, 0.5])[None, :, None, None].requires_grad_()
    aggregate(soft).square().sum().backward()
    assert soft.grad is not None
    assert soft.grad.isfinite().all()


def test_settling_leaves_masks_of_0_and_1_and_shares_overlaps() -> None:
    sharp = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[None, :, None]
    torch.testing.assert_close(settle(sharp), sharp, atol=1e-6, rtol=0)
    both = settle(torch.tensor([1.0, 1.0])[None, :, None, None])
    torch.testing.assert_close(both, torch.full_like(both, 0.5), atol=1e-4, rtol=0)
    assert float(settle(torch.rand(1, 5, 8, 8)).sum(1).max()) <= 1 + 1e-5


def test_the_others_of_one_alone_are_nothing_and_sums_are_not_clamped() -> None:
    masks = torch.tensor([0.75, 0.5, 1.0])[None, :, None, None]
    assert others(masks).flatten().tolist() == [1.5, 1.75, 1.25]
    assert others(masks[:, :1]).flatten().tolist() == [0.0]
