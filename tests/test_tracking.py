"""The tracker: ids, additions, corrections, losses, sizes, and a memory that stays small."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from hodor.models.base import Memory
from hodor.models.hodor import HODOR
from hodor.models.prediction import Features, Prediction
from hodor.tracking import Tracked, Tracker
from hodor.training.losses import compute_loss
from hodor.training.plans import dense, rollout

SIZE = (64, 96)
Array = NDArray[Any]


def video(count: int, size: tuple[int, int] = SIZE) -> Array:
    """-> uint8 [count, H, W, 3]."""
    return (tiny.pictures(count, size) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def labels(*ids: int, size: tuple[int, int] = SIZE) -> Array:
    """Ids of the two rectangles, 0 for none of it."""
    planes = tiny.planes(size).bool().numpy()
    out = np.zeros(size, np.uint16)
    for plane, i in zip(planes, ids, strict=False):
        out[plane] = i
    return out


def tracker(seed: int = 0, *, history: int = 7, pin_first: bool = True, hold_lost: bool = True, **changes: Any) -> Tracker:
    network = tiny.network(seed, **changes).eval()
    return Tracker(network, history=history, pin_first=pin_first, hold_lost=hold_lost, size=64)


class Blindfold:
    """The network, but for an object that it does not find in some frames."""

    def __init__(self, network: HODOR, plane: int, frames: set[int]) -> None:
        self.network, self.plane, self.frames, self.asked = network, plane, frames, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        prediction, memory = self.network.segment(memory, features, remembered=remembered)
        self.asked += 1
        blind = torch.arange(len(memory.objects)) == self.plane
        return (prediction.without(blind[None]) if self.asked in self.frames else prediction), memory


def test_an_object_that_appears_later_keeps_its_id() -> None:
    walk, frames = tracker(), video(5)
    first = walk.step(frames[0], labels(7))
    assert (first.objects, first.labels.dtype) == ((7,), np.uint8)
    assert np.array_equal(first.labels, labels(7))
    assert set(np.unique(walk.track(frames[1]))) <= {0, 7}
    second = walk.step(frames[2], labels(0, 300))
    assert (second.objects, second.labels.dtype) == ((7, 300), np.uint16)
    assert ((second.labels == 300) == (labels(0, 300) == 300)).all()
    seen = set()
    for frame in frames[3:]:
        tracked = walk.step(frame)
        assert tracked.objects == (7, 300)
        assert tracked.confidence.keys() == {7, 300}
        seen |= set(np.unique(tracked.labels).tolist())
    assert seen == {0, 7, 300}


def test_planes_follow_the_ids_whatever_order_they_come_in() -> None:
    one, two, frames = tracker(), tracker(), video(4)
    one.track(frames[0], labels(7, 300))
    two.track(frames[0], labels(300, 7))
    swap = np.array([300 if i == 7 else 7 if i == 300 else i for i in range(301)])
    for frame in frames[1:]:
        a, b = one.step(frame), two.step(frame)
        assert (a.labels != swap[b.labels]).mean() < 2e-3
        np.testing.assert_allclose(a.soft(), b.soft()[::-1], atol=1e-3)


@pytest.mark.parametrize("barebones", [False, True])
def test_adding_an_object_leaves_what_is_remembered_of_the_others(barebones: bool) -> None:
    with_, without, frames = (*(tracker(barebones=barebones) for _ in range(2)), video(3))
    for walk in (with_, without):
        walk.track(frames[0], labels(7))
        walk.track(frames[1])
    before = with_.memory
    added = with_.track(frames[2], labels(0, 300))
    alone = without.track(frames[2])
    for index, entry in before.frames.items():
        now = with_.memory.frames[index]
        assert torch.equal(now.per_object[:, :1], entry.per_object)
        assert torch.equal(now.shared["background"], entry.shared["background"])
        assert now.valid_BN.tolist() == [[True, False]]
        assert now.complete_B.tolist() == entry.complete_B.tolist()
    if barebones:  # where an object's logits do not depend on the others: its mask is the same around the new one
        free = added != 300
        assert (added[free] == alone[free]).all()
        assert (alone[free] == 7).any()


@pytest.mark.parametrize("barebones", [False, True])
def test_removing_an_object_leaves_what_is_remembered_of_the_others(barebones: bool) -> None:
    walk, frames = tracker(barebones=barebones), video(3)
    walk.track(frames[0], labels(7, 300))
    walk.track(frames[1])
    before = walk.memory
    with_both = walk.step(frames[2])
    walk.memory = before
    walk.remove(7)
    assert walk.objects == (300,)
    for index, entry in walk.memory.frames.items():
        assert torch.equal(entry.per_object, before.frames[index].per_object[:, 1:])
        assert torch.equal(entry.shared["background"], before.frames[index].shared["background"])
    alone = walk.step(frames[2])
    assert alone.objects == (300,)
    assert set(np.unique(alone.labels)) <= {0, 300}
    if barebones:  # the others' logits do not depend on it: they keep their pixels, and share out those it had
        kept = with_both.labels != 7
        assert (alone.labels[kept] == with_both.labels[kept]).all()
        assert (with_both.labels == 300).any()
        assert not kept.all()


def test_all_objects_can_go_and_others_come() -> None:
    walk, frames = tracker(), video(4)
    walk.track(frames[0], labels(7, 300))
    walk.remove(300, 7)
    nothing = walk.step(frames[1])
    assert not nothing.labels.any()
    assert nothing.objects == ()
    assert walk.step(frames[2], labels(5)).objects == (5,)
    assert set(np.unique(walk.track(frames[3]))) <= {0, 5}


def test_a_correction_holds_exactly_and_what_was_predicted_before_is_forgotten() -> None:
    walk, frames = tracker(), video(6)
    walk.track(frames[0], labels(7, 300))
    for frame in frames[1:3]:
        walk.track(frame)
    right = np.zeros(SIZE, np.uint8)
    right[20:40, 30:50] = 7
    corrected = walk.step(frames[3], right)
    assert ((corrected.labels == 7) == (right == 7)).all()
    assert corrected.confidence[7] == 1
    assert not corrected.soft()[1][24:36, 34:46].any(), "no other object is where the caller put this one"
    valid = {i: e.valid_BN[0].tolist() for i, e in walk.memory.frames.items()}
    assert {i: k[0] for i, k in valid.items()} == {0: True, 1: False, 2: False, 3: True}
    assert all(k[1] for i, k in valid.items() if i < 3)
    assert walk.memory.frames[3].given_BN.tolist() == [[True, False]]
    # later frames use the corrected mask, also without the first one
    walk.track(frames[4])
    assert walk.memory.frames[4].valid_BN[0, 0] or 7 in walk.step(frames[5]).lost


def test_a_corrected_object_is_followed_from_the_correction() -> None:
    """After a wrong first mask is corrected on a later frame and the first one dropped, the wrong one no longer matters."""
    frames = video(4)
    right = np.zeros(SIZE, np.uint8)
    right[20:40, 30:50] = 7
    results = []
    for wrong in (labels(7), labels(0, 7)):
        walk = tracker(pin_first=False, history=1)
        walk.track(frames[0], wrong)
        walk.track(frames[1], right)
        results.append(walk.track(frames[2]))
    assert np.array_equal(*results)


def test_frames_may_come_in_any_order_and_from_any_start() -> None:
    """Forward and back from the middle, by keeping the memory: it is a value."""
    walk, frames = tracker(), video(5)
    walk.track(frames[2], labels(7, 300))
    start = walk.memory
    forward = [walk.track(f) for f in frames[3:]]
    walk.memory = start
    back = [walk.track(f) for f in frames[1::-1]]
    again = tracker()
    again.track(frames[2], labels(7, 300))
    assert all(np.array_equal(a, again.track(f)) for a, f in zip(back, frames[1::-1], strict=True))
    other = tracker()
    other.memory = start
    assert all(np.array_equal(a, other.track(f)) for a, f in zip(forward, frames[3:], strict=True))
    assert next(iter(other.memory.frames)) == 0, "the given frame must not be overwritten in another tracker"
    assert len(other.memory.frames) == 3


def test_a_saved_state_goes_on_as_the_unbroken_run(tmp_path: Path) -> None:
    walk, frames = tracker(), video(6)
    walk.track(frames[0], labels(7, 300))
    walk.track(frames[1])
    walk.save(tmp_path / "state.safetensors", page=3)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    rest = [walk.track(f) for f in frames[2:]]
    other = tracker()
    assert other.restore(tmp_path / "state.safetensors") == {"page": 3}
    assert other.objects == (7, 300)
    assert all(np.array_equal(a, other.track(f)) for a, f in zip(rest, frames[2:], strict=True))
    with pytest.raises(FileNotFoundError, match=r"^no file .*none$"):
        other.restore(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"other is not the state of a tracker of this version$"):
        other.restore(tmp_path / "other")


def test_the_state_of_an_earlier_version_is_refused_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    walk, path = tracker(), tmp_path / "state.safetensors"
    walk.track(video(1)[0], labels(7, 300))
    walk.save(path)
    with safe_open(str(path), "pt") as opened:
        tensors, about = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    assert sorted(tensors) == [
        f"0.{name}" for name in ("complete_B", "given_BN", "per_object", "shared.background", "valid_BN")
    ]
    tensors["0.shared"] = tensors.pop("0.shared.background")
    save_file(tensors, path, about)
    before = walk.memory
    with pytest.raises(ValueError, match=r"^[^\n]*state\.safetensors is not the state of a tracker of this version$"):
        walk.restore(path)
    assert walk.memory is before


def test_the_state_of_another_network_is_refused_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    walk, path = tracker(), tmp_path / "state.safetensors"
    walk.track(video(1)[0], labels(7, 300))
    walk.save(path)
    other = Tracker(tiny.network(pooling="soft"))
    before = other.memory
    advice = "load the network that the state was saved with, or start again"
    words = rf"^expected the state of a tracker with HODOR, got .*state\.safetensors of HODOR with other settings: {advice}$"
    with pytest.raises(ValueError, match=words):
        other.restore(path)
    assert other.memory is before
    other.network.settings, other.network.name = walk.network.settings, "hodor-x"
    with pytest.raises(ValueError, match=r"^expected the state of a tracker with hodor-x, got .* of HODOR: "):
        other.restore(path)


def test_a_network_in_training_mode_tracks_as_in_evaluation_mode_and_stays_in_training_mode() -> None:
    network, frames = tiny.network(dropout=0.5), video(3)
    network.eval()
    still = Tracker(network)
    expected = [still.track(frames[0], labels(1, 2)), *(still.track(frame) for frame in frames[1:])]
    network.train()
    modes = [module.training for module in network.modules()]
    walk = Tracker(network)
    found = [walk.track(frames[0], labels(1, 2)), *(walk.track(frame) for frame in frames[1:])]
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(ValueError, match="expected a frame"):
        walk.track(np.zeros((3, 3), np.uint8))
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (45, 33), (200, 70), (31, 31)])
def test_labels_come_back_at_the_frames_own_size(size: tuple[int, int]) -> None:
    walk, frames = tracker(), video(2, size)
    given = labels(7, 300, size=size)
    first = walk.step(frames[0], given)
    assert np.array_equal(first.labels, given)
    second = walk.step(frames[1])
    assert second.labels.shape == size
    for tracked in (first, second):
        soft = tracked.soft()
        assert soft.shape == (2, *size)
        assert soft.dtype == np.float32
        assert soft.min() >= 0
        assert soft.max() <= 1 + 1e-6
    inside = first.soft()[0][given == 7].mean(), first.soft()[0][given != 7].mean()
    assert inside[0] > 0.8 > 0.2 > inside[1]


def test_arrays_and_tensors_of_every_kind_agree() -> None:
    frames = video(2)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    mirrored = np.ascontiguousarray(frames[:, ::-1, :, ::-1])
    sealed = frames.copy()
    sealed.setflags(write=False)
    kinds: list[Any] = [frames, tensor, tensor.float() / 255, tensor.double() / 255, mirrored[:, ::-1, :, ::-1], sealed]
    results = []
    for kind in kinds:
        walk = tracker()
        walk.track(kind[0], labels(7, 300))
        results.append(walk.track(kind[1]))
    assert len(np.unique(results[0])) > 1
    assert all(np.array_equal(r, results[0]) for r in results[1:])
    walk = tracker()
    walk.track(frames[0], torch.from_numpy(labels(7, 300).astype(np.int64)))
    assert np.array_equal(walk.track(frames[1]), results[0])
    upside = np.ascontiguousarray(labels(7, 300)[::-1])[::-1]  # rows in reverse in memory
    walk = tracker()
    walk.track(frames[0], upside)
    assert np.array_equal(walk.track(frames[1]), results[0])


@pytest.mark.parametrize("size", [SIZE, (97, 131)])
def test_frames_before_any_mask_give_zeros(size: tuple[int, int]) -> None:
    walk, frames = tracker(), video(3, size)
    for frame in frames[:2]:
        tracked = walk.step(frame)
        assert tracked.labels.shape == size
        assert not tracked.labels.any()
        assert tracked.objects == ()
        assert tracked.confidence == {}
        assert tracked.soft().shape == (0, *size)
    late, prompt = walk.step(frames[2], labels(7, size=size)), tracker().step(frames[2], labels(7, size=size))
    assert np.array_equal(late.labels, prompt.labels)


def test_calibrated_weights_give_the_j_to_expect() -> None:
    frames, plain, walk = video(3), tracker(), tracker()
    walk.network.calibration = 0.5, -1.0
    given = [labels(7, 300), labels(7), None]
    for index, (frame, mask) in enumerate(zip(frames, given, strict=True)):
        before, after = plain.step(frame, mask), walk.step(frame, mask)
        assert np.array_equal(before.labels, after.labels)
        for i in after.objects:
            confidence = before.confidence[i]
            if confidence in (0, 1):
                assert after.confidence[i] == confidence
            else:
                odds = 0.5 * math.log(confidence / (1 - confidence)) - 1
                assert after.confidence[i] == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-4)
        assert (after.confidence[7] == 1) is (index < 2)


def lost_run(**settings: Any) -> tuple[Tracker, list[Tracked]]:
    walk, frames = tracker(**settings), video(6)
    walk.network = Blindfold(walk.network, 0, {2, 3, 4})  # type: ignore[assignment, arg-type]
    given = [labels(7, 300), None, None, None, None, None]
    return walk, [walk.step(f, g) for f, g in zip(frames, given, strict=True)]


def test_a_lost_object_is_reported_and_its_older_descriptors_stay() -> None:
    walk, tracked = lost_run()
    assert [7 in t.lost for t in tracked] == [False, False, True, True, True, False]
    for t in tracked[2:5]:
        assert t.confidence[7] == 0
        assert not (t.labels == 7).any()
    assert all(0 < t.confidence[7] <= 1 for t in tracked if 7 not in t.lost)
    assert [e.valid_BN[0, 0].item() for e in walk.memory.frames.values()] == [True, True, False, False, False, True]
    assert all(e.valid_BN[0, 1] for e in walk.memory.frames.values())


def test_the_background_of_a_frame_in_which_an_object_is_lost_is_valid() -> None:
    """The object is outside the frame, so the rest is background; without knowing its mask it would not be."""
    for settings in ({}, {"pin_first": False, "history": 2}):
        walk, _ = lost_run(**settings)
        assert all(e.complete_B.all() for e in walk.memory.frames.values())


def test_as_released_a_lost_object_is_described_all_the_same() -> None:
    walk, tracked = lost_run(hold_lost=False)
    assert 7 in tracked[2].lost
    assert all(e.valid_BN.all() for e in walk.memory.frames.values())


def test_an_object_marked_as_outside_the_frame_is_lost_there_and_leaves_no_descriptor() -> None:
    for hold_lost in (True, False):
        walk, frames = tracker(hold_lost=hold_lost), video(4)
        walk.track(frames[0], labels(7, 300))
        walk.track(frames[1])
        gone = walk.step(frames[2], labels(0, 300), objects=[7, 300])
        assert gone.lost == {7}
        assert not (gone.labels == 7).any()
        assert {i: e.valid_BN[0, 0].item() for i, e in walk.memory.frames.items()} == {0: True, 1: False, 2: False}
        assert not walk.memory.frames[2].given_BN[0, 0]
        assert walk.step(frames[3]).objects == (7, 300)


def test_an_object_marked_as_outside_the_frame_from_the_start_is_lost_until_its_mask_comes() -> None:
    walk, frames = tracker(), video(4)
    first = walk.step(frames[0], labels(), objects=[7])
    assert (first.objects, first.lost) == ((7,), {7})
    second = walk.step(frames[1])
    assert (second.objects, second.lost, second.confidence) == ((7,), {7}, {7: 0.0})
    assert not second.labels.any()
    assert second.soft().shape == (1, *SIZE)
    assert walk.step(frames[2], labels(7)).lost == set()
    assert walk.step(frames[3]).objects == (7,)


def test_confidence_is_the_mean_soft_mask_over_the_pixels_won() -> None:
    walk, frames = tracker(), video(3)
    walk.track(frames[0], labels(7, 300))
    for frame in frames[1:]:
        tracked = walk.step(frame)
        for plane, i in enumerate(tracked.objects):
            won = tracked.labels == i
            if won.any():
                assert tracked.confidence[i] == pytest.approx(float(tracked.soft()[plane][won].mean()), abs=0.05)
            else:
                assert i in tracked.lost


def test_an_object_of_a_few_pixels_survives_the_resize_to_the_inner_size() -> None:
    walk, frames = tracker(barebones=True), video(2, (320, 480))
    given = np.zeros((320, 480), np.uint8)
    given[200:202, 301:303] = 7
    first = walk.step(frames[0], given)
    assert np.array_equal(first.labels, given)
    features = walk.network.encode(walk._image(frames[0])[0])
    with torch.no_grad():
        expected = features.maps["coarse"][0, :, 200 * 64 // 320 // 8, 301 * 64 // 320 // 8]
    torch.testing.assert_close(walk.memory.frames[0].per_object[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_history_and_pins_bound_what_is_remembered() -> None:
    frames = video(8)
    for pin, expected in ((True, [0, 3, 6, 7]), (False, [6, 7])):
        walk = tracker(history=2, pin_first=pin, hold_lost=False)
        for t, frame in enumerate(frames):
            walk.track(frame, {0: labels(7), 3: labels(0, 300)}.get(t))
        assert list(walk.memory.frames) == expected


def test_a_tracker_follows_a_video_as_its_network_states() -> None:
    network = tiny.network().eval()
    walk = Tracker(network)
    assert (walk.history, walk.pin_first, walk.hold_lost) == (7, True, True)
    network.set_tracking(history=2, pin_first=False, hold_lost=False)
    walk = Tracker(network)
    assert (walk.history, walk.pin_first, walk.hold_lost) == (2, False, False)
    walk = Tracker(network, history=5, pin_first=True, hold_lost=True)
    assert (walk.history, walk.pin_first, walk.hold_lost) == (5, True, True)


def test_a_window_without_pinning_equals_a_loop_by_hand() -> None:
    """The released protocol of HODOR: after `history` frames the given mask is no longer in memory."""
    network = tiny.network().eval()
    network.set_tracking(history=2, pin_first=False, hold_lost=False)
    walk, frames = Tracker(network, size=64), video(6)
    tracked = [walk.track(frame, labels(7, 300) if t == 0 else None) for t, frame in enumerate(frames)]
    assert list(walk.memory.frames) == [4, 5]
    yes, no = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    memory = Memory((7, 300))
    with torch.inference_mode():
        for t, frame in enumerate(frames):
            features = network.encode(walk._image(frame)[0])
            if t == 0:
                memory = network.remember(memory, 0, features, tiny.planes(SIZE)[None], yes, yes)
                continue
            prediction, memory = network.segment(memory.only(list(memory.frames)[-2:]), features)
            memory = network.remember(memory, t, features, prediction.soft(), yes, no)
            by_hand = np.array([0, 7, 300])[prediction.labels(SIZE)[0].numpy()]
            assert np.array_equal(tracked[t], by_hand)
    assert len(np.unique(tracked[-1])) > 1


def test_the_inner_size_is_the_networks_own_unless_another_is_asked_for() -> None:
    network = tiny.network().eval()
    network.size = 32
    seen = []
    for size in (None, 48):
        walk = Tracker(network, size=size)
        seen.append(walk.step(video(1)[0], labels(7))._features.size)
    assert seen == [(32, 48), (48, 72)]


def test_tracking_leaves_nothing_that_a_training_step_trips_over() -> None:
    network = tiny.network(feature_positions=True).eval()
    walk = Tracker(network, size=64)
    for frame, given in zip(video(2), (labels(7, 300), None), strict=True):
        walk.track(frame, given)
    compute_loss(rollout(network.train(), tiny.clip(), dense(3))).total.backward()


def test_a_network_in_bfloat16_tracks_nearly_the_same() -> None:
    frames = video(3)
    one, two = tracker(), tracker()
    two.network.to(torch.bfloat16)
    for walk in (one, two):
        walk.track(frames[0], labels(7, 300))
    agree = [(one.track(f) == two.track(f)).mean() for f in frames[1:]]
    assert min(agree) > 0.9


class Blocks(nn.Module):
    """A backbone without weights: the mean colours of blocks, so that thousands of frames pass in seconds."""

    channels, mean, std = (3, 3, 3, 3), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.nn.functional.avg_pool2d(x, stride) for stride in (4, 8, 16, 32))


def held_bytes(memory: Memory) -> int:
    return sum(t.untyped_storage().nbytes() for e in memory.frames.values() for t in e.tensors().values())


def test_memory_does_not_grow_over_2000_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    from hodor.models.backbones import BACKBONES

    monkeypatch.setitem(BACKBONES, "blocks", Blocks)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = HODOR(backbone="blocks", width=16, barebones=True).eval()
    walk = Tracker(network, size=32, history=7)
    frames = video(20, (32, 40))
    entries, held, resident = [], [], []
    statm = Path("/proc/self/statm")
    for t in range(2000):
        given, spoken = None, None
        if t % 50 == 0:  # corrections, and an object that comes and goes
            given = labels(7, 300 if t % 100 else 0, size=(32, 40))
        if t % 100 == 90 and 300 in walk.objects:
            walk.remove(300)
        walk.step(frames[t % 20], given, spoken)
        entries.append(len(walk.memory.frames))
        held.append(held_bytes(walk.memory))
        if statm.exists():
            resident.append(int(statm.read_text().split()[1]))
    assert max(entries) <= 7 + 2 * 2
    assert max(held[200:]) <= max(held[:200])
    if resident:
        assert max(resident) <= 1.02 * max(resident[:200])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            np.ones((60, 80), np.uint8),
            r"^expected labels of 64x96 pixels, the size of the frame, got 60x80: resize them with nearest neighbour$",
        ),
        (np.zeros(SIZE, np.uint8), r"^expected labels with an id above 0, got none$"),
        (np.ones((*SIZE, 1), np.uint8), r"^expected labels of shape \[H, W\], got \(64, 96, 1\)$"),
        (np.ones(7, np.uint8), r"^expected labels of shape \[H, W\], got \(7,\)$"),
        (np.ones(SIZE, np.float32), r"^expected integer labels, got float32$"),
        (np.full(SIZE, -1, np.int64), r"^expected labels of 0 and above, got -1$"),
        (np.full(SIZE, 70000, np.int64), r"^expected ids from 1 to 65535, got 70000$"),
    ],
)
def test_labels_that_are_none_are_refused_and_change_nothing(given: Array, words: str) -> None:
    walk, frames = tracker(), video(3)
    walk.track(frames[0], labels(7, 300))
    before, index = walk.memory, walk.index
    with pytest.raises(ValueError, match=words):
        walk.step(frames[1], given)
    assert walk.memory is before
    assert walk.index == index
    assert walk.step(frames[1]).objects == (7, 300)


def test_other_mistakes_are_named() -> None:
    walk = tracker()
    with pytest.raises(ValueError, match=r"^expected objects that are followed \(none\), got 9$"):
        walk.remove(9)
    walk.track(video(1)[0], labels(1, 2))
    with pytest.raises(ValueError, match=r"^expected objects that are followed \(1, 2\), got 9$"):
        walk.remove(1, 9)
    assert walk.objects == (1, 2)
    with pytest.raises(ValueError, match=r"^expected history of at least 1 frame, got 0$"):
        Tracker(walk.network, history=0)


def test_a_tracked_frame_is_a_value() -> None:
    tracked = tracker().step(video(1)[0], labels(7))
    with pytest.raises(AttributeError):
        tracked.objects = ()  # type: ignore[misc]
    assert replace(tracked, objects=(8,)).objects == (8,)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("objects", [{}, 2]),
        ("objects", [1, 1]),
        ("objects", [1]),
        ("objects", [1, 70000]),
        ("frames", [[0]]),
        ("frames", {"0": 1}),
        ("index", float("inf")),
        ("index", None),
        ("note", 3),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(key: str, change: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    one, frames = tracker(), video(2)
    one.track(frames[0], labels(1, 2))
    one.save(tmp_path / "a.safetensors")
    before = one.memory
    with safe_open(str(tmp_path / "a.safetensors"), "pt") as opened:
        about = json.loads(opened.metadata()["tracker"])
    save_file(
        load_file(tmp_path / "a.safetensors"), tmp_path / "a.safetensors", {"tracker": json.dumps({**about, key: change})}
    )
    with pytest.raises(ValueError, match="is not the state of a tracker"):
        one.restore(tmp_path / "a.safetensors")
    assert one.memory is before


@pytest.mark.parametrize("network", [{"class": "HODOR"}, 7, None])
def test_a_state_that_does_not_name_its_network_is_refused(network: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    one = tracker()
    one.track(video(1)[0], labels(1, 2))
    one.save(tmp_path / "a.safetensors")
    with safe_open(str(tmp_path / "a.safetensors"), "pt") as opened:
        about = json.loads(opened.metadata()["tracker"])
    changed = {"tracker": json.dumps({**about, "network": network})}
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "a.safetensors", changed)
    with pytest.raises(ValueError, match=r"^expected the state of a tracker with .*, got .*a\.safetensors of "):
        one.restore(tmp_path / "a.safetensors")


def test_a_state_with_numbers_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    one = tracker()
    one.track(video(1)[0], labels(1, 2))
    index, entry = next(iter(one.memory.frames.items()))
    one.memory = replace(one.memory, frames={index: replace(entry, per_object=entry.per_object * math.nan)})
    one.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="is not the state of a tracker"):
        tracker().restore(tmp_path / "a.safetensors")
