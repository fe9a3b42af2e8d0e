"""`xmem` computes the released code's function, and its memories hold what they should for as long as it takes.

Expected values: tests/golden/xmem.npz, made by the original at commit f3b841d (tests/golden/README.md).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import tiny
import torch
from golden import LOGITS, PROBABILITIES, RELATIVE, close
from numpy.typing import NDArray

from hodor.models import released, weights
from hodor.models.base import Entry, Memory
from hodor.models.xmem import XMem
from hodor.tracking import Tracker
from hodor.training.plans import Step, dense, rollout

Array = NDArray[Any]
SIZE = (64, 96)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Array]:
    return golden.numbers("xmem")


@pytest.fixture(scope="module")
def network() -> XMem:
    made = golden.network("xmem", "xmem", mem_every=2)
    assert isinstance(made, XMem)
    return made


@pytest.fixture(scope="module")
def case_a(network: XMem) -> tuple[Array, golden.Recorder, list[torch.Tensor], list[torch.Tensor]]:
    readouts, logits = [], []

    def hear(_module: Any, given: tuple[torch.Tensor, ...], out: tuple[torch.Tensor, ...]) -> None:
        readouts.append(given[0])
        logits.append(out[0])

    hook = network.decoder.register_forward_hook(hear)
    labels, heard = golden.play(network, "A", "xmem")
    hook.remove()
    return labels, heard, readouts, logits


def test_the_released_network_has_as_many_weights(network: XMem) -> None:
    assert sum(p.numel() for p in network.parameters()) == 62_185_224


def test_golden_keys_and_features(numbers: dict[str, Array], case_a: Any) -> None:
    features = case_a[1].features
    for t, each in enumerate(features):
        close(each.maps["key"][0], numbers[f"A_key_t{t}"], RELATIVE)
        close(each.maps["selection"][0], numbers[f"A_selection_t{t}"], RELATIVE)
        if t in (0, 2):
            close(each.maps["shrinkage"][0], numbers[f"A_shrinkage_t{t}"], RELATIVE)
    fine, middle, coarse = (features[1].maps[name] for name in ("fine", "middle", "coarse"))
    close(coarse[0, ::8], numbers["A_f16_t1"], RELATIVE)
    close(middle[0, ::4, ::2, ::2], numbers["A_f8_t1"], RELATIVE)
    close(fine[0, ::2, ::4, ::4], numbers["A_f4_t1"], RELATIVE)


def test_golden_values_readouts_and_states(numbers: dict[str, Array], case_a: Any) -> None:
    _, heard, readouts, logits = case_a
    for index, _, entry, state in heard.entries[:2]:
        close(entry.per_object[0, :, ::8], numbers[f"A_value_t{index}"], RELATIVE)
        close(state["hidden"][0], numbers[f"A_hidden_deep_t{index}"], RELATIVE)
    assert [index for index, *_ in heard.entries] == [0, 2, 4]
    for t, (prediction, memory) in enumerate(heard.predictions, 1):
        close(readouts[t - 1][0, :, ::8], numbers[f"A_readout_t{t}"], RELATIVE)
        close(logits[t - 1][0], numbers[f"A_dec_logits_t{t}"], LOGITS, relative=False)
        close(prediction.logits_BKHW[0, :, 2::8, 3::8], numbers[f"A_agg_logits_t{t}"], LOGITS, relative=False)
        if t in (1, 3):
            close(memory.state["hidden"][0], numbers[f"A_hidden_dec_t{t}"], RELATIVE)


def test_golden_masks_of_five_frames(numbers: dict[str, Array], case_a: Any) -> None:
    golden.check_play(numbers, "A", case_a[0], case_a[1])


@pytest.mark.parametrize("case", ["B", "C"])
def test_golden_masks_of_a_late_object_and_of_a_padded_frame(network: XMem, numbers: dict[str, Array], case: str) -> None:
    logits = []
    hook = network.decoder.register_forward_hook(lambda _m, _i, out: logits.append(out[0][0]))
    labels, heard = golden.play(network, case, "xmem")
    hook.remove()
    golden.check_play(numbers, case, labels, heard)
    for t, mine in enumerate(logits, 1):
        theirs = numbers[f"{case}_dec_logits_t{t}"]
        close(mine[: len(theirs)], theirs, LOGITS, relative=False)


@pytest.mark.parametrize("deep", [True, False])
def test_golden_training_graph(network: XMem, numbers: dict[str, Array], deep: bool) -> None:
    name, clip = f"train_{'deep' if deep else 'nodeep'}", golden.clip("xmem")
    images = network.encode(clip.frames_BTCHW[0]).split(3)
    states = []
    try:
        network.train()
        network.deep_update = float(deep)
        known, no = clip.objects_BN, torch.zeros_like(clip.objects_BN)
        with torch.no_grad():
            memory = network.remember(Memory((1, 2)), 0, images[0], clip.masks_BTNHW[:, 0], known, known)
            for t in (1, 2):
                prediction, memory = network.segment(memory, images[t])
                states.append(memory.state["hidden"])
                close(prediction.logits_BKHW[0, :, 2::8, 3::8], numbers[f"{name}_logits_t{t}"], LOGITS, relative=False)
                soft = prediction.soft()[0, :, 2::8, 3::8]
                close(soft, numbers[f"{name}_prob_t{t}"], PROBABILITIES, relative=False)
                memory = network.remember(memory, t, images[t], prediction.soft(), known, no)
                states.append(memory.state["hidden"])
    finally:
        network.eval()
        network.deep_update = 0.2
    close(states[0][0, :, ::4], numbers[f"{name}_hidden_after_t1_decoder"], RELATIVE)
    close(states[1][0, :, ::4], numbers[f"{name}_hidden_after_t1_memory"], RELATIVE)


def test_golden_training_graph_without_the_second_object(network: XMem, numbers: dict[str, Array]) -> None:
    """The original switches the object off when it segments: its mask was still seen as that of another."""
    clip = golden.clip("xmem")
    images = network.encode(clip.frames_BTCHW[0, :2]).split(2)
    one = torch.tensor([[True, False]])
    try:
        network.train()
        with torch.no_grad():
            known = clip.objects_BN
            memory = network.remember(Memory((1, 2)), 0, images[0], clip.masks_BTNHW[:, 0], known, known)
            memory = Memory((1, 2), {0: replace(memory.frames[0], valid_BN=one)})
            prediction, _ = network.segment(memory, images[1])
    finally:
        network.eval()
    expected = numbers["train_zero_hidden_sel10_logits_t1"]
    close(prediction.logits_BKHW[0, :, 2::8, 3::8], expected, LOGITS, relative=False)


def small(seed: int = 0, **settings: Any) -> XMem:
    """An untrained XMem of 0.3 M weights whose masks are neither empty nor full."""
    torch.manual_seed(seed)
    widths = {"key_width": 8, "value_width": 16, "sensory_width": 8, "decoder_width": 32, "mask_encoder": "light"}
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        made = XMem(**{"backbone": "tiny", **widths, **settings})
    torch.nn.init.normal_(made.decoder.head.weight, std=0.3)
    made.size = SIZE[0]
    return made.eval()


def video(count: int, size: tuple[int, int] = SIZE) -> Array:
    return (tiny.pictures(count, size) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def labels(*ids: int, size: tuple[int, int] = SIZE) -> Array:
    out = np.zeros(size, np.uint8)
    for plane, i in zip(tiny.planes(size).bool().numpy(), ids, strict=False):
        out[plane] = i
    return out


def held(memory: Memory) -> int:
    """Bytes of every tensor in the memory."""
    tensors = [t for e in memory.frames.values() for t in e.tensors().values()]
    return sum(t.numel() * t.element_size() for t in [*tensors, *memory.state.values(), *memory.tally.values()])


def same(one: Memory, two: Memory) -> bool:
    return one.objects == two.objects and list(one.frames) == list(two.frames) and held(one) == held(two)


def test_the_released_file_becomes_ours_and_a_single_object_one_gets_a_channel_of_zeros(tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in golden.keys("xmem").items()}
    first = torch.randn(64, 4, 7, 7)
    state["value_encoder.conv1.weight"] = first
    torch.save({"network": state}, tmp_path / "XMem.pth")
    made = released.convert(tmp_path / "XMem.pth", tmp_path / "xmem.safetensors", "xmem")
    assert torch.equal(made.values.trunk.conv1.weight[:, :4], first)
    assert not made.values.trunk.conv1.weight[:, 4].any()
    (tmp_path / "XMem.pth").unlink()
    del state["decoder.pred.bias"]
    torch.save(state, tmp_path / "XMem.pth")
    with pytest.raises(ValueError, match=r"does not fit the network: missing decoder\.head\.bias$"):
        released.convert(tmp_path / "XMem.pth", tmp_path / "other.safetensors", "xmem")


def test_the_small_preset_has_under_12_million_weights_and_its_settings_rebuild_it(tmp_path: Path) -> None:
    made = weights.build("xmem-lite", mem_every=3)
    assert sum(p.numel() for p in made.parameters()) < 12e6
    weights.save(made, tmp_path / "lite.safetensors")
    again = weights.load(tmp_path / "lite.safetensors", folded=False)
    assert json.dumps(again.settings) == json.dumps(made.settings)
    assert (again.mem_every, again.name) == (3, "xmem-lite")
    folded = weights.load(tmp_path / "lite.safetensors")
    images = tiny.pictures(2)
    known = torch.ones(1, 2, dtype=torch.bool)
    logits = []
    for network in (again, folded):
        features = network.encode(images).split(2)
        memory = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], known, known)
        logits.append(network.segment(memory, features[1])[0].logits_BKHW)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)


def test_settings_that_make_no_sense_are_named() -> None:
    for settings, words in (
        ({"mem_every": 0}, "expected mem_every of at least 1, got 0"),
        ({"top_k": 0}, "expected top_k of at least 1, got 0"),
        ({"prototypes": -1}, "expected prototypes of at least 0, got -1"),
        ({"max_prototypes": -1}, "expected max_prototypes of at least 0, got -1"),
        ({"deep_update": 2}, r"expected a deep_update in \[0, 1\], got 2"),
        ({"backbone": "x"}, r"expected a backbone \(swin-t, .*\), got 'x'"),
        ({"mask_encoder": "x"}, r"expected a mask encoder \(resnet18, light\), got 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            small(**settings)


def test_shuffling_objects_shuffles_planes() -> None:
    network, images = small(), tiny.pictures(3)
    known = torch.ones(1, 2, dtype=torch.bool)
    logits = []
    for order in ([0, 1], [1, 0]):
        features = network.encode(images).split(3)
        memory = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None, order], known, known)
        _, memory = network.segment(memory, features[1])
        logits.append(network.segment(memory, features[2])[0].logits_BKHW[:, [0, *(1 + i for i in order)]])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_on_a_remembered_frame_the_deep_update_takes_the_place_of_the_decoders() -> None:
    network, images = small(), tiny.pictures(2)
    known = torch.ones(1, 2, dtype=torch.bool)
    features = network.encode(images).split(2)
    memory = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], known, known)
    prediction, still = network.segment(memory, features[1], remembered=True)
    same_prediction, moved = network.segment(memory, features[1])
    assert torch.equal(prediction.logits_BKHW, same_prediction.logits_BKHW)
    assert torch.equal(still.state["hidden"], memory.state["hidden"])
    assert not torch.equal(moved.state["hidden"], memory.state["hidden"])
    tracker = Tracker(network)
    tracker.track(images[0], labels(1, 2))
    tracker.network.due = lambda memory, index: True  # type: ignore[method-assign]
    before = tracker.memory
    tracker.track(images[1])
    with torch.inference_mode():
        expected = network.deep(tracker.memory.frames[1].per_object, before.state["hidden"])
    torch.testing.assert_close(tracker.memory.state["hidden"], expected, rtol=1e-4, atol=1e-5)


def test_in_training_deep_updates_of_predictions_come_by_chance_and_of_given_masks_always() -> None:
    network, images = small(deep_update=0.5), tiny.pictures(1)
    known, no = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    features = network.encode(images)

    def updated(given: torch.Tensor) -> bool:
        memory = network.remember(Memory((1, 2)), 0, features, tiny.planes()[None], known, given)
        return "hidden" in memory.state

    assert all(updated(no) for _ in range(20))
    network.train()
    torch.manual_seed(3)
    draws = [updated(no) for _ in range(40)]
    assert 8 < sum(draws) < 32
    torch.manual_seed(3)
    assert [updated(no) for _ in range(40)] == draws
    assert all(updated(known) for _ in range(20))


@pytest.mark.parametrize("training", [True, False])
def test_every_weight_gets_a_finite_gradient_in_either_mode(training: bool) -> None:
    network = small(deep_update=1.0).train(training)
    plan = dense(4, mask_feedback="soft")
    supervised = rollout(network, tiny.clip(length=4), plan)
    sum(j.prediction.logits().square().mean() for j in supervised).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert network.values.trunk.layers[0].weight.grad[:, 3].abs().sum() > 0  # through the masks


def test_one_step_back_leaves_the_decoders_update_untrained_and_two_steps_train_it() -> None:
    for length, trained in ((2, False), (3, True)):
        network = small().train()
        supervised = rollout(network, tiny.clip(length=length), dense(length, mask_feedback="soft"))
        supervised[-1].prediction.logits().square().mean().backward()
        grad = network.decoder.state.from16.weight.grad
        assert (grad is not None and bool(grad.any())) == trained
    assert network.recurrent


def test_a_restart_forgets_the_state() -> None:
    network, clip = small().train(), tiny.clip(batch=1, length=3)
    played = rollout(network, clip, [Step((0,), 1), Step((1,), 2, restart=True)])
    features = network.encode(clip.frames_BTCHW[0]).split(3)
    known = clip.objects_BN
    soft = played[0].prediction.soft().detach()
    memory = network.remember(Memory((1, 2)), 1, features[1], soft, known, known)
    again = network.segment(memory, features[2])[0]
    torch.testing.assert_close(played[1].prediction.logits_BKHW, again.logits_BKHW, rtol=1e-4, atol=1e-4)


def test_keeping_fewer_activations_changes_no_gradient() -> None:
    gradients = []
    for lean in (False, True):
        network = small(deep_update=1.0).train()
        if lean:
            network.checkpoint_activations()
        supervised = rollout(network, tiny.clip(length=3), dense(3, mask_feedback="soft"))
        sum(j.prediction.logits().square().mean() for j in supervised).backward()  # type: ignore[union-attr]
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


def test_an_object_that_no_frame_knows_wins_nowhere_and_disturbs_nobody() -> None:
    network, images = small(), tiny.pictures(2)
    features = network.encode(images).split(2)
    one, both = torch.tensor([[True, False]]), torch.tensor([[True]])
    memory = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], one, one)
    alone = network.remember(Memory((1,)), 0, features[0], tiny.planes()[None, :1], both, both)
    prediction, expected = (network.segment(m, features[1])[0].soft() for m in (memory, alone))
    assert prediction[:, 1].max() < 1e-5
    torch.testing.assert_close(prediction[:, :1], expected, rtol=1e-4, atol=1e-5)


def test_reads_are_counted_but_not_in_training() -> None:
    network, images = small(), tiny.pictures(3)
    known = torch.ones(1, 2, dtype=torch.bool)
    features = network.encode(images).split(3)
    memory = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], known, known)
    assert not network.train().segment(memory, features[1])[1].tally
    network.eval()
    for reads in (1, 2):
        memory = network.segment(memory, features[1])[1]
        used, times = memory.tally["used.0"][0]
        assert float(used.sum()) == pytest.approx(24 * reads, rel=1e-4)  # each of the 4 x 6 cells gives weights of sum one
        assert bool((times == reads).all())


def test_keys_far_from_all_others_give_no_nan() -> None:
    network = small()
    with torch.no_grad():
        network.keys.key.weight.mul_(1000)
    tracker = Tracker(network)
    for t, frame in enumerate(video(3)):
        step = tracker.step(frame, labels(1, 2) if t == 0 else None)
        assert np.isfinite(step.soft()).all()


def test_a_frame_of_fewer_cells_than_speak_is_followed() -> None:
    """64 x 64 pixels are 16 cells, where the original expects 30."""
    tracker = Tracker(small(mem_every=1, prototypes=128), history=4)
    for t, frame in enumerate(video(12, (64, 64))):
        out = tracker.track(frame, labels(1, 2, size=(64, 64)) if t == 0 else None)
        assert out.shape == (64, 64)
    assert min(tracker.memory.frames) < 0


def test_memory_does_not_grow_over_2000_frames() -> None:
    network = small(mem_every=2, prototypes=4, max_prototypes=40)
    network.fold()
    tracker = Tracker(network, size=32)
    frames, sizes = video(16, (32, 48)), []
    for t in range(2000):
        tracker.track(frames[t % 16], labels(1, 2, size=(32, 48)) if t == 0 else None)
        sizes.append(held(tracker.memory))
    memory = tracker.memory
    assert sum(e.shared["key"].shape[2] for i, e in memory.frames.items() if i < 0) == 40
    assert len(memory.frames) <= 10
    assert max(sizes[1000:]) == max(sizes[200:400])
    assert not any(t.requires_grad for e in memory.frames.values() for t in e.tensors().values())


@pytest.mark.parametrize("late", [1, 30])
def test_a_late_object_is_followed_when_the_long_term_memory_is_full(late: int) -> None:
    """The original stops with a NotImplementedError."""
    tracker, frames, seen = Tracker(small(mem_every=1, prototypes=4, max_prototypes=8)), video(16), set()
    for t in range(70):
        given = {0: labels(1), late: labels(0, 2)}.get(t)
        out = tracker.track(frames[t % 16], given)
        seen |= set(np.unique(out)) if t > late else set()
    assert tracker.objects == (1, 2)
    assert {1, 2} <= seen
    long = [e for i, e in tracker.memory.frames.items() if i < 0]
    assert sum(e.shared["key"].shape[2] for e in long) == 8
    assert any(e.valid_BN.all() and e.per_object[:, 1].any() for e in long)


def test_a_frame_of_another_size_is_followed() -> None:
    tracker = Tracker(small(mem_every=1, prototypes=4))
    for t in range(14):
        size = SIZE if t % 2 == 0 else (64, 128)
        out = tracker.track(video(1, size)[0], labels(1, 2) if t == 0 else None)
        assert out.shape == size
    assert min(tracker.memory.frames) == -1


def test_without_long_term_memory_old_frames_are_forgotten() -> None:
    tracker = Tracker(small(mem_every=1, max_prototypes=0))
    for t, frame in enumerate(video(14)):
        tracker.track(frame, labels(1, 2) if t == 0 else None)
    assert 0 in tracker.memory.frames
    assert len(tracker.memory.frames) < 10


def followed(tracker: Tracker, frames: Array, start: int = 0) -> list[Array]:
    return [tracker.track(frame, labels(1, 2) if start + t == 0 else None) for t, frame in enumerate(frames)]


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    frames = video(24)
    whole = Tracker(small(mem_every=1, prototypes=4, max_prototypes=8))
    expected = followed(whole, frames)
    first = Tracker(whole.network)
    followed(first, frames[:17])
    assert min(first.memory.frames) < 0
    first.save(tmp_path / "state.safetensors", place=17)
    second = Tracker(whole.network)
    assert second.restore(tmp_path / "state.safetensors") == {"place": 17}
    assert np.array_equal(np.stack(followed(second, frames[17:], 17)), np.stack(expected[17:]))
    assert same(second.memory, whole.memory)
    assert torch.equal(second.memory.state["hidden"], whole.memory.state["hidden"])


def test_a_removed_object_leaves_nothing_and_the_others_go_on() -> None:
    tracker, frames = Tracker(small(mem_every=1, prototypes=4, max_prototypes=8)), video(20)
    followed(tracker, frames)
    before = tracker.memory
    tracker.remove(1)
    assert tracker.memory.state["hidden"].shape[1] == 1
    assert torch.equal(tracker.memory.state["hidden"], before.state["hidden"][:, 1:])
    assert set(np.unique(tracker.track(frames[0]))) <= {0, 2}
    # the id, used again, knows nothing of what it meant
    again = tracker.memory.with_objects([2, 1])
    assert not again.state["hidden"][:, 1].any()
    assert not any(e.valid_BN[:, 1].any() for e in again.frames.values())
    tracker.track(frames[1], labels(0, 1))
    assert tracker.objects == (2, 1)
    tracker.track(frames[2])


def test_a_corrected_object_is_no_longer_read_from_what_was_predicted() -> None:
    tracker, frames = Tracker(small(mem_every=1, prototypes=4, max_prototypes=40)), video(40)
    followed(tracker, frames[:20])
    assert min(tracker.memory.frames) == -1
    out = tracker.track(frames[20], labels(1))
    assert (out[labels(1) == 1] == 1).all()
    speaking = [i for i, e in tracker.memory.frames.items() if e.valid_BN[0, 0]]
    assert speaking == [0, 20]
    assert all(e.valid_BN[0, 1] for e in tracker.memory.frames.values())
    followed(tracker, frames[21:], 21)
    patterns = {tuple(e.valid_BN[0].tolist()) for i, e in tracker.memory.frames.items() if i < 0}
    assert patterns == {(False, True), (True, True)}


def test_an_object_told_absent_keeps_its_state() -> None:
    tracker, frames = Tracker(small(mem_every=1)), video(4)
    followed(tracker, frames[:2])
    before = tracker.memory.state["hidden"]
    step = tracker.step(frames[2], labels(0, 2), objects=[1, 2])
    assert step.lost == {1}
    assert torch.equal(tracker.memory.state["hidden"][:, 0], before[:, 0])
    assert not torch.equal(tracker.memory.state["hidden"][:, 1], before[:, 1])


def test_entries_hold_a_value_for_each_object_and_cell() -> None:
    network, images = small(), tiny.pictures(1)
    known = torch.ones(1, 2, dtype=torch.bool)
    memory = network.remember(Memory((4, 7)), 3, network.encode(images), tiny.planes()[None], known, known)
    entry = memory.frames[3]
    assert isinstance(entry, Entry)
    assert entry.per_object.shape == (1, 2, 16, 4, 6)
    assert {name: tuple(each.shape) for name, each in entry.shared.items()} == {
        "key": (1, 8, 4, 6),
        "shrinkage": (1, 1, 4, 6),
        "selection": (1, 8, 4, 6),
    }
    assert memory.state["hidden"].shape == (1, 2, 8, 4, 6)


def test_context_begins_as_nothing_and_is_then_added_to_the_coarsest_map() -> None:
    torch.manual_seed(0)
    plain, wider = weights.build("xmem-lite"), weights.build("xmem-lite", context=True)
    shared = plain.state_dict()
    wider.load_state_dict({**wider.state_dict(), **shared})
    images = torch.rand(1, 3, 100, 150)
    before, after = plain.encode(images), wider.encode(images)
    for name, each in before.maps.items():
        torch.testing.assert_close(each, after.maps[name])
    projection = wider.levels[3][1]
    torch.nn.init.ones_(projection.weight)
    changed = wider.encode(images)
    for kept in ("image", "fine", "middle"):
        assert torch.equal(after.maps[kept], changed.maps[kept])
    added = changed.maps["coarse"] - after.maps["coarse"]
    assert bool((added.std((2, 3)) > 0).all()), "another context in another place"
    assert not torch.allclose(after.maps["key"], changed.maps["key"])
