"""The training loop on files on disk: it runs, it repeats itself, and it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import torch
from test_data import write_pairs, write_sequence
from torch import Tensor

import hodor
from hodor import plans, train
from hodor.data.clip import Clip
from hodor.models import weights
from hodor.models.hodor import HODOR
from hodor.models.weights import MODELS, Preset
from hodor.train import Data, Recipe, Scheme, plan_of, run

SETTINGS = {**tiny.SETTINGS, "dropout": 0.2, "feature_positions": True, "start_pooled": True}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.add_backbone(monkeypatch)
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, SETTINGS, 48))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("data")
    for name in ("goat", "cow", "bmx-bumps"):
        write_sequence(root / "video", name, 8)
    write_pairs(root / "stills")
    return Data(video=root / "video", stills=(root / "stills",), short_side=48, video_share=0.5, gap=2)


@pytest.fixture
def recipe(data: Data) -> Recipe:
    return Recipe(model="tiny", data=data, steps=5, batch=2, warmup=2, save_every=2)


def lines(out: Path) -> list[dict[str, Any]]:
    """The log, without the one number that tells of the machine."""
    read = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("clips_per_second") > 0 for line in read)
    return read


def state(out: Path) -> dict[str, Tensor]:
    return weights.read(out / "weights.safetensors")[1]


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a run saves them."""
    return {k: v.half() if v.is_floating_point() else v.clone() for k, v in state.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_run_leaves_a_log_a_checkpoint_and_weights_that_track(recipe: Recipe, tmp_path: Path) -> None:
    path = run(recipe, tmp_path / "run")
    assert path == tmp_path / "run" / "weights.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt", "log.jsonl", "weights.safetensors"]
    log = lines(path.parent)
    assert [line["step"] for line in log] == [0, 1, 2, 3, 4]
    for line in log:
        assert line.keys() == {"step", "ce", "dice", "norm", "lr"}
        assert 0 < line["ce"] < 20
        assert 0 <= line["dice"] <= 1
        assert line["norm"] > 0
    rates = [line["lr"] / recipe.lr for line in log]
    assert rates[:3] == pytest.approx([0.5, 1, 1])  # two steps up, then down along a cosine
    assert rates[3] > rates[4] > recipe.floor
    network = hodor.load(path)
    assert (network.name, network.size) == ("tiny", 48)
    labels = hodor.Tracker(network).track(tiny.pictures(1, (48, 64))[0], tiny.planes((48, 64))[0].byte().numpy())
    assert labels.max() == 1
    about, _ = weights.read(path)
    assert about["step"] == 5
    assert about["recipe"]["data"]["video"] == "video"  # a name, not a path of this machine
    assert about["recipe"]["seed"] == 0


def test_the_same_seed_trains_the_same_and_another_another(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, steps=3)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run(replace(short, seed=seed), tmp_path / name)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert same(state(tmp_path / "one"), state(tmp_path / "two"))
    assert lines(tmp_path / "one") != lines(tmp_path / "three")


@pytest.mark.parametrize("stop", [3, 4])
def test_a_stopped_run_goes_on_to_exactly_the_same_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Dropout and augmentations too; stopped right after a checkpoint (4) or a step later."""
    run(recipe, tmp_path / "whole")
    calls = 0

    def break_off(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop + 1:
            raise KeyboardInterrupt
        return rollout(*args)

    rollout = plans.rollout
    with monkeypatch.context() as patch:
        patch.setattr(plans, "rollout", break_off)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "broken")
    assert len(lines(tmp_path / "broken")) == stop
    torch.manual_seed(99)
    run(recipe, tmp_path / "broken")
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    assert same(state(tmp_path / "broken"), state(tmp_path / "whole"))
    one, two = (torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "broken"))
    assert same(one["network"], two["network"])
    assert torch.equal(one["random"], two["random"])


def test_a_finished_run_is_not_run_again(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, steps=2)
    path = run(short, tmp_path)
    before = path.read_bytes(), (tmp_path / "log.jsonl").read_bytes()
    assert run(short, tmp_path) == path
    assert (path.read_bytes(), (tmp_path / "log.jsonl").read_bytes()) == before


@pytest.mark.parametrize("scheme", get_args(Scheme))
@pytest.mark.parametrize("source", ["video", "stills"])
def test_every_scheme_takes_a_step(recipe: Recipe, tmp_path: Path, scheme: Scheme, source: str) -> None:
    only = replace(recipe.data, stills=()) if source == "video" else replace(recipe.data, video=None)
    run(replace(recipe, scheme=scheme, data=only, steps=2), tmp_path)
    assert len(lines(tmp_path)) == 2
    assert all(torch.isfinite(v).all() for v in state(tmp_path).values())


def test_schemes_play_their_plans(recipe: Recipe) -> None:
    longer = replace(recipe, frames=4, handoff="hard")
    expected = {
        "still": plans.still(),
        "chain": plans.chain(4, "hard"),
        "dense": plans.dense(4, "hard"),
        "cyclic": plans.cyclic(4, "hard"),
    }
    for scheme in get_args(Scheme):
        made = plan_of(replace(longer, scheme=scheme), 3)
        assert made == expected.get(scheme, plans.released(3, "hard"))
    even, odd = (plan_of(replace(recipe, scheme="released"), step) for step in (0, 1))
    assert even != odd


def drawn(recipe: Recipe, first: int, count: int) -> list[Clip]:
    batches = train._batches(recipe, first)
    return [next(batches) for _ in range(count)]


def test_a_batch_depends_on_its_step_alone(recipe: Recipe) -> None:
    from_start, later = drawn(recipe, 0, 5), drawn(recipe, 3, 2)
    for one, two in zip(from_start[3:], later, strict=True):
        assert all(torch.equal(getattr(two, k), v) for k, v in vars(one).items())
    for one, two in pairwise(from_start):
        assert not torch.equal(one.frames_BTCHW, two.frames_BTCHW)
    other = drawn(replace(recipe, seed=1), 0, 1)[0]
    assert not torch.equal(other.frames_BTCHW, from_start[0].frames_BTCHW)


def test_videos_kept_out_of_training_are_not_read(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    load = train.davis.load

    def note(root: Path, name: str, short_side: int) -> Any:
        seen.append(name)
        return load(root, name, short_side)

    monkeypatch.setattr(train.davis, "load", note)
    drawn(recipe, 0, 1)
    assert seen == ["cow", "goat"]


def test_cycles_are_drawn_with_one_labelled_frame(recipe: Recipe) -> None:
    video = replace(recipe, data=replace(recipe.data, stills=()))
    assert drawn(replace(video, scheme="cyclic"), 0, 1)[0].labelled_BT.tolist() == [[True, False, False]] * 2
    assert drawn(replace(video, scheme="dense"), 0, 1)[0].labelled_BT.all()


def test_a_frozen_backbone_stays_and_the_rest_moves(recipe: Recipe, tmp_path: Path) -> None:
    network = weights.build("tiny")
    weights.save(network, tmp_path / "start.safetensors")
    before = halved(network.state_dict())
    frozen = replace(recipe, steps=2, start=tmp_path / "start.safetensors", frozen=32)
    run(frozen, tmp_path / "run")
    moved = {k for k, v in state(tmp_path / "run").items() if not torch.equal(v, before[k])}
    assert not {k for k in moved if k.startswith("backbone.")}
    assert {"pyramid.lateral_convs.0.conv.weight", "encoder.object_embed"} <= moved
    run(replace(frozen, frozen=4), tmp_path / "more")
    moved = {k for k, v in state(tmp_path / "more").items() if not torch.equal(v, before[k])}
    assert {k for k in moved if k.startswith("backbone.blocks.7")}
    assert not {k for k in moved if k.startswith("backbone.stem")}


def test_the_backbone_can_begin_from_a_public_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(5)
    backbone = weights.build("tiny").backbone
    torch.save({"state_dict": backbone.state_dict()}, tmp_path / "backbone.pth")
    run(replace(recipe, steps=1, backbone=tmp_path / "backbone.pth", frozen=32), tmp_path / "run")
    mine = state(tmp_path / "run")
    assert all(torch.equal(mine[f"backbone.{k}"], v) for k, v in halved(backbone.state_dict()).items())


def test_a_run_in_bfloat16_is_finite(recipe: Recipe, tmp_path: Path) -> None:
    run(replace(recipe, steps=2, precision="bfloat16"), tmp_path)
    assert all(line["ce"] < 20 for line in lines(tmp_path))


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(judged: Any) -> Any:
        losses = real(judged)
        return losses._replace(dice=losses.dice * float("nan")) if len(lines(tmp_path)) == 2 else losses

    real = train.hodor_losses
    (tmp_path / "log.jsonl").touch()
    monkeypatch.setattr(train, "hodor_losses", spoil)
    with pytest.raises(FloatingPointError, match=r"^the gradient is nan at step 2: lower --lr, or train in float32$"):
        run(recipe, tmp_path)
    assert all(torch.isfinite(v).all() for v in state(tmp_path).values())


def test_a_recipe_without_data_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the recipe names no data: want data\.video or data\.stills$"):
        run(replace(recipe, data=Data()), tmp_path)
