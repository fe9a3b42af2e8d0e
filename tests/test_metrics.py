"""J and F: against the DAVIS code's numbers (golden/README.md), and against a slow reading of the definitions."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hodor import metrics
from hodor.metrics import Statistics, average, boundary, boundary_f, frame_scores, jaccard, statistics

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "davis_metrics.npz"))
SIZES = st.tuples(st.integers(1, 14), st.integers(1, 14))


class Case(NamedTuple):
    prediction: np.ndarray
    truth: np.ndarray
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


def slow_f(prediction: np.ndarray, truth: np.ndarray, radius: float) -> float:
    found, wanted = slow_boundary(prediction), slow_boundary(truth)
    if not found or not wanted:
        return float(found == wanted)

    def share(these: set[tuple[int, int]], those: set[tuple[int, int]]) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in those) for y, x in these]
        return sum(near) / len(these)

    precision, recall = share(found, wanted), share(wanted, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_j(prediction: np.ndarray, truth: np.ndarray) -> float:
    union = sum(map(int, (prediction | truth).ravel()))
    return sum(map(int, (prediction & truth).ravel())) / union if union else 1.0


def test_j_and_f_equal_the_davis_code_on_every_golden_pair() -> None:
    for case in golden_cases():
        assert jaccard(case.prediction, case.truth) == case.j
        assert boundary_f(case.prediction, case.truth) == case.f


def test_frame_scores_equal_the_davis_code_on_every_golden_pair() -> None:
    for case in golden_cases():
        j, f = frame_scores(case.prediction * np.uint16(700), case.truth * np.uint16(700), [700])
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
    prediction, truth = maps
    radius = bound if bound >= 1 else np.ceil(bound * np.hypot(*prediction.shape))
    ids = [4, 1, 7, 3]
    j, f = frame_scores(prediction, truth, ids, bound=bound)
    for place, key in enumerate(ids):
        mask, wanted = prediction == key, truth == key
        assert jaccard(mask, wanted) == j[place] == slow_j(mask, wanted)
        assert boundary_f(mask, wanted, bound=bound) == f[place] == slow_f(mask, wanted, radius)


@settings(max_examples=50, deadline=None)
@given(label_maps(), st.data())
def test_void_pixels_are_cut_out_of_both_masks(maps: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    prediction, truth = maps
    void = data.draw(hnp.arrays(bool, truth.shape))
    j, f = frame_scores(prediction, truth, [1, 3], void=void, bound=1)
    for place, key in enumerate([1, 3]):
        mask, wanted = (prediction == key) & ~void, (truth == key) & ~void
        assert jaccard(prediction == key, truth == key, void) == j[place] == slow_j(mask, wanted)
        assert boundary_f(prediction == key, truth == key, void, 1) == f[place] == slow_f(mask, wanted, 1)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, SIZES))
def test_boundary_follows_its_definition(mask: np.ndarray) -> None:
    assert set(zip(*np.nonzero(boundary(mask)), strict=True)) == slow_boundary(mask)


@pytest.mark.parametrize("bound", [40, 63, 64, 65, 127, 128, 200])
@pytest.mark.parametrize("size", [(3, 300), (300, 3), (90, 200)])
def test_f_is_exact_for_a_tolerance_of_several_words(size: tuple[int, int], bound: int) -> None:
    rng = np.random.default_rng(bound)
    prediction, truth = np.zeros((2, *size), dtype=bool)
    for mask in (prediction, truth):
        mask[rng.integers(size[0], size=4), rng.integers(size[1], size=4)] = True
    prediction[:, size[1] // 2 :] = False
    assert boundary_f(prediction, truth, bound=bound) == slow_f(prediction, truth, bound)


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
    truth, near, far = np.zeros((3, 480, 854), bool)
    truth[:, :400], near[:, :408], far[:, :409] = True, True, True
    assert boundary_f(near, truth) == 1
    assert boundary_f(far, truth) == 0


def test_frame_scores_take_ids_of_any_integer_type() -> None:
    truth = np.zeros((20, 30))
    truth[3:9, 4:20], truth[12:18, 4:20] = 1, 2
    prediction = np.roll(truth, 2, axis=1)
    wanted = frame_scores(prediction.astype(np.uint8), truth.astype(np.uint8), [1, 2], bound=1)
    assert 0 < wanted.j.min() < 1
    assert 0 < wanted.f.min() < 1
    for kind, factor in ((np.int64, 1), (np.uint16, 30000), (np.int32, 5_000_000)):
        scores = frame_scores((prediction * factor).astype(kind), (truth * factor).astype(kind), [factor, 2 * factor], bound=1)
        assert scores.j.tolist() == wanted.j.tolist()
        assert scores.f.tolist() == wanted.f.tolist()


def test_frame_scores_hold_for_more_objects_than_a_byte_counts() -> None:
    truth = np.arange(1, 601).reshape(20, 30).repeat(3, axis=0).repeat(3, axis=1)
    prediction = np.roll(truth, 1, axis=1)
    j, f = frame_scores(prediction, truth, range(1, 601), bound=1)
    for key in (1, 17, 255, 256, 600):
        assert j[key - 1] == slow_j(prediction == key, truth == key)
        assert f[key - 1] == slow_f(prediction == key, truth == key, 1)


def test_no_ids_give_no_scores() -> None:
    for top in (1, 100_000):
        j, f = frame_scores(np.full((3, 4), top), np.full((3, 4), top), [])
        assert j.size == f.size == 0


def test_bits_are_counted_the_same_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(1 << 63, size=(2, 9), dtype=np.uint64)
    wanted = metrics._bit_count(words).tolist()
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert metrics._bit_count(words).tolist() == wanted == [sum(int(word).bit_count() for word in row) for row in words]


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
    with pytest.raises(ValueError, match=r"^prediction is 4x5, truth is 4x6: masks must have the same size$"):
        score(np.zeros((4, 5), int), np.zeros((4, 6), int))  # type: ignore[operator]


def test_every_message_names_the_value_it_rejects() -> None:
    mask = np.zeros((4, 5), int)
    for call, message in (
        (lambda: boundary_f(mask, mask, bound=-1), "bound is -1: it must be 0 or more"),
        (lambda: boundary_f(mask, mask, bound=float("nan")), "bound is nan"),
        (lambda: boundary(mask[0]), r"mask has shape \(5,\): a mask is \[H, W\]"),
        (lambda: jaccard(mask, mask, void=mask[1:]), "void is 3x5, truth is 4x5"),
        (lambda: frame_scores(mask, mask, [1, 1]), r"ids are \[1, 1\]: they must be different and above 0"),
        (lambda: frame_scores(mask, mask, [0]), r"ids are \[0\]"),
        (lambda: frame_scores(mask, mask - 1, [1]), "labels are int64, from -1: they must be integers, 0 or more"),
        (lambda: frame_scores(mask / 1, mask, [1]), "labels are float64, from 0.0: they must be integers"),
        (lambda: statistics([]), "no scores to sum up"),
        (lambda: average([]), "no objects to average"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
