"""`cutie-small` computes the released code's function, and Cutie's memory keeps its promises: what goes is gone, what is
added up stays small, and objects that entered apart stay apart.

Expected values: tests/golden/cutie-small.npz, made by the original at commit ec5cdd4 (tests/golden/README.md), with the
tolerances its README suggests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from golden import LOGITS, PROBABILITIES, RELATIVE, close
from golden_rules import keys
from torch import Tensor, nn

from hodor.data.clip import Clip
from hodor.models import released, weights
from hodor.models.base import Memory
from hodor.models.cutie import Cutie
from hodor.models.cutie_transformer import Attention, foreground, others
from hodor.models.prediction import UNKNOWN
from hodor.tracking import Tracker
from hodor.training.losses import compute_loss
from hodor.training.plans import Step, one_shot, propagate, rollout

SIZE = (48, 64)
Numbers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return golden.numbers("cutie-small")


@pytest.fixture(scope="module")
def official() -> Cutie:
    made = golden.network("cutie-small", "cutie-small", mem_every=2)
    assert isinstance(made, Cutie)
    return made


class Heard:
    """What the parts of the network took in and gave out, call after call, while this holds."""

    def __init__(self, network: Cutie, *parts: str) -> None:
        self.calls: dict[str, list[tuple[tuple[Any, ...], Any]]] = {part: [] for part in parts}
        self.hooks = [
            getattr(network, part).register_forward_hook(lambda _, given, out, part=part: self.calls[part].append((given, out)))
            for part in parts
        ]

    def __enter__(self) -> dict[str, list[tuple[tuple[Any, ...], Any]]]:
        return self.calls

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def small(seed: int = 0, **settings: Any) -> Cutie:
    """An untrained Cutie of 0.2 M weights whose masks are neither empty nor full."""
    torch.manual_seed(seed)
    widths = {
        "width": 16,
        "key_width": 8,
        "heads": 2,
        "queries": 4,
        "blocks": 2,
        "feedforward_width": 32,
        "mask_encoder": "light",
    }
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        made = Cutie(**{"backbone": "tiny", **widths, **settings})
    nn.init.normal_(made.decoder.head.weight, std=0.3)
    made.size = SIZE[0]
    return made.eval()


def video(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return (tiny.pictures(count, size) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def labels(*ids: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The first rectangles of `tiny.planes` under these ids; id 0 leaves one out."""
    out = np.zeros(size, np.uint8)
    for plane, i in zip(tiny.planes(size).bool().numpy(), ids, strict=False):
        out[plane] = i
    return out


def yes(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


# the released function


@pytest.mark.parametrize(("name", "count"), [("cutie", 35_024_186), ("cutie-small", 28_747_578)])
def test_presets_have_the_released_number_of_weights(name: str, count: int) -> None:
    assert sum(p.numel() for p in weights.build(name).parameters()) == count


def test_lite_has_fewer_than_12_million_weights() -> None:
    assert sum(p.numel() for p in weights.build("cutie-lite").parameters()) < 12_000_000


@torch.no_grad()
def test_golden_features(official: Cutie, numbers: Numbers) -> None:
    images = golden.frames(golden.PHASES["cutie-small"])
    np.testing.assert_allclose(images[:, :, ::16, ::16], numbers["rgb_check"], atol=1e-6)
    features = official.encode(images)
    fine, middle, coarse = official.backbone(features.maps["image"][1:2])
    close(coarse[0, ::2], numbers["A_f16_t1"], RELATIVE)
    close(middle[0, :, ::2, ::2], numbers["A_f8_t1"], RELATIVE)
    close(fine[0, :, ::4, ::4], numbers["A_f4_t1"], RELATIVE)
    close(features.maps["pixel"][1, ::2], numbers["A_pix_feat_t1"], RELATIVE)
    for t in range(5):
        for name in ("key", "shrinkage", "selection"):
            close(features.maps[name][t], numbers[f"A_{name}_t{t}"], RELATIVE)


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_golden_masks_through_the_tracker(official: Cutie, numbers: Numbers, case: str) -> None:
    with Heard(official, "decoder") as heard:
        found, recorder = golden.play(official, case, "cutie-small")
    golden.check_play(numbers, case, found, recorder)
    for t, (_, (raw, _)) in enumerate(heard["decoder"], 1):
        close(raw[0], numbers[f"{case}_dec_logits_t{t}"], LOGITS, relative=False)


def test_golden_values_on_the_way(official: Cutie, numbers: Numbers) -> None:
    official.auxiliary = True
    try:
        with Heard(official, "mask_encoder", "summarizer", "pixel_fuser", "transformer", "decoder") as heard:
            _, recorder = golden.play(official, "A", "cutie-small")
    finally:
        official.auxiliary = False
    for i, t in enumerate((0, 2)):
        value, sensory = heard["mask_encoder"][i][1]
        close(value[0, :, ::4], numbers[f"A_value_t{t}"], RELATIVE)
        close(sensory[0, :, ::4], numbers[f"A_sensory_deep_t{t}"], RELATIVE)
        close(heard["summarizer"][i][1][0], numbers[f"A_obj_summary_t{t}"], RELATIVE)
    for t in range(1, 5):
        (_, read, *_), fused = heard["pixel_fuser"][t - 1]
        close(read[0, :, ::4], numbers[f"A_readout_t{t}"], RELATIVE)
        close(fused[0, :, ::4], numbers[f"A_pixel_fused_t{t}"], RELATIVE)
        (_, summaries, *_), (out, levels) = heard["transformer"][t - 1]
        close(summaries[0, :, None], numbers[f"A_obj_mem_in_t{t}"], RELATIVE)
        close(out[0, :, ::4], numbers[f"A_transformer_out_t{t}"], RELATIVE)
        for level, logits in enumerate(levels):
            close(logits[0], numbers[f"A_q_logits{level}_t{t}"], LOGITS, relative=False)
        prediction, memory = recorder.predictions[t - 1]
        full = F.interpolate(prediction.logits_BKHW, scale_factor=4.0, mode="bilinear")[0]
        close(full[:, 2::8, 3::8], numbers[f"A_agg_logits_up4_t{t}"], LOGITS, relative=False)
        if t < 4:  # the original leaves the last frame's state as it was
            close(memory.state["sensory"][0, :, ::4], numbers[f"A_sensory_dec_t{t}"], RELATIVE)


@pytest.mark.parametrize("mode", ["deep", "nodeep"])
def test_golden_training_graph(official: Cutie, numbers: Numbers, mode: str) -> None:
    clip, plan = golden.clip("cutie-small"), (Step((0,), 1, mask_feedback="soft"), Step((0, 1), 2))
    official.deep_update = float(mode == "deep")
    official.train()
    try:
        with torch.no_grad(), Heard(official, "transformer", "decoder", "mask_encoder") as heard:
            supervised = rollout(official, replace(clip, labelled_BT=yes(1, 3)), plan)
    finally:
        official.eval()
        official.deep_update = 0.2
    for t, step in enumerate(supervised, 1):
        logits = step.prediction.logits()[0, :, 2::8, 3::8]
        close(logits, numbers[f"train_{mode}_logits_t{t}"], LOGITS, relative=False)
        close(logits.softmax(0), numbers[f"train_{mode}_prob_t{t}"], PROBABILITIES, relative=False)
        aux = step.prediction.aux
        close(aux["sensory"][0], numbers[f"train_{mode}_aux_sensory_logits_t{t}"], LOGITS, relative=False)
        close(aux["queries"][0].transpose(0, 1), numbers[f"train_{mode}_aux_q_logits_t{t}"], LOGITS, relative=False)
        close(heard["transformer"][t - 1][1][0][0, :, ::16], numbers[f"train_{mode}_readout_t{t}"], RELATIVE)
    close(heard["decoder"][0][1][1][0, :, ::16], numbers[f"train_{mode}_sensory_after_t1_decoder"], RELATIVE)
    close(heard["mask_encoder"][1][1][1][0, :, ::16], numbers[f"train_{mode}_sensory_after_t1_memory"], RELATIVE)


@pytest.mark.parametrize("model", ["cutie", "cutie-small"])
def test_the_authors_files_convert_strictly(model: str, tmp_path: Path) -> None:
    name = "cutie-base" if model == "cutie" else model
    shapes = keys(name)
    state = {
        key: torch.zeros(shape, dtype=torch.long if key.endswith("tracked") else torch.float32) for key, shape in shapes.items()
    }
    # files of the single-object stage have one input channel less
    for key in ("mask_encoder.conv1.weight", "pixel_fuser.sensory_compress.weight"):
        state[key] = torch.ones_like(state[key][:, :-1])
    torch.save({"weights": state}, tmp_path / "official.pth")
    network = released.convert(tmp_path / "official.pth", tmp_path / "ours.safetensors", model)
    assert isinstance(network, Cutie)
    assert network.pixel_fuser.state.weight.shape[1] == 258
    assert float(network.pixel_fuser.state.weight[:, -1].detach().abs().sum()) == 0
    assert network.mask_encoder.net.get_submodule("conv1").weight[:, -1].abs().sum() == 0
    del state["pix_feat_proj.bias"]
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"missing pixel\.bias$"):
        released.convert(tmp_path / "broken.pth", tmp_path / "other.safetensors", model)
    assert not (tmp_path / "other.safetensors").exists()


def test_every_released_weight_lands_on_a_weight_of_its_own(official: Cutie) -> None:
    named = released.rename(golden.official("cutie-small"), released.rules("cutie-small"))
    assert named.keys() == official.state_dict().keys()


def test_attention_with_moved_projections_is_plain_attention() -> None:
    torch.manual_seed(0)
    mine, plain = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        for theirs, ours in (
            (plain.in_proj_weight, mine.project.weight),
            (plain.in_proj_bias, mine.project.bias),
            (plain.out_proj.weight, mine.out.weight),
            (plain.out_proj.bias, mine.out.bias),
        ):
            theirs.copy_(torch.randn_like(ours))
            ours.copy_(theirs)
    queries, pixels, place = torch.randn(2, 6, 16), torch.randn(2, 35, 16), torch.randn(2, 35, 16)
    blocked = torch.rand(2, 2, 35) > 0.5
    mask = blocked.repeat_interleave(3, 1).repeat_interleave(4, 0)
    wanted = plain(queries, pixels + place, pixels, attn_mask=mask)[0]
    torch.testing.assert_close(mine.from_pixels(queries, pixels + place, pixels, blocked), wanted, atol=1e-4, rtol=1e-4)
    wanted = plain(pixels + place, queries, queries * 2)[0]
    torch.testing.assert_close(mine.from_queries(pixels + place, queries, queries * 2), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.among(queries, queries * 2), plain(queries, queries, queries * 2)[0], atol=1e-4, rtol=1e-4)


def test_folded_network_gives_the_same_masks() -> None:
    network = small()
    plain = follow(network, video(4))
    network.fold()
    assert network.folded
    for mine, theirs in zip(follow(network, video(4)), plain, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


# objects


def follow(network: Cutie, frames: np.ndarray, *ids: int) -> list[np.ndarray]:
    """The soft masks of every frame; objects are given on the first."""
    tracker = Tracker(network, size=SIZE[0])
    return [tracker.step(frame, labels(*(ids or (1, 2))) if t == 0 else None).soft() for t, frame in enumerate(frames)]


def test_shuffling_objects_shuffles_planes() -> None:
    network = small()
    for one, other in zip(follow(network, video(4), 1, 2), follow(network, video(4), 2, 1), strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)


def begun(network: Cutie, frames: int = 3) -> Tracker:
    tracker = Tracker(network, size=SIZE[0])
    for t, frame in enumerate(video(frames)):
        tracker.step(frame, labels(1, 2) if t == 0 else None)
    return tracker


@pytest.mark.parametrize("gone", [1, 2])
def test_a_removed_object_leaves_nothing_behind(gone: int) -> None:
    """The released engine keeps its last mask, read as that of another object, and its summaries."""
    tracker, disturbed = begun(small()), begun(small())
    state = {name: each.clone() for name, each in disturbed.memory.state.items()}
    for each in state.values():
        each[:, gone - 1] = 7.0
    frames = {}
    for i, entry in disturbed.memory.frames.items():
        value = entry.per_object.clone()
        value[:, gone - 1] = 7.0
        frames[i] = replace(entry, per_object=value)
    disturbed.memory = replace(disturbed.memory, state=state, frames=frames)
    for each in (tracker, disturbed):
        each.remove(gone)
        assert all(s.shape[1] == 1 for s in each.memory.state.values())
    for frame in video(3):
        np.testing.assert_array_equal(tracker.step(frame).soft(), disturbed.step(frame).soft())


def test_an_id_that_comes_back_inherits_nothing() -> None:
    tracker = begun(small())
    tracker.remove(2)
    memory = tracker.memory.with_objects([1, 2])
    assert all(float(each[:, 1].abs().sum()) == 0 for each in memory.state.values())
    assert not any(bool(entry.valid_BN[:, 1].any()) for entry in memory.frames.values())


def test_an_object_that_no_frame_knows_wins_nowhere_and_disturbs_nobody() -> None:
    network = small()
    tracker = begun(network)
    features = network.encode(tiny.pictures(4, SIZE)[3:])
    with torch.inference_mode():
        alone, after = network.segment(tracker.memory, features)
        wider = tracker.memory.with_objects([1, 9, 2])
        prediction, moved = network.segment(wider, features)
    np.testing.assert_array_equal(prediction.logits_BKHW[:, [0, 1, 3]], alone.logits_BKHW)
    assert bool((prediction.logits_BKHW[:, 2] == UNKNOWN).all())
    assert float(moved.state["sensory"][:, 1].abs().sum()) == 0
    torch.testing.assert_close(moved.state["sensory"][:, [0, 2]], after.state["sensory"])
    nothing, _ = network.segment(Memory((1,)), features)
    assert float(nothing.soft().max()) == 0


def test_objects_that_entered_apart_do_not_see_each_other_before_the_decoder() -> None:
    masks = torch.rand(1, 3, 2, 2)
    same = torch.tensor([[[1, 1, 0], [1, 1, 0], [0, 0, 1]]]).bool()
    found = others(masks, same)
    torch.testing.assert_close(found[:, 0], masks[:, 1])
    assert float(found[:, 2].abs().sum()) == 0
    logits = torch.tensor([[[3.0, -3.0], [1.0, -3.0], [2.0, -3.0]]])
    assert foreground(logits, same, yes(1, 3)).tolist() == [[[True, False], [False, False], [True, False]]]
    assert foreground(logits, yes(1, 3, 3), yes(1, 3))[0, 2].tolist() == [False, False]


def test_a_late_object_follows_while_the_others_go_on() -> None:
    tracker = Tracker(small(), size=SIZE[0])
    for t, frame in enumerate(video(6)):
        given = labels(1, 0) if t == 0 else labels(0, 2) if t == 3 else None
        step = tracker.step(frame, given)
    assert step.objects == (1, 2)
    assert tracker.memory.frames[3].valid_BN.tolist() == [[True, True]]
    assert tracker.memory.frames[0].valid_BN.tolist() == [[True, False]]


def test_padded_planes_do_not_change_the_clip_beside_them() -> None:
    network = small()
    network.train()
    both, plan = tiny.clip(batch=2, size=SIZE), propagate(3)
    known = torch.tensor([[True, True], [True, False]])
    masks = both.masks_BTNHW * known[:, None, :, None, None]
    both = replace(both, objects_BN=known, masks_BTNHW=masks)
    network.deep_update = 0.0
    for b in range(2):
        alone = Clip(*(getattr(both, f)[b : b + 1] for f in both.__dataclass_fields__))
        for one, two in zip(rollout(network, alone, plan), rollout(network, both, plan), strict=True):
            torch.testing.assert_close(one.prediction.logits_BKHW[0], two.prediction.logits_BKHW[b], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_state_of_an_object_begins_when_it_is_known() -> None:
    network, known = small(), torch.tensor([[True, True], [True, False]])
    features = network.encode(tiny.pictures(2, SIZE))
    memory = network.remember(Memory((1, 2)), 0, features, tiny.planes(SIZE).expand(2, -1, -1, -1), known, known)
    for state in (memory.state, network.segment(memory, features)[1].state):
        assert state["sensory"].flatten(2).abs().sum(2).bool().tolist() == known.tolist()
        assert state["summaries"].flatten(2).abs().sum(2).bool().tolist() == known.tolist()


# memory


def test_summaries_are_the_sum_over_all_frames_remembered() -> None:
    network = small(mem_every=1)
    with Heard(network, "summarizer") as heard:
        tracker = begun(network, 8)
    assert len(heard["summarizer"]) == 8
    assert len(tracker.memory.frames) < 8
    total = torch.stack([out for _, out in heard["summarizer"]]).sum(0)
    torch.testing.assert_close(tracker.memory.state["summaries"], total)


def test_a_correction_takes_the_place_of_what_was_predicted() -> None:
    network = small(mem_every=1)
    tracker = Tracker(network, size=SIZE[0])
    with Heard(network, "summarizer") as heard:
        for t, frame in enumerate(video(5)):
            tracker.step(frame, labels(1, 2) if t == 0 else labels(1, 0) if t == 4 else None)
    outs = [out for _, out in heard["summarizer"]]
    torch.testing.assert_close(tracker.memory.state["summaries"][:, 0], outs[0][:, 0] + outs[4][:, 0])
    torch.testing.assert_close(tracker.memory.state["summaries"][:, 1], torch.stack(outs).sum(0)[:, 1])
    assert [bool(e.valid_BN[0, 0]) for e in tracker.memory.frames.values()] == [True, False, False, False, True]


def test_memory_is_the_first_frame_and_the_latest_four() -> None:
    tracker = Tracker(small(mem_every=2), size=SIZE[0])
    for t, frame in enumerate(video(20)):
        tracker.step(frame, labels(1, 0) if t == 0 else labels(0, 2) if t == 5 else None)
    assert list(tracker.memory.frames) == [0, 5, 13, 15, 17, 19]
    speaks = {i: e.valid_BN[0].tolist() for i, e in tracker.memory.frames.items()}
    assert speaks[0] == [True, False]
    assert speaks[5] == [False, True]  # it stays for the object that entered there alone
    assert speaks[19] == [True, True]


def held_after_each(tracker: Tracker, count: int) -> list[int]:
    """Follow `count` frames, ten pictures over and over; -> the bytes in memory after each."""
    network, size = tracker.network, (32, 48)
    seen = [network.encode(picture[None]) for picture in tiny.pictures(10, size)]
    held = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "encode", lambda _: seen[len(held) % 10])
        for t in range(count):
            tracker.step(np.zeros((*size, 3), np.uint8), labels(1, 2, size=size) if t == 0 else None)
            memory = tracker.memory
            tensors = [t for e in memory.frames.values() for t in e.tensors().values()]
            tensors += [*memory.state.values(), *memory.tally.values()]
            held.append(sum(t.numel() * t.element_size() for t in tensors))
    return held


@torch.no_grad()
def test_memory_does_not_grow_over_2000_frames() -> None:
    held = held_after_each(Tracker(small(width=8, key_width=4, blocks=1), size=32), 2000)
    assert max(held[30:]) <= max(held[:30])


@torch.no_grad()
def test_long_term_memory_does_not_grow_either() -> None:
    tracker = Tracker(small(width=8, key_width=4, blocks=1, prototypes=6, max_prototypes=30, mem_every=1), size=32)
    held = held_after_each(tracker, 300)
    assert any(i < 0 for i in tracker.memory.frames)
    assert max(held[100:]) <= max(held[:100])


def test_a_saved_tracker_goes_on_as_if_unbroken(tmp_path: Path) -> None:
    frames, network = video(14), small(mem_every=2)
    unbroken, first = Tracker(network, size=SIZE[0]), Tracker(network, size=SIZE[0])
    wanted = [unbroken.step(f, labels(1, 2) if t == 0 else None).soft() for t, f in enumerate(frames)]
    for t in range(7):
        first.step(frames[t], labels(1, 2) if t == 0 else None)
    first.save(tmp_path / "state", name="cat")
    second = Tracker(network, size=SIZE[0])
    assert second.restore(tmp_path / "state") == {"name": "cat"}
    for t in range(7, 14):
        np.testing.assert_array_equal(second.step(frames[t]).soft(), wanted[t])


def test_nothing_remembered_records_gradients() -> None:
    network = small()
    network.requires_grad_(True)
    memory = begun(network).memory
    tensors = [*memory.state.values(), *(t for e in memory.frames.values() for t in e.tensors().values())]
    assert not any(t.requires_grad for t in tensors)


def test_a_picture_with_fewer_cells_than_top_k_is_followed() -> None:
    tracker = Tracker(small(top_k=30), size=16)
    frames = video(3, (16, 16))
    tracker.step(frames[0], np.tril(np.ones((16, 16), np.uint8)))
    assert np.isfinite(tracker.step(frames[1]).soft()).all()


def test_keys_far_from_everything_give_no_nan() -> None:
    network = small()
    with torch.no_grad():
        network.keys.key.weight *= 1e4
    assert all(np.isfinite(soft).all() for soft in follow(network, video(3)))


# training


@pytest.mark.parametrize("training", [True, False])
def test_training_graph_runs_in_either_mode_and_reaches_every_weight(training: bool) -> None:
    """On the way back by two steps; the heads of additional logits are read in training alone."""
    network = small().train(training)
    network.auxiliary = True
    clip = tiny.clip(batch=1, length=3, size=SIZE)
    supervised = rollout(network, clip, one_shot(3))
    losses = compute_loss(supervised, "points")
    losses.total.backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert not missing
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


@torch.no_grad()
def test_additional_logits_are_there_in_training_or_when_asked_for() -> None:
    network = small()
    memory, features = begun(network).memory, network.encode(tiny.pictures(1, SIZE))
    assert not network.segment(memory, features)[0].aux
    network.auxiliary = True
    aux = network.segment(memory, features)[0].aux
    assert {name: tuple(each.shape) for name, each in aux.items()} == {"sensory": (1, 3, 3, 4), "queries": (1, 3, 3, 3, 4)}
    network.auxiliary = False
    assert network.train().segment(memory, features)[0].aux.keys() == aux.keys()


@pytest.mark.parametrize(("chance", "given", "training", "moves"), [
    (0.0, False, True, False), (1.0, False, True, True), (0.0, True, True, True), (0.0, False, False, True),
])  # fmt: skip
def test_remembering_moves_the_sensory_memory_on(chance: float, given: bool, training: bool, moves: bool) -> None:
    network = small(deep_update=chance).train(training)
    memory = begun(small()).memory
    with torch.no_grad():
        features = network.encode(tiny.pictures(1, SIZE))
    said = yes(1, 2) if given else ~yes(1, 2)
    with torch.no_grad():
        after = network.remember(memory, 9, features, tiny.planes(SIZE)[None], yes(1, 2), said)
    assert bool((after.state["sensory"] != memory.state["sensory"]).any()) == moves


def test_recomputed_activations_give_the_same_gradients() -> None:
    clip, grads = tiny.clip(batch=1, size=SIZE), []
    for recomputed in (False, True):
        network = small().train()
        network.deep_update = 0.0
        if recomputed:
            network.checkpoint_activations()
        compute_loss(rollout(network, clip, propagate(3))).total.backward()
        grads.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)


def test_a_file_rebuilds_the_network_alone(tmp_path: Path) -> None:
    made = weights.build("cutie-lite", mem_every=3, top_k=7, max_prototypes=100)
    weights.save(made, tmp_path / "cutie.safetensors")
    again = weights.load(tmp_path / "cutie.safetensors")
    assert isinstance(again, Cutie)
    assert (again.mem_every, again.top_k, again.history, again.size) == (3, 7, 10, 352)
    with pytest.raises(ValueError, match=r"expected a backbone \(swin-t, .*\), got 'x'"):
        Cutie(backbone="x")
    with pytest.raises(ValueError, match=r"expected a mask encoder \(resnet18, light\), got 'x'"):
        Cutie(mask_encoder="x")


def test_masks_in_bfloat16_are_near_those_in_float32() -> None:
    wanted, network = follow(small(), video(2)), small().to(torch.bfloat16)
    found = follow(network, video(2))
    assert float(np.abs(found[1] - wanted[1]).mean()) < 0.05


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
