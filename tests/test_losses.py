"""Cross-entropy and joint Dice, by hand and against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.losses import hodor_losses, joint_dice
from hodor.models.base import Prediction
from hodor.plans import Judged

SIZE = (20, 28)


def judged(seed: int = 0, backgrounds: int = 3, valid: Tensor | None = None, batch: int = 2) -> Judged:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, backgrounds + 2, 8, 8, generator=generator).requires_grad_()
    owner = torch.randint(3, (batch, 1, *SIZE), generator=generator)
    masks = torch.cat([owner == 1, owner == 2], 1).float()
    valid = torch.ones(batch, *SIZE, dtype=torch.bool) if valid is None else valid
    return Judged(0, Prediction(logits, backgrounds, SIZE, (32, 32)), masks, valid)


def labels(j: Judged) -> Tensor:
    return (j.masks_BNHW * torch.tensor([1, 2]).view(1, 2, 1, 1)).sum(1).long()


def enlarged(j: Judged) -> Tensor:
    """Backgrounds merged by max, then 4 times larger, then the padding cut off."""
    x = j.prediction.logits_BKHW
    x = torch.stack([x[:, :3].max(1)[0], x[:, 3], x[:, 4]], 1)
    return F.interpolate(x, scale_factor=4, mode="bilinear")[..., : SIZE[0], : SIZE[1]]


def test_cross_entropy_is_pytorchs_where_all_pixels_are_valid() -> None:
    each = [judged(0), judged(1)]
    expected = torch.stack([F.cross_entropy(enlarged(j), labels(j)) for j in each]).mean()
    torch.testing.assert_close(hodor_losses(each).cross_entropy, expected)


def test_dice_is_joint_over_objects_predictions_and_pixels() -> None:
    each = [judged(0), judged(1)]
    soft = torch.stack([enlarged(j).softmax(1)[:, 1:] for j in each], 1)
    truth = torch.stack([j.masks_BNHW for j in each], 1)
    terms = []
    for p, g in zip(soft, truth, strict=True):
        terms.append(1 - (2 * (p * g).mean() + 1e-6) / ((p + g).mean() + 1e-6))
    losses = hodor_losses(each)
    torch.testing.assert_close(losses.dice, torch.stack(terms).mean())
    torch.testing.assert_close(losses.total, losses.dice + losses.cross_entropy)


def test_joint_dice_by_hand() -> None:
    soft = torch.tensor([[[0.5, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 0.0]]])
    truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 0.0]]])
    # first: 2 * 1.5 / (1.5 + 2); second: perfect
    expected = ((1 - 3 / 3.5) + 0) / 2
    assert float(joint_dice(soft, truth, torch.ones_like(soft))) == pytest.approx(expected, abs=1e-5)


def test_a_total_miss_costs_no_dice_and_sends_no_gradient() -> None:
    soft = torch.tensor([[0.0, 0.0, 0.9, 0.9]], requires_grad=True)
    dice = joint_dice(soft, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4))
    assert float(dice.detach()) == 0
    dice.backward()
    assert torch.equal(soft.grad, torch.zeros(1, 4))
    near = torch.tensor([[0.1, 0.0, 0.9, 0.9]], requires_grad=True)
    joint_dice(near, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4)).backward()
    assert float(near.grad.abs().sum()) > 0


def test_a_miss_in_one_clip_leaves_the_term_of_the_other() -> None:
    soft, truth = torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    alone = joint_dice(soft[1:], truth[1:], torch.ones(1, 2))
    assert float(joint_dice(soft, truth, torch.ones(2, 2))) == pytest.approx(float(alone) / 2)


def test_pixels_outside_valid_do_not_count() -> None:
    """Neither their truth nor the logits that only they see."""
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    valid[:, :, 14:] = False
    one = judged(valid=valid)
    before = hodor_losses([one])
    one.masks_BNHW[..., 14:] = 1 - one.masks_BNHW[..., 14:]
    with torch.no_grad():
        one.prediction.logits_BKHW[..., 5:] += torch.randn(2, 5, 8, 3)
    after = hodor_losses([one])
    assert torch.equal(before.cross_entropy, after.cross_entropy)
    assert torch.equal(before.dice, after.dice)
    one.masks_BNHW[..., 2] = 1 - one.masks_BNHW[..., 2]
    assert not torch.equal(before.dice, hodor_losses([one]).dice)


def test_cross_entropy_is_the_mean_over_the_valid_pixels() -> None:
    valid = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(9)) < 0.4
    one = judged(valid=valid)
    each = F.cross_entropy(enlarged(one), labels(one), reduction="none")
    torch.testing.assert_close(hodor_losses([one]).cross_entropy, each[valid].mean())


def test_a_frame_without_a_valid_pixel_gives_a_finite_loss() -> None:
    losses = hodor_losses([judged(valid=torch.zeros(2, *SIZE, dtype=torch.bool))])
    losses.total.backward()
    assert float(losses.total.detach()) == 0
