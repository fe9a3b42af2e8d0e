"""The stream of clips: what it samples, that clips depend only on (seed, step, index), and which files are never opened."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import clips as movies
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from hodor.data import settings, stills, videos
from hodor.data.augment import PLAIN, Augment, Colour
from hodor.data.benchmarks import BENCHMARKS
from hodor.data.clip import Clip, collate
from hodor.data.settings import Data, Scene
from hodor.data.stream import Stream
from hodor.masks import write_labels

SIZE = (48, 64)
FREE = {"size": SIZE, "min_area": 1, "min_side": 1, "damaged": 0.0}


def grey_of(index: int) -> int:
    return 20 + 5 * index


def number(frame: torch.Tensor) -> int:
    """Which frame of a video this is, from its grey: see write_video."""
    return round((float(frame[:, 0, 0].mean()) * 255 - 20) / 5)


def write_video(root: Path, name: str, count: int, size: tuple[int, int] = SIZE, labelled: Sequence[int] | None = None) -> None:
    """A DAVIS-shaped video of PNG files: frame t is of grey 20 + 5t; object 2 moves, object 5 is there from the middle on."""
    (root / "JPEGImages" / name).mkdir(parents=True)
    for t in range(count):
        Image.fromarray(np.full((*size, 3), grey_of(t), np.uint8)).save(root / "JPEGImages" / name / f"{t:05d}.png")
        if labelled is None or t in labelled:
            labels = np.zeros(size, np.uint8)
            labels[8:24, 4 + t : 20 + t] = 2
            if t >= count // 2:
                labels[30:44, 40:60] = 5
            write_labels(root / "Annotations" / name / f"{t:05d}.png", labels)


def write_pairs(root: Path, numbers: Sequence[int], size: tuple[int, int] = SIZE) -> None:
    """An image for each number: so many objects in it, each 100 pixels, ids 1, 2, ...; image n is of grey 20 + 5n."""
    for n, objects in enumerate(numbers):
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), grey_of(n), np.uint8)).save(root / "images" / f"p{n:03d}.png")
        labels = np.zeros(size, np.uint8)
        for i in range(objects):
            labels[2 + i // 5 * 12 : 12 + i // 5 * 12, 2 + i % 5 * 12 : 12 + i % 5 * 12] = i + 1
        write_labels(root / "masks" / f"p{n:03d}.png", labels)


def stream(*roots: Path, frames: int = 3, batch: int = 2, seed: int = 0, **given: Any) -> Stream:
    return Stream(Data(root=roots, **{**FREE, **given}), frames, batch, seed)


def same(one: Clip, two: Clip) -> bool:
    return all(torch.equal(value, getattr(two, name)) for name, value in vars(one).items())


def test_a_clip_depends_on_seed_step_and_index_alone(tmp_path: Path) -> None:
    """Not on the order, the threads, the clips sampled before, or the contents of the cache."""
    write_video(tmp_path / "v", "goat", 9)
    write_pairs(tmp_path / "s", [1, 2, 3, 4])
    roots = tmp_path / "v", tmp_path / "s"
    whole = stream(*roots, seed=3)
    wanted = {(step, index): whole.clip(step, index) for step in range(4) for index in range(2)}
    backwards = stream(*roots, seed=3, cache=0)
    for (step, index), clip in reversed(wanted.items()):
        assert same(backwards.clip(step, index), clip)
    shared = stream(*roots, seed=3)
    with ThreadPoolExecutor(4) as threads:
        for key, clip in zip(wanted, threads.map(lambda key: shared.clip(*key), wanted), strict=True):
            assert same(clip, wanted[key])
    assert same(shared.batch(2), collate([wanted[2, 0], wanted[2, 1]]))
    assert same(shared.batch(2, range(1, 2)), wanted[2, 1])
    frames = [clip.frames_BTCHW for clip in wanted.values()]
    frames.append(stream(*roots, seed=4).clip(0, 0).frames_BTCHW)
    assert not any(torch.equal(a, b) for i, a in enumerate(frames) for b in frames[:i])


def test_a_stream_goes_to_another_process_with_the_same_clips(tmp_path: Path) -> None:
    write_video(tmp_path, "a", 8)
    write_pairs(tmp_path / "pairs", (1, 2, 3))
    drawn = stream(tmp_path, tmp_path / "pairs")
    expected = drawn.batch(3)
    drawn.warm(1)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert same(pool.submit(drawn.batch, 3).result(), expected)
    assert same(pickle.loads(pickle.dumps(drawn)).batch(3), expected)


def test_dense_clips_follow_their_first_frame_in_order_within_the_gap(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 12)
    drawn = stream(tmp_path, gap=(4,), augment=PLAIN, max_objects=2, count="any")
    gaps = set()
    for step in range(60):
        clip = drawn.clip(step, 0)
        at = [number(frame) for frame in clip.frames_BTCHW[0]]
        assert at == sorted(set(at))
        assert at[2] - at[0] <= 4
        gaps.add((at[1] - at[0], at[2] - at[0]))
        assert clip.labelled_BT.all()
        assert clip.valid_BTHW.all()
        assert clip.masks_BTNHW.shape[2] == (2 if at[0] >= 6 else 1), "the objects are those of frame 0"
        moving = clip.masks_BTNHW[0, :, clip.masks_BTNHW[0, 0].flatten(1).sum(1).argmin()]  # of 256 pixels, the other 280
        assert [int(plane.any(0).nonzero()[0]) for plane in moving] == [4 + t for t in at]
    assert gaps == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    back = stream(tmp_path, gap=(4,), augment=PLAIN, reverse=1.0)
    orders = {tuple(np.sign(np.diff([number(f) for f in back.clip(s, 0).frames_BTCHW[0]]))) for s in range(60)}
    assert orders == {(-1, -1), (1, 1)}, "backwards, but for the first frames of the video"


def test_the_kind_of_a_data_set_sets_the_gap() -> None:
    assert BENCHMARKS["youtube-vos"].gap == (7, 6)
    assert BENCHMARKS["davis2017"].gap == (15, 12)


@pytest.mark.parametrize(("which", "frame"), [("first", 0), ("middle", 5)])
def test_one_mask_a_video_is_all_that_training_opens(which: str, frame: int, tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 11)
    for path in (tmp_path / "Annotations" / "goat").glob("*.png"):
        if path.stem != f"{frame:05d}":
            path.write_bytes(b"")  # there, and unreadable
    drawn = stream(tmp_path, labels="first", annotated=which, augment=PLAIN)
    clips = [drawn.clip(step, 0) for step in range(12)]
    assert {number(clip.frames_BTCHW[0, 0]) for clip in clips} == {frame}
    assert len({number(clip.frames_BTCHW[0, 1]) for clip in clips}) > 2
    assert not drawn.damaged


def test_the_masks_of_the_other_frames_of_cycles_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path, "goat", 9)
    drawn = stream(tmp_path, labels="first", augment=PLAIN, cache=0, count="any")
    opened: list[str] = []
    read = videos.read_mask
    monkeypatch.setattr(videos, "read_mask", lambda path, single: opened.append(path.stem) or read(path, single))  # type: ignore[func-returns-value]
    sides = set()
    for step in range(40):
        opened.clear()
        clip = drawn.clip(step, 0)
        at = [number(frame) for frame in clip.frames_BTCHW[0]]
        assert {int(name) for name in opened} <= {at[0]}
        assert clip.labelled_BT.tolist() == [[True, False, False]]
        assert clip.masks_BTNHW[:, 0].any()
        assert not clip.masks_BTNHW[:, 1:].any()
        assert len({*at}) == 3
        steps = [t - at[0] for t in at[1:]]
        assert max(map(abs, steps)) <= 12
        assert min(steps) > 0 or max(steps) < 0, "one side only"
        sides.add((steps[0] > 0, steps[0] < steps[1]))
    assert len(sides) == 4, "before and after, in both orders"
    only = stream(tmp_path, labels="first", augment=PLAIN, damaged=1.0, count="any")
    for path in (tmp_path / "Annotations" / "goat").glob("*.png"):
        if path.stem != "00004":
            path.write_bytes(b"")  # there, and unreadable
    for step in range(10):
        assert number(only.clip(step, 0).frames_BTCHW[0, 0]) == 4


def hops(drawn: Stream, step: int, index: int = 0) -> list[int]:
    at = [number(frame) for frame in drawn.clip(step, index).frames_BTCHW[0]]
    return [b - a for a, b in pairwise(at)]


def test_forward_clips_follow_in_time_with_bounded_jumps_from_frame_to_frame(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 14)
    drawn = stream(tmp_path, frames=4, gap=(3,), frame_order="forward", augment=PLAIN)
    found = [hops(drawn, step) for step in range(60)]
    assert {h for each in found for h in each} == {1, 2, 3}
    assert max(map(sum, found)) > 3, "the gap is from one to the next"
    assert {number(drawn.clip(step, 0).frames_BTCHW[0, 0]) for step in range(60)} == set(range(11)), "any frame with room"
    back = stream(tmp_path, frames=4, gap=(3,), frame_order="forward", augment=PLAIN, reverse=0.5)
    assert {np.sign(hops(back, step)[0]) for step in range(20)} == {-1, 1}
    one = stream(tmp_path, frames=4, gap=(3,), frame_order="forward", augment=PLAIN, reverse=0.5, labels="first")
    assert all(min(hops(one, step)) > 0 for step in range(40)), "where the label is at the beginning, never backwards"


def test_jumps_grow_by_shares_of_the_training_and_are_divided_by_the_interval(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 40, labelled=(0,))
    stages: dict[str, Any] = {
        "labels": "first",
        "frame_order": "forward",
        "jump": (5, 10, 25, 5),
        "jump_at": (0.0, 0.1, 0.4, 0.8),
    }
    drawn = Stream(Data(root=(tmp_path,), augment=PLAIN, **{**FREE, **stages}), 3, 8, 0, steps=1000)
    for begin, end, limit in ((0, 99, 5), (100, 399, 10), (400, 799, 25), (800, 999, 5)):
        for step in (begin, end):
            assert drawn.jump(step, 0) == limit
            found = [h for index in range(40) for h in hops(drawn, step, index)]
            assert min(found) >= 1
            assert 0.6 * limit < max(found) <= limit
    assert Stream(drawn.data, 3, 2, 0).jump(999, 0) == 5, "the number of steps is not given"
    five = Stream(replace(drawn.data, interval=(5,)), 3, 2, 0, steps=1000)
    assert [five.jump(step, 0) for step in (0, 100, 400)] == [1, 2, 5]
    assert {name: one.interval for name, one in BENCHMARKS.items() if one.interval != 1} == {"youtube-vos": 5}


def test_one_shot_clips_begin_with_the_one_label_and_no_other_is_opened(tmp_path: Path) -> None:
    for name in ("goat", "cow"):
        write_video(tmp_path, name, 12)
        for path in (tmp_path / "Annotations" / name).glob("*.png"):
            if path.stem != "00000":
                path.write_bytes(b"")
                path.chmod(0)
    stages: dict[str, Any] = {"labels": "first", "annotated": "first", "frame_order": "forward", "reverse": 0.0}
    drawn = stream(tmp_path, frames=5, jump=(4,), jump_at=(0.0,), augment=PLAIN, damaged=0.0, **stages)
    for step in range(30):
        clip = drawn.clip(step, 0)
        at = [number(frame) for frame in clip.frames_BTCHW[0]]
        assert at[0] == 0
        assert at == sorted(set(at))
        assert clip.labelled_BT.tolist() == [[True, False, False, False, False]]
        assert not clip.masks_BTNHW[:, 1:].any()
    assert not drawn.damaged
    strict = stream(tmp_path, frames=3, labels="all", frame_order="forward", augment=PLAIN, damaged=0.0)
    with pytest.raises(ValueError, match="damaged"):
        [strict.clip(step, 0) for step in range(9)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"jump": (5,), "jump_at": (0.0,)},
            r"expected frame_order forward for jumps, got window: give --data.frame-order forward",
        ),
        (
            {"frame_order": "forward", "jump": (5, 9), "jump_at": (0.0,)},
            r"expected a rising share of the steps for each of 2 jumps, the first 0, got jump_at \(0.0,\)",
        ),
        (
            {"frame_order": "forward", "jump": (5, 9), "jump_at": (0.5, 0.0)},
            r"expected a rising share of the steps .*, got jump_at \(0.5, 0.0\)",
        ),
        (
            {"frame_order": "forward", "jump": (0,), "jump_at": (0.0,)},
            r"expected jumps and intervals of at least 1, got jump \(0,\), interval \(\)",
        ),
        ({"interval": (1, 2)}, r"expected one interval for each of 1 roots, got 2"),
    ],
)
def test_contradictory_stages_are_refused_in_one_line(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    write_video(tmp_path, "goat", 6)
    with pytest.raises(ValueError, match=f"^{words}$"):
        stream(tmp_path, **given)


def test_sparse_labels_make_dense_clips_of_labelled_frames_and_cycles_of_all(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 16, labelled=(0, 5, 10, 15))
    dense = stream(tmp_path, augment=PLAIN)
    cycles = stream(tmp_path, augment=PLAIN, labels="first")
    for step in range(20):
        assert {number(f) for f in dense.clip(step, 0).frames_BTCHW[0]} <= {0, 5, 10, 15}
    seen = [[number(f) for f in cycles.clip(step, 0).frames_BTCHW[0]] for step in range(40)]
    assert {at[0] for at in seen} <= {0, 5, 10, 15}
    assert {t for at in seen for t in at[1:]} > {0, 1, 2, 3, 4}


def test_one_label_a_video_is_enough_for_cycles_and_warps(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 8, labelled=(0,))
    for given in ({"labels": "first"}, {"motion": "warp"}, {"motion": "none"}, {"motion": "warp", "labels": "first"}):
        clip = stream(tmp_path, **given).clip(0, 0)
        copies = "motion" in given  # copies of the labelled frame, warped or not, are labelled like it
        assert clip.labelled_BT.tolist() == [[True, copies, copies]]
        assert clip.masks_BTNHW[0].flatten(1).any(-1).tolist() == [True, copies, copies]
    with pytest.raises(
        ValueError, match=r"^expected a video of at least 3 labelled frames in .*, got none in 1 videos: use longer "
    ):
        stream(tmp_path)


def test_motion_none_copies_and_warp_moves_each_frame_of_one_image(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 8)
    for step in range(5):
        copies = stream(tmp_path, motion="none").clip(step, 0)
        for name in ("frames_BTCHW", "masks_BTNHW", "valid_BTHW"):
            assert torch.equal(getattr(copies, name)[:, 0], getattr(copies, name)[:, 2])
        moved = stream(tmp_path, motion="warp").clip(step, 0)
        assert moved.labelled_BT.all()
        assert not torch.equal(moved.masks_BTNHW[:, 1], moved.masks_BTNHW[:, 2]) or not torch.equal(
            moved.valid_BTHW[:, 1], moved.valid_BTHW[:, 2]
        )


def test_as_many_clips_of_one_object_as_of_four(tmp_path: Path) -> None:
    """Even if few images have four; "any" uses each image with all of its objects."""
    write_pairs(tmp_path, [1] * 8 + [2] * 6 + [3] * 3 + [5] * 3)
    equal, as_they_come = stream(tmp_path, frames=1, augment=PLAIN), stream(tmp_path, frames=1, augment=PLAIN, count="any")
    counts = Counter(equal.clip(step, 0).masks_BTNHW.shape[2] for step in range(240))
    assert set(counts) == {1, 2, 3, 4}
    assert all(40 < count < 82 for count in counts.values())
    free = Counter(as_they_come.clip(step, 0).masks_BTNHW.shape[2] for step in range(240))
    assert free[1] > 70 > 55 > free[4]


def test_every_image_with_enough_objects_is_as_likely_as_any_other(tmp_path: Path) -> None:
    write_pairs(tmp_path, [1, 1, 1, 1, 3, 3, 5])
    drawn = stream(tmp_path, frames=1, augment=PLAIN, max_objects=3)
    twos = Counter[int]()
    for step in range(400):
        clip = drawn.clip(step, 0)
        if clip.masks_BTNHW.shape[2] == 2:
            twos[number(clip.frames_BTCHW[0, 0, :, -1:, -1:])] += 1
    assert set(twos) == {4, 5, 6}
    assert min(twos.values()) > 25


def test_limits_are_on_the_files_own_pixels(tmp_path: Path) -> None:
    """An object of 400 pixels in a file of 480 x 640 has 4 in a clip of 48 x 64, and still passes a limit of 400."""
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((480, 640, 3), 99, np.uint8)).save(tmp_path / "images" / "a.png")
    labels = np.zeros((480, 640), np.uint8)
    labels[100:120, 100:120], labels[200:210, 200:300] = 1, 2  # 400 pixels, 20 on a side; 1000 pixels, 10 on a side
    write_labels(tmp_path / "masks" / "a.png", labels)
    assert stream(tmp_path, min_area=400, min_side=20, max_objects=9, count="any").clip(0, 0).masks_BTNHW.shape[2] == 1
    assert stream(tmp_path, min_area=1000, min_side=10, max_objects=9, count="any").clip(0, 0).masks_BTNHW.shape[2] == 1
    assert stream(tmp_path, min_area=400, min_side=10, max_objects=9, count="any").clip(0, 0).masks_BTNHW.shape[2] == 2
    with pytest.raises(ValueError, match=r"^expected an object of 401 pixels and 20 on a side, got none in 100 attempts: use"):
        stream(tmp_path, min_area=401, min_side=20).clip(0, 0)


def test_ids_beyond_255_are_objects_and_255_is_one_among_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(tmp_path / "images" / "a.png")
    labels = np.zeros(SIZE, np.uint16)
    labels[:10, :10], labels[20:30, :10], labels[:10, 30:44] = 255, 300, 40_000
    Image.fromarray(labels).save(tmp_path / "masks" / "a.png")
    clip = stream(tmp_path, augment=PLAIN, count="any").clip(0, 0)
    assert sorted(clip.masks_BTNHW[0, 0].sum((-1, -2)).tolist()) == [100, 100, 140]
    assert clip.valid_BTHW.all()


def test_void_is_no_object_and_not_supervised_unless_all_masks_are_0_and_255(tmp_path: Path) -> None:
    write_pairs(tmp_path / "ids", [1])
    for name in ("ids", "binary"):
        write_pairs(tmp_path / name / "more", [])
    labels = np.zeros(SIZE, np.uint8)
    labels[10:20, 10:30], labels[30:40, 5:25] = 1, 255
    Image.fromarray(labels).save(tmp_path / "ids" / "masks" / "p000.png")
    clip = stream(tmp_path / "ids", augment=PLAIN, count="any").clip(0, 0)
    assert clip.masks_BTNHW.shape[2] == 1
    assert (~clip.valid_BTHW[0, 0]).sum() == 200
    assert not clip.valid_BTHW[0, :, 30:40, 5:25].any()
    write_pairs(tmp_path / "binary", [1])
    Image.fromarray(np.where(labels == 255, labels, 0).astype(np.uint8)).save(tmp_path / "binary" / "masks" / "p000.png")
    clip = stream(tmp_path / "binary", augment=PLAIN, count="any").clip(0, 0)
    assert clip.masks_BTNHW[0, 0].sum() == 200
    assert clip.valid_BTHW.all()


def test_where_mask_files_of_objects_overlap_the_pixel_belongs_to_the_higher_id(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(tmp_path / "images" / "a.jpg")
    for i, columns in enumerate([slice(0, 30), slice(20, 50)]):
        part = np.zeros(SIZE, np.uint8)
        part[10:20, columns] = 255
        (tmp_path / "masks" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(part).save(tmp_path / "masks" / "a" / f"{['dog', 'cat'][i]}.png")
    clip = stream(tmp_path, augment=PLAIN, count="any").clip(0, 0)  # cat is 1, dog is 2
    assert sorted(clip.masks_BTNHW[0, 0].sum((-1, -2)).tolist()) == [200, 300]
    assert float(clip.masks_BTNHW[0, 0].sum(0).max()) == 1


def test_shares_are_the_frequencies_of_the_roots(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a", [1], (48, 64))
    write_video(tmp_path / "b", "goat", 30)
    mixed = stream(tmp_path / "a", tmp_path / "b", share=(0.8, 0.2), augment=PLAIN, gap=(9, 9))
    videos_drawn = sum(number(mixed.clip(s, 0).frames_BTCHW[0, 2]) > 0 for s in range(150))
    assert 15 < videos_drawn < 48


def test_a_video_file_is_decoded_once_and_one_that_ends_early_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("cup", "box"):
        movies.make(tmp_path / "videos" / f"{name}.mp4", 8)
        for t in range(8):
            labels = np.zeros(SIZE, np.uint8)
            labels[20:40, 30:50] = 1
            write_labels(tmp_path / "Annotations" / name / f"{t:05d}.png", labels)
    drawn = stream(tmp_path, augment=PLAIN)
    decoded = Counter[str]()
    decode = videos.Movie._decode
    monkeypatch.setattr(videos.Movie, "_decode", lambda self: decoded.update([self._video.name]) or decode(self))  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda step: drawn.clip(step, 0), range(20)))
    assert decoded == {"cup": 1, "box": 1}
    clip = drawn.clip(0, 0)
    at = [movies.number((frame.permute(1, 2, 0) * 255).numpy()) for frame in clip.frames_BTCHW[0]]
    assert at == sorted(set(at))
    short = stream(tmp_path, augment=PLAIN, damaged=0.5)
    movies.make(tmp_path / "videos" / "box.mp4", 5)
    for step in range(12):
        short.clip(step, 0)
    assert [path.name for path in short.damaged] == ["box.mp4"]
    assert next(iter(short.damaged.values())).endswith("box.mp4, got 5")


def test_image_folders_need_no_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path, "goat", 5)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "hodor.video.ffmpeg", raising=False)
    assert stream(tmp_path).batch(0).frames_BTCHW.shape == (2, 3, 3, *SIZE)


def damage(root: Path) -> set[str]:
    """Break 3 of 16 pairs: a truncated JPEG, an empty PNG, a mask of another size; -> the names of the broken files."""
    write_pairs(root, [1] * 16)
    for n in range(16):
        picture = Image.fromarray(np.random.default_rng(n).integers(0, 256, (*SIZE, 3), np.uint8))
        (root / "images" / f"p{n:03d}.png").unlink()
        picture.save(root / "images" / f"p{n:03d}.jpg")
    whole = (root / "images" / "p001.jpg").read_bytes()
    (root / "images" / "p001.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "masks" / "p002.png").write_bytes(b"")
    write_labels(root / "masks" / "p003.png", np.ones((20, 30), np.uint8))
    return {"p001.jpg", "p002.png", "p003.jpg"}


def test_damaged_files_are_logged_counted_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = damage(tmp_path)
    drawn = stream(tmp_path, damaged=0.2)
    for step in range(60):
        drawn.clip(step, 0)
    assert {path.name for path in drawn.damaged} == broken
    messages = {record.message for record in caplog.records}
    assert len(messages) == len(caplog.records) == 3, "once each"
    assert all(any(name in line and "of 32)" in line for line in messages) for name in broken)
    reasons = {path.name: why for path, why in drawn.damaged.items()}
    assert reasons["p003.jpg"] == "expected an image of 20x30 (height x width), the size of its masks, got 48x64"
    assert "truncated" in reasons["p001.jpg"]


def test_a_damaged_file_gives_the_same_clips_whether_met_before_or_not(tmp_path: Path) -> None:
    damage(tmp_path)
    long = stream(tmp_path, damaged=0.2, cache=0)
    wanted = [long.clip(step, 0) for step in range(30)]
    for step in range(30):
        assert same(stream(tmp_path, damaged=0.2).clip(step, 0), wanted[step])
        assert same(long.clip(step, 0), wanted[step])


def test_a_file_once_found_damaged_stays_so_for_the_run(tmp_path: Path) -> None:
    """Otherwise a repaired file, or a disk that is available again, would change the later clips."""
    damage(tmp_path)
    drawn = stream(tmp_path, damaged=0.2, cache=0)
    wanted = [drawn.clip(step, 0) for step in range(30)]
    write_labels(tmp_path / "masks" / "p002.png", np.ones(SIZE, np.uint8))
    assert all(same(drawn.clip(step, 0), clip) for step, clip in enumerate(wanted))


def test_too_many_damaged_files_end_it_with_their_names(tmp_path: Path) -> None:
    damage(tmp_path)
    drawn = stream(tmp_path, damaged=0.05)  # one of 32
    limit = r"^expected at most 5\.0% of 32 files to be damaged, got 2: "
    with pytest.raises(ValueError, match=limit + r".*p00\d\.\w+ \(.*\); .*p00\d\.\w+ \(.*\): repair them, remove them"):
        drawn.batch(0, range(60))
    with pytest.raises(ValueError, match=r"^expected at most 0\.0% of 32 files to be damaged, got 1: "):
        stream(tmp_path).batch(0, range(60))


def test_the_cache_stays_within_its_bytes(tmp_path: Path) -> None:
    write_pairs(tmp_path, [1] * 12)
    drawn = stream(tmp_path)
    drawn.cache.limit = 5 * SIZE[0] * SIZE[1] * 3
    for step in range(30):
        drawn.clip(step, 0)
        assert 0 < sum(size for _, size in drawn.cache._values.values()) == drawn.cache._bytes <= drawn.cache.limit


def test_pictures_turned_by_exif_fit_their_masks(tmp_path: Path) -> None:
    """The image is rotated for an upright mask and not for a mask as stored. A JPEG can be decoded at a fraction of its
    size."""
    upright = np.zeros((256, 192, 3), np.uint8)
    upright[:128, :, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in (("turned", (256, 192)), ("stored", (192, 256))):
        root = tmp_path / name
        write_pairs(root, [0])
        stored = np.rot90(upright).copy()  # orientation 6: turn clockwise to look at it
        Image.fromarray(stored).save(root / "images" / "p000.jpg", exif=exif)
        (root / "images" / "p000.png").unlink()
        write_labels(root / "masks" / "p000.png", np.ones(size, np.uint8))
        source = stream(root).sources[0]
        image = source.read(0, [1], torch.Generator()).images[0]
        assert image.shape[1:] == ((85, 64) if name == "turned" else (48, 64))
        if name == "turned":
            assert float(image[0, :30].float().mean()) > 240
            assert float(image[0, 50:].float().mean()) < 15
        else:
            assert float(image[0, :, :24].float().mean()) > 240


def test_names_choose_videos_and_images(tmp_path: Path) -> None:
    for name in ("goat", "cow", "bmx-bumps"):
        write_video(tmp_path, name, 4)
    names = lambda **given: stream(tmp_path, **given).sources[0].names()  # noqa: E731
    assert names() == ["bmx-bumps", "cow", "goat"]
    assert names(without=settings.HELD_OUT) == ["cow", "goat"]
    assert names(only=("cow",)) == ["cow"]
    with pytest.raises(ValueError, match=r"^no horse in .*: correct --data\.only$"):
        names(only=("cow", "horse"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"root": ()}, r"^no data: give --data\.root, folders of videos"),
        ({"share": (1.0, 2.0)}, r"^expected one share for each of 1 roots, got 2$"),
        ({"gap": (1, 2, 3)}, r"^expected one gap for each of 1 roots, got 3$"),
        ({"gap": (1,)}, r"^expected a gap of at least 2 for 3 frames, got 1$"),
        ({"share": (-1.0,)}, r"^expected shares of at least 0, one of them above 0, got \(-1\.0,\)$"),
        ({"max_objects": 0}, r"^expected max_objects of at least 1, got 0$"),
        ({"size": (0, 5)}, r"^expected size of at least 1, got 0$"),
        ({"damaged": 2.0}, r"^expected damaged between 0 and 1, got 2\.0$"),
        ({"paste": 0.5}, r"^expected cut-outs for paste 0\.5, got none: give --data\.cutouts FOLDER$"),
    ],
)
def test_contradictory_settings_are_refused_in_one_line(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    write_video(tmp_path, "goat", 5)
    with pytest.raises(ValueError, match=words) as caught:
        Stream(Data(**{"root": (tmp_path,), **FREE, **given}), 3, 2, 0)
    assert "\n" not in str(caught.value)


def test_roots_that_hold_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere does not exist: give a folder of images and masks or of videos, or a"
    ):
        stream(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(
        FileNotFoundError,
        match=r"contains no images with masks: put them into images/<name>\.jpg and masks/<name>\.png or masks/<name>",
    ):
        stream(tmp_path)
    assert stills.SAMPLED > 1


def test_collating_pads_the_planes_and_marks_the_objects() -> None:
    two = tiny.clip(1, 2, SIZE)
    one = replace(two, masks_BTNHW=two.masks_BTNHW[:, :, 1:], objects_BN=two.objects_BN[:, 1:])
    none = replace(two, masks_BTNHW=two.masks_BTNHW[:, :, :0], objects_BN=two.objects_BN[:, :0])
    both = collate([one, two, none])
    assert both.objects_BN.tolist() == [[True, False], [True, True], [False, False]]
    assert torch.equal(both.masks_BTNHW[0, :, 0], two.masks_BTNHW[0, :, 1])
    assert not both.masks_BTNHW[0, :, 1].any()
    assert torch.equal(both.masks_BTNHW[1], two.masks_BTNHW[0])
    assert both.frames_BTCHW.shape == (3, 2, 3, *SIZE)
    assert both.valid_BTHW.dtype == both.objects_BN.dtype == torch.bool


def test_objects_count_as_visible_on_unlabelled_frames() -> None:
    clip = tiny.clip(1, 2, SIZE)
    clip.masks_BTNHW[0, :, 0] = 0
    clip.labelled_BT[0, 1] = False
    assert clip.visible_BTN.tolist() == [[[False, True], [True, True]]]


def test_the_defaults_are_the_released_ones() -> None:
    data, ranges = Data(), Augment()
    assert (data.min_area, data.min_side, data.max_objects, data.count) == (2000, 20, 4, "equal")
    assert (ranges.affine.translate, ranges.affine.rotate, ranges.affine.shear) == (0.25, 20, 10)
    assert ranges.windows == (0.6, 0.7, 0.8)
    assert data.planes == 4
    assert replace(data, paste=0.1).planes == 8


def test_a_cut_shows_another_image_without_objects(tmp_path: Path) -> None:
    """Never on the first frame, never an image of the same video, never on more than half of the frames."""
    write_video(tmp_path / "v", "goat", 9)
    write_pairs(tmp_path / "s", [1])
    Image.fromarray(np.full((*SIZE, 3), grey_of(30), np.uint8)).save(tmp_path / "s" / "images" / "p000.png")
    given: dict[str, Any] = {"frames": 6, "seed": 1, "augment": PLAIN, "cut": 1.0}
    both, runs = stream(tmp_path / "v", tmp_path / "s", **given), Counter[int]()
    for step in range(40):
        clip = both.clip(step, 0)
        gone = [t for t in range(6) if not clip.masks_BTNHW[0, t].any()]
        assert gone == list(range(gone[0], gone[-1] + 1))
        assert gone[0] >= 1
        runs[len(gone)] += 1
        still = number(clip.frames_BTCHW[0, 0]) == 30
        assert all((number(frame) == 30) != still for frame in clip.frames_BTCHW[0, gone])
        assert all((number(clip.frames_BTCHW[0, t]) == 30) == still for t in range(6) if t not in gone)
        assert clip.labelled_BT.all()
        assert same(clip, both.clip(step, 0))
    assert set(runs) == {1, 2, 3}
    # with one video there is no other image
    assert same(stream(tmp_path / "v", **given).clip(0, 0), stream(tmp_path / "v", **given | {"cut": 0.0}).clip(0, 0))


def test_a_distractor_hides_the_objects_and_is_none(tmp_path: Path) -> None:
    write_pairs(tmp_path / "s", [3])
    (tmp_path / "cut").mkdir()
    Image.fromarray(np.full((24, 24, 4), 255, np.uint8)).save(tmp_path / "cut" / "white.png")
    given: dict[str, Any] = {"frames": 4, "seed": 2, "augment": PLAIN, "motion": "none", "cutouts": (tmp_path / "cut",)}
    before, after = stream(tmp_path / "s", **given), stream(tmp_path / "s", **given, distractor=1.0)
    begins, ends, hidden = set(), set(), 0
    for step in range(60):
        plain, clip = before.clip(step, 0), after.clip(step, 0)
        white = (clip.frames_BTCHW > 0.9).all(2)
        seen = [t for t in range(4) if white[0, t].any()]
        if not seen:
            continue
        begins.add(seen[0])
        ends.add(seen[-1])
        assert seen[0] == 0 or torch.equal(clip.masks_BTNHW[:, 0], plain.masks_BTNHW[:, 0])
        assert seen[0] > 0 or seen[-1] < 3, "what is hidden at first appears later"
        shown = clip.masks_BTNHW[0, 0].sum((1, 2)) / plain.masks_BTNHW[0, 0].sum((1, 2))
        assert float(shown.min()) >= Scene().visible
        assert not (clip.masks_BTNHW.bool() & white[:, :, None]).any()
        hidden += int((plain.masks_BTNHW - clip.masks_BTNHW).sum())
        still = ~white[:, :, None].expand_as(clip.masks_BTNHW)
        assert ((plain.masks_BTNHW != clip.masks_BTNHW) & still).float().mean() < 0.01, "the cut-out's soft edge"
        assert bool((clip.valid_BTHW | ~plain.valid_BTHW).all())
    assert begins == {0, 1, 2, 3}
    assert {0, 1, 2, 3} == ends
    assert hidden


@pytest.mark.parametrize("behind", [True, False])
def test_a_twin_looks_like_the_object_and_is_none(behind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v", "goat", 6)
    clips = stream(tmp_path / "v", frames=4, seed=2, augment=replace(PLAIN, colour=Colour(0.0, 0.5, 0.5, 0.0)), twin=1.0)
    before = stream(tmp_path / "v", frames=4, seed=2, augment=clips.data.augment)
    drawn = hidden = edge = covered = alike = 0
    for step in range(30):
        plain, clip = before.clip(step, 0), before.clip(step, 0)
        with monkeypatch.context() as patch:
            patch.setattr("hodor.data.stream.chance", lambda *_: behind)
            clips._add_twin(clip, torch.Generator().manual_seed(step))
        changed = (clip.frames_BTCHW - plain.frames_BTCHW).abs().amax(2) > 1e-6
        objects = plain.masks_BTNHW.amax(2) > 0
        lost = (plain.masks_BTNHW - clip.masks_BTNHW).amax(2) > 0
        assert bool((clip.masks_BTNHW <= plain.masks_BTNHW).all()), "a twin is no part of the object"
        if behind:
            assert not (changed & objects).any()
            assert not lost.any()
        else:
            edge, covered = edge + int((changed & objects & ~lost).sum()), covered + int(lost.sum())
            alike += int((lost & ~changed).sum())
            shown = clip.masks_BTNHW[0, 0].sum((1, 2)) / plain.masks_BTNHW[0, 0].sum((1, 2))
            assert float(shown.min()) >= Scene().visible
        drawn += bool((changed & ~objects).any())
        hidden += bool(lost.any())
    assert drawn > 10
    assert hidden == 0 if behind else hidden > 3
    assert edge <= 0.5 * covered, "of the object only pixels below the soft edge of the twin stay"
    assert alike <= 0.2 * covered, "what is hidden shows the twin"
    assert same(clips.clip(0, 0), clips.clip(0, 0))
    assert not same(clips.clip(0, 0), before.clip(0, 0))
