"""STEm-Seg computes the released network's maps, loads its checkpoints by name, and reads clips of every length.

Expected values: tests/golden/stemseg.npz, made by the original at commit e1ab59d (tests/golden/README.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stemseg
import tiny
import torch
from golden_rules import keys
from stemseg import cells, close

from hodor import cli
from hodor.models import finders, released, state_dicts, weights
from hodor.models.finder import Maps
from hodor.models.mixing import FREE, coordinates
from hodor.models.stemseg import STEmSeg
from hodor.models.stemseg_decoders import Decoder

SMALL: dict[str, Any] = {
    "backbone": "tiny",
    "width": 16,
    "decoder_widths": (16, 16, 8, 8),
    "semantic_widths": (16, 16, 8, 8),
    "groups": 4,
}


def small(seed: int = 0, **changes: Any) -> STEmSeg:
    """An untrained STEm-Seg of 0.2 M weights."""
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        made = STEmSeg(**{**SMALL, **changes})
    made.size = 64
    return made.eval()


# ---- the released function


@torch.no_grad()
def test_official_weights_reproduce_the_golden_maps_of_two_frames() -> None:
    images = stemseg.pictures()
    close(images[:, :, ::16, ::16], "rgb_check", 1e-6)
    network = stemseg.network("davis")
    mean, std = (torch.tensor(value)[:, None, None] for value in (network.backbone.mean, network.backbone.std))
    close(((images[0] - mean) / std).flip(0)[:, ::8, ::8], "A_input_t0")
    features = stemseg.features(2)
    for stride, step in ((4, 4), (8, 2), (16, 1), (32, 1)):
        close(features[0].maps[f"stride{stride}"][0, ::8, ::step, ::step], f"A_fpn{stride}_t0")
    maps = network.read(features)
    close(cells(torch.cat([maps.embeddings_BETHW, maps.spreads_BVTHW], 1)[0], [(3, 8), (5, 8)]), "P2_embeddings")
    close(cells(maps.seediness_BTHW[0], [(3, 8), (5, 8)]), "P2_seediness")


@pytest.mark.slow
@torch.no_grad()
def test_official_weights_reproduce_the_golden_maps_of_a_clip() -> None:
    network = stemseg.network("davis")
    mean, std = (torch.tensor(value)[:, None, None] for value in (network.backbone.mean, network.backbone.std))
    image = (stemseg.pictures()[:1] - mean) / std
    stages = network.backbone(image)
    for stage, (channels, step) in enumerate(((8, 4), (16, 2), (16, 1), (32, 1))):
        close(stages[stage][0, ::channels, ::step, ::step], f"A_res{stage + 2}_t0")
    for stride, step in ((4, 4), (8, 2), (16, 1), (32, 1)):
        close(stemseg.features()[5].maps[f"stride{stride}"][0, ::16, ::step, ::step], f"A_fpn{stride}_t5")
    inner: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, __, out: inner.__setitem__(name, out[0]))

    for i in range(3):
        keep(f"conv{i}", network.embedding.merges[i])
    assert network.seediness is not None
    keep("seed", network.seediness.merges[2])
    maps = network.read(stemseg.features()[:8])
    close(inner["conv0"][::8], "A_emb_conv_16")
    close(inner["conv1"][::8, :, ::2, ::2], "A_emb_conv_8")
    close(inner["conv2"][::16, ::2, ::4, ::4], "A_emb_conv_4")
    close(inner["seed"][::16, ::2, ::4, ::4], "A_seed_conv_4")
    close(cells(maps.embeddings_BETHW[0], [(1, 4), (2, 4)]), "A_embeddings")
    close(cells(maps.spreads_BVTHW[0], [(1, 4), (2, 4)]), "A_variances")
    close(maps.seediness_BTHW, "A_seediness")


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 4])
def test_official_weights_reproduce_the_golden_maps_of_other_lengths(length: int) -> None:
    maps = stemseg.maps("davis", 0, length)
    close(cells(torch.cat([maps.embeddings_BETHW, maps.spreads_BVTHW], 1)[0], [(3, 8), (5, 8)]), f"P{length}_embeddings")
    close(cells(maps.seediness_BTHW[0], [(3, 8), (5, 8)]), f"P{length}_seediness")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prefix"), [("ytvis", "Y"), ("kitti", "M")])
def test_official_weights_reproduce_the_golden_maps_of_networks_with_classes(name: str, prefix: str) -> None:
    maps = stemseg.maps(name, 0, 8)
    close(cells(maps.embeddings_BETHW[0], [(3, 8), (5, 8)]), f"{prefix}_embeddings")
    close(cells(maps.spreads_BVTHW[0], [(3, 8), (5, 8)]), f"{prefix}_variances")
    close(cells(maps.seediness_BTHW[0], [(1, 4), (2, 4)]), f"{prefix}_seediness")
    assert maps.semantics_BCTHW is not None
    close(cells(maps.semantics_BCTHW[0], [(1, 3), (3, 8), (5, 8)]), f"{prefix}_semseg_logits")


@pytest.mark.parametrize("mode", FREE)
def test_coordinates_are_those_of_the_released_code(mode: str) -> None:
    close(coordinates(mode, 3, 4, 6), f"G_{mode}", 1e-6)
    assert stemseg.numbers()["G_free"].tolist() == list(FREE.values())


def test_coordinates_of_a_tall_frame_reach_further_down_than_across() -> None:
    close(coordinates("xyt", 2, 6, 4), "G_tall_xyt", 1e-6)


# ---- checkpoints


@pytest.mark.parametrize("name", ["davis", "ytvis"])
def test_every_name_and_shape_of_an_authors_file_fits(name: str) -> None:
    shapes = keys("stemseg" if name == "davis" else "stemseg-ytvis")
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    own = stemseg.empty(name).state_dict()
    assert state_dicts.problems(released.rename(state, released.rules(f"stemseg-{name}")), own) == ""
    assert len(own) == len(shapes) - 2  # two constants


def test_every_name_and_shape_of_a_kitti_file_fits() -> None:
    shapes = {key: stemseg.KITTI.get(key, shape) for key, shape in keys("stemseg-ytvis").items() if key != stemseg.FREE}
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    renamed = released.rename(state, released.rules("stemseg-kitti"))
    assert state_dicts.problems(renamed, stemseg.empty("kitti").state_dict()) == ""


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("davis", {}, 67_408_962),
        ("davis", {"backbone": "detectron-resnet50"}, 48_469_058),
        ("ytvis", {}, 69_370_178),
        ("kitti", {}, 67_409_475),
    ],
)
def test_parameters_are_as_many_as_released(name: str, changes: dict[str, str], expected: int) -> None:
    network = stemseg.empty(name, **changes)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 222_400


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.add_backbone(monkeypatch)
    monkeypatch.setitem(finders.FINDERS, "stemseg-davis", finders.FinderPreset(STEmSeg, SMALL, 64))


@pytest.mark.usefixtures("tiny_preset")
def test_an_authors_file_becomes_a_weights_file_that_computes_the_same(tmp_path: Path) -> None:
    network = small()
    constants = {"embedding_head.time_scale": torch.tensor(1.0), stemseg.FREE: torch.full((1, 2), 1 / 0.09)}
    torch.save({"model": {**network.state_dict(), **constants}, "iteration": 7}, tmp_path / "authors.pth")
    converted = released.convert(tmp_path / "authors.pth", tmp_path / "own.safetensors", "stemseg-davis")
    assert isinstance(converted, STEmSeg)
    loaded = finders.load(tmp_path / "own.safetensors")
    assert (loaded.name, loaded.size, loaded.length, loaded.folded, loaded.training) == ("stemseg-davis", 64, 8, True, False)
    clip = [each.encode(image[None]) for each in (network, loaded) for image in tiny.pictures(8)]
    ours, theirs = network.read(clip[:8]), loaded.read(clip[8:])
    torch.testing.assert_close(ours.embeddings_BETHW, theirs.embeddings_BETHW, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.seediness_BTHW, theirs.seediness_BTHW, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("tiny_preset")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"embedding_head.time_scale": torch.tensor(0.1)},
            r"expected a embedding_head.time_scale of 1, got .*, in which it is 0\.1",
        ),
        (
            {stemseg.FREE: torch.full((1, 2), 4.0)},
            r"free_dim_bandwidths of 11\.11, got .*, in which it is 4, 4: give a file of",
        ),
        ({"to_spread.bias": torch.zeros(3)}, r"to_spread\.bias is \(3,\), expected \(2,\)"),
        ({"embedding_head.conv_16.extra": torch.zeros(3)}, r"unexpected embedding\.merges\.0\.extra"),
    ],
)
def test_a_file_of_other_values_or_names_is_refused(tmp_path: Path, change: dict[str, torch.Tensor], message: str) -> None:
    torch.save({"model": {**small().state_dict(), **change}}, tmp_path / "authors.pth")
    with pytest.raises(ValueError, match=message):
        released.convert(tmp_path / "authors.pth", tmp_path / "own.safetensors", "stemseg-davis")
    assert not (tmp_path / "own.safetensors").exists()


@pytest.mark.usefixtures("tiny_preset")
def test_files_of_finders_and_of_trackers_are_not_confused(tmp_path: Path) -> None:
    finder = finders.build("stemseg-davis", mode="xyt", classes=3, length=4)
    finder.calibration = (2.0, 0.5)
    weights.save(finder, tmp_path / "finder.safetensors")
    with pytest.raises(ValueError, match=r"expected weights of a network that tracks, got .*finder.safetensors, which finds"):
        weights.load(tmp_path / "finder.safetensors")
    loaded = finders.load(tmp_path / "finder.safetensors", folded=False)
    assert (loaded.settings["mode"], loaded.length, loaded.calibration) == ("xyt", 4, (2.0, 0.5))
    assert weights.weights_hash(loaded) == weights.weights_hash(finder)
    with pytest.raises(ValueError, match=r"cannot build: expected a finder \(stemseg-davis, .*\), got 'hodor-lite'"):
        finders.load("hodor-lite")


@pytest.mark.usefixtures("tiny_preset")
def test_a_file_with_settings_of_a_huge_network_is_refused_before_it_is_built(tmp_path: Path) -> None:
    finder = small()
    finder.name, finder.settings = "stemseg-davis", {**finder.settings, "decoder_widths": [65536] * 4}
    weights.save(finder, tmp_path / "huge.safetensors")
    with pytest.raises(ValueError, match="its decoder_widths of 65536 is too large for its tensors"):
        finders.load(tmp_path / "huge.safetensors")


# ---- the network


@pytest.mark.parametrize("length", [2, 4, 8, 16, 24, 32])
@torch.no_grad()
def test_the_same_weights_read_clips_of_every_length(length: int) -> None:
    decoder = Decoder(8, (8, 8, 4, 4), groups=4)
    pooled: list[int] = []
    for level in decoder.levels:
        level[-1].register_forward_hook(lambda _, __, out: pooled.append(out.shape[2]))
    maps = [torch.randn(1, 8, length, 32 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    assert decoder(maps).shape == (1, 4, length, 8, 16)
    slots = {2: 0, 4: 1, 8: 2, 16: 3, 24: 3, 32: 3}[length]
    inside = [length >> min(slots, n) for n in (2, 1, 0, 0)]  # the last unit of each level, before its own pooling
    assert pooled == inside


@pytest.mark.parametrize("mode", FREE)
@torch.no_grad()
def test_every_mode_has_its_dimensions_and_fixed_bandwidths(mode: str) -> None:
    network = small(mode=mode)
    maps = network.read([network.encode(image[None]) for image in tiny.pictures(2)])
    free = FREE[mode]
    assert maps.embeddings_BETHW.shape == (1, len(mode), 2, 16, 24)
    assert maps.spreads_BVTHW.shape == (1, len(mode) - free, 2, 16, 24)
    bandwidths = maps.bandwidths_BETHW[0]
    assert bandwidths.shape[0] == len(mode)
    torch.testing.assert_close(bandwidths[: len(mode) - free], 10 * maps.spreads_BVTHW[0].exp())
    assert (bandwidths[len(mode) - free :] == 1 / 0.3**2).all()
    moved = maps.embeddings_BETHW[0] - coordinates(mode, 2, 16, 24)
    assert moved.abs().max() < 1


@torch.no_grad()
def test_a_batch_reads_as_its_clips_do_and_padding_is_cut_nowhere() -> None:
    network = small(classes=2, seediness_decoder=False)
    one, other = tiny.pictures(4, (50, 70)), tiny.pictures(4, (50, 70), phase=1.0)
    both = network.read([network.encode(torch.stack(pair)) for pair in zip(one, other, strict=True)])
    alone = network.read([network.encode(image[None]) for image in other])
    assert both.semantics_BCTHW is not None
    assert alone.semantics_BCTHW is not None
    assert both.semantics_BCTHW.shape == (2, 4, 4, 16, 24)
    assert network.encode(one[:1]).padded == (64, 96)
    torch.testing.assert_close(both.embeddings_BETHW[1:], alone.embeddings_BETHW, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.semantics_BCTHW[1:], alone.semantics_BCTHW, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "yx"}, "expected a mode of xy, ff, xyt, xyf, xytf, xyff, xytff, xyfff, got 'yx'"),
        ({"length": 5}, "expected clips of 2, 4, 8, 16, 24 or 32 frames, got 5: give another number of frames"),
        ({"backbone": "vgg"}, "expected a backbone .*, got 'vgg'"),
        ({"classes": -1}, "expected classes of 0 or more, got -1"),
        ({"decoder_widths": (16, 16, 8)}, r"expected 4 widths that divide by 4, got \[16, 16, 8\]"),
        ({"semantic_widths": (16, 16, 8, 6), "classes": 1}, r"expected 4 widths that divide by 4, got \[16, 16, 8, 6\]"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_a_clip_of_another_length_is_refused() -> None:
    network = small()
    with pytest.raises(ValueError, match="expected clips of 2, 4, 8, 16, 24 or 32 frames, got 3"):
        network.read([network.encode(image[None]) for image in tiny.pictures(3)])


def test_maps_of_different_shapes_are_refused() -> None:
    maps = Maps(torch.zeros(1, 4, 2, 6, 8), torch.zeros(1, 2, 2, 6, 8), torch.zeros(1, 2, 6, 8))
    assert "embeddings_BETHW=float32 [1, 4, 2, 6, 8]" in repr(maps)
    with pytest.raises(ValueError, match=r"expected seediness \[1, 2, 6, 8\], got \[1, 2, 6, 9\]"):
        Maps(maps.embeddings_BETHW, maps.spreads_BVTHW, torch.zeros(1, 2, 6, 9))
    with pytest.raises(ValueError, match=r"expected spreads \[1, \.\.\., 2, 6, 8\], got \[1, 2, 3, 6, 8\]"):
        Maps(maps.embeddings_BETHW, torch.zeros(1, 2, 3, 6, 8), maps.seediness_BTHW)


def test_the_layers_up_to_stride_4_and_all_norms_do_not_train() -> None:
    names = {name for name, p in stemseg.empty("davis").named_parameters() if not p.requires_grad}
    assert {released.rename({str(n): torch.zeros(0)}, released.rules("stemseg-davis")).popitem()[0] for n in
            stemseg.numbers()["train_no_grad"]} == names  # fmt: skip


@pytest.mark.usefixtures("tiny_preset")
def test_the_command_converts_a_file_and_states_its_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(small().state_dict(), tmp_path / "authors.pth")
    arguments = ["convert", str(tmp_path / "authors.pth"), str(tmp_path / "own.safetensors"), "--model", "stemseg-davis"]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert not ended.value.code
    shown = capsys.readouterr()
    assert "size 64, clips of 8 frames" in shown.out + shown.err
    assert finders.load(tmp_path / "own.safetensors").size == 64
