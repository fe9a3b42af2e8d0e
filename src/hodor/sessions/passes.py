"""Run the tracker over the frames that a session must compute, and store what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from hodor.masks import Labels
from hodor.sessions.edits import State, Track
from hodor.sessions.planning import SNAPSHOT_EVERY, Leg, basis, legs, live, start_of, to_compute
from hodor.sessions.results import FrameResult, Geometry, Soft, encoded
from hodor.sessions.store import Plane, Store, basis_hash
from hodor.tracking import Tracked, Tracker
from hodor.video.source import Frame, Source, prefetch


class EndedError(Exception):
    """The source ends before the number of frames that it announces; the argument is the last frame that can be read."""


class Passes:
    """The passes of a session over its source.

    Args:
        source: the frames; they can be read again.
        new_tracker: makes a tracker without objects.
        store: where results are stored.
        snapshot_bytes: limit of all snapshots together, in bytes.
        result_of: the present result of a frame, None where one is missing.
    """

    def __init__(
        self,
        source: Source,
        new_tracker: Callable[[], Tracker],
        store: Store,
        snapshot_bytes: int,
        result_of: Callable[[State, int], FrameResult | None],
    ) -> None:
        self._source, self._new_tracker, self._store = source, new_tracker, store
        self._snapshot_bytes, self._result_of = snapshot_bytes, result_of
        self.geometry = None if (stored := store.geometry()) is None else Geometry.read(stored)
        self.steps = 0
        """Number of frames that the network has processed, those without a new result included."""

    def plan(self, state: State, direction: int, frames: range, count: int) -> list[tuple[Leg, dict[int, Track]]]:
        """Return the legs of one direction that make the results of these frames complete, with the tracks of each.

        Args:
            state: the objects.
            direction: 1 or -1.
            frames: the frames.
            count: number of frames of the source.
        """
        missing = [(t, to_compute(t, direction, frames, count, self._store.has)) for t in state.tracks]
        return self.divided(state, direction, missing)

    def divided(
        self, state: State, direction: int, missing: Sequence[tuple[Track, frozenset[int]]]
    ) -> list[tuple[Leg, dict[int, Track]]]:
        """Return the legs that compute the missing frames of these tracks, with all tracks that are followed on each.

        Args:
            state: the objects.
            direction: 1 or -1.
            missing: each track with its frames to compute.
        """
        planned = []
        remaining = [(track, frames) for track, frames in missing if frames]
        while remaining:
            group: dict[int, Track] = {}
            for track, _ in remaining:
                group.setdefault(track.number, track)
            # after a swap two tracks have one number: each has its own given masks, and is followed by itself
            later = [(t, frames) for t, frames in remaining if group[t.number] is not t]
            chosen = {t.number: frames for t, frames in remaining if group[t.number] is t}
            for leg in legs(chosen, direction):
                others = {t.number: t for t in state.tracks if t.covers(leg.first)}
                planned.append((leg, {**others, **{n: group[n] for n in leg.computed}}))
            remaining = later
        return sorted(planned, key=lambda one: direction * one[0].first)

    def run(self, state: State, leg: Leg, tracks: Mapping[int, Track]) -> Iterator[int]:
        """Compute a leg; yield each frame that is followed, those before the leg included, when its results are stored.

        Args:
            state: the objects, from which the present results of other objects are read.
            leg: the frames to compute.
            tracks: number -> track, of all that are followed.
        """
        d = leg.direction
        tracker = self._new_tracker()
        usable = [s.frame for s in self._store.snapshots() if s.direction == d and s.basis == self._basis(tracks, s.frame, d)]
        start = start_of(leg, tracks, usable, tracker.pin_first)
        if not start.fresh:
            before = start.frame - d
            tracker.restore(self._store.snapshot_path(d, before, self._basis(tracks, before, d)))
        for pin in start.pins:
            self._step(tracker, self._source.frame(pin), tracks, None)
        reached = start.frame - d
        span = (start.frame, leg.last + 1) if d > 0 else (leg.last, start.frame + 1)
        with contextlib.closing(prefetch(self._source.frames(*span, reverse=d < 0))) as frames:
            for frame in frames:
                if frame.index != reached + d:
                    break
                reached = frame.index
                is_start = start.fresh and frame.index == start.frame
                found = self._step(tracker, frame, tracks, self._present(state, frame.index, tracks) if is_start else None)
                for number in (n for n, each in leg.computed.items() if frame.index in each):
                    self._keep(tracks[number], frame.index, d, number, found)
                for number in set(tracker.objects) - live(tracks, frame.index, d).keys():
                    tracker.remove(number)
                self._snapshot(tracker, tracks, frame.index, d)
                yield frame.index
        if reached != leg.last:
            raise EndedError(reached if d > 0 else start.frame - 1)

    def full(self, plane: Soft, size: tuple[int, int]) -> Soft:
        """Enlarge a plane to the frame's own size; there must be a result."""
        if self.geometry is None:
            raise ValueError("expected a stored result, got none: compute one first")
        enlarged: Soft = self.geometry.full(torch.from_numpy(plane)[None], size)[0].numpy()
        return enlarged

    def _step(self, tracker: Tracker, frame: Frame, tracks: Mapping[int, Track], present: Labels | None) -> Tracked:
        """Follow one frame; given masks are used, and `present` for the tracks that are not given on it."""
        self.steps += 1
        given = sorted((t.given[frame.index].order, n, t) for n, t in tracks.items() if frame.index in t.given)
        labels = np.zeros(frame.image.shape[:2], np.uint16) if present is None else present.copy()
        labels[np.isin(labels, [n for _, n, _ in given])] = 0
        for _, n, track in given:
            labels[self._store.mask(track.given[frame.index].mask)] = n
        ids = [n for _, n, _ in given]
        if not ids and not labels.any():
            return tracker.step(frame.image)
        return tracker.step(frame.image, labels, sorted({*ids, *np.unique(labels).tolist()} - {0}))

    def _present(self, state: State, frame: int, tracks: Mapping[int, Track]) -> Labels | None:
        """The present result of a frame, with the numbers of tracks instead of ids; without objects of several tracks."""
        result = self._result_of(state, frame)
        if result is None:
            return None
        labels = np.zeros(result.labels.shape, np.uint16)
        for i in result.objects:
            here = [t for t in state.objects[i] if t.covers(frame) and t.number in tracks]
            if len(here) == 1:
                labels[result.labels == i] = here[0].number
        return labels

    def _keep(self, track: Track, frame: int, direction: int, number: int, found: Tracked) -> None:
        """Store the result of a track."""
        planes, features = found.planes(None if self.geometry is None else self.geometry.grid)
        if self.geometry is None:
            height, width = planes.shape[-2:]
            self.geometry = Geometry(features.size, features.padded, features.offset, (height, width))
            self._store.write_geometry(self.geometry.stored)
        origin = track.origin(frame, direction)
        if origin is None or number not in found.objects:
            return
        values = encoded(planes[found.objects.index(number)])
        confidence = round(float(found.confidence[number]), 4)
        self._store.write_plane(track.run(origin, direction), frame, Plane(values, confidence))

    def _basis(self, tracks: Mapping[int, Track], frame: int, direction: int) -> str:
        return basis_hash(basis(tracks, frame, direction))

    def _snapshot(self, tracker: Tracker, tracks: Mapping[int, Track], frame: int, direction: int) -> None:
        if frame % SNAPSHOT_EVERY or not tracker.objects:
            return
        path = self._store.snapshot_path(direction, frame, self._basis(tracks, frame, direction))
        if not path.is_file():
            tracker.save(path)
            self._store.thin(self._snapshot_bytes)
