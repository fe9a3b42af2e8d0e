"""HODOR's settings (every row of the paper's Table 3 is one), and what holds whatever the settings."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from hodor.models.base import Memory
from hodor.models.hodor import HODOR, background_cells, pool_hard, pool_soft
from hodor.models.prediction import UNKNOWN, Features, Prediction
from hodor.training.losses import compute_loss
from hodor.training.plans import chain, dense, rollout

TABLE_3 = {
    "1 single instance": {"joint": False},
    "2 no masking": {"conditioning": "none"},
    "3 hard masking": {"conditioning": "hard"},
    "4 no encoder layers": {"encoder_layers": 0},
    "5 three encoder layers": {"encoder_layers": 3},
    "6 no decoder layers": {"decoder_layers": 0},
    "7 three decoder layers": {"decoder_layers": 3},
    "8 barebones": {"barebones": True},
    "9 regular convolution": {"convolution": "regular"},
    "10 one background descriptor": {"grid": 1},
    "IV no catch-all": {"catch_all": False},
}
OTHERS = {
    "encoder positions": {"encoder_positions": True},
    "no decoder positions": {"decoder_positions": False},
    "the paper's attention scale": {"attention_scale": "paper"},
    "soft pooling": {"pooling": "soft"},
    "feature positions": {"feature_positions": True},
    "start pooled": {"start_pooled": True},
    "no fine convolution": {"fine_conv": False},
    "dropout": {"dropout": 0.5},
    "wider": {"width": 64},
    "more heads": {"heads": 8},
}
SETTINGS = {**TABLE_3, **OTHERS}
VARIANTS: list[dict[str, Any]] = [
    {}, {"joint": False}, {"barebones": True}, {"encoder_layers": 0}, {"conditioning": "hard"},
    {"joint": False, "barebones": True}, {"joint": False, "catch_all": False}, {"catch_all": False},
]  # fmt: skip


def ids(settings: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in settings.items()) or "default"


def yes(count: int = 2, batch: int = 1) -> Tensor:
    return torch.ones(batch, count, dtype=torch.bool)


def look(network: HODOR, size: tuple[int, int] = (64, 96), batch: int = 1) -> tuple[list[Features], Memory]:
    """Features of two frames, and the memory of the first with both objects given."""
    both = network.encode(torch.cat([p.repeat(batch, 1, 1, 1) for p in tiny.pictures(2, size).split(1)])).split(2)
    masks = tiny.planes(size).expand(batch, -1, -1, -1)
    return both, network.remember(Memory((1, 2)), 0, both[0], masks, yes(2, batch), yes(2, batch))


@torch.no_grad()
def logits(network: HODOR) -> Tensor:
    features, memory = look(network)
    return network.segment(memory, features[1])[0].logits_BKHW


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS.keys())
def test_every_setting_takes_a_training_step(changes: dict[str, Any]) -> None:
    network = tiny.network(**changes).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    total = compute_loss(rollout(network, tiny.clip(), dense(3))).total
    assert torch.isfinite(total)
    total.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    optimiser.step()
    assert any(not torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS.keys())
def test_every_setting_is_read(changes: dict[str, Any]) -> None:
    """It changes the weights' shapes, or else what the same weights compute."""
    plain, changed = tiny.network(), tiny.network(**changes)
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (plain, changed)]
    if shapes[0] != shapes[1]:
        return
    if "start_pooled" not in changes:  # which is read by the initial values
        changed.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    one = logits(plain.train())
    torch.manual_seed(1)
    other = logits(changed.train())
    assert one.shape != other.shape or float((one - other).abs().max()) > 1e-3


def test_every_argument_stands_in_the_settings_and_is_tried() -> None:
    network = tiny.network()
    tried = {name for changes in SETTINGS.values() for name in changes} | {"backbone"}
    assert network.settings.keys() == tried
    with pytest.raises(ValueError, match=r"^expected a backbone \(swin-t, .*efficientnet-lite0.*\), got 'swan-t'$"):
        tiny.network(backbone="swan-t")


@pytest.mark.parametrize(
    ("name", "wrong", "values"),
    [
        ("conditioning", "sotf", '"soft", "hard" or "none"'),
        ("attention_scale", "papre", '"released" or "paper"'),
        ("pooling", "mean", '"hard" or "soft"'),
        ("convolution", "deform", '"deformable" or "regular"'),
    ],
)
@pytest.mark.parametrize("barebones", [False, True])
def test_a_word_that_no_setting_knows_is_refused(name: str, wrong: str, values: str, barebones: bool) -> None:
    with pytest.raises(ValueError, match=f"^expected {name} of {values}, got '{wrong}'$"):
        tiny.network(**{name: wrong}, barebones=barebones)


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_start_pooled_needs_layers(stage: str) -> None:
    with pytest.raises(ValueError, match=rf"^start_pooled needs {stage}_layers of at least 1: use barebones"):
        tiny.network(start_pooled=True, **{f"{stage}_layers": 0})


@pytest.mark.parametrize("changes", VARIANTS, ids=ids)
@torch.no_grad()
def test_shuffling_objects_shuffles_planes(changes: dict[str, Any]) -> None:
    network = tiny.network(**changes).eval()
    features = network.encode(tiny.pictures(2)).split(2)
    planes = torch.cat([tiny.planes(), torch.zeros(1, 64, 96)])[None]
    planes[0, 2, 50:60, 5:30] = 1
    order = [2, 0, 1]
    one = network.remember(Memory((7, 300, 4)), 0, features[0], planes, yes(3), yes(3))
    two = network.remember(Memory((4, 7, 300)), 0, features[0], planes[:, order], yes(3), yes(3))
    a, b = (network.segment(m, features[1])[0] for m in (one, two))
    k = a.backgrounds
    torch.testing.assert_close(a.logits_BKHW[:, :k], b.logits_BKHW[:, :k], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.logits_BKHW[:, k:][:, order], b.logits_BKHW[:, k:], rtol=1e-4, atol=1e-4)
    again = network.segment(one.with_objects((4, 7, 300)), features[1])[0]
    torch.testing.assert_close(again.logits_BKHW, b.logits_BKHW, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS, ids=ids)
@torch.no_grad()
def test_an_object_that_no_frame_knows_wins_nowhere_and_disturbs_nobody(changes: dict[str, Any]) -> None:
    network = tiny.network(**changes).eval()
    features, memory = look(network)
    alone = network.segment(memory, features[1])[0]
    wider = network.segment(memory.with_objects((1, 9, 2)), features[1])[0]
    assert torch.isfinite(wider.logits_BKHW).all()
    assert not (wider.labels((64, 96)) == 2).any()
    assert float(wider.soft()[:, 1].max()) < 1e-6
    k = alone.backgrounds
    torch.testing.assert_close(wider.soft()[:, [0, 2]], alone.soft(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wider.logits_BKHW[:, :k], alone.logits_BKHW[:, :k], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS, ids=ids)
def test_a_memory_that_knows_nobody_gives_background_and_finite_gradients(changes: dict[str, Any]) -> None:
    network = tiny.network(**changes)
    features = network.encode(tiny.pictures(2)).split(2)
    memory = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], ~yes(), ~yes())
    prediction, _ = network.segment(memory, features[1])
    assert not prediction.labels((64, 96)).any()
    assert float(prediction.soft().detach().max()) < 1e-6
    prediction.soft().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("changes", VARIANTS, ids=ids)
@torch.no_grad()
def test_padding_planes_do_not_change_the_others_logits(changes: dict[str, Any]) -> None:
    """In any frame of a rollout: a clip with one object predicts the same beside a clip with three."""
    network = tiny.network(**changes).eval()
    clip = tiny.clip(batch=1, length=4)
    padded = type(clip)(
        clip.frames_BTCHW,
        torch.cat([clip.masks_BTNHW, torch.zeros(1, 4, 2, 64, 96)], 2),
        clip.labelled_BT,
        torch.tensor([[True, True, False, False]]),
        clip.valid_BTHW,
    )
    for plan in (chain(4), dense(4)):
        for alone, beside in zip(rollout(network, clip, plan), rollout(network, padded, plan), strict=True):
            k = alone.prediction.logits_BKHW.shape[1]
            mine, wide = alone.prediction.logits_BKHW, beside.prediction.logits_BKHW
            torch.testing.assert_close(wide[:, :k], mine, rtol=1e-3, atol=1e-3)
            assert float(beside.prediction.soft()[:, 2:].max()) < 1e-6


@pytest.mark.parametrize("changes", VARIANTS[:4], ids=ids)
@torch.no_grad()
def test_logits_do_not_depend_on_the_batch(changes: dict[str, Any]) -> None:
    network = tiny.network(**changes).eval()
    clip = tiny.clip(batch=3)
    together = rollout(network, clip, chain(3))
    for b in range(3):
        one = type(clip)(**{k: v[b : b + 1] for k, v in vars(clip).items()})
        for mine, all_ in zip(rollout(network, one, chain(3)), together, strict=True):
            theirs = all_.prediction.logits_BKHW[b : b + 1]
            torch.testing.assert_close(mine.prediction.logits_BKHW, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(50, 70), (64, 70), (33, 96), (20, 25)])
@torch.no_grad()
def test_sizes_that_do_not_divide_by_32_are_padded_and_the_padding_undone(size: tuple[int, int]) -> None:
    network = tiny.network().eval()
    features, memory = look(network, size)
    prediction = network.segment(memory, features[1])[0]
    padded = tuple(-(-n // 32) * 32 for n in size)
    assert features[0].size == size
    assert features[0].padded == padded
    assert prediction.logits_BKHW.shape[-2:] == (padded[0] // 4, padded[1] // 4)
    assert prediction.labels(size).shape == (1, *size)
    assert prediction.logits().shape == (1, 3, *size)
    # the padding is zero after normalisation: a frame padded so by hand is the same frame
    mean = network.get_buffer("mean").expand(3, *padded)
    by_hand = mean[None].repeat(2, 1, 1, 1)
    by_hand[..., : size[0], : size[1]] = tiny.pictures(2, size)
    for mine, theirs in zip(*(network.encode(x).maps.values() for x in (tiny.pictures(2, size), by_hand)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_network_that_starts_pooled_compares_normalised_pooled_features() -> None:
    """Untrained, its branches add exactly nothing: logits are products of layer-normalised features, enlarged, with
    layer-normalised descriptors of pooled features; the catch-all is zero."""
    network = tiny.network(start_pooled=True, encoder_layers=2, decoder_layers=2).eval()
    features, memory = look(network)
    before = network.segment(memory, features[1])[0].logits_BKHW.detach()
    bare = tiny.network(barebones=True).eval()
    pooled = bare.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], yes(), yes()).frames[0]

    def normed(x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, (32,))

    # three norms in each of two encoder layers, two in each of two decoder layers; a norm of a norm is nearly itself
    tokens = normed(torch.cat([pooled.shared["background"], pooled.per_object], 1))
    coarse = normed(features[1].maps["coarse"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    fine = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    expected = torch.einsum("bmd,bdhw->bmhw", tokens, fine) / 32**0.5
    torch.testing.assert_close(before[:, 1:], expected, rtol=1e-3, atol=2e-3)
    assert not before[:, 0].any()
    inner = ("conv.", "ffn.0", "q_proj", "k_", "in_proj", "object_embed", "cell_embed", "reduce_fine", "catch_all.0")
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("encoder", "decoder")) and any(part in name for part in inner):
                weight.add_(torch.randn(weight.shape))
    assert torch.equal(network.segment(memory, features[1])[0].logits_BKHW, before)
    again = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], yes(), yes()).frames[0]
    assert torch.equal(again.per_object, memory.frames[0].per_object)


def test_a_network_that_starts_pooled_learns_in_every_branch_from_the_first_step() -> None:
    network = tiny.network(start_pooled=True, feature_positions=True)
    compute_loss(rollout(network, tiny.clip(), dense(3))).total.backward()
    last = ["encoder.layers.0.self_attn.out_proj", "encoder.layers.0.cross_attn.out_proj", "encoder.layers.0.ffn.3"]
    last += [f"decoder.layers.0.{n}" for n in ("conv_norm", "ffn.3", "v_objects", "v_cells")]
    last += ["decoder.head.2", "decoder.object_proj", "decoder.cell_proj"]
    for name in last:
        gradient = network.get_submodule(name).weight.grad
        assert gradient is not None, name
        assert float(gradient.abs().max()) > 0, name


@pytest.mark.parametrize("which", ["object_embed", "cell_embed"])
@torch.no_grad()
def test_embeddings_name_the_descriptors_in_encoder_and_decoder(which: str) -> None:
    network = tiny.network(encoder_layers=2).eval()
    features, memory = look(network)
    before = network.segment(memory, features[1])[0].logits_BKHW
    network.encoder.get_parameter(which).mul_(-3)
    assert float((network.segment(memory, features[1])[0].logits_BKHW - before).abs().max()) > 1e-3
    _, again = look(network)
    assert float((again.frames[0].per_object - memory.frames[0].per_object).abs().max()) > 1e-3


@torch.no_grad()
def test_many_remembered_frames_speak_by_their_maximum() -> None:
    network = tiny.network(barebones=True).eval()
    features = network.encode(tiny.pictures(3)).split(3)
    memory = Memory((1, 2))
    for i in range(2):
        memory = network.remember(memory, i, features[i], tiny.planes(shift=4 * i)[None], yes(), yes())
    each = [network.segment(memory.only([i]), features[2])[0].logits_BKHW for i in range(2)]
    both = network.segment(memory, features[2])[0].logits_BKHW
    torch.testing.assert_close(both, torch.maximum(*each), rtol=1e-4, atol=1e-5)
    assert float((both - each[0]).abs().max()) > 0.1
    other = network.segment(memory.only([1, 0]), features[2])[0].logits_BKHW
    torch.testing.assert_close(both, other, rtol=1e-4, atol=1e-5)


def test_an_empty_memory_is_refused() -> None:
    network = tiny.network()
    with pytest.raises(ValueError, match=r"^the memory is empty: give a mask before segmenting$"):
        network.segment(Memory((1,)), network.encode(tiny.pictures(1)))


@torch.no_grad()
def test_the_background_of_a_frame_with_some_objects_not_yet_valid_is_not_used() -> None:
    network = tiny.network().eval()
    features, memory = look(network)
    assert memory.frames[0].complete_B.tolist() == [True]
    memory = memory.with_objects((1, 2, 3))
    new = torch.tensor([[False, False, True]])
    planes = torch.zeros(1, 3, 64, 96)
    planes[0, 2, 50:60, 5:30] = 1
    partial = network.remember(memory, 1, features[1], planes, new, new)
    assert partial.frames[1].complete_B.tolist() == [False]
    shared = partial.frames[1].shared["background"]
    shared += 100  # it is not used
    later = network.segment(partial, features[1])[0].logits_BKHW
    shared -= 50
    assert torch.equal(network.segment(partial, features[1])[0].logits_BKHW, later)
    shown = network.remember(memory, 1, features[1], planes, new, new, complete=True)
    assert shown.frames[1].complete_B.tolist() == [True]
    whole = network.remember(memory, 1, features[1], planes, yes(3), yes(3))
    assert whole.frames[1].complete_B.tolist() == [True]


@pytest.mark.parametrize("size", [(9, 9), (32, 40), (7, 11), (2, 2)])
def test_background_cells_share_out_what_belongs_to_no_object(size: tuple[int, int]) -> None:
    masks = torch.rand(2, 2, *size) * 0.5
    cells = background_cells(masks, 3)
    torch.testing.assert_close(cells.sum(1), 1 - masks.sum(1))
    assert ((cells > 0).sum(1) <= 1).all()
    if size == (7, 11):  # cells of 2 x 3, the remainder to the last
        assert cells[0, 8, 4:, 6:].all()
        assert not cells[0, 8, :4].any()
        assert not cells[0, 8, :, :6].any()
    # sums above one by rounding leave no negative background
    assert float(background_cells(masks * 0 + 0.6, 3).min()) == 0


def test_hard_pooling_is_the_mean_inside_and_the_likeliest_pixel_of_an_empty_mask() -> None:
    pixels = torch.randn(1, 20, 8, requires_grad=True)
    masks = torch.zeros(1, 4, 20)
    masks[0, 0, :3] = 0.4  # a background cell of faint pixels
    masks[0, 1, 3:7], masks[0, 1, 7] = 0.6, 0.5
    masks[0, 2, 11], masks[0, 2, 12] = 0.2, 0.3
    masks[0, 3, 19] = 1
    tokens = pool_hard(pixels, masks, 1)
    assert not tokens.requires_grad
    assert not tokens[0, 0].any()
    torch.testing.assert_close(tokens[0, 1], pixels[0, 3:7].mean(0))
    assert torch.equal(tokens[0, 2], pixels[0, 12])
    assert torch.equal(tokens[0, 3], pixels[0, 19])


def test_soft_pooling_is_the_weighted_mean_with_gradients() -> None:
    pixels, masks = torch.randn(1, 20, 8, requires_grad=True), torch.rand(1, 3, 20)
    masks[:, 2] = 0
    masks.requires_grad_()
    tokens = pool_soft(pixels, masks, 1)
    expected = (masks[0, 1, :, None] * pixels[0]).sum(0) / masks[0, 1].sum()
    torch.testing.assert_close(tokens[0, 1], expected)
    assert not tokens[0, 2].any()
    tokens.sum().backward()
    assert float(masks.grad.abs().sum()) > 0
    assert float(pixels.grad.abs().sum()) > 0


@torch.no_grad()
def test_an_object_of_one_pixel_is_described_from_its_own_place() -> None:
    """Its mask is zero at stride 8, where only the four central pixels of a block count."""
    network = tiny.network(barebones=True).eval()
    features = network.encode(tiny.pictures(1))
    masks = torch.zeros(1, 1, 64, 96)
    masks[0, 0, 40, 63] = 1
    entry = network.remember(Memory((1,)), 0, features, masks, yes(1), yes(1)).frames[0]
    assert torch.equal(entry.per_object[0, 0], features.maps["coarse"][0, :, 40 // 8, 63 // 8])


@torch.no_grad()
def test_one_object_at_a_time_is_each_object_alone() -> None:
    network = tiny.network(joint=False).eval()
    features, memory = look(network)
    both = network.segment(memory, features[1])[0]
    assert both.backgrounds == 1
    for plane in range(2):
        one = network.remember(Memory((1,)), 0, features[0], tiny.planes()[None, plane : plane + 1], yes(1), yes(1))
        alone = network.segment(one, features[1])[0]
        torch.testing.assert_close(both.logits_BKHW[:, 1 + plane], alone.logits_BKHW[:, 1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_network_is_the_same_in_channels_last_and_close_in_bfloat16() -> None:
    network = tiny.network().eval()
    expected = logits(network)
    torch.testing.assert_close(logits(network.to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-3)
    half = logits(network.to(torch.bfloat16))
    assert half.dtype == torch.float32
    assert float((half - expected).abs().mean()) < 0.1 * float(expected.std())


def test_unknown_is_nothing_after_a_softmax() -> None:
    assert float(Prediction(torch.tensor([0.0, UNKNOWN]).view(1, 2, 1, 1), 1, (4, 4), (4, 4)).soft()) == 0
