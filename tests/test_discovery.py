"""Objects of a video are found, keep their ids from clip to clip, and become label maps; by the released rules as released.

Expected values of the released code: tests/golden/stemseg.npz (tests/golden/README.md). The other tests use a finder whose
embedding of a pixel is its colour, so that what must be found is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import stemseg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.discovery.clustering import Clustering, cluster, find
from hodor.discovery.stitching import Stitcher, join
from hodor.discovery.tracks import Tracks, scores
from hodor.discovery.windows import PROTOCOLS, Discoverer, FrameLabels, Protocol, bounded_size, discover
from hodor.models.base import pad_to_multiple
from hodor.models.finder import Finder, Maps
from hodor.models.prediction import Features

# ---- the released rules, golden


def points(case: str) -> tuple[Tensor, Tensor, Tensor]:
    numbers = stemseg.numbers()
    bandwidths = torch.from_numpy(numbers[f"K_{case}_bandwidths"])
    bandwidths = torch.cat([bandwidths, torch.full_like(bandwidths, 1 / 0.09)], 1)
    return torch.from_numpy(numbers[f"K_{case}_embeddings"]), bandwidths, torch.from_numpy(numbers[f"K_{case}_seediness"])


@pytest.mark.parametrize(("case", "clusters"), [("many", 20), ("two", 20), ("cap", 2)])
def test_released_clustering_of_points(case: str, clusters: int) -> None:
    options = Clustering(max_clusters=clusters, released=True)
    found = cluster(*points(case), options)
    labels = torch.where(found.labels_P < 0, found.labels_P, found.labels_P + 3)
    assert (labels.numpy() == stemseg.numbers()[f"K_{case}_labels"]).all()
    stemseg.close(found.centres_NE, f"K_{case}_centers", 1e-6)
    stemseg.close(found.bandwidths_NE.rsqrt(), f"K_{case}_stds", 1e-6)
    if case != "many":
        primary = cluster(*points(case), replace(options, rest=1.0)).labels_P
        labels = torch.where(primary < 0, primary, primary + 3)
        assert (labels.numpy() == stemseg.numbers()[f"K_{case}_primary_labels"]).all()


def test_released_association() -> None:
    numbers = stemseg.numbers()
    pairs = join(torch.from_numpy(numbers["N_before"]), torch.from_numpy(numbers["N_after"]), 0.0)
    assert [pair[:2] for pair in pairs] == [tuple(pair) for pair in numbers["N_pairs"].tolist()]
    np.testing.assert_allclose([1 - pair.iou for pair in pairs], numbers["N_costs"], atol=1e-6)


RELEASED = Protocol(clustering=Clustering(min_seediness=0.5)).released()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["V", "C", "S", "Y"])
def test_released_rules_reproduce_the_golden_videos(case: str) -> None:
    numbers = stemseg.numbers()
    network = stemseg.network("ytvis" if case == "Y" else "davis")
    images = {
        "V": stemseg.pictures()[:12],
        "C": stemseg.pictures("C"),
        "S": stemseg.pictures()[:5],
        "Y": stemseg.pictures()[:12],
    }
    protocol = {"C": replace(RELEASED, longest=150), "Y": PROTOCOLS["stemseg-ytvis"].released()}.get(case, RELEASED)
    tracks, labels = Tracks(), []
    for frame in discover(network, images[case], protocol, size=90 if case == "C" else 96):
        tracks.add(frame)
        labels.append(frame.labels_HW)
    golden = numbers["Y_labels" if case == "Y" else f"{case}_labels_s4"]
    assert (torch.stack(labels).numpy() != golden).mean() <= 1e-3
    kept = tracks.longest(protocol.max_tracks)
    assert [track.id for track in kept] == numbers[f"{case}_kept"].tolist()
    found = {(track.id, track.last - track.first) for track in tracks.longest(99)}
    assert found == {(i, span) for i, _, span in numbers[f"{case}_tracks"].tolist() if i > 0}
    if case == "Y":
        np.testing.assert_allclose(scores(kept), numbers["Y_scores"], rtol=1e-3)
        assert [track.category for track in kept] == numbers["Y_categories"].tolist()
        areas = np.array([[track.areas.get(t, 0) for t in range(12)] for track in kept])
        np.testing.assert_allclose(areas, numbers["Y_areas"], atol=3)
    else:
        written = np.stack(list(tracks.labels(kept)))
        assert written.dtype == np.uint8
        assert (written != numbers[f"{case}_labels"]).mean() <= 1e-3


# ---- the repaired rules


def blob(centre: Sequence[float], count: int, spread: float, rng: torch.Generator) -> Tensor:
    return torch.tensor(centre) + spread * torch.randn(count, 2, generator=rng)


def test_remaining_pixels_join_the_nearest_centre_and_not_the_farthest() -> None:
    rng = torch.Generator().manual_seed(0)
    true_P = torch.arange(2).repeat_interleave(200)
    embeddings_PE = torch.cat([blob((0.0, 0.0), 200, 0.3, rng), blob((0.9, 0.0), 200, 0.3, rng)])
    seediness_P = 1 - (embeddings_PE - torch.tensor([[0.0, 0.0], [0.9, 0.0]])[true_P]).norm(dim=1)
    args = embeddings_PE, torch.full_like(embeddings_PE, 10.0), seediness_P
    right, wrong = {}, {}
    for name, options in (("ours", Clustering()), ("released", Clustering(released=True))):
        labels_P = cluster(*args, options).labels_P
        assert int(labels_P.max()) == 1
        expected_P = true_P if int(labels_P[seediness_P[:200].argmax()]) == 0 else 1 - true_P
        right[name] = int((labels_P == expected_P).sum())
        wrong[name] = int(((labels_P >= 0) & (labels_P != expected_P)).sum())
    assert right["ours"] > right["released"]
    assert wrong["ours"] < wrong["released"]


def test_only_seeds_that_enough_pixels_join_become_objects() -> None:
    embeddings_PE = torch.cat([torch.zeros(50, 2), torch.full((3, 2), 9.0), torch.full((40, 2), 5.0)])
    seediness_P = torch.cat([torch.full((50,), 0.9), torch.full((3,), 0.99), torch.full((40,), 0.85)])
    args = embeddings_PE, torch.full_like(embeddings_PE, 10.0), seediness_P
    specks = cluster(*args, Clustering(min_pixels=1))
    assert [int((specks.labels_P == i).sum()) for i in range(3)] == [3, 50, 40]
    ours = cluster(*args)
    assert [int((ours.labels_P == i).sum()) for i in (-1, 0, 1)] == [3, 50, 40]
    assert torch.equal(ours.labels_P[53:], torch.ones(40, dtype=torch.int64))
    assert seediness_P[ours.seeds_N].tolist() == pytest.approx([0.9, 0.85])
    few = cluster(*args, Clustering(max_clusters=1))  # a speck does not use up the number of clusters
    assert int((few.labels_P == 0).sum()) == 50


def test_the_last_cluster_keeps_its_pixels_when_there_are_as_many_as_asked_for() -> None:
    moved = {}
    for name, options in (
        ("ours", Clustering(max_clusters=2, min_pixels=1)),
        ("released", Clustering(max_clusters=2, released=True)),
    ):
        before_P = cluster(*points("cap"), replace(options, rest=1.0)).labels_P
        after_P = cluster(*points("cap"), options).labels_P
        assert int((before_P == 1).sum()) > 0
        moved[name] = int(((before_P >= 0) & (after_P != before_P)).sum())
    assert moved["ours"] == 0
    assert moved["released"] > 0


def test_pixels_without_seeds_and_no_pixels_are_no_object() -> None:
    nothing = cluster(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
    assert (nothing.labels_P.shape, nothing.centres_NE.shape) == ((0,), (0, 2))
    dull = cluster(torch.zeros(90, 2), torch.ones(90, 2), torch.full((90,), 0.79))
    assert (dull.labels_P == -1).all()
    with pytest.raises(ValueError, match="expected max_clusters of at least 1, got 0"):
        Clustering(max_clusters=0)


def test_a_newcomer_does_not_take_the_id_of_a_leaver() -> None:
    before, after = torch.zeros(10, 10, dtype=torch.int32), torch.zeros(10, 10, dtype=torch.int32)
    before[0:4, 0:4], before[6:9, 0:4] = 1, 2
    after[1:4, 0:4], after[6:9, 7:10] = 11, 12
    assert [pair[:2] for pair in join(before, after, 0.0)] == [(1, 11), (2, 12)]
    assert [(pair.before, pair.after, pair.iou) for pair in join(before, after)] == [(1, 11, 0.75)]
    stitcher = Stitcher()
    stitcher.add(range(2), torch.stack([before, before]))
    fresh, _ = stitcher.add(range(1, 3), torch.stack([after, after]))
    assert list(fresh) == [2]
    assert fresh[2].unique().tolist() == [0, 1, 12]


def test_frames_of_several_clips_keep_the_labels_of_the_first() -> None:
    stitcher, plane = Stitcher(), torch.zeros(4, 8, 8, dtype=torch.int32)
    first, second, third = plane.clone(), plane.clone(), plane.clone()
    first[:, :3, :3] = 1
    second[:, :3, :3], second[:, 5:, 5:] = 2, 3  # the other object is new, also on frames that the first clip had
    third[:2, 5:, 5:], third[3, 5:, 5:] = 4, 4
    stitcher.add(range(0, 4), first)
    fresh, pairs = stitcher.add(range(1, 5), second)
    assert [pair[:2] for pair in pairs] == [(1, 2)]
    assert list(fresh) == [4]
    assert fresh[4].unique().tolist() == [0, 1, 3]
    fresh, pairs = stitcher.add(range(2, 6), third)  # on frames 2 and 3 it covers nothing that was there first
    assert pairs == []
    assert fresh[5].unique().tolist() == [0, 4]


def test_a_pair_below_the_least_iou_does_not_keep_a_better_one_apart() -> None:
    before, after = torch.zeros(400, dtype=torch.int64), torch.zeros(400, dtype=torch.int64)
    before[:100], before[100:200] = 1, 2
    after[92:192], after[200:300] = 11, 12  # 1 and 11 have 8 of 192 in common, 2 and 11 have 92 of 108
    assert [pair[:2] for pair in join(before, after)] == [(2, 11)]
    assert join(before, torch.zeros_like(after)) == []


# ---- videos

COLOURS = {1: (1.0, 0.0, 0.0), 2: (0.0, 1.0, 0.0), 3: (0.0, 0.0, 1.0)}


class Colours(Finder):
    """A pixel's embedding is the mean colour of its 4x4 cell, its seediness the brightest channel; classes by colour."""

    lengths = (4, 8)

    def __init__(self, length: int = 4, classes: int = 0) -> None:
        super().__init__()
        self.length, self.classes, self.size = length, classes, 32
        self.weight = nn.Parameter(torch.zeros(1))
        self.encoded = 0

    def encode(self, frames_BCHW: Tensor) -> Features:
        self.encoded += 1
        assert not self.training
        padded = pad_to_multiple(frames_BCHW, 32)
        return Features({"colour": F.avg_pool2d(padded, 4)}, tuple(frames_BCHW.shape[-2:]), tuple(padded.shape[-2:]))  # type: ignore[arg-type]

    def read(self, features: Sequence[Features]) -> Maps:
        assert len(features) == self.length
        colour = torch.stack([each.maps["colour"] for each in features], 2)
        bright = colour.amax(1)
        semantics = None
        if self.classes:
            semantics = torch.cat([0.2 - bright[:, None], 3 * colour, 20 * (bright[:, None] - 0.5)], 1)
        return Maps(2 * colour, torch.zeros_like(colour), 0.95 * bright, semantics)


def picture(boxes: dict[int, tuple[int, int, int, int]], size: tuple[int, int] = (32, 64)) -> Tensor:
    """Black, with boxes (y0, y1, x0, x1) in the colours of their numbers."""
    image = torch.zeros(3, *size)
    for number, (y0, y1, x0, x1) in boxes.items():
        image[:, y0:y1, x0:x1] = torch.tensor(COLOURS[number])[:, None, None]
    return image


def video(count: int = 11) -> list[Tensor]:
    """A red box that is always there, a green one that leaves after frame 4, a blue one that comes at its place on frame 7."""
    return [
        picture({1: (4, 20, 4, 24)} | ({2: (8, 28, 40, 60)} if t <= 4 else {}) | ({3: (8, 28, 40, 60)} if t >= 7 else {}))
        for t in range(count)
    ]


SIMPLE = Protocol(overlap=2, foreground=0.5)


@pytest.mark.parametrize(("length", "overlap"), [(4, 1), (4, 2), (4, 3), (8, 4), (8, 6)])
def test_objects_of_a_video_are_found_on_their_frames_and_encoded_once(length: int, overlap: int) -> None:
    finder = Colours(length).train()
    tracks, indices = Tracks(), []
    for frame in discover(finder, video(), replace(SIMPLE, overlap=overlap)):
        indices.append(frame.index)
        tracks.add(frame)
    assert indices == list(range(11))
    assert finder.encoded == 11
    assert finder.training
    kept = tracks.longest(20)
    assert [(track.first, track.last) for track in kept] == [(0, 10), (0, 4), (7, 10)]
    assert [track.pixels for track in kept] == [11 * 4 * 5, 5 * 5 * 5, 4 * 5 * 5]
    for t, labels in enumerate(tracks.labels(kept)):
        expected = np.zeros((32, 64), np.uint8)
        for number, place in ((1, 1), (2, 2), (3, 3)):
            y0, y1, x0, x1 = (4, 20, 4, 24) if number == 1 else (8, 28, 40, 60)
            if number == 1 or (number == 2 and t <= 4) or (number == 3 and t >= 7):
                expected[y0:y1, x0:x1] = place
        assert (labels == expected).mean() > 0.97  # corners are rounded
        assert set(np.unique(labels)) == set(np.unique(expected))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7])
def test_every_frame_of_a_short_video_has_labels(count: int) -> None:
    found = list(discover(Colours(), video(count), SIMPLE))
    assert [frame.index for frame in found] == list(range(count))
    for frame in found:
        assert frame.labels_HW.shape == (8, 16)
        assert set(frame.labels_HW.unique().tolist()) == ({0, 1, 2} if frame.index <= 4 else {0, 1})


def test_frames_are_released_as_soon_as_no_later_clip_can_cover_them() -> None:
    discoverer = Discoverer(Colours(), SIMPLE)
    known = [[frame.index for frame in discoverer.step(image)] for image in video(30)]
    assert known[:8] == [[], [], [], [], [], [], [0, 1, 2, 3], []]
    assert max(t - frame for t, some in enumerate(known) for frame in some) <= 2 * 4
    assert len(discoverer._sums) <= 8
    assert len(discoverer._pending) <= 3
    assert [frame.index for frame in discoverer.finish()] == list(range(sum(map(len, known)), 30))


def test_a_video_in_which_nothing_is_found_has_empty_masks() -> None:
    tracks = Tracks()
    for frame in discover(Colours(), [picture({})] * 5, SIMPLE):
        tracks.add(frame)
    assert tracks.longest(20) == []
    assert scores([]) == []
    labels = list(tracks.labels([]))
    assert len(labels) == 5
    assert all(each.shape == (32, 64) and not each.any() for each in labels)


def test_frames_are_resized_and_padding_is_never_an_object() -> None:
    class Bright(Colours):
        def encode(self, frames_BCHW: Tensor) -> Features:
            features = super().encode(frames_BCHW)
            features.maps["colour"][..., 12:] = torch.tensor(COLOURS[3])[:, None, None]  # a seed beyond the border
            return features

    images = [(255 * F.interpolate(picture({1: (4, 20, 4, 24)}, (32, 48))[None], (64, 96))[0]).byte() for _ in range(4)]
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    for protocol, expected in ((SIMPLE, [1]), (replace(SIMPLE, padding=True), [1, 2])):
        tracks, found = Tracks(), list(discover(Bright(), arrays, protocol))
        assert (found[0].size, found[0].inner, found[0].padded) == ((64, 96), (32, 48), (32, 64))
        for frame in found:
            tracks.add(frame)
        kept = tracks.longest(20)
        assert sorted(track.id for track in kept) == expected
        for labels in tracks.labels([track for track in kept if track.areas[0] == 20]):
            assert labels.shape == (64, 96)
            assert (labels[12:36, 12:44] == 1).all()
            assert labels[:, 56:].max() == 0


def test_classes_and_scores() -> None:
    tracks = Tracks()
    for frame in discover(Colours(classes=3), video(), replace(SIMPLE, enlarge=4)):
        assert frame.labels_HW.shape == (32, 64)
        assert frame.semantics_CHW is not None
        assert frame.semantics_CHW.shape == (4, 8, 16)
        tracks.add(frame)
    kept = tracks.longest(20)
    assert [track.category for track in kept] == [1, 2, 3]
    assert scores(kept)[0] == 1
    assert scores(kept)[1] == pytest.approx(5 * 20 * 20 / (11 * 16 * 20), rel=0.1)


def test_of_overlapping_tracks_the_shorter_covers_the_longer() -> None:
    tracks = Tracks()
    plane = torch.zeros(8, 16, dtype=torch.int32)
    plane[2:6, 2:6], plane[2:6, 6:10] = 7, 4
    for t in range(3):
        labels = plane.clone()
        labels[labels == 4] = 4 if t else 0
        tracks.add(FrameLabels(t, labels, None, (32, 64), (32, 64), (32, 64)))
    kept = tracks.longest(2)
    assert [(track.id, track.first, track.last) for track in kept] == [(7, 0, 2), (4, 1, 2)]
    labels = list(tracks.labels(kept))[1]
    assert set(np.unique(labels)) == {0, 1, 2}
    assert [track.id for track in tracks.longest(1)] == [7]


def test_what_was_found_in_a_clip() -> None:
    finder = Colours().eval()
    maps = finder.read([finder.encode(image[None]) for image in video(4)])
    found = find(maps, maps.seediness_BTHW[0] > 0.5, first=5)
    assert found.labels_THW.unique().tolist() == [0, 5, 6]
    assert [(each.id, each.pixels) for each in found.finds] == [(5, 4 * 20), (6, 4 * 25)]
    for each in found.finds:
        assert each.score == pytest.approx(0.95)
        assert found.labels_THW[each.seed] == each.id
        assert each.bandwidths.tolist() == [10, 10, 10]
    with pytest.raises(ValueError, match=r"expected a foreground of \[4, 8, 16\], got \[4, 8, 8\]"):
        find(maps, torch.zeros(4, 8, 8, dtype=torch.bool))


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an overlap of 1 to 3 frames for clips of 4, got 4"):
        Discoverer(Colours(), replace(SIMPLE, overlap=4))
    discoverer = Discoverer(Colours(), SIMPLE)
    discoverer.step(picture({}))
    with pytest.raises(ValueError, match="expected a frame of 32x64 pixels, as those before, got 32x48"):
        discoverer.step(picture({}, (32, 48)))


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [((480, 854), 736, 1248, (701, 1248)), ((60, 100), 90, 150, (90, 150)), ((480, 640), 640, 1196, (640, 853)),
     ((480, 854), 240, None, (240, 427)), ((1, 5000), 64, 100, (1, 100))],
)  # fmt: skip
def test_sizes(size: tuple[int, int], short: int, long: int | None, expected: tuple[int, int]) -> None:
    assert bounded_size(size, short, long) == expected
