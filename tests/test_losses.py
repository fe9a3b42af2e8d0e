"""Cross-entropy and joint Dice, by hand and against PyTorch's own."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.prediction import UNKNOWN, Prediction
from hodor.training.losses import LOSSES, LossOptions, compute_loss, joint_dice, object_dice
from hodor.training.plans import Supervised
from hodor.training.recipe import Bootstrap, Loss, Points

SIZE = (20, 28)


def supervised(seed: int = 0, backgrounds: int = 3, valid: Tensor | None = None, batch: int = 2) -> Supervised:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, backgrounds + 2, 8, 8, generator=generator).requires_grad_()
    owner = torch.randint(3, (batch, 1, *SIZE), generator=generator)
    masks = torch.cat([owner == 1, owner == 2], 1).float()
    valid = torch.ones(batch, *SIZE, dtype=torch.bool) if valid is None else valid
    return Supervised(0, Prediction(logits, backgrounds, SIZE, (32, 32)), masks, valid)


def labels(j: Supervised) -> Tensor:
    return (j.masks_BNHW * torch.tensor([1, 2]).view(1, 2, 1, 1)).sum(1).long()


def enlarged(j: Supervised) -> Tensor:
    """Backgrounds merged by max, then 4 times larger, then the padding cut off."""
    x = j.prediction.logits_BKHW
    x = torch.stack([x[:, :3].max(1)[0], x[:, 3], x[:, 4]], 1)
    return F.interpolate(x, scale_factor=4, mode="bilinear")[..., : SIZE[0], : SIZE[1]]


def test_cross_entropy_is_pytorchs_where_all_pixels_are_valid() -> None:
    each = [supervised(0), supervised(1)]
    expected = torch.stack([F.cross_entropy(enlarged(j), labels(j)) for j in each]).mean()
    torch.testing.assert_close(compute_loss(each).cross_entropy, expected)


def test_dice_is_joint_over_objects_predictions_and_pixels() -> None:
    each = [supervised(0), supervised(1)]
    soft = torch.stack([enlarged(j).softmax(1)[:, 1:] for j in each], 1)
    ground_truth = torch.stack([j.masks_BNHW for j in each], 1)
    terms = []
    for p, g in zip(soft, ground_truth, strict=True):
        terms.append(1 - (2 * (p * g).mean() + 1e-6) / ((p + g).mean() + 1e-6))
    losses = compute_loss(each)
    torch.testing.assert_close(losses.dice, torch.stack(terms).mean())
    torch.testing.assert_close(losses.total, losses.dice + losses.cross_entropy)


def test_joint_dice_by_hand() -> None:
    soft = torch.tensor([[[0.5, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 0.0]]])
    ground_truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 0.0]]])
    # first: 2 * 1.5 / (1.5 + 2); second: perfect
    expected = ((1 - 3 / 3.5) + 0) / 2
    assert float(joint_dice(soft, ground_truth, torch.ones_like(soft))) == pytest.approx(expected, abs=1e-5)


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
    soft, ground_truth = torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    alone = joint_dice(soft[1:], ground_truth[1:], torch.ones(1, 2))
    assert float(joint_dice(soft, ground_truth, torch.ones(2, 2))) == pytest.approx(float(alone) / 2)


def test_pixels_outside_valid_do_not_count() -> None:
    """Neither their ground truth nor the logits that only they depend on."""
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    valid[:, :, 14:] = False
    one = supervised(valid=valid)
    before = compute_loss([one])
    one.masks_BNHW[..., 14:] = 1 - one.masks_BNHW[..., 14:]
    with torch.no_grad():
        one.prediction.logits_BKHW[..., 5:] += torch.randn(2, 5, 8, 3)
    after = compute_loss([one])
    assert torch.equal(before.cross_entropy, after.cross_entropy)
    assert torch.equal(before.dice, after.dice)
    one.masks_BNHW[..., 2] = 1 - one.masks_BNHW[..., 2]
    assert not torch.equal(before.dice, compute_loss([one]).dice)


def test_cross_entropy_is_the_mean_over_the_valid_pixels_of_each_clip() -> None:
    valid = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(9)) < torch.tensor([0.2, 0.6]).view(2, 1, 1)
    one = supervised(valid=valid)
    each = F.cross_entropy(enlarged(one), labels(one), reduction="none")
    expected = (each[0][valid[0]].mean() + each[1][valid[1]].mean()) / 2
    torch.testing.assert_close(compute_loss([one]).cross_entropy, expected)


def alone(j: Supervised, clip: int) -> Supervised:
    part = slice(clip, clip + 1)
    prediction = replace(j.prediction, logits_BKHW=j.prediction.logits_BKHW[part])
    objects = None if j.objects_BN is None else j.objects_BN[part]
    return Supervised(j.target, prediction, j.masks_BNHW[part], j.valid_BHW[part], objects)


def padded(j: Supervised) -> Supervised:
    """With a third plane that no clip has an object on."""
    batch = len(j.masks_BNHW)
    silent = torch.full((batch, 1, *j.prediction.logits_BKHW.shape[2:]), UNKNOWN)
    prediction = replace(j.prediction, logits_BKHW=torch.cat([j.prediction.logits_BKHW, silent], 1))
    masks = torch.cat([j.masks_BNHW, torch.zeros(batch, 1, *SIZE)], 1)
    return Supervised(j.target, prediction, masks, j.valid_BHW, torch.tensor([[True, True, False]] * batch))


@pytest.mark.parametrize("kind", get_args(Loss))
def test_the_loss_of_a_batch_is_the_mean_of_its_clips_however_they_are_padded(kind: Loss) -> None:
    """What several processes and the parts of an accumulated batch rely on."""
    valid = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(9)) < torch.tensor([0.2, 0.9]).view(2, 1, 1)
    each = [supervised(0, valid=valid), supervised(1, valid=valid)]
    whole = compute_loss([padded(j) for j in each], kind).total
    clips = [compute_loss([alone(j, b) for j in each], kind).total for b in range(2)]
    torch.testing.assert_close(whole, torch.stack(clips).mean(), rtol=1e-6, atol=1e-7)


def test_padding_does_not_make_a_small_object_smaller() -> None:
    """The e of joint Dice weighs the more the smaller the mean; a pixel that is hardly seen shows it."""
    one = supervised()
    with torch.no_grad():
        one.prediction.logits_BKHW[:, 3:] = -7
        one.masks_BNHW.zero_()
        one.masks_BNHW[:, :, 3, 4] = 1
    bare, wide = compute_loss([one]).dice, compute_loss([padded(one)]).dice
    assert 0 < float(bare.detach()) < 1
    torch.testing.assert_close(wide, bare, rtol=0, atol=1e-6)


def test_each_objects_own_dice_by_hand() -> None:
    soft, ground_truth = torch.zeros(1, 2, 2, 4, 4), torch.zeros(1, 2, 2, 4, 4)
    soft[:, :, 0, :2], ground_truth[:, :, 0, 1:3] = 1, 1  # 8 pixels a frame, 4 in common
    ground_truth[:, 0, 1, 0] = 1  # missed
    counted = torch.ones(1, 2, 2, 4, 4, dtype=torch.bool)
    expected = ((1 - (2 * 8 + 1) / (32 + 1)) + (1 - 1 / 5)) / 2
    assert float(object_dice(soft, ground_truth, counted)) == pytest.approx(expected)
    miss = soft.clone().requires_grad_()
    object_dice(miss, ground_truth, counted).backward()
    assert float(miss.grad[0, :, 1].abs().sum()) > 0


def test_cross_entropy_alone_sends_no_gradient_of_dice() -> None:
    one = supervised()
    losses = compute_loss([one], "cross-entropy")
    assert torch.equal(losses.total, losses.cross_entropy)
    assert float(losses.dice.detach()) > 0


def test_a_frame_without_a_valid_pixel_gives_a_finite_loss() -> None:
    losses = compute_loss([supervised(valid=torch.zeros(2, *SIZE, dtype=torch.bool))])
    losses.total.backward()
    assert float(losses.total.detach()) == 0


def test_every_name_of_a_loss_has_its_function() -> None:
    assert set(LOSSES) == set(get_args(Loss))
    with pytest.raises(ValueError, match=r"^expected a loss \(released, .*\), got 'focal'$"):
        compute_loss([supervised()], "focal")  # type: ignore[arg-type]


# STCN, XMem, Cutie ----------------------------------------------------------------------------------------------------


def test_the_share_of_hard_pixels_falls_along_a_line_from_all_to_the_least() -> None:
    at = {0: 1.0, 19_999: 1.0, 20_000: 1.0, 45_000: 0.575, 70_000: 0.15, 10**6: 0.15}
    assert {step: pytest.approx(Bootstrap().share(step)) for step in at} == at
    assert Bootstrap(0, 0, 0.5).share(0) == 0.5


def test_bootstrapped_cross_entropy_is_the_mean_of_the_hardest_pixels_summed_over_frames() -> None:
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    valid[0, :10] = False
    each = [supervised(0, valid=valid), supervised(1, valid=valid)]
    expected = torch.zeros(())
    for j in each:
        costs = F.cross_entropy(enlarged(j), labels(j), reduction="none")
        for clip, keep in zip(costs, valid, strict=True):
            count = int(0.15 * int(keep.sum()))
            expected = expected + clip[keep].topk(count).values.mean() / 2
    losses = compute_loss(each, "bootstrapped", LossOptions(0.15))
    torch.testing.assert_close(losses.total, expected)
    assert float(losses.dice.detach()) > 0
    whole = compute_loss(each, "bootstrapped").total
    torch.testing.assert_close(whole, 2 * compute_loss(each, "cross-entropy").total)
    assert float(whole.detach()) < float(losses.total.detach())


def test_xmems_dice_is_each_objects_in_each_frame_summed_over_frames() -> None:
    each = [supervised(0), supervised(1)]
    expected = torch.zeros(())
    for j in each:
        soft = enlarged(j).softmax(1)[:, 1:]
        both, all_of_it = 2 * (soft * j.masks_BNHW).sum((2, 3)), (soft + j.masks_BNHW).sum((2, 3))
        expected = expected + (1 - (both + 1) / (all_of_it + 1)).mean()
    losses = compute_loss(each, "bootstrapped-dice", LossOptions(0.5))
    torch.testing.assert_close(losses.dice, expected)
    torch.testing.assert_close(losses.total, losses.cross_entropy + expected)


def test_few_hard_pixels_use_at_least_one_and_no_valid_pixel_costs_nothing() -> None:
    one = supervised()
    hardest = F.cross_entropy(enlarged(one), labels(one), reduction="none").flatten(1).amax(1).mean()
    torch.testing.assert_close(compute_loss([one], "bootstrapped", LossOptions(1e-9)).total, hardest)
    for kind in ("bootstrapped-dice", "points"):
        losses = compute_loss([supervised(valid=torch.zeros(2, *SIZE, dtype=torch.bool))], kind, LossOptions(0.15))  # type: ignore[arg-type]
        losses.total.backward()
        assert float(losses.total.detach()) == 0


def steps_of_two(size: tuple[int, int] = (32, 32), aux: bool = False) -> Supervised:
    """One object on the right half, its logits uncertain along the border between columns 12 and 20 alone."""
    logits = torch.zeros(1, 2, *size)
    logits[:, 1] = torch.where(torch.arange(size[1]) < 12, -9.0, torch.where(torch.arange(size[1]) < 20, 0.1, 9.0))
    masks = torch.zeros(1, 1, *size)
    masks[..., 16:] = 1
    more = {"sensory": torch.zeros(1, 2, 4, 4).requires_grad_(), "queries": torch.zeros(1, 3, 2, 4, 4).requires_grad_()}
    prediction = Prediction(logits.requires_grad_(), 1, size, size, aux=more if aux else {})
    return Supervised(0, prediction, masks, torch.ones(1, *size, dtype=torch.bool))


def test_points_are_where_the_network_is_uncertain_and_some_anywhere() -> None:
    one = steps_of_two()
    compute_loss([one], "points", LossOptions(points=Points(400, 3.0, 0.75))).total.backward()
    grad = one.prediction.logits_BKHW.grad
    assert grad is not None
    uncertain = float((grad[0, 1, :, 12:20] != 0).float().mean())
    elsewhere = float((grad[0, 1, :, :11] != 0).float().mean())
    assert uncertain > 0.6
    assert 0.02 < elsewhere < 0.6
    one = steps_of_two()
    compute_loss([one], "points", LossOptions(points=Points(400, 3.0, 0.0))).total.backward()
    even = one.prediction.logits_BKHW.grad
    assert even is not None
    assert float((even[0, 1, :, :11] != 0).float().mean()) > elsewhere


def test_many_points_cost_what_all_pixels_cost() -> None:
    """Without preference, and with ground truth bilinear in between: the mean over points nears the mean over pixels."""
    each = [supervised(0), supervised(1)]
    got = compute_loss(each, "points", LossOptions(points=Points(60_000, 1.0, 0.0)))
    soft = [enlarged(j).softmax(1)[:, 1:] for j in each]
    entropy = sum(F.cross_entropy(enlarged(j), labels(j)) for j in each)
    share = [(2 * (p * j.masks_BNHW).mean((2, 3)), (p + j.masks_BNHW).mean((2, 3))) for p, j in zip(soft, each, strict=True)]
    dice = sum((1 - both / total).mean() for both, total in share)
    torch.testing.assert_close(got.cross_entropy, torch.as_tensor(entropy), rtol=0.05, atol=0)
    torch.testing.assert_close(got.dice, torch.as_tensor(dice), rtol=0.05, atol=0)


def test_additional_logits_weigh_a_hundredth_each() -> None:
    one = steps_of_two(aux=True)
    plain = compute_loss([steps_of_two()], "points", LossOptions(points=Points(500)))
    losses = compute_loss([one], "points", LossOptions(points=Points(500)))
    torch.testing.assert_close(losses.cross_entropy, plain.cross_entropy)
    # even logits cost log 2, and a Dice of about a half where the object is half of the frame; sensory and three levels
    assert float(torch.as_tensor(losses.aux).detach()) == pytest.approx(4 * 0.01 * (0.693 + 0.5), rel=0.05)
    losses.total.backward()
    assert all(bool(x.grad.any()) for x in one.prediction.aux.values())


def test_points_of_a_padded_frame_are_the_frames_own() -> None:
    """The padding reaches neither the logits' nor the additional logits' cost."""
    logits, small = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 4, 4)
    masks = torch.zeros(1, 1, 32, 32)
    masks[..., 16:] = 1
    costs = []
    for fill in (0.0, 1e3):
        logits[:, 1, :, :3] = small[:, 1, 0] = fill  # the frame is in columns 6 to 13; in cells 1.5 to 3.5
        prediction = Prediction(logits.clone(), 1, (32, 32), (64, 64), (24, 24), aux={"sensory": small.clone()})
        one = Supervised(0, prediction, masks, torch.ones(1, 32, 32, dtype=torch.bool))
        costs.append(compute_loss([one], "points", LossOptions(points=Points(800))))
    assert float(costs[0].aux) > 0
    torch.testing.assert_close(costs[0], costs[1])


def test_each_clip_has_points_of_its_own_generator() -> None:
    one, points = supervised(), Points(50)

    def total(*seeds: int) -> float:
        rngs = [torch.Generator().manual_seed(i) for i in seeds]
        return float(compute_loss([one], "points", LossOptions(points=points, rngs=rngs)).total.detach())

    assert total(3, 4) == total(3, 4) != total(3, 5)
    first, second = (
        float(
            compute_loss(
                [alone(one, b)], "points", LossOptions(points=points, rngs=[torch.Generator().manual_seed(3 + b)])
            ).total.detach()
        )
        for b in (0, 1)
    )
    assert total(3, 4) == pytest.approx((first + second) / 2)
