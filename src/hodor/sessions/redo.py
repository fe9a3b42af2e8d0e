"""Add masks to a finished run of `segment`: only frames from an added mask to its neighbours are computed and written again.

A finished run leaves `run.json` in its folder: how it was made, the hashes of the given masks, and the confidence of every
object on every frame. Masks that are added to the same run are then corrections, as in a session. Results that the run has
already are blended with the new ones as its masks; the old files of changed frames are kept in `.hodor-redo` until all files
are written, so that a killed call can be repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hodor.files import DAMAGES, parse_json
from hodor.masks import Labels, label_dtype, objects_in, read_labels
from hodor.outputs import writers
from hodor.outputs.background import BackgroundWriter
from hodor.outputs.records import TableWriter
from hodor.outputs.selection import Outputs
from hodor.outputs.summary import Summary
from hodor.outputs.writers import Result
from hodor.sessions.edits import State, Track, applied
from hodor.sessions.passes import Passes
from hodor.sessions.planning import SNAPSHOT_BYTES, blend, to_compute
from hodor.sessions.results import FrameResult, Soft, decoded
from hodor.sessions.store import Store
from hodor.tracking import Tracker
from hodor.video.extent import Extent
from hodor.video.source import prefetch

RUN = "run.json"
FOLDER = ".hodor-redo"
Masks = Mapping[int, Labels]


class RunWriter(TableWriter):
    """Write run.json when a run is finished. Its lines are kept as those of other records, so that a killed run can resume.

    Args:
        path: the file.
        keep: names of the finished frames of the run to resume. Default: a new run.
        job: how the run is made.
        masks: the given masks.
    """

    def __init__(self, path: Path, keep: Any, job: Mapping[str, Any], masks: Masks) -> None:
        super().__init__(path, keep)
        self._about = {"job": dict(job), "given": {str(i): given_hash(labels) for i, labels in sorted(masks.items())}}

    def _assembled(self) -> Iterator[str]:
        yield json.dumps(self._about, indent=1)[:-2] + ',\n "frames": {'
        for number, record in enumerate(self._records()):
            objects = {str(one["object"]): one["confidence"] for one in record["objects"]}
            yield f"{',' if number else ''}\n  {json.dumps(record['name'])}: {json.dumps(objects)}"
        yield "\n }\n}\n"

    def close(self, finished: bool = True) -> None:
        """Write the file if the run is finished."""
        if finished:
            super().close()


def given_hash(labels: Labels) -> str:
    """Return 16 hexadecimal digits for labels, whatever their dtype."""
    return hashlib.sha256(repr(labels.shape).encode() + labels.astype("<u2").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Added:
    """A finished run with masks that are added to it.

    Attributes:
        extent: the frames of the run.
        count: index after the last frame.
        masks: all given masks.
        frames: the frames of those that are added.
        confidence: name of a frame -> id -> confidence of the finished run, None if unknown.
        backward: whether results of later masks reach earlier frames.
    """

    extent: Extent
    count: int
    masks: Masks
    frames: frozenset[int]
    confidence: Mapping[str, Mapping[int, float | None]]
    backward: bool

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids of all given masks."""
        return tuple(sorted({i for labels in self.masks.values() for i in objects_in(labels)}))

    def given_of(self, obj_id: int, *, before: bool = False) -> list[int]:
        """Return the frames on which an object is given, `before` those that were added or with them."""
        frames = (k for k, labels in self.masks.items() if not (before and k in self.frames) and (labels == obj_id).any())
        return sorted(frames)

    def changed(self) -> dict[int, set[int]]:
        """Return for each object that an added mask shows the frames whose result changes."""
        first, found = min(k for k in self.masks if k not in self.frames), dict[int, set[int]]()
        for k in sorted(self.frames):
            for i in objects_in(self.masks[k]):
                given = self.given_of(i)
                low = max((t for t in given if t < k), default=self.extent.start - 1 if k < first else k - 1)
                high = min((t for t in given if t > k), default=self.count)
                found.setdefault(i, set()).update(range(low + 1 if self.backward else k, high))
        return found


def added_to(outputs: Outputs, extent: Extent, masks: Masks, job: Mapping[str, Any]) -> Added | None:
    """Return the finished run in a folder, if the masks of this call are those of that run and at least one more.

    Args:
        outputs: the outputs of this call.
        extent: the frames of this call.
        masks: the masks of this call.
        job: how the run of this call is made, as `RunWriter` has it; "mask" is not compared.

    Returns:
        The run, None if there is none, or if it cannot be continued like this: another source, network or setting, other
        outputs, changed or missing masks, ids that need other files, outputs from soft masks that were not written, or masks
        that were refined.
    """
    restore(outputs)
    path = outputs.folder / RUN
    with contextlib.suppress(OSError, *DAMAGES):
        stored = parse_json(path.read_bytes())
        given, before = {int(i): str(h) for i, h in stored["given"].items()}, dict(stored["job"])
        frames = {str(n): {int(i): c for i, c in row.items()} for n, row in stored["frames"].items()}
        now, count = {i: given_hash(labels) for i, labels in masks.items()}, extent.start + len(frames)
        new = frozenset(now) - frozenset(given)
        same = {k: v for k, v in before.items() if k != "mask"} == {
            k: v for k, v in json.loads(json.dumps(job)).items() if k != "mask"
        }
        names = [extent.name_of(i) for i in range(extent.start, count)]
        old_ids = {i for row in frames.values() for i in row}
        ids = {i for labels in masks.values() for i in objects_in(labels)}
        # masks and soft masks are those of the network, not refined, and the files of all objects can be made from them
        is_plain = not outputs.chosen and (outputs.soft or not outputs.needs_soft)
        fits = is_plain and label_dtype(max(old_ids)) == label_dtype(max(ids))
        is_whole = set(frames) == set(names) <= writers.completed(outputs.masks)
        if new and same and fits and is_whole and max(new) < count and all(now.get(i) == h for i, h in given.items()):
            return Added(extent, count, masks, new, frames, bool(before["backward"]))
    return None


def restore(outputs: Outputs) -> None:
    """Put the old files of a killed call back, so that the folder is that of the finished run."""
    for folder in (outputs.masks, outputs.soft_folder):
        for path in (outputs.folder / FOLDER / folder.name).glob("[!.]*"):
            shutil.copyfile(path, part := folder / f".{path.name}.part")
            part.replace(folder / path.name)


def redo(
    added: Added,
    outputs: Outputs,
    new_tracker: Callable[[], Tracker],
    run: RunWriter,
    watchers: Sequence[writers.Writer],
    progress: Callable[[int, int | None], None],
) -> Summary:
    """Compute and write what added masks change; files of all frames together are written again from all frames.

    Args:
        added: the run.
        outputs: its outputs.
        new_tracker: makes a tracker without objects.
        run: the writer of run.json.
        watchers: further writers; they get every frame in order of time.
        progress: called with the number of computed frames, and of those to compute.
    """
    folder = outputs.folder / FOLDER
    with contextlib.closing(Store(folder)) as store:
        summary = _redone(_Redo(added, outputs, store, new_tracker), [*watchers, run], progress)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def _redone(work: _Redo, last: list[writers.Writer], progress: Callable[[int, int | None], None]) -> Summary:
    added, outputs = work.added, work.outputs
    summary = Summary(objects=added.objects)
    total = sum(map(len, added.changed().values()))
    for number, _ in enumerate(work.compute(), 1):
        progress(number, max(number, total))
    summary.tracked = work.passes.steps
    results = {t: work.result(t) for t in sorted(set[int]().union(*work.changed.values()))}
    for t in results:
        work.keep_old(t)
    source = added.extent.source
    with contextlib.ExitStack() as opened:
        every = [*outputs.records(None, source.name), *outputs.streams(source.rate, source, added.extent.start), *last]
        all_writers = [opened.enter_context(w) for w in every]

        def write(result: Result) -> None:
            for writer in all_writers:
                per_frame = isinstance(writer, writers.MaskWriter | writers.SoftWriter | writers.CutoutWriter)
                if not per_frame or result.index in results:
                    writer.write(result)

        with (
            BackgroundWriter(write) as background,
            contextlib.closing(prefetch(added.extent.frames(added.count))) as frames,
        ):
            for frame in frames:
                found = results.get(frame.index) or work.old(frame.index)
                lost = frozenset(found.objects) - frozenset(objects_in(found.labels))
                for i in lost:
                    summary.lost.setdefault(i, []).append(frame.name)
                picture = frame.index, frame.name, frame.time, frame.image
                made = Result(*picture, found.labels, found.objects, found.soft, found.confidence, lost, frame.deep)
                background.write(made)
                summary.frames += 1
        for writer in all_writers:  # run.json last: until then the call can be repeated
            writer.close()
            summary.notes += writer.notes
    return summary


class _Redo:
    """One call of `redo`."""

    def __init__(self, added: Added, outputs: Outputs, store: Store, new_tracker: Callable[[], Tracker]) -> None:
        self.added, self.outputs, self.store, self.changed = added, outputs, store, added.changed()
        self.state = State()
        for k, labels in sorted(added.masks.items()):
            for i in objects_in(labels):
                mask = self.store.put(np.asarray(labels == i))
                edit = {"edit": "mask", "frame": k, "object": i, "mask": mask, "empty": False}
                self.state = applied(self.state, edit)
        store.use("run")
        self.passes = Passes(added.extent.source, new_tracker, store, SNAPSHOT_BYTES, lambda _, t: self.old(t))

    def old(self, frame: int) -> FrameResult:
        """Return the result of the finished run."""
        name = self.added.extent.name_of(frame)
        labels = read_labels(self.outputs.masks / f"{name}.png")
        row = self.added.confidence[name]
        soft = None
        if self.outputs.soft:
            soft, _ = writers.read_soft(self.outputs.soft_folder / f"{name}.npz")
        return FrameResult(labels, tuple(row), {i: c for i, c in row.items() if c is not None}, {}, soft)

    def compute(self) -> Iterator[int]:
        """Compute what is missing; yield each frame."""
        for direction in (1, -1) if self.added.backward else (1,):
            missing = [
                (track, to_compute(track, direction, range(self.added.count), self.added.count, self._has(i, track)))
                for i in self.changed
                for track in self.state.objects[i]
            ]
            for leg, tracks in self.passes.divided(self.state, direction, missing):
                steps = self.passes.run(self.state, leg, tracks)
                yield from (frame for frame in steps if direction * frame >= direction * leg.first)

    def _has(self, obj_id: int, track: Track) -> Callable[[str, int], bool]:
        """Whether a result exists already or is not needed: on frames that do not change, and as a mask of the finished run."""
        return lambda run, t: t not in self.changed[obj_id] or self.store.has(run, t) or run == self._old_run(obj_id, track, t)

    def _old_run(self, obj_id: int, track: Track, frame: int) -> str | None:
        """The run that the mask of the finished run is of: the forward pass from the mask before, else the backward pass."""
        given = self.added.given_of(obj_id, before=True)
        if not given:
            return None
        origin = max((k for k in given if k <= frame), default=None)
        return track.run(given[0], -1) if origin is None else track.run(origin, 1)

    def result(self, frame: int) -> FrameResult:
        """Return the new result of a frame that changes."""
        old = self.old(frame)
        ids = tuple(sorted({*old.objects, *(i for i, frames in self.changed.items() if frame in frames)}))
        labels, confidence, values = old.labels.copy(), dict(old.confidence), dict[int, Soft]()
        if old.soft is not None:
            values = dict(zip(old.objects, old.soft, strict=True))
        best = np.full(labels.shape, 0.5, np.float32)
        concerned = [i for i, frames in self.changed.items() if frame in frames]
        labels[np.isin(labels, concerned)] = 0
        for i in concerned:
            if frame not in self.state.objects[i][0].given:
                values[i], confidence[i] = self._blended(i, frame, old)
                wins = values[i] > best
                labels[wins] = i
                best = np.maximum(best, values[i])
        given = self.added.masks.get(frame)
        if given is not None:
            labels[given > 0] = given[given > 0]
            for i in objects_in(given):
                values[i], confidence[i] = (given == i).astype(np.float32), 1.0
        found = set(objects_in(labels))
        soft = None if old.soft is None else np.stack([values[i] for i in ids])
        return FrameResult(labels, ids, {i: confidence.get(i, 0.0) if i in found else 0.0 for i in ids}, {}, soft)

    def _blended(self, obj_id: int, frame: int, old: FrameResult) -> tuple[Soft, float]:
        """The soft mask of an object, from the new results and, where it is still of the same mask, the old one."""
        (track,) = self.state.objects[obj_id]
        origins = [track.origin(frame, d) for d in (1, -1)]
        size, found = old.labels.shape, list[tuple[Soft, float]]()
        for n, direction in enumerate((1, -1)):
            origin = origins[n]
            run = None if origin is None else track.run(origin, direction)
            if run is not None and self.store.has(run, frame):
                assert self.passes.geometry is not None
                plane = self.store.plane(run, frame)
                found.append((self.passes.full(decoded(plane.values), (size[0], size[1])), plane.confidence))
            elif run is not None and run == self._old_run(obj_id, track, frame):
                is_soft = old.soft is not None and obj_id in old.objects
                mask = old.soft[old.objects.index(obj_id)] if old.soft is not None and is_soft else old.labels == obj_id
                found.append((mask.astype(np.float32), old.confidence.get(obj_id, 0.0)))
            else:
                origins[n] = None
                found.append((np.zeros(size, np.float32), 0.0))
        (one, sure_1), (two, sure_2) = found
        forward, backward = blend(frame, origins[0], origins[1], sure_1, sure_2)
        return forward * one + backward * two, forward * sure_1 + backward * sure_2

    def keep_old(self, frame: int) -> None:
        """Keep the old files of a frame until all files are written."""
        name = self.added.extent.name_of(frame)
        for path in (self.outputs.masks / f"{name}.png", self.outputs.soft_folder / f"{name}.npz"):
            target = self.store.folder / path.parent.name / path.name
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, part := target.with_name(f".{target.name}.part"))
                part.replace(target)
