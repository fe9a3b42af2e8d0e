"""A finder trains in the loop of the other networks: scheme "find"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training
from PIL import Image
from training import lines, same, small, state

from hodor.data.beside import paste_beside
from hodor.data.clip import Clip
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.discovery.clustering import Clustering, find
from hodor.models import finders
from hodor.train import Recipe, play_of, rate_of, run
from hodor.training.finding import FindPlay
from hodor.training.optimisation import optimiser_of
from hodor.training.recipes import RECIPES


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_videos(tmp_path_factory.mktemp("data") / "videos", ["goat", "cow"])


pytestmark = pytest.mark.usefixtures("small_models")


def data_of(root: Path) -> Data:
    return replace(small(root).data, gap=(4,))


@pytest.fixture
def recipe(root: Path) -> Recipe:
    return small(root, model="finder", scheme="find", frames=4, steps=3, save_every=1, data=data_of(root))


def test_a_run_resumes_to_the_bit_and_writes_weights_that_find(recipe: Recipe, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    constant = replace(recipe, schedule="steps")
    run(constant, whole)
    run(replace(constant, steps=1), broken)
    run(constant, broken)
    assert lines(whole) == lines(broken)
    assert same(state(whole), state(broken))
    assert {"loss", "lovasz", "smoothness", "seediness", "norm"} <= lines(whole)[0].keys()
    line = lines(whole)[0]
    assert line["loss"] == pytest.approx(line["lovasz"] + 10 * line["smoothness"] + line["seediness"], rel=1e-5)
    finder = finders.load(whole / "weights.safetensors")
    assert (finder.name, finder.length) == ("finder", 8)


def test_parts_of_a_batch_have_the_gradient_of_the_whole(recipe: Recipe, tmp_path: Path) -> None:
    found = {}
    for parts in (1, 2):
        run(replace(recipe, steps=1, optimiser="sgd", clip_norm=0.0, accumulate=parts), tmp_path / str(parts))
        saved = torch.load(tmp_path / str(parts) / "last.pt", weights_only=True)
        found[parts] = [each["momentum_buffer"] for each in saved["optimiser"]["state"].values()]
    largest = max(float(each.abs().max()) for each in found[1])
    assert len(found[1]) == len(found[2]) > 20
    for one, two in zip(found[1], found[2], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * largest)


def clip(root: Path) -> Clip:
    return Stream(data_of(root), 4, 1, 0).batch(0)


def test_training_finds_the_objects_of_a_clip(root: Path, recipe: Recipe) -> None:
    torch.manual_seed(0)
    network = finders.build("finder")
    play, one = FindPlay(network, replace(recipe, unlabelled="background")), clip(root)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 3e-3)
    totals = []
    for step in range(40):
        losses, shown = play(one, step)
        totals.append(float(losses.total.detach()))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert totals[-1] < 0.5 * totals[0]
    maps = shown[0]
    labels = find(maps, maps.seediness_BTHW[0] > 0.25, Clustering(min_seediness=0.4)).labels_THW[:, :12]
    truth = one.masks_BTNHW[0, :, :, 1::4, 1::4]
    for plane in truth.transpose(0, 1) > 0.5:
        ious = [float((plane & (labels == i)).sum() / (plane | (labels == i)).sum()) for i in labels.unique() if i > 0]
        assert max(ious) > 0.5
    picture = play.draw(one, shown)
    assert picture.shape == (2 * 48, 4 * 64, 3)
    assert picture.dtype == np.uint8


def test_an_object_is_pasted_beside_itself_as_a_second_one() -> None:
    mask = torch.zeros(1, 3, 1, 40, 80)
    frames = torch.rand(1, 3, 3, 40, 80) * 0.1
    for t in range(3):
        mask[0, t, 0, 10:30, 30 + t : 50 + t] = 1
        frames[0, t, :, 10:30, 30 + t : 50 + t] = torch.linspace(0.5, 1, 20)
    plain = Clip(
        frames, mask, torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 3, 40, 80) > 0
    )
    sides, mirrored = set(), 0
    for seed in range(12):
        pasted = paste_beside(plain, torch.Generator().manual_seed(seed))
        assert pasted.objects_BN.tolist() == [[True, True]]
        assert torch.equal(pasted.masks_BTNHW[:, :, :1], plain.masks_BTNHW)
        assert not (pasted.masks_BTNHW[:, :, 0] * pasted.masks_BTNHW[:, :, 1]).any()
        changed = (pasted.frames_BTCHW != plain.frames_BTCHW).any(2)
        assert torch.equal(changed, pasted.masks_BTNHW[:, :, 1] > 0)
        offsets = []
        for t in range(3):
            y, x = pasted.masks_BTNHW[0, t, 1].nonzero(as_tuple=True)
            edge = int(x.max()) - (49 + t) if int(x.max()) > 49 + t else int(x.min()) - (30 + t)  # the far edge: not covered
            offsets.append(edge)
            assert 15 <= abs(edge) <= 20
            assert abs(int(y.min()) - 10) <= 5
            assert pasted.frames_BTCHW[0, t, 0, y, x].min() >= 0.5
            row = pasted.frames_BTCHW[0, t, 0, int(y[0]), x[y == y[0]]]
            mirrored += bool(row[0] > row[-1])
        assert len({edge > 0 for edge in offsets}) == 1
        sides.add(offsets[0] > 0)
    assert sides == {True, False}
    assert 8 < mirrored < 28


def test_an_object_whose_copy_would_be_outside_stays_alone() -> None:
    whole = torch.ones(1, 2, 1, 8, 8)
    plain = Clip(torch.rand(1, 2, 3, 8, 8), whole, torch.ones(1, 2) > 0, torch.ones(1, 1) > 0, torch.ones(1, 2, 8, 8) > 0)
    assert paste_beside(plain, torch.Generator().manual_seed(0)) is plain


def test_clips_of_one_object_have_two_if_asked_for(root: Path) -> None:
    data = replace(data_of(root), max_objects=1, beside=1.0)
    assert data.planes == 2
    stream = Stream(data, 4, 1, 0)
    clips = [stream.batch(step) for step in range(3)]
    assert {each.objects_BN.shape[1] for each in clips} == {2}
    assert torch.equal(clips[1].frames_BTCHW, stream.batch(1).frames_BTCHW)
    with pytest.raises(ValueError, match=r"expected beside between 0 and 1, got 1\.5"):
        Stream(replace(data, beside=1.5), 4, 1, 0)


def test_unlabelled_pixels_are_ignored_or_background(root: Path, recipe: Recipe) -> None:
    network, one = finders.build("finder"), clip(root)
    seediness = {}
    for kind in ("ignored", "background"):
        play = FindPlay(network, replace(recipe, unlabelled=kind))  # type: ignore[arg-type]
        seediness[kind] = float(play(one, 0)[0].seediness.detach())
    assert seediness["background"] > seediness["ignored"] > 0


def test_pictures_of_a_run_show_what_is_found(recipe: Recipe, tmp_path: Path) -> None:
    run(replace(recipe, steps=1, pictures_every=1), tmp_path)
    (picture,) = (tmp_path / "pictures").iterdir()
    assert Image.open(picture).size == (4 * 64, 4 * 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "dense"}, "expected scheme find for finder, which finds objects, got dense"),
        ({"model": "tiny", "frames": 4}, "expected another scheme than find for tiny, which tracks given objects"),
        ({"frames": 3}, "expected clips of 2, 4, 8, 16, 24 or 32 frames for finder, got 3: set --frames"),
        ({"settings": (("classes", 3),)}, "expected a finder without classes, got 3: training clips have none"),
        ({"frozen_parts": ("fpn",)}, r"expected the name of a part of finder \(backbone, pyramid, .*\), got 'fpn'"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(replace(recipe, **changes), tmp_path)


def test_clips_with_masks_on_one_frame_and_validation_are_refused(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected masks on every frame for scheme find, got masks on 1 of 4: set --data"):
        run(replace(recipe, data=replace(recipe.data, labels="first")), tmp_path / "a")
    validation = replace(recipe.validation, every=1, root=root)
    with pytest.raises(ValueError, match="expected no validation and no replay with scheme find"):
        run(replace(recipe, validation=validation), tmp_path / "b")


def test_frozen_parts_and_checkpointed_activations(recipe: Recipe, tmp_path: Path) -> None:
    changed = replace(recipe, steps=1, frozen=32, frozen_parts=("pyramid",), ema=0.0, optimiser="sgd", warmup=0, lr=0.1)
    run(changed, tmp_path / "a")
    torch.manual_seed(recipe.seed)
    before = finders.build("finder").half().float().state_dict()
    after = state(tmp_path / "a")
    kept = {name for name, value in after.items() if torch.equal(value.float(), before[name])}
    assert {name.partition(".")[0] for name in after.keys() - kept} == {
        "embedding",
        "to_embedding",
        "to_spread",
        "seediness",
        "to_seediness",
    }
    run(replace(changed, checkpoint=True), tmp_path / "b")
    for name, value in state(tmp_path / "b").items():
        torch.testing.assert_close(value.float(), after[name].float(), atol=1e-4, rtol=1e-3)


def test_schedule_and_optimiser_of_the_authors() -> None:
    recipe = RECIPES["stemseg"]
    rates = [rate_of(recipe, step) for step in (0, 39_999, 40_000, 45_000, 50_000)]
    assert rates == pytest.approx([1, 1, 1, 10**-0.5, 0.1])
    assert {rate_of(RECIPES["stemseg-long"], step) for step in (0, 5_000, 9_999)} == {1.0}
    optimiser = optimiser_of(recipe, finders.build("finder"), torch.device("cpu"))
    assert isinstance(optimiser, torch.optim.SGD)
    group = optimiser.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)
    with torch.device("meta"):
        lite = finders.build("stemseg-lite")
    assert isinstance(play_of(lite, RECIPES["stemseg-small"]), FindPlay)
    assert sum(p.numel() for p in lite.parameters()) < 10_000_000
