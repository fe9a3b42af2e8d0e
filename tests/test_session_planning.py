"""The plan of a session as a pure function: which frames are computed, in which direction, from which given frames."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hodor.sessions.edits import Given, State, Track, applied, states_of
from hodor.sessions.planning import (
    MAX_REPLAY,
    SNAPSHOT_EVERY,
    basis,
    blend,
    legs,
    live,
    most_useful,
    start_of,
    thinned,
    to_compute,
)

COUNT = 60
FRAMES = st.integers(0, COUNT - 1)
DIRECTIONS = st.sampled_from([1, -1])


def edit(name: str, obj: int, frame: int = 0, mask: str = "m", other: int = 0, empty: bool = False) -> dict[str, Any]:
    return {"edit": name, "object": obj, "frame": frame, "mask": mask, "empty": empty, "other": other, "nothing": "none"}


def track(frames: set[int], empty: set[int] | None = None, number: int = 1) -> Track:
    return Track(number, {k: Given(f"m{k}", k, k in (empty or set())) for k in frames})


def complete(one: Track, has: set[tuple[str, int]]) -> None:
    """Compute everything that a track lacks."""
    for d in (1, -1):
        for t in to_compute(one, d, range(COUNT), COUNT, lambda run, t: (run, t) in has):
            origin = one.origin(t, d)
            assert origin is not None
            has.add((one.run(origin, d), t))


# What is computed


@settings(deadline=None)
@given(st.sets(FRAMES, min_size=1, max_size=6), FRAMES)
def test_a_correction_computes_only_the_frames_up_to_the_next_given_ones_once_a_side(frames: set[int], k: int) -> None:
    before, has = track(frames - {k} or {(k + 1) % COUNT}), set[tuple[str, int]]()
    complete(before, has)
    after = track({*before.given, k})
    previous = max((g for g in before.given if g < k), default=-1)
    following = min((g for g in before.given if g > k), default=COUNT)
    found = {d: to_compute(after, d, range(COUNT), COUNT, lambda run, t: (run, t) in has) for d in (1, -1)}
    assert found[1] == frozenset(range(k + 1, following))
    assert found[-1] == frozenset(range(previous + 1, k))


@settings(deadline=None)
@given(st.sets(FRAMES, min_size=1, max_size=6), FRAMES)
def test_the_sources_of_every_other_frame_stay_the_same(frames: set[int], k: int) -> None:
    before = track(frames - {k} or {(k + 1) % COUNT})
    after = track({*before.given, k})
    previous = max((g for g in before.given if g < k), default=-1)
    following = min((g for g in before.given if g > k), default=COUNT)
    for t in set(range(COUNT)) - set(range(previous + 1, following)):
        for d in (1, -1):
            origin, now = before.origin(t, d), after.origin(t, d)
            assert origin == now
            if origin is not None:
                assert before.run(origin, d) == after.run(origin, d)


@settings(deadline=None)
@given(st.sets(FRAMES, min_size=1, max_size=6), FRAMES)
def test_undo_finds_all_results_again(frames: set[int], k: int) -> None:
    before, has = track(frames - {k} or {(k + 1) % COUNT}), set[tuple[str, int]]()
    complete(before, has)
    complete(track({*before.given, k}), has)
    assert not any(to_compute(before, d, range(COUNT), COUNT, lambda run, t: (run, t) in has) for d in (1, -1))


@given(st.sets(FRAMES, min_size=1, max_size=5), DIRECTIONS, FRAMES, FRAMES)
def test_a_window_needs_the_frames_on_the_way_from_the_given_frame_and_no_others(
    frames: set[int], d: int, a: int, b: int
) -> None:
    one, window = track(frames), range(min(a, b), max(a, b) + 1)
    found = to_compute(one, d, window, COUNT, lambda run, t: False)
    expected = set()
    for t in set(window) - frames:
        origin = one.origin(t, d)
        if origin is not None:
            expected |= set(range(origin + d, t + d, d))
    assert found == frozenset(expected)


def test_nothing_is_computed_from_an_empty_mask_and_nothing_outside_the_range_of_a_track() -> None:
    nothing = lambda run, t: False  # noqa: E731
    assert to_compute(track({10, 20}, empty={10}), 1, range(COUNT), COUNT, nothing) == frozenset(range(21, COUNT))
    half = Track(1, {10: Given("m", 0, False)}, start=30, stop=40)
    # frames 11 to 29 are of another object, but lie between the given frame and the range
    assert to_compute(half, 1, range(COUNT), COUNT, nothing) == frozenset(range(11, 40))
    assert to_compute(half, -1, range(COUNT), COUNT, nothing) == frozenset()


@given(st.dictionaries(st.integers(1, 4), st.frozensets(FRAMES, min_size=1), min_size=1), DIRECTIONS)
def test_legs_cover_each_frame_once_without_gaps(tracks: dict[int, frozenset[int]], d: int) -> None:
    found = legs(tracks, d)
    union = frozenset().union(*tracks.values())
    assert sorted(t for leg in found for t in leg.frames) == sorted(union)
    for leg in found:
        assert leg.first - d not in union
        assert leg.last + d not in union
        assert all(each == tracks[n] & set(leg.frames) for n, each in leg.computed.items())
    assert sum(len(each) for leg in found for each in leg.computed.values()) == sum(map(len, tracks.values()))
    assert [d * leg.first for leg in found] == sorted(d * leg.first for leg in found)


# Where a leg starts


def test_one_object_starts_at_its_given_frame_with_its_first_mask() -> None:
    tracks = {1: track({0, 30, 50})}
    (leg,) = legs({1: frozenset(range(31, 50))}, 1)
    assert start_of(leg, tracks, [16], pin_first=True) == (30, True, (0,))
    assert start_of(leg, tracks, [16], pin_first=False) == (30, True, ())
    (leg,) = legs({1: frozenset(range(1, 30))}, -1)
    assert start_of(leg, tracks, [], pin_first=True) == (30, True, (50,))


def test_a_leg_that_was_interrupted_continues_at_its_latest_snapshot() -> None:
    (leg,) = legs({1: frozenset(range(45, 60))}, 1)
    assert start_of(leg, {1: track({0})}, [16, 32, 48], pin_first=True) == (33, False, ())
    assert start_of(leg, {1: track({0})}, [], pin_first=True) == (0, True, ())


def test_with_other_objects_the_snapshot_before_a_correction_is_used_if_it_is_near() -> None:
    tracks = {1: track({0, 100}), 2: track({0}, number=2)}
    (leg,) = legs({1: frozenset(range(101, 120))}, 1)
    assert start_of(leg, tracks, [32, 96, 128], pin_first=True) == (97, False, ())
    assert start_of(leg, tracks, [100 - MAX_REPLAY - 1], pin_first=True) == (100, True, (0,))
    together = {1: track({0, 100}), 2: track({0, 100}, number=2)}
    assert start_of(leg, together, [96], pin_first=True) == (100, True, (0,))


@settings(deadline=None)
@given(st.sets(FRAMES, min_size=1, max_size=5), st.sets(FRAMES, min_size=1, max_size=5), st.sets(FRAMES), DIRECTIONS, st.data())
def test_every_leg_starts_at_or_before_its_given_frame_and_replays_a_bounded_number(
    one: set[int], two: set[int], snapshots: set[int], d: int, data: st.DataObject
) -> None:
    tracks = {1: track(one), 2: track(two, number=2)}
    missing = to_compute(tracks[1], d, range(COUNT), COUNT, lambda run, t: False)
    for leg in legs({1: missing} if missing else {}, d):
        start = start_of(leg, tracks, snapshots, pin_first=True)
        origin = tracks[1].origin(leg.first - d, d)
        assert origin is not None
        assert d * start.frame <= d * leg.first
        if start.fresh:
            assert start.frame == origin
            assert all(d * pin < d * start.frame for pin in start.pins)
            assert {pin for pin in start.pins if pin in one} >= ({min(one, key=lambda k: d * k)} - {start.frame})
        else:
            assert start.frame - d in snapshots
            assert d * (origin - (start.frame - d)) <= MAX_REPLAY


def test_a_snapshot_depends_on_the_first_and_the_latest_given_mask_only() -> None:
    assert basis({1: track({0, 20, 40, 50})}, 45, 1) == [[1, 0, "m0", 40, "m40"]]
    assert basis({1: track({0, 40, 50})}, 45, 1) == basis({1: track({0, 20, 40, 50})}, 45, 1)
    assert basis({1: track({0, 20, 40, 50})}, 45, -1) == [[1, 50, "m50", 50, "m50"]]
    assert basis({1: track({0, 40}, empty={40})}, 45, 1) == []
    assert live({1: track({10}), 2: track({3}, number=2)}, 5, 1) == {2: 3}


# Blending


@given(FRAMES, FRAMES, FRAMES, st.floats(0, 1), st.floats(0, 1))
def test_weights_of_the_two_directions_add_up_to_1_and_each_wins_at_its_given_frame(
    a: int, b: int, c: int, one: float, two: float
) -> None:
    before, frame, after = sorted((a, b, c))
    if before == after:
        return
    forward, backward = blend(frame, before, after, one, two)
    assert math.isclose(forward + backward, 1)
    assert blend(before, before, after, one, two)[0] == 1
    assert blend(after, before, after, one, two)[1] == 1
    more, _ = blend(frame, before, after, 1, two)
    assert more >= forward - 1e-9


def test_weights_are_closeness_times_confidence() -> None:
    assert blend(10, 0, 40, 0.9, 0.3) == pytest.approx((0.9, 0.1))
    assert blend(3, None, 9, 0.1, 0.2) == (0, 1)
    assert blend(3, 0, None, 0.1, 0.2) == (1, 0)
    with pytest.raises(ValueError, match="expected a given frame before or after frame 3, got none"):
        blend(3, None, None, 1, 1)


# Limits and suggestions


@given(
    st.lists(st.tuples(st.integers(0, 30).map(lambda n: n * SNAPSHOT_EVERY), st.integers(1, 9)), max_size=12),
    st.integers(0, 60),
)
def test_snapshots_are_removed_until_they_fit(snapshots: list[tuple[int, int]], limit: int) -> None:
    removed = thinned(snapshots, limit)
    left = [s for i, s in enumerate(snapshots) if i not in removed]
    assert len(removed) == len(set(removed))
    assert sum(size for _, size in left) <= limit
    if sum(size for _, size in snapshots) <= limit:
        assert not removed


def test_snapshots_that_remain_are_evenly_spaced() -> None:
    snapshots = [(32 * n, 1) for n in range(1, 9)]
    removed = thinned(snapshots, 4)
    assert sorted(snapshots[i][0] for i in set(range(8)) - set(removed)) == [64, 128, 192, 256]


def test_the_most_useful_frame_is_in_the_middle_of_the_error_and_the_next_one_elsewhere() -> None:
    errors = [0.0] * 100
    errors[20:31] = [0.5] * 11
    errors[70] = 0.9
    assert most_useful(errors, {0}, 2, reach=8) == [25, 70]
    assert most_useful(errors, {0, 24, 26}, 1, reach=8)[0] != 25


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sets(st.integers(0, 29)), st.integers(1, 40))
def test_suggested_frames_are_distinct_and_not_given(errors: list[float], taken: set[int], k: int) -> None:
    taken = {t for t in taken if t < len(errors)}
    found = most_useful(errors, taken, k, 8)
    assert len(found) == len(set(found)) == min(k, len(errors) - len(taken))
    assert not set(found) & taken


# Edits


def test_edits_change_objects_and_undo_and_redo_change_them_back() -> None:
    edits = [edit("mask", 1), edit("mask", 2, 5, "n"), edit("rename", 2, other=9), edit("undo", 0), edit("undo", 0)]
    done, undone = states_of(edits)
    assert list(done[-1].objects) == [1]
    assert [sorted(s.objects) for s in undone] == [[1, 9], [1, 2]]
    done, undone = states_of([*edits, edit("redo", 0)])
    assert (list(done[-1].objects), len(undone)) == ([1, 2], 1)
    done, undone = states_of([*edits, edit("mask", 3, 7)])
    assert (list(done[-1].objects), undone) == ([1, 3], [])


def test_swapped_objects_exchange_their_tracks_from_a_frame_on() -> None:
    state = states_of([edit("mask", 1, 0, "a"), edit("mask", 2, 0, "b"), edit("swap", 1, 20, other=2)])[0][-1]
    spans = {i: [(t.number, t.start, t.stop) for t in tracks] for i, tracks in state.objects.items()}
    end = spans[1][1][2]
    assert spans == {1: [(1, 0, 20), (2, 20, end)], 2: [(2, 0, 20), (1, 20, end)]}
    corrected = applied(state, edit("mask", 1, 30, "c"))
    late, early = corrected.objects[1][1], corrected.objects[2][0]
    assert sorted(late.given) == [0, 30]
    assert sorted(early.given) == [0], "the correction reached over the frame of the swap"
    back = applied(state, edit("swap", 1, 20, other=2))
    assert {i: {t.number for t in tracks} for i, tracks in back.objects.items()} == {1: {1}, 2: {2}}


def test_a_correction_of_merged_objects_is_the_whole_mask() -> None:
    edits = [edit("mask", 1, 0, "a"), edit("mask", 2, 0, "b"), edit("merge", 1, other=2), edit("mask", 1, 30, "c")]
    state = states_of(edits)[0][-1]
    assert list(state.objects) == [1]
    assert [t.given[30] for t in state.objects[1]] == [("c", 3, False), ("none", 3, True)]


def test_clearing_the_last_mask_removes_the_object() -> None:
    state = states_of([edit("mask", 1, 0), edit("mask", 1, 9), edit("clear", 1, 9)])[0][-1]
    assert state.given_frames(1) == [0]
    assert not applied(state, edit("clear", 1, 0)).objects


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (edit("clear", 1, 5), r"expected a frame on which object 1 is given \(0\), got 5"),
        (edit("remove", 7), r"expected one of the objects \(1, 2\), got 7"),
        (edit("rename", 1, other=2), r"expected an id that is not in use \(1, 2\), got 2: use merge_objects"),
        (edit("rename", 1, other=0), r"expected an object id from 1 to 65535, got 0"),
        (edit("rename", 1, other=70000), r"expected ids from 1 to 65535, got 70000"),
        (edit("merge", 1, other=1), r"expected two objects, got 1 twice"),
        (edit("swap", 1, 3, other=4), r"expected one of the objects \(1, 2\), got 4"),
        (edit("mask", True, 3), r"expected an object id from 1 to 65535, got True"),
    ],
)
def test_wrong_edits_are_refused_in_one_line(wrong: dict[str, Any], line: str) -> None:
    state = states_of([edit("mask", 1), edit("mask", 2)])[0][-1]
    with pytest.raises(ValueError, match=line):
        applied(state, wrong)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["mask", "clear", "remove", "rename", "merge", "swap"]),
            st.integers(1, 3),
            st.integers(1, 4),
            st.integers(0, 9),
        ),
        max_size=14,
    )
)
def test_after_any_edits_each_object_has_one_mask_source_on_every_frame(edits: list[tuple[str, int, int, int]]) -> None:
    state = State()
    for name, a, b, frame in edits:
        try:
            state = applied(state, edit(name, a, frame, f"m{frame}", b))
        except ValueError:
            continue
    for frame in range(10):
        numbers = [t.number for t in state.tracks if t.covers(frame)]
        assert len(numbers) == len(set(numbers)), "two objects show the same track"
    for tracks in state.objects.values():
        assert all(t.given and t.start < t.stop for t in tracks)
