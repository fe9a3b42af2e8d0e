"""`stcn` computes the released function; `stcn-lite` is small; both stream, remember a bounded number of frames, and learn.

Expected values: tests/golden/stcn.npz, made by the original at commit eb83102 (tests/golden/README.md).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import tiny
import torch
from golden_rules import frames, keys, masks
from torch import Tensor

from hodor.models import released, weights
from hodor.models.backbones import BACKBONES, Backbone
from hodor.models.base import Memory, Network
from hodor.models.layers import fold
from hodor.models.memory_blocks import Fuser, LightMaskEncoder, ValueEncoder, mask_encoder, pad_around, some
from hodor.models.stcn import STCN
from hodor.tracking import Tracker
from hodor.training.losses import compute_loss
from hodor.training.plans import cyclic, dense, rollout

YES = torch.ones(1, 2, dtype=torch.bool)


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    return golden.numbers("stcn")


@pytest.fixture(scope="module")
def network() -> Network:
    return golden.network("stcn", "stcn", mem_every=2)


def small(seed: int = 0, **changes: Any) -> STCN:
    """An untrained STCN of 0.1 M weights whose objects win some pixels."""
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        made = STCN(**{"backbone": "tiny", "key_width": 16, "value_width": 32, "mask_encoder": "light", **changes})
    with torch.no_grad():
        made.decoder.head.weight.mul_(5)
    made.size = 64
    return made.eval()


class Means(Backbone):
    """The picture's mean over cells of 4, 8 and 16 pixels: as good as any backbone where only bookkeeping is asked for."""

    strides, channels = (4, 8, 16), (3, 3, 3)

    def until(self, stride: int) -> Means:
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.nn.functional.avg_pool2d(x, stride) for stride in self.strides)


def labels(*ids: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A label map of one or two rectangles."""
    planes = tiny.planes(size)
    return sum(int(i) * planes[place].byte().numpy() for place, i in enumerate(ids))  # type: ignore[return-value]


# ---- the released function


def test_parameters_are_as_many_as_published(network: Network) -> None:
    assert sum(p.numel() for p in network.parameters()) == 54_434_180
    assert len(network.state_dict()) == len(keys("stcn")) == 405


@torch.no_grad()
def test_official_weights_reproduce_golden_features(network: STCN, numbers: dict[str, np.ndarray]) -> None:
    clip = frames(0.6)
    np.testing.assert_allclose(clip[:, :, ::16, ::16], numbers["rgb_check"], atol=1e-6)
    both = network.encode(clip)
    fine, middle, coarse, key, thin = (both.maps[name] for name in ("fine", "middle", "coarse", "key", "thin"))
    for t in range(5):
        golden.close(key[t], numbers[f"A_key_t{t}"], golden.RELATIVE)
    golden.close(thin[1, ::4], numbers["A_f16_thin_t1"], golden.RELATIVE)
    golden.close(coarse[1, ::8], numbers["A_f16_t1"], golden.RELATIVE)
    golden.close(middle[1, ::4, ::2, ::2], numbers["A_f8_t1"], golden.RELATIVE)
    golden.close(fine[1, ::2, ::4, ::4], numbers["A_f4_t1"], golden.RELATIVE)


@pytest.mark.parametrize("case", ["A", "C"])
def test_official_weights_reproduce_golden_masks_of_five_frames(
    network: STCN, numbers: dict[str, np.ndarray], case: str
) -> None:
    read: list[Tensor] = []
    logits: list[Tensor] = []

    def note(_module: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        read.append(given[0])
        logits.append(out)

    hook = network.decoder.register_forward_hook(note)
    found, heard = golden.play(network, case, "stcn")
    hook.remove()
    golden.check_play(numbers, case, found, heard)
    assert [index for index, *_ in heard.entries] == [0, 2, 4]
    for t in range(1, 5):
        golden.close(logits[t - 1][0], numbers[f"{case}_dec_logits_t{t}"], golden.LOGITS, relative=False)
    if case == "A":
        for t in range(1, 5):
            golden.close(read[t - 1][0, :, ::8], numbers[f"A_readout_t{t}"], golden.RELATIVE)
        for index, _, entry, _ in heard.entries[:2]:
            golden.close(entry.per_object[0, :, ::8], numbers[f"A_value_t{index}"], golden.RELATIVE)
    else:
        assert (heard.features[0].padded, heard.features[0].offset) == ((96, 160), (3, 5))
        # the given frame, as the network takes it
        settled = network.settle(torch.stack([masks(90, 150)[1], masks(90, 150)[2]])[None])
        golden.close(settled[0, :, 2::8, 3::8], numbers["C_prob_t0"][1:], golden.PROBABILITIES, relative=False)


def test_training_graph_reproduces_golden_logits(network: STCN, numbers: dict[str, np.ndarray]) -> None:
    network.train()
    try:
        with torch.no_grad():
            supervised = rollout(network, golden.clip("stcn"), dense(3, mask_feedback="soft"))
            (alone,) = rollout(network, golden.clip("stcn", objects=1), dense(2, mask_feedback="soft"))
    finally:
        network.eval()
    for each in supervised:
        logits = each.prediction.logits_BKHW[0, :, 2::8, 3::8]
        golden.close(logits, numbers[f"train_logits_t{each.target}"], golden.LOGITS, relative=False)
        soft = each.prediction.soft()[0, :, 2::8, 3::8]
        golden.close(soft, numbers[f"train_prob_t{each.target}"], golden.PROBABILITIES, relative=False)
    golden.close(
        alone.prediction.logits_BKHW[0, :, 2::8, 3::8], numbers["train_logits_t1_sel10"], golden.LOGITS, relative=False
    )
    soft = alone.prediction.soft()[0, :, 2::8, 3::8]
    golden.close(soft, numbers["train_prob_t1_sel10"], golden.PROBABILITIES, relative=False)


@pytest.mark.parametrize("nested", [None, "network"])
def test_the_authors_checkpoint_becomes_a_file_that_loads(tmp_path: Path, nested: str | None) -> None:
    state = golden.official("stcn")
    torch.save({nested: state, "it": 5} if nested else state, tmp_path / "stcn.pth")
    released.convert(tmp_path / "stcn.pth", tmp_path / "stcn.safetensors", "stcn")
    loaded = weights.load(tmp_path / "stcn.safetensors", folded=False)
    assert (loaded.name, loaded.size, loaded.history) == ("stcn", 480, 20)
    mine = loaded.state_dict()
    assert torch.equal(
        mine["values.fuser.gates.channel.2.weight"], state["value_encoder.fuser.attention.ChannelGate.mlp.3.weight"]
    )
    assert torch.equal(mine["decoder.up8.block.skip.weight"], state["decoder.up_16_8.out_conv.downsample.weight"])


def test_a_file_of_one_object_at_a_time_gets_a_silent_channel(tmp_path: Path) -> None:
    state = golden.official("stcn")
    state["value_encoder.conv1.weight"] = state["value_encoder.conv1.weight"][:, :4].clone()
    torch.save(state, tmp_path / "stcn_s0.pth")
    made = released.convert(tmp_path / "stcn_s0.pth", tmp_path / "out.safetensors", "stcn")
    conv = made.get_parameter("values.trunk.conv1.weight")
    assert torch.equal(conv[:, :4], state["value_encoder.conv1.weight"])
    assert not conv[:, 4].any()


def test_a_key_that_no_rule_knows_is_named(tmp_path: Path) -> None:
    torch.save({**golden.official("stcn"), "decoder.extra.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"^[^\n]*a\.pth does not fit the network: unexpected decoder\.extra\.weight$"):
        released.convert(tmp_path / "a.pth", tmp_path / "out.safetensors", "stcn")
    assert not (tmp_path / "out.safetensors").exists()


# ---- equal ways to the same numbers


@torch.no_grad()
def test_a_folded_network_computes_the_same() -> None:
    torch.manual_seed(0)
    whole = small(mask_encoder="resnet18")
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    folded = copy.deepcopy(whole)
    folded.fold()
    assert folded.folded
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    clip = tiny.clip(2, 3)
    for mine, theirs in zip(rollout(folded, clip, dense(3)), rollout(whole, clip, dense(3)), strict=True):
        torch.testing.assert_close(mine.prediction.logits_BKHW, theirs.prediction.logits_BKHW, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_what_belongs_to_the_frame_is_worked_out_once_with_the_same_result() -> None:
    torch.manual_seed(0)
    own, frame = torch.randn(2, 3, 8, 5, 6), torch.randn(2, 12, 5, 6)
    for frame_first in (False, True):
        fuser = Fuser(8, 12, 16, frame_first=frame_first)
        each = frame[:, None].expand(-1, 3, -1, -1, -1)
        whole = torch.cat([each, own] if frame_first else [own, each], 2).flatten(0, 1)
        x = fuser.block1(whole)
        expected = fuser.block2(x + fuser.gates(x))
        torch.testing.assert_close(fuser(own, frame).flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_many_objects_in_turns_are_as_all_at_once() -> None:
    torch.manual_seed(0)
    encoder = ValueEncoder("light", 12, 32, bias=True)
    args = torch.randn(1, 3, 32, 48), torch.rand(1, 7, 32, 48), torch.randn(1, 12, 2, 3)
    assert [part.shape[1] for part in some(args[1])] == [1] * 7
    in_turns = encoder(*args)
    with torch.enable_grad():
        assert [part.shape[1] for part in some(args[1])] == [7]
        torch.testing.assert_close(in_turns, encoder(*args).detach(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_shuffling_objects_shuffles_planes() -> None:
    net = small()
    features = net.encode(tiny.pictures(2)).split(2)
    planes = tiny.planes()[None]
    one, _ = net.segment(net.remember(Memory((1, 2)), 0, features[0], planes, YES, YES), features[1])
    two, _ = net.segment(net.remember(Memory((2, 1)), 0, features[0], planes.flip(1), YES, YES), features[1])
    torch.testing.assert_close(one.logits_BKHW[:, [0, 2, 1]], two.logits_BKHW, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (50, 93), (33, 47)])
def test_padding_lies_around_the_frame(size: tuple[int, int]) -> None:
    padded, (top, left) = pad_around(torch.ones(1, 1, *size), 16)
    height, width = padded.shape[-2:]
    assert height % 16 == width % 16 == 0
    assert torch.equal(padded[..., top : top + size[0], left : left + size[1]], torch.ones(1, 1, *size))
    assert float(padded.sum()) == size[0] * size[1]
    assert 0 <= height - size[0] - 2 * top <= 1  # an odd row goes to the bottom
    assert 0 <= width - size[1] - 2 * left <= 1
    prediction, _ = seen(small(), size)
    assert prediction.labels(size).shape == (1, *size)


@torch.no_grad()
def seen(net: STCN, size: tuple[int, int] = (64, 96), known: Tensor = YES) -> tuple[Any, Memory]:
    features = net.encode(tiny.pictures(2, size)).split(2)
    memory = net.remember(Memory((1, 2)), 0, features[0], tiny.planes(size)[None], known, known)
    return net.segment(memory, features[1])


# ---- hazards of the originals


def test_far_keys_give_numbers() -> None:
    net = small()
    with torch.no_grad():
        net.keys.key.weight.mul_(1e4)
    for training in (False, True):
        assert seen(net.train(training))[0].logits_BKHW.isfinite().all()


def test_fewer_tokens_than_top_are_all_read() -> None:
    net = small(top_k=1000)
    assert 4 * 6 < 1000
    torch.testing.assert_close(seen(net)[0].logits_BKHW, seen(net.train())[0].logits_BKHW, atol=1e-4, rtol=1e-4)


def test_an_object_that_no_frame_knows_wins_nowhere() -> None:
    prediction, _ = seen(small(), known=torch.tensor([[True, False]]))
    assert set(prediction.labels((64, 96)).unique().tolist()) <= {0, 1}
    assert float(prediction.soft()[:, 1].max()) < 1e-6


def test_tracking_records_no_graph_and_building_asks_for_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_a, **_k: pytest.fail("went to the network"))
    tracker = Tracker(small(mem_every=1))
    for t, image in enumerate(tiny.pictures(3)):
        tracker.track(image, labels(1, 2) if t == 0 else None)
    assert len(tracker.memory.frames) == 3
    assert not any(each.requires_grad for e in tracker.memory.frames.values() for each in e.tensors().values())


# ---- streaming


def test_frames_are_remembered_when_they_are_due_or_given() -> None:
    tracker = Tracker(small(mem_every=3))
    for t, image in enumerate(tiny.pictures(11)):
        tracker.track(image, labels(1, 2) if t in (0, 4) else None)
    assert list(tracker.memory.frames) == [0, 3, 4, 7, 10]


def test_an_object_that_wins_nowhere_is_remembered_all_the_same() -> None:
    net = small(mem_every=1)
    torch.nn.init.constant_(net.decoder.head.bias, -1000)  # type: ignore[arg-type]
    tracker = Tracker(net)
    for t, image in enumerate(tiny.pictures(2)):
        tracked = tracker.step(image, labels(1, 2) if t == 0 else None)
    assert tracked.lost == {1, 2}
    assert tracker.memory.frames[1].valid_BN.tolist() == [[True, True]]


def test_memory_does_not_grow_over_2000_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "means", Means)
    net = small(backbone="means", value_width=16, mem_every=2)
    net.size = 32
    tracker = Tracker(net, history=6)
    clip, held = tiny.pictures(20, (32, 48)), []
    for t in range(2000):
        tracker.track(clip[t % 20], labels(1, 2, size=(32, 48)) if t == 0 else None)
        if t % 100 == 99:
            tensors = [x for e in tracker.memory.frames.values() for x in e.tensors().values()]
            held.append(sum(x.untyped_storage().nbytes() for x in tensors))
    assert list(tracker.memory.frames) == [0, *range(1988, 2000, 2)]
    assert len(set(held)) == 1
    assert held[0] == 7 * (4 * 6 * (2 * 16 + 16) + 2 + 2 + 1)


def test_a_saved_state_goes_on_as_the_unbroken_run(tmp_path: Path) -> None:
    net, clip = small(mem_every=2), tiny.pictures(8)
    unbroken = Tracker(net)
    expected = [unbroken.track(image, labels(4, 9) if t == 0 else None) for t, image in enumerate(clip)]
    assert len(np.unique(expected[-1])) > 1
    first, second = Tracker(net), Tracker(net)
    for t in range(4):
        first.track(clip[t], labels(4, 9) if t == 0 else None)
    first.save(tmp_path / "state.safetensors")
    second.restore(tmp_path / "state.safetensors")
    for t in range(4, 8):
        np.testing.assert_array_equal(second.track(clip[t]), expected[t])


def test_a_correction_holds_and_an_object_that_comes_later_is_followed() -> None:
    net, clip = small(mem_every=1), tiny.pictures(4)
    tracker = Tracker(net)
    tracker.track(clip[0], labels(1))
    alone = tracker.track(clip[1])
    assert set(np.unique(alone)) <= {0, 1}
    late = labels(0, 7)
    out = tracker.track(clip[2], late)
    assert (out[late == 7] == 7).all()
    assert tracker.memory.frames[0].valid_BN.tolist() == [[True, False]]
    moved = np.roll(labels(1), 6, 1)
    out = tracker.track(clip[3], moved)
    assert (out[moved == 1] == 1).all()
    assert [i for i, e in tracker.memory.frames.items() if e.valid_BN[0, 0]] == [0, 3]


def test_nothing_of_a_removed_object_stays_behind() -> None:
    net, clip = small(mem_every=1), tiny.pictures(5)
    first = labels(1, 2)
    tracker, fresh = Tracker(net), Tracker(net)
    tracker.track(clip[0], first)
    tracker.remove(1)
    assert all(e.per_object.shape[1] == 1 for e in tracker.memory.frames.values())
    assert set(np.unique(tracker.track(clip[1]))) <= {0, 2}
    tracker.remove(2)
    # an id that comes back begins anew: nothing is read from its earlier life
    again = np.roll(first, 5, 1)
    tracker.track(clip[2], again)
    fresh.track(clip[2], again)
    np.testing.assert_array_equal(tracker.track(clip[3]), fresh.track(clip[3]))


@torch.no_grad()
def test_a_network_in_bfloat16_segments_nearly_the_same() -> None:
    net = small()
    exact = seen(net)[0].soft()
    rough = seen(net.to(torch.bfloat16))[0].soft()
    assert rough.dtype == torch.float32
    assert float((exact - rough).abs().mean()) < 0.02


# ---- training


def gradients(net: STCN, training: bool = True) -> dict[str, Tensor | None]:
    net.train(training).zero_grad()
    compute_loss(rollout(net, tiny.clip(2, 3), cyclic(3))).total.backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_sends_finite_gradient_to_every_weight(training: bool) -> None:
    for name, grad in gradients(small(mask_encoder="resnet18"), training).items():
        assert grad is not None, name
        assert grad.isfinite().all(), name
        assert grad.any(), name


def test_recomputed_activations_give_the_same_gradients() -> None:
    net = small()
    expected = {name: grad.clone() for name, grad in gradients(net).items() if grad is not None}
    net.checkpoint_activations()
    runs = {"side": 0, "trunk": 0, "block": 0}
    heavy = net.backbone.heavy()[-1]
    for key, module in (("side", net.decoder.up8.side), ("trunk", net.values.trunk), ("block", heavy)):
        inner = next((m for m in module.modules() if not list(m.children())), module)
        inner.register_forward_hook(lambda *_, key=key: runs.update({key: runs[key] + 1}))
    compute_loss(rollout(net.train(), tiny.clip(2, 3), cyclic(3))).total.detach()
    once = dict(runs)
    runs.update(dict.fromkeys(runs, 0))
    for name, grad in gradients(net).items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-3)
    assert runs == {key: 2 * count for key, count in once.items()}, (runs, once)


def test_the_small_preset_has_few_weights_and_learns() -> None:
    torch.manual_seed(0)
    net = weights.build("stcn-lite")
    assert sum(p.numel() for p in net.parameters()) < 12_000_000
    net.train()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4)
    losses = []
    for _ in range(8):
        loss = compute_loss(rollout(net, tiny.clip(1, 2), dense(2))).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses


def test_a_file_rebuilds_the_network_with_its_settings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = weights.build("stcn-lite", mem_every=3, top_k=7, key_width=32)
    weights.save(net, tmp_path / "a.safetensors")
    loaded = weights.load(tmp_path / "a.safetensors")
    assert isinstance(loaded, STCN)
    assert (loaded.mem_every, loaded.top_k, loaded.keys.key.out_channels, loaded.folded) == (3, 7, 32, True)
    torch.testing.assert_close(loaded.keys.key.weight, fold(net.keys).key.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mem_every": 0}, "^expected mem_every of at least 1, got 0$"),
        ({"top_k": 0}, "^expected top_k of at least 1, got 0$"),
        ({"backbone": "vgg"}, r"^expected a backbone \(swin-t, resnet18, .*\), got 'vgg'$"),
        ({"backbone": "swin-t"}, "^SwinTiny cannot end at stride 16: use a ResNet or an EfficientNet-Lite$"),
        ({"mask_encoder": "heavy"}, r"^expected a mask encoder \(resnet18, light\), got 'heavy'$"),
    ],
)
def test_settings_that_are_none_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        STCN(**{"backbone": "efficientnet-lite0", **settings})


def test_a_light_mask_encoder_ends_at_stride_16_with_the_width_asked_for() -> None:
    encoder = mask_encoder("light", width=48)
    assert isinstance(encoder, LightMaskEncoder)
    assert encoder(torch.rand(2, 5, 64, 96))[-1].shape == (2, 48, 4, 6)
    assert mask_encoder("resnet18").channels[-1] == 256
