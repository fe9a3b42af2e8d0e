"""Soft-masked attention (HODOR, Eq. 2) and deformable convolution, against definitions written out here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models import attention
from hodor.models.attention import DeformableConv, SoftMaskedAttention, deform_conv, sine_positions

B, N, P, D, HEADS = 2, 3, 20, 16, 4


def attend(seed: int = 0, **settings: Any) -> SoftMaskedAttention:
    torch.manual_seed(seed)
    return SoftMaskedAttention(D, HEADS, **settings).eval()


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (torch.randn(B, n, D, generator=generator) for n in (N, P, P))
    return queries, keys, values, torch.rand(B, N, P, generator=generator)


def by_hand(module: SoftMaskedAttention, lean: Any) -> Tensor:
    """The output where `lean(head, mask) -> [B, N, P]` is added to q . k / sqrt(D/h)."""
    queries, keys, values, mask = inputs()
    q, k, v = module.q_proj(queries), module.k_proj(keys), module.v_proj(values)
    size = D // HEADS
    found = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        logits = torch.einsum("bnd,bpd->bnp", q[..., part], k[..., part]) / math.sqrt(size)
        found.append(torch.einsum("bnp,bpd->bnd", (logits + lean(head, mask)).softmax(-1), v[..., part]))
    out: Tensor = module.out_proj(torch.cat(found, -1))
    return out


def test_alpha_zero_is_plain_attention() -> None:
    module = attend()
    torch.nn.init.zeros_(module.scaling_factors)
    torch.testing.assert_close(module(*inputs()), by_hand(module, lambda _head, mask: mask * 0))


def test_leaning_adds_alpha_times_the_mask_to_the_logits() -> None:
    """Eq. 2; the release subtracts a (1 - M) instead, which differs by a constant per row."""
    module = attend()
    mine = module(*inputs())
    torch.testing.assert_close(mine, by_hand(module, lambda h, mask: module.scaling_factors[h] * mask))
    torch.testing.assert_close(mine, by_hand(module, lambda h, mask: -module.scaling_factors[h] * (1 - mask)))


def test_alpha_starts_at_32_for_the_first_heads_and_4_for_the_last() -> None:
    assert SoftMaskedAttention(16, 8).scaling_factors.tolist() == [32, 32, 16, 16, 8, 8, 4, 4]
    assert attend().scaling_factors.tolist() == [32, 16, 8, 4]


def test_a_constant_added_to_a_row_of_the_mask_changes_nothing() -> None:
    module, (queries, keys, values, mask) = attend(), inputs()
    torch.testing.assert_close(
        module(queries, keys, values, mask * 0.5), module(queries, keys, values, mask * 0.5 + 0.3), rtol=1e-4, atol=1e-5
    )


def test_gradient_reaches_the_mask() -> None:
    module, (queries, keys, values, mask) = attend(), inputs()
    mask.requires_grad_()
    module(queries, keys, values, mask).square().sum().backward()
    assert mask.grad is not None
    assert bool((mask.grad.abs().sum(-1) > 0).all())


@pytest.mark.parametrize("conditioning", ["soft", "hard"])
def test_an_all_zero_row_attends_as_if_unmasked(conditioning: str) -> None:
    module, (queries, keys, values, mask) = attend(conditioning=conditioning), inputs()
    plain = attend(conditioning="none")
    plain.load_state_dict(module.state_dict())
    mask[:, 1] = 0
    out, unmasked = module(queries, keys, values, mask), plain(queries, keys, values, mask)
    torch.testing.assert_close(out[:, 1], unmasked[:, 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out[:, 0], unmasked[:, 0], atol=1e-3)


def test_none_ignores_the_mask() -> None:
    module, (queries, keys, values, mask) = attend(conditioning="none"), inputs()
    assert torch.equal(module(queries, keys, values, mask), module(queries, keys, values, 1 - mask))


def test_hard_gives_pixels_outside_the_mask_no_weight() -> None:
    module, (queries, keys, values, mask) = attend(conditioning="hard"), inputs()
    mask[:] = 0
    mask[..., 4:9] = 0.6
    mask[..., 9:] = 0.5
    before = module(queries, keys, values, mask)
    changed = values.clone()
    changed[:, :4], changed[:, 9:] = 100, -100
    assert torch.equal(before, module(queries, keys, changed, mask))
    changed[:, 5] += 1
    assert not torch.allclose(before, module(queries, keys, changed, mask), atol=1e-3)


def test_the_paper_scale_leans_and_looks_more_weakly_than_the_released_one() -> None:
    """Paper: softmax((Q K^T + a M) / sqrt(D)). Released: softmax(Q K^T / sqrt(D/h) + a M)."""
    paper, released = attend(scale="paper"), attend(scale="released")
    # the same function where queries are multiplied by sqrt(h) and a by sqrt(D)
    with torch.no_grad():
        paper.q_proj.weight *= math.sqrt(HEADS)
        paper.scaling_factors *= math.sqrt(D)
    torch.testing.assert_close(paper(*inputs()), released(*inputs()), rtol=1e-4, atol=1e-5)
    fresh = attend(scale="paper")
    assert not torch.allclose(fresh(*inputs()), released(*inputs()), atol=1e-3)


def test_a_mask_needs_one_row_for_each_query() -> None:
    module, (queries, keys, values, mask) = attend(), inputs()
    with pytest.raises(ValueError, match=r"^expected a mask of 3 rows, one a query, got 2$"):
        module(queries, keys, values, mask[:, :2])


def sampled(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Deformable convolution by its definition, with PyTorch's own bilinear sampling."""
    height, width = x.shape[-2:]
    y, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    out = bias.view(1, -1, 1, 1)
    for tap in range(9):
        there_y = y + tap // 3 - 1 + offsets[:, 2 * tap]
        there_x = column + tap % 3 - 1 + offsets[:, 2 * tap + 1]
        grid = torch.stack([2 * there_x / (width - 1) - 1, 2 * there_y / (height - 1) - 1], -1)
        taken = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        out = out + torch.einsum("ed,bdhw->behw", weight[..., tap // 3, tap % 3], taken)
    return out


def parts(height: int = 11, width: int = 7, reach: float = 6.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 8, height, width, generator=generator)
    offsets = reach * torch.randn(2, 18, height, width, generator=generator)
    return x, offsets, torch.randn(5, 8, 3, 3, generator=generator), torch.randn(5, generator=generator)


def test_zero_offsets_are_an_ordinary_convolution() -> None:
    x, offsets, weight, bias = parts()
    mine = deform_conv(x, offsets * 0, weight, bias)
    torch.testing.assert_close(mine, F.conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reach", [0.7, 6.0, 100.0])
def test_random_offsets_sample_as_grid_sample_does_with_gradients(reach: float) -> None:
    leaves = [[x.requires_grad_() for x in parts(reach=reach)] for _ in range(2)]
    mine, theirs = deform_conv(*leaves[0]), sampled(*leaves[1])
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)
    towards = torch.randn(mine.shape, generator=torch.Generator().manual_seed(4))
    for out in (mine, theirs):
        (out * towards).sum().backward()
    for name, a, b in zip(("x", "offsets", "weight", "bias"), *leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_pieces_without_gradient_equal_the_whole_with_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK_ROWS", 50)  # 154 rows: the last piece is shorter
    whole = deform_conv(*parts())
    with torch.no_grad():
        pieces = deform_conv(*parts())
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)


def test_offsets_of_the_layer_do_not_start_at_zero() -> None:
    """As released: an ordinary convolution's own initialisation."""
    layer = DeformableConv(8)
    assert float(layer.conv_offsets.weight.detach().abs().max()) > 0
    x = torch.randn(1, 8, 9, 9)
    plain = F.conv2d(x, layer.conv_deform.weight, layer.conv_deform.bias, padding=1)
    assert not torch.allclose(layer(x), plain, atol=1e-3)


def test_sine_positions_tell_all_places_apart() -> None:
    here = sine_positions(6, 9, 32, torch.device("cpu"))
    assert here.shape == (32, 6, 9)
    apart = torch.cdist(here.flatten(1).t(), here.flatten(1).t()) + torch.eye(54)
    assert float(apart.min()) > 0.1
    # rows first: the first half does not depend on the column
    assert torch.equal(here[:16, :, 0], here[:16, :, 5])
    assert torch.equal(here[16:, 0], here[16:, 3])
    # the last row's angle is 2 pi, so its first sine is 0
    assert float(here[0, -1, 0].abs()) < 1e-5


def test_sine_positions_made_in_inference_serve_a_training_step() -> None:
    attention._cached_positions.cache_clear()
    with torch.inference_mode():
        sine_positions(5, 4, 32, torch.device("cpu"))
    weight = torch.ones(32, 1, 1, requires_grad=True)
    (sine_positions(5, 4, 32, torch.device("cpu")) * weight).sum().backward()
    assert weight.grad is not None
