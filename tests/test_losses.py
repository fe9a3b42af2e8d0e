"""Cross-entropy and joint Dice, by hand and against PyTorch's own."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.losses import Loss, hodor_losses, joint_dice, object_dice
from hodor.models.base import UNKNOWN, Prediction
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


def test_cross_entropy_is_the_mean_over_the_valid_pixels_of_each_clip() -> None:
    valid = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(9)) < torch.tensor([0.2, 0.6]).view(2, 1, 1)
    one = judged(valid=valid)
    each = F.cross_entropy(enlarged(one), labels(one), reduction="none")
    expected = (each[0][valid[0]].mean() + each[1][valid[1]].mean()) / 2
    torch.testing.assert_close(hodor_losses([one]).cross_entropy, expected)


def alone(j: Judged, clip: int) -> Judged:
    part = slice(clip, clip + 1)
    prediction = replace(j.prediction, logits_BKHW=j.prediction.logits_BKHW[part])
    objects = None if j.objects_BN is None else j.objects_BN[part]
    return Judged(j.target, prediction, j.masks_BNHW[part], j.valid_BHW[part], objects)


def padded(j: Judged) -> Judged:
    """With a third plane that no clip has an object on."""
    batch = len(j.masks_BNHW)
    silent = torch.full((batch, 1, *j.prediction.logits_BKHW.shape[2:]), UNKNOWN)
    prediction = replace(j.prediction, logits_BKHW=torch.cat([j.prediction.logits_BKHW, silent], 1))
    masks = torch.cat([j.masks_BNHW, torch.zeros(batch, 1, *SIZE)], 1)
    return Judged(j.target, prediction, masks, j.valid_BHW, torch.tensor([[True, True, False]] * batch))


@pytest.mark.parametrize("kind", get_args(Loss))
def test_the_loss_of_a_batch_is_the_mean_of_its_clips_however_they_are_padded(kind: Loss) -> None:
    """What several processes and the parts of an accumulated batch rely on."""
    valid = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(9)) < torch.tensor([0.2, 0.9]).view(2, 1, 1)
    each = [judged(0, valid=valid), judged(1, valid=valid)]
    whole = hodor_losses([padded(j) for j in each], kind).total
    clips = [hodor_losses([alone(j, b) for j in each], kind).total for b in range(2)]
    torch.testing.assert_close(whole, torch.stack(clips).mean(), rtol=1e-6, atol=1e-7)


def test_padding_does_not_make_a_small_object_smaller() -> None:
    """The e of joint Dice weighs the more the smaller the mean; a pixel that is hardly seen shows it."""
    one = judged()
    with torch.no_grad():
        one.prediction.logits_BKHW[:, 3:] = -7
        one.masks_BNHW.zero_()
        one.masks_BNHW[:, :, 3, 4] = 1
    bare, wide = hodor_losses([one]).dice, hodor_losses([padded(one)]).dice
    assert 0 < float(bare.detach()) < 1
    torch.testing.assert_close(wide, bare, rtol=0, atol=1e-6)


def test_each_objects_own_dice_by_hand() -> None:
    soft, truth = torch.zeros(1, 2, 2, 4, 4), torch.zeros(1, 2, 2, 4, 4)
    soft[:, :, 0, :2], truth[:, :, 0, 1:3] = 1, 1  # 8 pixels a frame, 4 in common
    truth[:, 0, 1, 0] = 1  # missed
    counted = torch.ones(1, 2, 2, 4, 4, dtype=torch.bool)
    expected = ((1 - (2 * 8 + 1) / (32 + 1)) + (1 - 1 / 5)) / 2
    assert float(object_dice(soft, truth, counted)) == pytest.approx(expected)
    miss = soft.clone().requires_grad_()
    object_dice(miss, truth, counted).backward()
    assert float(miss.grad[0, :, 1].abs().sum()) > 0


def test_cross_entropy_alone_sends_no_gradient_of_dice() -> None:
    one = judged()
    losses = hodor_losses([one], "cross-entropy")
    assert torch.equal(losses.total, losses.cross_entropy)
    assert float(losses.dice.detach()) > 0


def test_a_frame_without_a_valid_pixel_gives_a_finite_loss() -> None:
    losses = hodor_losses([judged(valid=torch.zeros(2, *SIZE, dtype=torch.bool))])
    losses.total.backward()
    assert float(losses.total.detach()) == 0
