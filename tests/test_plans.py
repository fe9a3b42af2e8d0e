"""Training schemes as plans, and the rollout that runs them (HODOR, Table 1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from hodor.models.base import Memory, Network
from hodor.models.prediction import Features, Prediction
from hodor.tracking import Tracker
from hodor.training.losses import compute_loss
from hodor.training.plans import Plan, Step, chain, cyclic, dense, released, rollout, still

PLANS: dict[str, Plan] = {
    "still": still(),
    "chain": chain(3),
    "dense": dense(3),
    "cyclic": cyclic(3),
    "released, even": released(0),
    "released, odd": released(1),
    "one-shot, back": (
        Step((0,), 1, supervised=False, grad=False),
        Step((1,), 2, supervised=False, grad=False),
        Step((2,), 1, supervised=False, mask_feedback="soft", restart=True),
        Step((1,), 0),
    ),
}


class Watcher:
    """A network that records its calls: sources of every segment, what is remembered, predictions."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.recurrent = network.recurrent
        self.asked: list[tuple[int, ...]] = []
        self.remembered: list[tuple[int, Tensor, Tensor]] = []
        self.predictions: list[Prediction] = []

    def encode(self, frames: Tensor) -> Features:
        return self.network.encode(frames)

    def remember(self, memory: Memory, index: int, features: Features, masks: Tensor, known: Tensor, given: Tensor) -> Memory:
        self.remembered.append((index, masks, given))
        return self.network.remember(memory, index, features, masks, known, given)

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        self.asked.append(tuple(memory.frames))
        prediction, memory = self.network.segment(memory, features, remembered=remembered)
        if prediction.logits_BKHW.requires_grad:
            prediction.logits_BKHW.retain_grad()
        self.predictions.append(prediction)
        return prediction, memory


def orders(plan: Plan) -> list[tuple[tuple[int, ...], int]]:
    return [(step.sources, step.target) for step in plan]


def test_plans_go_in_the_orders_they_state() -> None:
    assert orders(still()) == [((0,), 0)]
    assert orders(chain(4)) == [((0,), 1), ((1,), 2), ((2,), 3)]
    assert orders(dense(4)) == [((0,), 1), ((0, 1), 2), ((0, 1, 2), 3)]
    assert orders(cyclic(3)) == [((0,), 1), ((1,), 2), ((2,), 1), ((1,), 0)]
    assert orders(cyclic(2)) == [((0,), 1), ((1,), 0)]
    # 0>0; 0>1>0; 0>1>2>1>0 without its first step, or with two sources
    assert orders(released(0)) == [((0,), 0), ((0,), 1), ((1,), 0), ((1,), 2), ((2,), 1), ((1,), 0)]
    assert orders(released(1)) == [((0,), 0), ((0,), 1), ((1,), 0), ((0, 1), 2), ((2,), 1), ((1, 2), 0)]


def test_all_plans_but_the_cycle_supervise_every_prediction() -> None:
    for plan in (still(), chain(4), dense(4), released(0), released(1)):
        assert all(step.supervised for step in plan)
    assert [step.target for step in cyclic(5) if step.supervised] == [0]


def test_mask_feedback_is_detached_by_default_but_soft_in_a_cycle() -> None:
    assert {s.mask_feedback for p in (still(), chain(3), dense(3), released(0)) for s in p} == {"detached"}
    assert {s.mask_feedback for s in cyclic(3)} == {"soft"}
    for made in (chain(3, "hard"), dense(3, "hard"), cyclic(3, "hard"), released(0, "hard")):
        assert {s.mask_feedback for s in made} == {"hard"}


@pytest.mark.parametrize("name", PLANS)
def test_the_rollout_follows_the_plan_and_returns_the_supervised_predictions(name: str) -> None:
    watcher = Watcher(tiny.network())
    supervised = rollout(watcher, tiny.clip(), PLANS[name])
    assert watcher.asked == [step.sources for step in PLANS[name]]
    assert [j.target for j in supervised] == [step.target for step in PLANS[name] if step.supervised]
    assert all(j.prediction.logits_BKHW.shape == (2, 12, 16, 24) for j in supervised)


@pytest.mark.parametrize("name", ["chain", "dense", "cyclic", "released, even", "released, odd"])
def test_a_prediction_of_a_given_frame_is_never_remembered(name: str) -> None:
    watcher = Watcher(tiny.network())
    clip = tiny.clip()
    rollout(watcher, clip, [*PLANS[name], Step((1,), 0), Step((0,), 1)])
    first = [masks for index, masks, _ in watcher.remembered if index == 0]
    assert len(first) == 1
    assert torch.equal(first[0], clip.masks_BTNHW[:, 0])
    assert all(not given.any() for index, _, given in watcher.remembered if index)


def test_frames_that_no_later_step_reads_are_not_remembered() -> None:
    watcher = Watcher(tiny.network())
    rollout(watcher, tiny.clip(), released(0))
    # frame 1 is predicted twice and read in between; the last frames of chains are not read
    assert [index for index, _, _ in watcher.remembered] == [0, 1, 2, 1]
    watcher = Watcher(tiny.network())
    rollout(watcher, tiny.clip(), dense(3))
    assert [index for index, _, _ in watcher.remembered] == [0, 1]


def test_the_cycle_supervises_only_the_annotated_frame_and_reads_no_other_label() -> None:
    network, clip = tiny.network(), tiny.clip(length=3)
    sparse = replace(clip, labelled_BT=torch.tensor([[True, False, False]] * 2), masks_BTNHW=clip.masks_BTNHW.clone())
    sparse.masks_BTNHW[:, 1:] = 0
    totals = []
    for seed in range(3):
        other = replace(sparse, masks_BTNHW=sparse.masks_BTNHW.clone())
        generator = torch.Generator().manual_seed(seed)
        if seed:
            other.masks_BTNHW[:, 1:] = (torch.rand(2, 2, 2, 64, 96, generator=generator) < 0.3 * seed).float()
        supervised = rollout(network, other, cyclic(3))
        assert [j.target for j in supervised] == [0]
        assert torch.equal(supervised[0].masks_BNHW, clip.masks_BTNHW[:, 0])
        totals.append(compute_loss(supervised).total.detach())
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(totals[0], totals[2])


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_sends_gradient_to_every_weight(name: str) -> None:
    network = tiny.network(encoder_layers=2, decoder_layers=2, feature_positions=True)
    compute_loss(rollout(network, tiny.clip(), PLANS[name])).total.backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # softmax ignores what a query adds to all its keys' products, so these gradients are zero but for rounding
    assert all(n.endswith("cross_attn.k_proj.bias") for n in idle), idle


def fed_back(mask_feedback: str) -> tuple[Watcher, Tensor]:
    watcher = Watcher(tiny.network())
    supervised = rollout(watcher, tiny.clip(), cyclic(3, mask_feedback))  # type: ignore[arg-type]
    return watcher, compute_loss(supervised).total


def test_soft_mask_feedback_sends_gradient_through_the_masks() -> None:
    """From the supervised frame 0 back through the masks of frames 1, 2 and 1."""
    watcher, total = fed_back("soft")
    total.backward()
    for prediction in watcher.predictions[:3]:
        assert prediction.logits_BKHW.grad is not None
        assert float(prediction.logits_BKHW.grad.abs().sum()) > 0


@pytest.mark.parametrize("mask_feedback", ["detached", "hard"])
def test_other_mask_feedback_does_not(mask_feedback: str) -> None:
    watcher, total = fed_back(mask_feedback)
    total.backward()
    assert [p.logits_BKHW.grad is None for p in watcher.predictions] == [True, True, True, False]
    soft = [masks for index, masks, _ in watcher.remembered if index]
    assert not any(masks.requires_grad for masks in soft)
    assert all(bool(((masks == 0) | (masks == 1)).all()) for masks in soft) == (mask_feedback == "hard")


def test_soft_and_detached_predict_the_same() -> None:
    totals = [fed_back(mask_feedback)[1].detach() for mask_feedback in ("soft", "detached", "hard")]
    assert torch.equal(totals[0], totals[1])
    assert not torch.equal(totals[0], totals[2])


def test_a_step_without_gradient_records_none() -> None:
    network = tiny.network()
    silent, loud = rollout(network, tiny.clip(), (Step((0,), 1, grad=False), Step((1,), 2)))
    assert not silent.prediction.logits_BKHW.requires_grad
    assert loud.prediction.logits_BKHW.requires_grad
    with torch.no_grad():
        (still_silent,) = rollout(network, tiny.clip(), still())
    assert not still_silent.prediction.logits_BKHW.requires_grad


def test_a_restart_keeps_only_its_sources_and_treats_their_masks_as_given() -> None:
    watcher = Watcher(tiny.network())
    plan = (Step((0,), 1, supervised=False), Step((1,), 2, supervised=False), Step((2,), 1, restart=True))
    rollout(watcher, tiny.clip(), plan)
    index, masks, given = watcher.remembered[-1]
    assert index == 2
    assert given.all()
    assert torch.equal(masks, watcher.predictions[1].soft())
    with pytest.raises(ValueError, match=r"^step 3 reads frame 0, which no earlier step has remembered$"):
        rollout(watcher, tiny.clip(), (*plan, Step((0, 2), 1)))


@pytest.mark.parametrize(
    ("plan", "number", "frame"),
    [
        ((Step((2,), 1),), 0, 2),
        ((*chain(3), Step((2,), 1), Step((0, 3), 1)), 3, 3),
        ((Step((0,), 1), Step((2,), 1, restart=True)), 1, 2),
    ],
)
def test_reading_a_frame_that_was_not_remembered_is_refused(plan: Plan, number: int, frame: int) -> None:
    words = f"^step {number} reads frame {frame}, which no earlier step has remembered$"
    with pytest.raises(ValueError, match=words):
        rollout(tiny.network(), tiny.clip(), plan)


def test_restarting_from_the_given_frame_is_starting_again() -> None:
    network, clip = tiny.network(), tiny.clip()
    first, _, again = rollout(network, clip, (Step((0,), 1), Step((1,), 2), Step((0,), 1, restart=True)))
    assert torch.equal(first.prediction.logits_BKHW, again.prediction.logits_BKHW)


def test_an_object_gone_from_all_sources_is_background_in_the_ground_truth() -> None:
    network, clip = tiny.network(), tiny.clip(length=4)
    clip.masks_BTNHW[0, 1, 0] = 0  # object 1 of the first clip is away in frame 1
    supervised = rollout(network, clip, chain(4))
    at = {j.target: j.masks_BNHW for j in supervised}
    assert not at[1][0, 0].any()  # not in the picture
    assert not at[2][0, 0].any()  # back again, but frame 1 could not show it
    assert not at[3][0, 0].any()  # nor could frame 2, whose prediction did not contain it
    for frame in (1, 2, 3):
        assert torch.equal(at[frame][0, 1], clip.masks_BTNHW[0, frame, 1])
        assert torch.equal(at[frame][1], clip.masks_BTNHW[1, frame])
    for j in rollout(network, clip, dense(4)):  # frame 0 is always a source
        assert torch.equal(j.masks_BNHW, clip.masks_BTNHW[:, j.target])


def test_a_frame_without_labels_costs_nothing_even_where_the_plan_supervises_it() -> None:
    network, clip = tiny.network(), tiny.clip()
    alone = compute_loss(rollout(network, clip, (Step((0,), 1),)))
    clip.labelled_BT[:, 2] = False
    both = rollout(network, clip, (Step((0,), 1), Step((0,), 2)))
    assert not both[1].valid_BHW.any()
    assert torch.isclose(compute_loss(both).cross_entropy, alone.cross_entropy / 2)


def test_an_object_of_an_unlabelled_source_is_still_supervised() -> None:
    network, clip = tiny.network(), tiny.clip()
    clip.labelled_BT[:, 1] = False
    clip.masks_BTNHW[:, 1] = 0
    supervised = rollout(network, clip, chain(3))
    assert torch.equal(supervised[1].masks_BNHW, clip.masks_BTNHW[:, 2])


@torch.no_grad()
def test_tracker_and_rollout_agree() -> None:
    network, clip = tiny.network().eval(), tiny.clip(batch=1, length=5)
    supervised = rollout(network, clip, chain(5))
    tracker = Tracker(network, history=1, pin_first=False, hold_lost=False, size=64)
    given = (clip.masks_BTNHW[0, 0, 0] + 2 * clip.masks_BTNHW[0, 0, 1]).byte().numpy()
    tracker.track(clip.frames_BTCHW[0, 0], given)
    seen = set()
    for t, j in enumerate(supervised, 1):
        tracked = tracker.step(clip.frames_BTCHW[0, t])
        theirs = j.prediction.labels((64, 96))[0].numpy()
        assert (tracked.labels != theirs).mean() < 2e-3
        soft = torch.from_numpy(tracked.soft())
        torch.testing.assert_close(
            soft, torch.nn.functional.interpolate(j.prediction.soft(), (64, 96), mode="bilinear")[0], rtol=1e-2, atol=1e-3
        )
        seen |= set(theirs.ravel().tolist())
    assert seen == {0, 1, 2}


@torch.no_grad()
def test_a_tracker_with_history_agrees_with_the_dense_plan() -> None:
    network, clip = tiny.network().eval(), tiny.clip(batch=1, length=4)
    supervised = rollout(network, clip, dense(4))
    tracker = Tracker(network, history=9, pin_first=False, hold_lost=False, size=64)
    given = (clip.masks_BTNHW[0, 0, 0] + 2 * clip.masks_BTNHW[0, 0, 1]).byte().numpy()
    tracker.track(clip.frames_BTCHW[0, 0], given)
    for t, j in enumerate(supervised, 1):
        theirs = j.prediction.labels((64, 96))[0].numpy()
        assert (tracker.track(clip.frames_BTCHW[0, t]) != theirs).mean() < 2e-3
