"""What a session computes again, as functions of frame numbers: no network, no files.

Each track has results of two directions. The forward result of a frame comes from the nearest given frame before it, the
backward result from the nearest one after it. A result is stored under that given frame and its mask. An edit therefore
changes the origin of exactly those frames that have no other given frame of the track between them and the edit, in one
direction on each side; the results of all others are found again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hodor.sessions.edits import Track

SNAPSHOT_EVERY = 32
"""Frames between two snapshots of the memory."""
SNAPSHOT_BYTES = 256 << 20
"""Default limit of the snapshots of a session, in bytes."""
MAX_REPLAY = 64
"""The largest number of frames that are followed again, without a new result, to reach the first frame to compute."""
EMPTY_WEIGHT = 0.2
"""The weight of the side of an empty given mask, where that of a mask with pixels is its confidence."""
REACH = 16
"""The distance in frames at which `most_useful` expects no effect of a correction."""
LOST_ERROR = 0.5
"""The expected error of an object that has no pixel: it has left the frame, or it was lost."""
MIN_WEIGHT = 0.01
"""The weight of a direction that lost the object."""


class Leg(NamedTuple):
    """Consecutive frames that a tracker goes through at once.

    Attributes:
        direction: 1 in order of time, -1 against it.
        first: the frame with which it begins.
        last: the frame with which it ends.
        computed: the tracks that are computed, and the frames of each.
    """

    direction: int
    first: int
    last: int
    computed: Mapping[int, frozenset[int]]

    @property
    def frames(self) -> range:
        """The frames, in the direction of the leg."""
        return range(self.first, self.last + self.direction, self.direction)


class Start(NamedTuple):
    """How the memory before a leg is made.

    Attributes:
        frame: the first frame that is followed. Its given masks, and for `fresh` also the present results of other objects, are
            used as given.
        fresh: whether the memory begins empty, with the masks of `pins`; else it is the snapshot of the frame before `frame`.
        pins: earlier given frames whose masks the memory needs, in the direction of the leg.
    """

    frame: int
    fresh: bool
    pins: tuple[int, ...] = ()


def blend(frame: int, before: int | None, after: int | None, forward: float, backward: float) -> tuple[float, float]:
    """Return the weights of the forward and the backward result of a frame; their sum is 1.

    A weight is the confidence of the result times the closeness of its given frame: at `before` the forward result counts
    alone, at `after` the backward one.

    Args:
        frame: the frame.
        before: the given frame before it, None if there is none.
        after: the given frame after it, None if there is none.
        forward: confidence of the forward result, in [0, 1].
        backward: confidence of the backward result, in [0, 1].

    Raises:
        ValueError: "expected a given frame before or after frame 3, got none".
    """
    if before is None and after is None:
        raise ValueError(f"expected a given frame before or after frame {frame}, got none")
    if after is None:
        return 1.0, 0.0
    if before is None:
        return 0.0, 1.0
    length = after - before
    one = max(forward, MIN_WEIGHT) * (after - frame) / length
    two = max(backward, MIN_WEIGHT) * (frame - before) / length
    return one / (one + two), two / (one + two)


def to_compute(track: Track, direction: int, frames: range, count: int, has: Callable[[str, int], bool]) -> frozenset[int]:
    """Return the frames of a track whose result of one direction must be computed, so that those of `frames` are complete.

    Where a result is missing, those between it and its given frame are computed too, if they are missing. What comes from an
    empty given mask is empty and is not computed.

    Args:
        track: the track.
        direction: 1 or -1.
        frames: the frames that must be complete.
        count: number of frames of the video.
        has: whether a run, by its name, has a result of a frame.
    """
    found = set[int]()
    given = sorted(track.given, reverse=direction < 0)
    for origin, limit in itertools.pairwise([*given, count if direction > 0 else -1]):
        if track.given[origin].empty:
            continue
        run = track.run(origin, direction)
        missing = [t for t in range(origin + direction, limit, direction) if not has(run, t)]
        needed = [t for t in missing if t in frames and track.covers(t)]
        if needed:
            found.update(t for t in missing if direction * t <= direction * needed[-1])
    return frozenset(found)


def legs(tracks: Mapping[int, frozenset[int]], direction: int) -> list[Leg]:
    """Divide the frames to compute into legs, in their direction.

    Args:
        tracks: number of a track -> the frames to compute.
        direction: 1 or -1.
    """
    frames = sorted(set[int]().union(*tracks.values()), reverse=direction < 0)
    made: list[Leg] = []
    for _, group in itertools.groupby(enumerate(frames), lambda pair: pair[1] - direction * pair[0]):
        members = [t for _, t in group]
        span = frozenset(members)
        made.append(Leg(direction, members[0], members[-1], {n: each & span for n, each in tracks.items() if each & span}))
    return made


def live(tracks: Mapping[int, Track], frame: int, direction: int) -> dict[int, int]:
    """Return the tracks that a memory contains after a frame, with the given frame from which each comes.

    A track whose latest given mask is empty is not among them.
    """
    origins = {n: track.origin(frame, direction) for n, track in tracks.items()}
    return {n: k for n, k in origins.items() if k is not None and not tracks[n].given[k].empty}


def basis(tracks: Mapping[int, Track], frame: int, direction: int) -> list[list[int | str]]:
    """Return what a snapshot after a frame depends on: the first and the latest given mask of each track up to there.

    A snapshot can be used where its basis is that of the present edits. Other given masks are not kept in a tracker's memory.
    """
    rows: list[list[int | str]] = []
    for n, latest in sorted(live(tracks, frame, direction).items()):
        first = min(tracks[n].given, key=lambda k: direction * k)
        rows.append([n, *(value for k in (first, latest) for value in (k, tracks[n].given[k].mask))])
    return rows


def start_of(leg: Leg, tracks: Mapping[int, Track], snapshots: Iterable[int], pin_first: bool) -> Start:
    """Decide from where the memory before a leg is made.

    From the latest snapshot between the given frame and the leg if there is one. Else from the given frame, if all objects
    are given there: predictions from before a given mask are not used after it. Else from the nearest snapshot before the
    given frame, so that the other objects are remembered as they were. If there is none within `MAX_REPLAY` frames, from the
    given frame, at which the present results of the other objects are used as if they were given.

    Args:
        leg: the frames to compute.
        tracks: number -> track, of all that are followed on these frames.
        snapshots: frames after which there is a snapshot with the present basis.
        pin_first: whether the memory keeps the first given mask of each object.
    """
    d = leg.direction
    before = live(tracks, leg.first - d, d)
    origins = [before[n] for n in leg.computed if n in before]
    if not origins:
        raise ValueError(f"expected a given frame before frame {leg.first} in direction {d}, got none")
    given = min(origins, key=lambda k: d * k)
    latest = max((s for s in snapshots if d * s < d * leg.first), key=lambda s: d * s, default=None)
    present = live(tracks, given, d)
    is_complete = all(k == given for k in present.values())
    if latest is not None and (d * latest >= d * given or (not is_complete and d * (given - latest) <= MAX_REPLAY)):
        return Start(latest + d, False)
    pins = set[int]()
    for n, k in present.items():
        with_pixels = [t for t, each in tracks[n].given.items() if d * t < d * given and not each.empty]
        if pin_first:
            pins.update(sorted(with_pixels, reverse=d < 0)[:1])
        if k != given:
            pins.add(k)
    return Start(given, True, tuple(sorted(pins, reverse=d < 0)))


def thinned(snapshots: Sequence[tuple[int, int]], limit: int) -> list[int]:
    """Return the positions of the snapshots to remove, so that the others fit a limit and stay evenly spaced.

    Args:
        snapshots: (frame, bytes) of each snapshot of one direction.
        limit: bytes that the rest can have.
    """
    kept = sorted(range(len(snapshots)), key=lambda i: snapshots[i][0])
    removed = []
    while kept and sum(snapshots[i][1] for i in kept) > limit:
        # the one whose neighbours are closest to each other; the last one has no successor and is removed at the end
        gaps = [snapshots[kept[n + 1]][0] - (snapshots[kept[n - 1]][0] if n else 0) for n in range(len(kept) - 1)]
        removed.append(kept.pop(min(range(len(gaps)), key=gaps.__getitem__) if gaps else 0))
    return removed


def most_useful(errors: Sequence[float], taken: Collection[int], k: int, reach: int) -> list[int]:
    """Return the frames whose correction is expected to remove the largest error, the best one first.

    A correction of frame c removes the share 1 - |t - c| / reach of the error that is expected on frame t, but nothing beyond
    the next given frame. After each choice the error is reduced by this share, so that the next frame is elsewhere.

    Args:
        errors: expected error of each frame, at least 0.
        taken: frames that cannot be chosen, because they are given.
        k: number of frames.
        reach: distance in frames at which a correction has no effect.
    """
    left, chosen = list(errors), list[int]()
    bounds = set(taken)
    while len(chosen) < min(k, len(errors) - len(set(taken))):
        best, gain = -1, -1.0
        for c in range(len(left)):
            if c in bounds:
                continue
            total = sum(left[t] * share for t, share in shares(c, len(left), bounds, reach))
            if total > gain:
                best, gain = c, total
        for t, share in shares(best, len(left), bounds, reach):
            left[t] *= 1 - share
        chosen.append(best)
        bounds.add(best)
    return chosen


def shares(frame: int, count: int, bounds: Collection[int], reach: int) -> Iterator[tuple[int, float]]:
    """Yield the frames that a correction reaches, with the share of their error that it is expected to remove."""
    yield frame, 1.0
    for d in (1, -1):
        for n in range(1, reach):
            t = frame + d * n
            if t in bounds or not 0 <= t < count:
                break
            yield t, 1 - n / reach


def expected_error(trust: Mapping[int, tuple[float, float]], frame: int, given: Mapping[int, Sequence[int]]) -> float:
    """Return the error to expect on a frame, the sum over its objects of 1 - confidence * agreement, raised with distance.

    Between two given frames it is half of that, because the two directions correct each other.

    Args:
        trust: id -> confidence and agreement of the two directions, of the objects that are not given on the frame.
        frame: index of the frame.
        given: id -> the frames on which the object is given.
    """
    total = 0.0
    for i, (confidence, agreement) in trust.items():
        error = 1 - confidence * agreement if confidence else LOST_ERROR
        if min(given[i], default=frame) < frame < max(given[i], default=frame):
            error /= 2
        distance = min((abs(frame - k) for k in given[i]), default=frame)
        total += error * (1 - 1 / (1 + distance / REACH) / 2)
    return total
