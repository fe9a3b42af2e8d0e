"""J and F: against the DAVIS code's numbers (golden/README.md), and against a slow reading of the definitions."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hodor.metrics import (
    Statistics,
    average,
    boundary,
    boundary_f,
    frame_scores,
    jaccard,
    mose_f,
    mose_j,
    pair_scores,
    statistics,
)
from hodor.scoring import bits

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "davis_metrics.npz"))
SIZES = st.tuples(st.integers(1, 14), st.integers(1, 14))


class Case(NamedTuple):
    prediction: np.ndarray
    ground_truth: np.ndarray
    j: float
    f: float


def golden_cases() -> list[Case]:
    cases, start = [], 0
    for (height, width), j, f in zip(GOLDEN["sizes"], GOLDEN["J"], GOLDEN["F"], strict=True):
        end = start - (-height * width // 8)
        masks = [
            np.unpackbits(GOLDEN[key][start:end])[: height * width].reshape(height, width).astype(bool)
            for key in ("prediction", "truth")
        ]
        cases.append(Case(masks[0], masks[1], j, f))
        start = end
    assert start == len(GOLDEN["truth"])
    return cases


def golden_rows() -> list[tuple[np.ndarray, np.ndarray]]:
    ends = np.cumsum(GOLDEN["lengths"])
    return list(zip(np.split(GOLDEN["vectors"], ends[:-1]), GOLDEN["mean_recall_decay"], strict=True))


def slow_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixels that differ from the right, lower or lower right neighbour, by looking at each."""
    height, width = mask.shape

    def differs(y: int, x: int, dy: int, dx: int) -> bool:
        # outside, the mask goes on: the last row has only a right neighbour, the last column only a lower one
        return bool(mask[y, x] != mask[min(y + dy, height - 1), min(x + dx, width - 1)])

    steps = ((0, 1), (1, 0), (1, 1))
    return {(y, x) for y in range(height) for x in range(width) if any(differs(y, x, *step) for step in steps)}


def slow_f(prediction: np.ndarray, ground_truth: np.ndarray, radius: float) -> float:
    found, wanted = slow_boundary(prediction), slow_boundary(ground_truth)
    if not found or not wanted:
        return float(found == wanted)

    def share(these: set[tuple[int, int]], those: set[tuple[int, int]]) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in those) for y, x in these]
        return sum(near) / len(these)

    precision, recall = share(found, wanted), share(wanted, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_j(prediction: np.ndarray, ground_truth: np.ndarray) -> float:
    union = sum(map(int, (prediction | ground_truth).ravel()))
    return sum(map(int, (prediction & ground_truth).ravel())) / union if union else 1.0


def test_j_and_f_equal_the_davis_code_on_every_golden_pair() -> None:
    for case in golden_cases():
        assert jaccard(case.prediction, case.ground_truth) == case.j
        assert boundary_f(case.prediction, case.ground_truth) == case.f


def test_frame_scores_equal_the_davis_code_on_every_golden_pair() -> None:
    for case in golden_cases():
        j, f = frame_scores(case.prediction * np.uint16(700), case.ground_truth * np.uint16(700), [700])
        assert (j[0], f[0]) == (case.j, case.f)


@pytest.mark.parametrize("compat", [False, True])
def test_statistics_equal_the_davis_code_on_every_golden_row(compat: bool) -> None:
    for row, wanted in golden_rows():
        assert statistics(row, compat) == tuple(wanted)


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(SIZES)
    labels = hnp.arrays(np.uint8, size, elements=st.sampled_from([0, 1, 3, 4, 255]), fill=st.sampled_from([0, 3]))
    return draw(labels), draw(labels)


@settings(max_examples=150, deadline=None)
@given(label_maps(), st.sampled_from([0, 0.008, 0.1, 1, 1.5, 2, 3, 100]))
def test_j_and_f_follow_the_definitions(maps: tuple[np.ndarray, np.ndarray], bound: float) -> None:
    prediction, ground_truth = maps
    radius = bound if bound >= 1 else np.ceil(bound * np.hypot(*prediction.shape))
    ids = [4, 1, 7, 3]
    j, f = frame_scores(prediction, ground_truth, ids, bound=bound)
    for place, key in enumerate(ids):
        mask, wanted = prediction == key, ground_truth == key
        assert jaccard(mask, wanted) == j[place] == slow_j(mask, wanted)
        assert boundary_f(mask, wanted, bound=bound) == f[place] == slow_f(mask, wanted, radius)


@settings(max_examples=50, deadline=None)
@given(label_maps(), st.data())
def test_void_pixels_are_cut_out_of_both_masks(maps: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    prediction, ground_truth = maps
    void = data.draw(hnp.arrays(bool, ground_truth.shape))
    j, f = frame_scores(prediction, ground_truth, [1, 3], void=void, bound=1)
    for place, key in enumerate([1, 3]):
        mask, wanted = (prediction == key) & ~void, (ground_truth == key) & ~void
        assert jaccard(prediction == key, ground_truth == key, void) == j[place] == slow_j(mask, wanted)
        assert boundary_f(prediction == key, ground_truth == key, void, 1) == f[place] == slow_f(mask, wanted, 1)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, SIZES))
def test_boundary_follows_its_definition(mask: np.ndarray) -> None:
    assert set(zip(*np.nonzero(boundary(mask)), strict=True)) == slow_boundary(mask)


@pytest.mark.parametrize("bound", [40, 63, 64, 65, 127, 128, 200])
@pytest.mark.parametrize("size", [(3, 300), (300, 3), (90, 200)])
def test_f_is_exact_for_a_tolerance_of_several_words(size: tuple[int, int], bound: int) -> None:
    rng = np.random.default_rng(bound)
    prediction, ground_truth = np.zeros((2, *size), dtype=bool)
    for mask in (prediction, ground_truth):
        mask[rng.integers(size[0], size=4), rng.integers(size[1], size=4)] = True
    prediction[:, size[1] // 2 :] = False
    assert boundary_f(prediction, ground_truth, bound=bound) == slow_f(prediction, ground_truth, bound)


def test_f_is_one_when_both_boundaries_are_empty() -> None:
    empty, full = np.zeros((5, 6), bool), np.ones((5, 6), bool)
    assert boundary_f(empty, full) == boundary_f(full, empty) == boundary_f(full, full) == boundary_f(empty, empty) == 1
    assert jaccard(empty, full) == 0
    assert jaccard(empty, empty) == 1


def test_a_lone_pixel_has_four_boundary_pixels_and_the_border_none() -> None:
    mask = np.zeros((5, 6), bool)
    mask[2, 3] = True
    assert list(zip(*np.nonzero(boundary(mask)), strict=True)) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert not boundary(np.ones((5, 6), bool)).any()


def test_tolerance_is_eight_pixels_at_480x854() -> None:
    ground_truth, near, far = np.zeros((3, 480, 854), bool)
    ground_truth[:, :400], near[:, :408], far[:, :409] = True, True, True
    assert boundary_f(near, ground_truth) == 1
    assert boundary_f(far, ground_truth) == 0


def test_frame_scores_take_ids_of_any_integer_type() -> None:
    ground_truth = np.zeros((20, 30))
    ground_truth[3:9, 4:20], ground_truth[12:18, 4:20] = 1, 2
    prediction = np.roll(ground_truth, 2, axis=1)
    wanted = frame_scores(prediction.astype(np.uint8), ground_truth.astype(np.uint8), [1, 2], bound=1)
    assert 0 < wanted.j.min() < 1
    assert 0 < wanted.f.min() < 1
    for kind, factor in ((np.int64, 1), (np.uint16, 30000), (np.int32, 5_000_000)):
        scores = frame_scores(
            (prediction * factor).astype(kind), (ground_truth * factor).astype(kind), [factor, 2 * factor], bound=1
        )
        assert scores.j.tolist() == wanted.j.tolist()
        assert scores.f.tolist() == wanted.f.tolist()


def test_frame_scores_hold_for_more_objects_than_a_byte_counts() -> None:
    ground_truth = np.arange(1, 601).reshape(20, 30).repeat(3, axis=0).repeat(3, axis=1)
    prediction = np.roll(ground_truth, 1, axis=1)
    j, f = frame_scores(prediction, ground_truth, range(1, 601), bound=1)
    for key in (1, 17, 255, 256, 600):
        assert j[key - 1] == slow_j(prediction == key, ground_truth == key)
        assert f[key - 1] == slow_f(prediction == key, ground_truth == key, 1)


def test_no_ids_give_no_scores() -> None:
    for top in (1, 100_000):
        j, f = frame_scores(np.full((3, 4), top), np.full((3, 4), top), [])
        assert j.size == f.size == 0


def test_bits_are_counted_the_same_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(1 << 63, size=(2, 9), dtype=np.uint64)
    wanted = bits.ones_in(words[:, ::2]).tolist()
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert bits.ones_in(words[:, ::2]).tolist() == wanted == [[int(word).bit_count() for word in row[::2]] for row in words]
    assert bits.bit_count(words[None]).tolist() == [sum(int(word).bit_count() for word in words.flat)]


def slow_disk(radius: float) -> np.ndarray:
    """The pixels of a disk, bool, its middle on the pixel; as skimage.morphology.disk makes it, also for broken radii."""
    grid = np.arange(-radius, radius + 1)
    disk = grid[:, None] ** 2 + grid**2 <= radius**2
    disk[0, 0] |= not disk.any()  # OpenCV makes this of a disk without a pixel
    return disk


def dilated(edge: np.ndarray, disk: np.ndarray) -> np.ndarray:
    """True where the disk, its entry size // 2 laid on the pixel, lies over a true pixel: OpenCV's dilation."""
    height, width = edge.shape
    reach = len(disk) // 2
    wide = np.pad(edge, reach + 1)
    grown = np.zeros_like(edge)
    for row, column in zip(*np.nonzero(disk), strict=True):
        grown |= wide[row + 1 :, column + 1 :][:height, :width]
    return grown


def dilation_f(prediction: np.ndarray, ground_truth: np.ndarray, disk: np.ndarray) -> float:
    found, wanted = boundary(prediction), boundary(ground_truth)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = (found & dilated(wanted, disk)).sum() / found.sum()
    recall = (wanted & dilated(found, disk)).sum() / wanted.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def drawn(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Labels 0, 1, 3, 9, 255 of every sort: empty, full, single pixels, borders, noise, boxes with holes."""
    labels = np.zeros(size, np.uint8)
    for _ in range(rng.integers(5)):
        kind, key = rng.integers(6), rng.choice([1, 3, 9, 255])
        rows, columns = (slice(*np.sort(rng.integers(0, length + 1, 2))) for length in size)
        if kind == 0:
            labels[:] = key
        elif kind == 1:
            labels[rng.integers(size[0]), rng.integers(size[1])] = key
        elif kind == 2:
            labels[rng.choice([0, -1]), columns] = key
        elif kind == 3:
            labels[rows, rng.choice([0, -1])] = key
        elif kind == 4:
            labels[rng.random(size) < rng.random() ** 3] = key
        else:
            labels[rows, columns] = key
            labels[rows, columns][2:-3, 3:-2] = 0
    return labels


@pytest.mark.parametrize("seed", range(12))
def test_frame_scores_equal_direct_dilation_on_maps_of_every_sort(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(25):
        size = tuple(int(length) for length in rng.choice([1, 2, 7, 30, 63, 64, 65, 100, 128, 129], 2))
        prediction, ground_truth = drawn(rng, size), drawn(rng, size)
        void = drawn(rng, size) == 3 if rng.random() < 0.3 else None
        keep = True if void is None else ~void
        radius = float(rng.choice([1, 2, 5, 8, 17, 64]))
        ids = [9, 1, 700, 3]
        j, f = frame_scores(prediction, ground_truth, ids, void, radius)
        pairs = pair_scores(prediction, ground_truth, ids, [3, 1], void, radius)
        for place, key in enumerate(ids):
            mask, wanted = (prediction == key) & keep, (ground_truth == key) & keep
            union = np.count_nonzero(mask | wanted)
            assert j[place] == (np.count_nonzero(mask & wanted) / union if union else 1)
            assert f[place] == dilation_f(mask, wanted, slow_disk(radius)) == boundary_f(mask, wanted, bound=radius)
            for other, known in enumerate([3, 1]):
                wanted = (ground_truth == known) & keep
                assert pairs.j[place, other] == jaccard(mask, wanted)
                assert pairs.f[place, other] == boundary_f(mask, wanted, bound=radius)


def test_pairs_of_nothing_have_the_shape_asked_for() -> None:
    labels = np.ones((3, 4), np.uint8)
    assert pair_scores(labels, labels, [], [1, 2]).j.shape == (0, 2)
    assert pair_scores(labels, labels, [1, 2, 3], []).f.shape == (3, 0)
    empty = pair_scores(0 * labels, 0 * labels, [1, 2], [5])
    assert empty.j.tolist() == empty.f.tolist() == [[1], [1]]


def test_mose_j_counts_one_pixel_more() -> None:
    ground_truth = np.zeros((4, 5), bool)
    ground_truth[1, 1:4] = True
    assert mose_j(np.roll(ground_truth, 1, axis=1), ground_truth) == (2 + 1) / (4 + 1)
    assert mose_j(~ground_truth & ground_truth, ground_truth) == 1 / 4
    assert mose_j(ground_truth, ground_truth) == mose_j(ground_truth & ~ground_truth, ground_truth & ~ground_truth) == 1


@pytest.mark.parametrize("size", [(480, 854), (40, 60), (64, 64), (93, 130), (150, 90), (300, 310), (1, 70)])
def test_mose_f_is_the_dilation_with_its_lopsided_disk(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    limit = 0.008 * float(np.linalg.norm(size))
    for area in (0.001, 0.01, 0.3, 0.6):
        ground_truth = np.zeros(size, bool)
        half = [max(1, int(length * area**0.5 / 2)) for length in size]
        ground_truth[size[0] // 2 - half[0] : size[0] // 2 + half[0], size[1] // 2 - half[1] : size[1] // 2 + half[1]] = True
        ground_truth ^= rng.random(size) < 0.01
        prediction = np.roll(ground_truth, (int(limit) + 1, 1), (0, 1)) ^ (rng.random(size) < 0.003)
        radius = min(np.ceil(0.1 * np.sqrt(ground_truth.sum())), limit)
        new, old = mose_f(prediction, ground_truth)
        assert new == dilation_f(prediction, ground_truth, slow_disk(radius))
        assert old == (boundary_f(prediction, ground_truth) if radius < limit else new)


def test_the_lopsided_disk_at_480x854_has_191_pixels() -> None:
    radius = 0.008 * float(np.linalg.norm((480, 854)))
    disk = slow_disk(radius)
    assert disk.sum() == 191
    assert disk.shape == (17, 17)
    assert (disk != disk[::-1]).any()
    assert sum(last - first + 1 for _, first, last in bits.skewed_disk(radius)) == 191


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.5, 0.6, 0.9, 1, 1.2, 1.7, 2.5, 3.5, 5.01, 7.6, 7.837, 8, 12.4])
def test_growing_by_a_lopsided_disk_is_what_opencv_dilates(radius: float) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(7)
    for density in (0.003, 0.05):
        edge = rng.random((70, 150)) < density
        wanted = cv2.dilate(edge.astype(np.uint8), slow_disk(radius).astype(np.uint8))
        reach = bits.skewed_disk(radius)
        stream, _ = bits.stream_of([bits.layers_of(edge, [1])], reach)
        grown = np.unpackbits(bits.grown_by(stream, reach).view(np.uint8), axis=2, bitorder="little")[0, :70, :150]
        assert grown.tolist() == wanted.tolist()


def test_mose_f_of_empty_masks() -> None:
    empty, mask = np.zeros((50, 60), bool), np.zeros((50, 60), bool)
    mask[10:30, 20:40] = True
    assert mose_f(empty, empty) == (1, 1)
    assert mose_f(empty, mask) == mose_f(mask, empty) == (0, 0)


def test_a_frame_of_noise_costs_no_more_than_a_frame_of_blobs() -> None:
    from time import process_time

    noise = np.random.default_rng(0).integers(0, 2, (2, 480, 854)).astype(np.uint8)
    blobs = np.zeros((2, 480, 854), np.uint8)
    blobs[0, 30:440, 40:800] = blobs[1, 35:450, 44:806] = 1

    def seconds(maps: np.ndarray) -> float:
        spent = []
        for _ in range(12):
            start = process_time()
            frame_scores(maps[0], maps[1], [1])
            spent.append(process_time() - start)
        return min(spent)

    assert seconds(noise) < 4 * seconds(blobs)


def test_decay_of_a_300_frame_sequence_is_finite() -> None:
    row = np.linspace(1, 0, 300)
    assert statistics(row).decay == pytest.approx(0.75, abs=0.01)
    assert np.isnan(statistics(row, compat=True).decay)


def test_compat_repeats_the_8_bit_decay() -> None:
    row = np.random.default_rng(0).random(1100)
    meets = [int(place) & 255 for place in (0, 275, 550, 824, 1099)]  # 275 is 274.75 rounded
    wanted = row[meets[0] : meets[1] + 1].mean() - row[meets[3] : meets[4] + 1].mean()
    assert statistics(row, compat=True).decay == wanted
    assert statistics(row).decay != wanted


def test_recall_counts_only_above_one_half() -> None:
    assert statistics([0.5, 0.5, 0.6, 1.0]).recall == 0.5


def test_decay_quarters_round_halves_up_and_share_a_frame() -> None:
    # T = 7 meets at 1, 2.5 -> 3, 4, 5.5 -> 6, 7 (from 1)
    assert statistics([0.3, 0.6, 0.9, 0, 0, 0.2, 0.4]).decay == pytest.approx(0.6 - 0.3)


def test_average_counts_objects_not_sequences() -> None:
    objects = [Statistics(1.0, 1.0, 0.0), Statistics(0.5, 0.0, 0.2), Statistics(0.0, 0.5, 0.1)]
    assert average(objects) == pytest.approx((0.5, 0.5, 0.1))


@pytest.mark.parametrize("score", [jaccard, boundary_f, lambda p, t: frame_scores(p, t, [1])])
def test_sizes_must_agree(score: object) -> None:
    with pytest.raises(ValueError, match=r"^expected prediction of 4x6 pixels, the size of the ground truth, got 4x5$"):
        score(np.zeros((4, 5), int), np.zeros((4, 6), int))  # type: ignore[operator]


def test_every_message_names_the_value_it_rejects() -> None:
    mask = np.zeros((4, 5), int)
    for call, message in (
        (lambda: boundary_f(mask, mask, bound=-1), "expected bound of at least 0, got -1"),
        (lambda: boundary_f(mask, mask, bound=float("nan")), "expected bound of at least 0, got nan"),
        (lambda: boundary(mask[0]), r"expected mask of shape \[H, W\], got \(5,\)"),
        (lambda: jaccard(mask, mask, void=mask[1:]), "expected void of 4x5 pixels, the size of the ground truth, got 3x5"),
        (lambda: frame_scores(mask, mask, [1, 1]), r"expected different ids above 0, got \[1, 1\]"),
        (lambda: frame_scores(mask, mask, [0]), r"expected different ids above 0, got \[0\]"),
        (lambda: frame_scores(mask, mask - 1, [1]), "expected integer labels of at least 0, got int64 from -1"),
        (lambda: frame_scores(mask / 1, mask, [1]), "expected integer labels of at least 0, got float64 from 0.0"),
        (lambda: statistics([]), "expected the scores of at least 1 frame, got none"),
        (lambda: average([]), "expected the statistics of at least 1 object, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
