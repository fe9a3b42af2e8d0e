"""Backbones: shapes, TensorFlow's padding, folding, freezing, public checkpoints, Swin-T's golden numbers."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from golden_rules import GOLDEN, fill, frames, keys, normalised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.backbones import BACKBONES, Backbone, ResNet, fold, load_checkpoint
from hodor.models.efficientnet import ConvNorm, EfficientNetLite
from hodor.models.pyramid import FPN
from hodor.models.swin import SwinTiny

CHANNELS = {
    "swin-t": (96, 192, 384, 768),
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "detectron-resnet50": (256, 512, 1024, 2048),
    "detectron-resnet101": (256, 512, 1024, 2048),
    "efficientnet-lite0": (24, 40, 112, 320),
    "efficientnet-lite1": (24, 40, 112, 320),
    "efficientnet-lite2": (24, 48, 120, 352),
}
PARAMETERS = {  # torchvision's and timm's whole classifiers, less their heads
    "swin-t": 28_288_354 - (2 * 768 + 769_000) + 2 * (96 + 192 + 384 + 768),  # and four output norms for one
    "resnet18": 11_689_512 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "efficientnet-lite0": 4_652_008 - (320 * 1280 + 2 * 1280 + 1_281_000),
}


def random_backbone(name: str) -> Backbone:
    """Weights whose norms are not the identity."""
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    return backbone.eval()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 96), (37, 71), (33, 32)])
def test_a_map_has_one_cell_per_started_stride(name: str, size: tuple[int, int]) -> None:
    backbone = BACKBONES[name]().eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(2, 3, *size))
    assert backbone.channels == CHANNELS[name]
    assert backbone.strides == (4, 8, 16, 32)
    expected = [(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(CHANNELS[name], (4, 8, 16, 32), strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("name", ["swin-t", "resnet18", "resnet50", "efficientnet-lite0"])
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert sum(p.numel() for p in BACKBONES[name]().parameters()) == PARAMETERS[name]


def same_conv_by_hand(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's definition for one plane, output by output: windows centred as late as the padding is uneven."""
    height, width = x.shape
    k = len(w)
    rows, columns = -(-height // stride), -(-width // stride)
    top = max((rows - 1) * stride + k - height, 0) // 2
    left = max((columns - 1) * stride + k - width, 0) // 2
    out = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            for i in range(k):
                for j in range(k):
                    y, z = r * stride + i - top, c * stride + j - left
                    if 0 <= y < height and 0 <= z < width:
                        out[r, c] += x[y, z] * w[i, j]
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([3, 5]), st.sampled_from([1, 2]))
def test_same_padding_is_tensorflows(height: int, width: int, kernel: int, stride: int) -> None:
    layer = ConvNorm(1, 1, kernel, stride, linear=True).eval()
    layer.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(height * 13 + width))
    with torch.inference_mode():
        ours = layer(x)[0, 0].numpy()
    by_hand = same_conv_by_hand(x[0, 0].numpy(), layer.conv.weight[0, 0].detach().numpy(), stride)
    np.testing.assert_allclose(ours, by_hand, atol=1e-5)


def test_epsilon_of_efficientnet_is_a_thousandth() -> None:
    layer = ConvNorm(1, 1, linear=True)
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.norm.running_var)
    assert layer(torch.ones(1, 1, 1, 1)).item() == pytest.approx(1e-3**-0.5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet-lite0"])
def test_folding_keeps_every_output(name: str) -> None:
    backbone = random_backbone(name)
    folded = fold(backbone)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for before, after in zip(backbone(x), folded(x), strict=True):
            assert (before - after).abs().max() < 1e-4 * before.abs().max()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())  # a copy was folded


def test_training_leaves_batch_statistics_alone() -> None:
    backbone = random_backbone("efficientnet-lite0")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = backbone(x)[-1]
        after = nn.Sequential(backbone).train()(x)[-1]
        fresh = BACKBONES["efficientnet-lite0"]()  # neither train() nor eval() was called
        fresh.load_state_dict(backbone.state_dict())
        assert torch.equal(before, fresh(x)[-1])
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["swin-t", "resnet18", "efficientnet-lite0"])
@pytest.mark.parametrize("stride", [0, 4, 8, 16, 32])
def test_freezing_at_a_stride_leaves_gradient_only_behind_it(name: str, stride: int) -> None:
    backbone = BACKBONES[name]().train().freeze(stride)
    maps = backbone(torch.randn(1, 3, 32, 32))
    assert [m.requires_grad for m in maps] == [s > stride for s in backbone.strides]
    if stride < 32:
        sum(m.sum() for m in maps if m.requires_grad).backward()
    for output, modules in zip(backbone.strides, backbone.parts(), strict=True):
        for parameter in (p for module in modules for p in module.parameters()):
            assert (parameter.grad is not None) == (output > stride)
    in_parts = {id(p) for modules in backbone.parts() for module in modules for p in module.parameters()}
    assert in_parts == {id(p) for p in backbone.parameters()}


def test_freezing_names_a_stride_that_is_no_output() -> None:
    with pytest.raises(ValueError, match=r"^expected a stride of 0, 4, 8, 16, 32, got 2$"):
        BACKBONES["resnet18"]().freeze(2)


def test_resnet_takes_mask_planes_and_stops_at_stride_16() -> None:
    encoder = ResNet(18, in_channels=5, last_stage=False, conv_bias=True).eval()
    with torch.inference_mode():
        maps = encoder(torch.randn(2, 5, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    assert encoder.layer3[0].downsample[0].bias is not None
    with pytest.raises(ValueError, match=r"^expected a depth of 18 or 50, got 34$"):
        ResNet(34)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("swin-t", "detectron-resnet101")])
def test_a_backbone_that_ends_at_stride_16_gives_the_same_maps_with_no_weight_to_spare(name: str) -> None:
    whole, short = random_backbone(name), BACKBONES[name]().until(16).eval()
    assert (short.strides, short.channels) == ((4, 8, 16), whole.channels[:3])
    assert load_checkpoint(short, whole.state_dict()) == []  # a public file holds the later stage too
    assert len(short.parts()) == 3
    x = torch.randn(1, 3, 37, 71)
    for mine, theirs in zip(short(x), whole(x)[:3], strict=True):
        assert torch.equal(mine, theirs)
    short(x)[-1].sum().backward()
    assert all(p.grad is not None for p in short.parameters())


def test_a_backbone_that_cannot_end_there_says_so() -> None:
    with pytest.raises(ValueError, match=r"^SwinTiny cannot end at stride 16: use a ResNet or an EfficientNet-Lite$"):
        SwinTiny().until(16)
    with pytest.raises(ValueError, match=r"^expected a stride of 4, 8, 16, 32, got 6$"):
        ResNet(18).until(6)


def test_stochastic_depth_acts_in_training_only() -> None:
    torch.manual_seed(0)
    backbone = SwinTiny(drop_path=0.9)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        evaluated = [backbone.eval()(x)[-1] for _ in range(2)]
        trained = [backbone.train()(x)[-1] for _ in range(2)]
    assert torch.equal(*evaluated)
    assert not torch.equal(*trained)


def test_stochastic_depth_keeps_the_mean() -> None:
    block = SwinTiny(drop_path=0.5).train().layers[3].blocks[1]
    torch.manual_seed(0)
    dropped = block._drop(torch.ones(4000, 1, 1, 1))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert abs(dropped.mean() - 1) < 0.1


def test_piecewise_inference_equals_training_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference walks the wide layers in pieces, training at once."""
    monkeypatch.setattr("hodor.models.swin.CHUNK", 4 * 96 * 50)  # 50 cells of 2 * 16 * 16
    backbone = SwinTiny().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pieces = backbone(x)
    for piecewise, at_once in zip(pieces, backbone(x), strict=True):
        torch.testing.assert_close(piecewise, at_once, rtol=1e-4, atol=1e-5)


# The public names of the same weights ---------------------------------------------------------------------------------


def swap(rules: dict[str, str]) -> Callable[[str], str]:
    def renamed(key: str) -> str:
        for pattern, name in rules.items():
            key = re.sub(pattern, name, key)
        return key

    return renamed


def wheel(key: str) -> str:
    return swap(
        {
            r"^stem\.conv": "_conv_stem",
            r"^stem\.norm": "_bn0",
            r"^blocks\.": "_blocks.",
            r"expand\.conv": "_expand_conv",
            r"expand\.norm": "_bn0",
            r"depthwise\.conv": "_depthwise_conv",
            r"depthwise\.norm": "_bn1",
            r"project\.conv": "_project_conv",
            r"project\.norm": "_bn2",
        }
    )(key)


def timm_efficientnet(repeats: tuple[int, ...]) -> Callable[[str], str]:
    place = {}
    for stage, count in enumerate(repeats):
        for block in range(count):
            place[len(place)] = (stage, block)

    def renamed(key: str) -> str:
        if key.startswith("stem."):
            return key.replace("stem.conv", "conv_stem").replace("stem.norm", "bn1")
        _, index, layer, kind, leaf = key.split(".")
        stage, block = place[int(index)]
        names = {
            ("expand", "conv"): "conv_pw",
            ("expand", "norm"): "bn1",
            ("depthwise", "conv"): "conv_dw",
            ("depthwise", "norm"): "bn2" if stage else "bn1",
            ("project", "conv"): "conv_pwl" if stage else "conv_pw",
            ("project", "norm"): "bn3" if stage else "bn2",
        }
        return f"blocks.{stage}.{block}.{names[layer, kind]}.{leaf}"

    return renamed


def torchvision_swin(key: str) -> str:
    key = re.sub(r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}.", key)
    key = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}.", key)
    return swap(
        {
            r"^patch_embed\.proj": "features.0.0",
            r"^patch_embed\.norm": "features.0.2",
            r"mlp\.fc1": "mlp.0",
            r"mlp\.fc2": "mlp.3",
        }
    )(key)


def mmdetection_swin(key: str) -> str:
    return "backbone." + swap(
        {
            r"^patch_embed\.proj\.": "patch_embed.projection.",
            r"^layers\.": "stages.",
            r"\.attn\.": ".attn.w_msa.",
            r"\.mlp\.fc1\.": ".ffn.layers.0.0.",
            r"\.mlp\.fc2\.": ".ffn.layers.1.",
        }
    )(key)


def timm_swin(key: str) -> str:
    return re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)


def unfolded(merging: Tensor) -> Tensor:
    """The inputs of a merging as nn.Unfold lists them, found by unfolding the index of each input."""
    quarter = merging.shape[-1] // 4
    index = torch.arange(4 * quarter, dtype=torch.float32).view(4, quarter)
    cell = torch.zeros(1, quarter, 2, 2)
    cell[0, :, 0, 0], cell[0, :, 1, 0], cell[0, :, 0, 1], cell[0, :, 1, 1] = index
    return merging[..., F.unfold(cell, 2)[0, :, 0].long()]


PUBLIC: dict[str, tuple[str, Callable[[str], str], dict[str, tuple[int, ...]]]] = {
    "lite0 wheel": (
        "efficientnet-lite0",
        wheel,
        {
            "_conv_head.weight": (1280, 320, 1, 1),
            "_bn1.weight": (1280,),
            "_fc.bias": (1000,),
            "_bn0.num_batches_tracked": (),
        },
    ),
    "lite2 wheel": ("efficientnet-lite2", wheel, {"_fc.weight": (1000, 1280)}),
    "lite0 timm": (
        "efficientnet-lite0",
        timm_efficientnet((1, 2, 2, 3, 3, 4, 1)),
        {"conv_head.weight": (1280, 320, 1, 1), "bn2.running_var": (1280,), "classifier.bias": (1000,)},
    ),
    "lite1 timm": ("efficientnet-lite1", timm_efficientnet((1, 3, 3, 4, 4, 5, 1)), {}),
    "swin detection": (
        "swin-t",
        lambda key: "backbone." + key,
        {"neck.fpn_convs.0.conv.bias": (256,), "backbone.layers.0.blocks.0.attn.relative_position_index": (49, 49)},
    ),
    "swin mmdetection": ("swin-t", mmdetection_swin, {"rpn_head.rpn_conv.bias": (256,)}),
    "swin classification": (
        "swin-t",
        str,
        {"head.bias": (1000,), "norm.bias": (768,), "layers.0.blocks.1.attn_mask": (64, 49, 49)},
    ),
    "swin torchvision": ("swin-t", torchvision_swin, {"head.bias": (1000,), "norm.weight": (768,)}),
    "swin timm": ("swin-t", timm_swin, {"head.fc.bias": (1000,), "norm.weight": (768,)}),
    "resnet18": ("resnet18", str, {"fc.bias": (1000,), "bn1.num_batches_tracked": ()}),
    "resnet50 parallel": ("resnet50", lambda key: "module." + key, {"module.fc.weight": (1000, 2048)}),
}


@pytest.mark.parametrize("public", PUBLIC)
def test_public_names_come_back_as_ours(public: str) -> None:
    name, rename, extra = PUBLIC[public]
    source = random_backbone(name)
    classifier = public in ("swin classification", "swin torchvision", "swin timm")
    state = {}
    for key, value in source.state_dict().items():
        if key.endswith("num_batches_tracked") or (classifier and re.match(r"norm\d", key)):
            continue
        state[rename(key)] = unfolded(value) if public == "swin mmdetection" and ".downsample." in key else value
    assert len(state) + (len(extra)) == len(state | dict.fromkeys(extra))
    state |= {key: torch.zeros(shape) for key, shape in extra.items()}
    target = BACKBONES[name]()
    left = load_checkpoint(target, {"state_dict": state})
    assert left == ([f"norm{i}.{leaf}" for i in range(4) for leaf in ("bias", "weight")] if classifier else [])
    ours = target.state_dict()
    for key, value in source.state_dict().items():
        if key not in left and not key.endswith("num_batches_tracked"):
            assert torch.equal(ours[key], value), key


def test_an_unfit_checkpoint_is_named_in_one_line_and_changes_nothing() -> None:
    backbone = BACKBONES["resnet18"]()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = {key: value + 1 for key, value in before.items() if key not in ("bn1.bias", "layer4.1.conv2.weight")}
    state["conv1.weight"] = torch.zeros(64, 5, 7, 7)
    state |= {f"extra{i}": torch.zeros(()) for i in range(6)}
    with pytest.raises(ValueError, match="does not fit") as error:
        load_checkpoint(backbone, state)
    assert str(error.value) == (
        "checkpoint does not fit ResNet: 2 missing (bn1.bias, layer4.1.conv2.weight), "
        "6 unexpected (extra0, extra1, extra2, extra3, 2 more), "
        "1 misshapen (conv1.weight is 64x5x7x7, expected 64x3x7x7): give weights of the same architecture"
    )
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_part_of_swins_output_norms_is_missing_the_rest() -> None:
    state = {key: value for key, value in SwinTiny().state_dict().items() if key != "norm2.bias"}
    with pytest.raises(ValueError, match=r"1 missing \(norm2\.bias\)"):
        load_checkpoint(SwinTiny(), state)


def test_weights_of_another_width_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^checkpoint does not fit EfficientNetLite: .* misshapen .*: give weights"):
        load_checkpoint(EfficientNetLite(1.1, 1.2), EfficientNetLite(1.0, 1.1).state_dict())


# Golden numbers of the released HODOR ---------------------------------------------------------------------------------

SLICES = {
    "swin_stage0_t0": np.s_[::2, ::4, ::4],
    "swin_stage1_t0": np.s_[::4, ::2, ::2],
    "swin_stage2_t0": np.s_[::8],
    "swin_stage3_t0": np.s_[::16],
    "fpn_level0_t0": np.s_[::8, ::2, ::2],
    "fpn_level1_t0": np.s_[::8, ::2, ::2],
    "F4_t0": np.s_[::4, ::2, ::2],
    "F8_t0": np.s_[::2],
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "hodor.npz") as file:
        return {name: file[name] for name in ("input_norm_t0", "weights_key", "weights_abs_sum", *SLICES)}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return fill(keys("hodor"), "hodor")


def test_the_weight_rule_gives_the_golden_sums(golden: dict[str, np.ndarray], state: dict[str, Tensor]) -> None:
    sums = dict(zip(golden["weights_key"].tolist(), golden["weights_abs_sum"].tolist(), strict=True))
    assert sums.keys() - state.keys() == {key for key in sums if key.endswith("relative_position_index")}
    for key, value in state.items():
        assert value.double().abs().sum().item() == pytest.approx(sums[key], rel=1e-6), key


def test_swin_and_pyramid_reproduce_the_released_features(golden: dict[str, np.ndarray], state: dict[str, Tensor]) -> None:
    prefix = "feature_extractor."
    swin, pyramid = SwinTiny().eval(), FPN((96, 192, 384, 768), 256)
    of_swin = {k.removeprefix(f"{prefix}bb_fpn.0."): v for k, v in state.items() if k.startswith(f"{prefix}bb_fpn.0.")}
    of_fpn = {k.removeprefix(f"{prefix}bb_fpn.1."): v for k, v in state.items() if k.startswith(f"{prefix}bb_fpn.1.")}
    assert load_checkpoint(swin, of_swin) == []
    unused = pyramid.load_state_dict(of_fpn, strict=False)
    assert not unused.missing_keys
    assert all(re.match(r"fpn_convs\.[23]\.", key) for key in unused.unexpected_keys)
    norms = [nn.GroupNorm(16, 256) for _ in range(2)]
    for i, norm in enumerate(norms):
        norm.load_state_dict({leaf: state[f"{prefix}norm_layers.{i}.{leaf}"] for leaf in ("weight", "bias")})

    x = normalised(frames(0.0, T=1))
    np.testing.assert_allclose(x[0, :, ::8, ::8].numpy(), golden["input_norm_t0"], atol=1e-6)
    with torch.inference_mode():
        # A second image in the batch must not disturb the first.
        maps = swin(torch.cat([x, x.flip(-1)]))
        levels = pyramid(maps)
        features = [norm(level) for norm, level in zip(norms, levels, strict=True)]
    for (name, part), ours in zip(SLICES.items(), (*maps, *levels, *features), strict=True):
        theirs = golden[name]
        assert np.abs(ours[0].numpy()[part] - theirs).max() < 1e-4 * np.abs(theirs).max(), name
