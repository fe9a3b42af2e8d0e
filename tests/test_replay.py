"""Training from the memories of tracked videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training

from hodor.data.layouts import VideoFiles, open_layout
from hodor.models import weights
from hodor.models.base import Memory, Network
from hodor.tracking import Tracker
from hodor.train import run
from hodor.training.recipe import ReplaySettings
from hodor.training.replay import Replay, rollout_from

pytestmark = pytest.mark.usefixtures("small_models")
FRAMES = 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoFiles, ...]:
    root = training.write_videos(tmp_path_factory.mktemp("replay"), ["goat", "cow"], FRAMES)
    return open_layout(root).videos


def network(name: str) -> Network:
    torch.manual_seed(0)
    return weights.build(name).eval()


def filled(name: str, videos: tuple[VideoFiles, ...], **settings: int | float) -> Replay:
    capacity = int(settings.pop("capacity", 64))
    options = {"every": 1, "reverse": 0.0, **settings}
    replay = Replay(network(name), videos, ReplaySettings(1.0, 48, capacity=capacity), **options)  # type: ignore[arg-type]
    replay.advance(2 * FRAMES)
    return replay


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tensors(memory: Memory) -> list[torch.Tensor]:
    entries = [t for e in memory.frames.values() for t in e.tensors().values()]
    return [*entries, *memory.state.values(), *memory.tally.values()]


@pytest.mark.parametrize("name", ["calm", "state"])
def test_a_snapshot_continues_as_the_tracker_does(name: str, videos: tuple[VideoFiles, ...]) -> None:
    replay = filled(name, videos)
    sample = replay.sample(3, generator())
    snapshot = next(s for s in replay.snapshots if s.memory is sample.memory)
    assert not snapshot.mirrored or snapshot.order.step == 1
    video = videos[snapshot.video]
    pictures, tracker = video.pictures(range(FRAMES)), Tracker(network(name), size=48)
    soft = []
    for number, i in enumerate(snapshot.order):
        picture, labels = pictures[i], video.labels(video.frames[i]) if number == 0 else None
        if snapshot.mirrored:
            picture, labels = picture[:, ::-1], None if labels is None else labels[:, ::-1]
        soft.append(tracker.step(picture, labels)._soft_NHW)
        if number + 1 == snapshot.place:
            assert all(torch.equal(a, b) for a, b in zip(tensors(tracker.memory), tensors(sample.memory), strict=True))
    supervised = rollout_from(network(name), sample.clip, sample.memory, sample.index)
    following = soft[snapshot.place : snapshot.place + 3]
    assert len(supervised) == len(following) > 0
    for one, wanted in zip(supervised, following, strict=True):
        torch.testing.assert_close(one.prediction.soft()[0], wanted.clone(), rtol=0, atol=1e-5)


def test_the_masks_of_a_sample_are_those_of_the_following_frames(videos: tuple[VideoFiles, ...]) -> None:
    replay = filled("calm", videos, reverse=0.5)
    for seed in range(6):
        sample = replay.sample(2, torch.Generator().manual_seed(seed))
        snapshot = next(s for s in replay.snapshots if s.memory is sample.memory)
        video = videos[snapshot.video]
        for t in range(sample.clip.frames_BTCHW.shape[1]):
            labels = torch.from_numpy(video.labels(video.frames[snapshot.order[snapshot.place + t]]))
            labels = labels.flip(-1) if snapshot.mirrored else labels
            planes = torch.stack([labels == i for i in sample.memory.objects]).float()
            assert torch.equal(sample.clip.masks_BTNHW[0, t], planes)


@pytest.mark.parametrize("name", ["calm", "state"])
def test_gradients_reach_the_weights_and_leave_the_memory_alone(name: str, videos: tuple[VideoFiles, ...]) -> None:
    sample, net = filled(name, videos).sample(3, generator()), network(name)
    before = [tensor.clone() for tensor in tensors(sample.memory)]
    sum(one.prediction.logits().square().mean() for one in rollout_from(net, *sample)).backward()  # type: ignore[union-attr]
    assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None) > 0
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(tensors(sample.memory), before, strict=True))


def test_the_buffer_is_bounded_and_keeps_the_latest(videos: tuple[VideoFiles, ...]) -> None:
    replay = filled("calm", videos, capacity=3)
    assert len(replay.snapshots) == 3
    latest = replay.snapshots[-1]
    replay.advance(4 * FRAMES)
    assert len(replay.snapshots) == 3
    assert latest not in replay.snapshots


def test_snapshots_of_a_video_share_their_entries(videos: tuple[VideoFiles, ...]) -> None:
    replay = filled("calm", videos)
    first, second = list(replay.snapshots)[:2]
    shared = {id(e) for e in first.memory.frames.values()} & {id(e) for e in second.memory.frames.values()}
    assert shared


def test_an_empty_buffer_and_videos_without_masks_are_refused(videos: tuple[VideoFiles, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected a snapshot to begin from, got an empty buffer: call advance first$"):
        Replay(network("calm"), videos).sample(2, generator())
    with pytest.raises(ValueError, match=r"^expected videos with a mask on every frame, got none$"):
        Replay(network("calm"), ())


def test_the_share_of_clips_depends_on_seed_step_and_clip_alone(videos: tuple[VideoFiles, ...]) -> None:
    settings = ReplaySettings(0.3, 48, advance=1)
    kinds = [
        [replay.next(step, clip) is None for step in range(20) for clip in range(3)]
        for replay in (Replay(network("calm"), videos, settings, seed=seed) for seed in (0, 0, 1))
    ]
    assert kinds[0] == kinds[1] != kinds[2]
    assert 0.5 < sum(kinds[0]) / 60 < 0.9


def test_a_run_trains_from_memories(tmp_path: Path) -> None:
    root = training.write_videos(tmp_path / "videos", ["goat", "cow"], FRAMES)
    plain = training.small(root, batch=2, accumulate=2, steps=3, frames=2)
    replayed = replace(plain, replay=ReplaySettings(1.0, 48, frames=3))
    run(plain, tmp_path / "plain")
    run(replayed, tmp_path / "replayed")
    assert not training.same(training.state(tmp_path / "plain"), training.state(tmp_path / "replayed"))
    losses = [line["loss"] for line in training.lines(tmp_path / "replayed")]
    assert len(losses) == 3
    assert losses != [line["loss"] for line in training.lines(tmp_path / "plain")]


def test_a_run_with_several_clips_a_part_or_with_sparse_masks_is_refused(tmp_path: Path) -> None:
    root = training.write_videos(tmp_path / "videos", ["goat", "cow"], FRAMES)
    recipe = training.small(root, batch=2, replay=ReplaySettings(0.5))
    words = r"^expected one clip a part for replay.share, got 2: set --accumulate to the number of clips a process$"
    with pytest.raises(ValueError, match=words):
        run(recipe, tmp_path / "parts")
    data = replace(recipe.data, labels="first", annotated="first")
    sparse = replace(recipe, accumulate=2, scheme="cyclic", frames=3, data=data)
    with pytest.raises(ValueError, match=r"^expected videos with a mask on every frame, got none$"):
        run(sparse, tmp_path / "sparse")
