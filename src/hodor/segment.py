"""Segment a video from a source and a few masks, and write the results while it runs.

    summary = segment(open_source("clip.mp4"), {0: labels}, network, Outputs(Path("out"), overlay=True))

One thread decodes a few frames ahead, another writes results in the background; the network uses the remaining cores.
A run that was killed can be continued with `resume=True`. It then ends with the bytes of an uninterrupted run, except
for films, which are encoded again: their pictures are the same, their bytes need not be.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hodor.masks import Labels, fit_size, label_dtype, objects_in, read_labels
from hodor.models.base import Network
from hodor.models.weights import weights_hash
from hodor.outputs import writers
from hodor.outputs.background import BackgroundWriter
from hodor.outputs.selection import Outputs as Outputs
from hodor.outputs.summary import Summary as Summary
from hodor.outputs.writers import Result
from hodor.sessions.redo import RUN, Added, RunWriter, added_to, redo
from hodor.tracking import Tracker
from hodor.video.content import content_hash
from hodor.video.extent import Extent
from hodor.video.source import Frame, Source, prefetch

MAX_PENDING = 6
"""Maximum number of results that wait to be written."""
SAVE_EVERY = 20
"""Frames between two saves of the tracker's state: the maximum that a killed run computes again. Ctrl-C saves it as well."""

Progress = Callable[[int, int | None], None]


def segment(
    source: Source,
    masks: Mapping[int, Labels],
    network: Network,
    outputs: Outputs,
    *,
    history: int | None = None,
    size: int | None = None,
    backward: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    start_frame: int = 0,
    stop_frame: int | None = None,
    start_number: int | None = None,
    watchers: Sequence[writers.Writer] = (),
    progress: Progress = lambda count, total: None,
) -> Summary:
    """Follow the objects of the given masks through a source and write the results.

    The backward pass goes from the earliest mask back to the first frame. The forward pass then goes from the earliest
    mask to the last frame; masks on later frames are applied when it reaches them. Every frame gets a mask file.

    Args:
        source: the frames, from `hodor.frames.open_source`.
        masks: index of a frame (from 0) -> its labels [H, W], at the size of the frames; at least one.
        network: the network.
        outputs: the output folder and what is written besides masks.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        backward: run the backward pass. Without it, frames before the first mask are empty.
        resume: continue a killed run of the same source, masks, network and settings. If that run is complete and `masks` has
            further frames, only the frames from such a mask to the given masks before and after it are computed, see
            docs/sessions.md. Where there is no such run, all frames are computed from the start and `Summary.notes` states it.
        overwrite: remove the results of an earlier run from the folder before the first frame. Without it and without
            `resume`, a folder with masks is refused. With `resume`, nothing is removed if there is a run to resume.
        strict: raise at the first frame that does not decode, instead of using the picture before it.
        start_frame: index of the first frame that is used (the in point). Frames before it are neither tracked nor written.
        stop_frame: index of the last frame that is used (the out point); it is included. Default: the last one.
        start_number: number of the first file's name; the names are then 1001, 1002, ..., with at least four digits. Default:
            the names of the source. It changes only names: indices of frames are those of the source.
        watchers: further writers; they get every frame in order of time, those that an earlier process has finished included.
        progress: called after each frame with the number of frames so far and the number of all frames, None if
            unknown.

    Returns:
        The summary of the run.

    Raises:
        ValueError: "expected at least one mask, got none: ...", "mask for frame 90, but clip has frames 0 to 79: ...",
            "mask for frame 90, but clip ended at frame 79: ..." where this is only known at the end, "expected masks of frames
            30 to 60, the frames that are used, got one of frame 0: ...", as `Extent` for the other numbers, "expected objects
            of the masks to cut out (1, 2), got 9", "OUT holds another run (its history was 7, now 5): give another
            folder, or start again with overwrite instead of resume", "expected a folder without masks, got 60 masks of an
            earlier run in OUT/masks: ...", with
            `strict` "frame 37 of clip does not decode (...): use a whole copy of the file, or leave out strict".
    """
    if not masks:
        raise ValueError("expected at least one mask, got none: give labels by frame index")
    extent = Extent(source, start_frame, stop_frame, start_number)
    job = _Job(extent, dict(masks), network, outputs, history, size, backward, strict)
    job.watchers = watchers
    began = time.monotonic()
    try:
        if resume and (added := job.added()) is not None:
            job.summary = redo(added, outputs, job.new_tracker, job.run_writer(None), watchers, progress)
        else:
            job.run(resume, overwrite, progress)
    except KeyboardInterrupt:
        job.summary.interrupted = True
        job.save()
    job.summary.seconds = round(time.monotonic() - began, 3)
    job.summary.damaged = {i: message for i, message in sorted(source.damaged.items()) if i in extent}
    job.summary.stopped = None if job.last == extent.last else source.stopped
    job.summary.notes += source.notes
    return job.summary


class _Job:
    """One call of `segment`."""

    def __init__(
        self,
        extent: Extent,
        masks: dict[int, Labels],
        network: Network,
        outputs: Outputs,
        history: int | None,
        size: int | None,
        backward: bool,
        strict: bool,
    ) -> None:
        self.strict = strict
        self.extent, self.source = extent, extent.source
        self.masks, self.outputs, self.backward = masks, outputs, backward
        self.first = min(masks)
        self.summary = Summary(objects=tuple(sorted({int(i) for m in masks.values() for i in np.unique(m) if i})))
        history = network.history if history is None else history
        self.network, self.history, self.size = network, history, size
        self.state = outputs.folder / ".hodor-state.safetensors"
        self.resumed = range(0)
        """Frames that an earlier process finished before it was killed."""
        self.finished = range(0)
        """Frames whose results are on the disk before the forward pass: those resumed, and those of the backward pass."""
        self.counted = range(0)
        """Frames of the backward pass of this process, which are in the summary already."""
        self.last = -1
        """Index of the last frame that the forward pass has read."""
        self.written = -1
        """Index of the last frame whose files are complete."""
        self.reached: dict[int, tuple[str, int, Tracker]] = {}
        """Of the last two frames: index -> phase, index from which that phase continues, and the tracker after the frame."""
        self.watchers: Sequence[writers.Writer] = ()
        self._check()
        self.source.deep = outputs.needs_deep
        self.job = {
            "source": self.source.name,
            "content": content_hash(self.source),
            "frame size": list(self.source.size),
            "start frame": extent.start or None,
            "stop frame": extent.last,
            "start number": extent.start_number,
            "history": history,
            "pin_first": network.pin_first,
            "hold_lost": network.hold_lost,
            "size": size,
            "backward": backward,
            "mask": ", ".join(f"frame {i} {hashlib.sha256(m.tobytes()).hexdigest()[:8]}" for i, m in sorted(masks.items())),
            "network": weights_hash(network)[:16],
            "list of outputs": outputs.names,
        }

    def _check(self) -> None:
        """Raise before anything is written."""
        for i, labels in self.masks.items():
            if labels.shape != self.source.size:
                got, expected = (f"{h}x{w}" for h, w in (labels.shape, self.source.size))
                sideways = labels.shape == self.source.size[::-1]
                advice = "give the mask of the upright frame" if sideways else "resize it with nearest neighbour"
                raise ValueError(
                    f"expected a mask of {expected} pixels for frame {i}, the size of the frames, got {got}: {advice}"
                )
            if not objects_in(labels):
                raise ValueError(f"expected an id above 0 in the mask for frame {i}, got an empty mask")
        objects = self.summary.objects
        label_dtype(max(objects))
        for i in self.outputs.cut_out_objects:
            if i not in objects:
                raise ValueError(f"expected objects of the masks to cut out ({', '.join(map(str, objects))}), got {i}")
        self.new_tracker()
        fit_size(self.source.size, self.size)
        used = f"{self.extent.start} to {'the end' if self.extent.last is None else self.extent.last}"
        for i in self.masks:
            if i not in self.extent:
                advice = "give the mask of one of them, as FILE@FRAME, or other start and stop frames"
                raise ValueError(f"expected masks of frames {used}, the frames that are used, got one of frame {i}: {advice}")
        count = None if self.source.estimated else self.source.count
        if count is not None and max(self.masks) >= count:
            raise ValueError(
                f"mask for frame {max(self.masks)}, but {self.source.name} has frames 0 to {count - 1}: give one of them"
            )

    def new_tracker(self) -> Tracker:
        """Return a tracker without objects."""
        return Tracker(self.network, history=self.history, size=self.size)

    def added(self) -> Added | None:
        """Return the finished run in the folder to which masks are added, None if there is none or if a run was killed."""
        return None if self.state.is_file() else added_to(self.outputs, self.extent, self.masks, self.job)

    def run_writer(self, keep: set[str] | None) -> RunWriter:
        """Return the writer of run.json."""
        return RunWriter(self.outputs.folder / RUN, keep, self.job, self.masks)

    def run(self, resume: bool, overwrite: bool, progress: Progress) -> None:
        """Run the backward pass, then the forward pass; each result is passed to the writers when it is computed."""
        phase = self._restore_progress() if resume else ""
        masks = [] if phase else self.outputs.masks.glob("*.png")
        earlier = {path.stem for path in masks if not path.name.startswith(".")}
        if earlier and not overwrite:
            self._check_earlier(earlier, resume)
        if phase == "":
            self.state.unlink(missing_ok=True)
        if overwrite and phase == "":
            self.outputs.clear()
            earlier = set()
        keep = {self.extent.name_of(i) for i in self.resumed} if phase else None
        with contextlib.ExitStack() as open_writers:
            all_records = [self.run_writer(keep), *self.outputs.records(keep, self.source.name)]
            records = [open_writers.enter_context(w) for w in all_records]
            if self.backward and self.first > self.extent.start and phase != "forward":
                with BackgroundWriter(self._write_to(records), MAX_PENDING) as record_writer:
                    for result in self._track_backward(phase == "backward", record_writer):
                        self.finished = range(result.index, self.first)
                        self.counted = range(result.index, max(self.counted.stop, result.index + 1))
                        self._count(result, progress)
                for names in self.summary.lost.values():
                    names.reverse()  # into order of time
            made = self.outputs.streams(self.source.rate, self.source, self.extent.start)
            streams = [open_writers.enter_context(w) for w in [*made, *self.watchers]]
            with (
                BackgroundWriter(self._write_to(records), MAX_PENDING) as record_writer,
                BackgroundWriter(_write_to(streams), MAX_PENDING) as stream_writer,
            ):
                for result in self._track_forward(phase == "forward", record_writer):
                    stream_writer.write(result)
                    earlier.discard(result.name)
                    if result.index not in self.counted:
                        self._count(result, progress)
            # A run killed while its long files are assembled can still be resumed: the state is removed after that.
            for writer in [*streams, *records]:
                writer.close(finished=False)
                self.summary.notes += writer.notes
                self.summary.flicker |= writer.flicker
            self.reached.clear()
            self.state.unlink(missing_ok=True)
        if earlier:
            left = f"{len(earlier)} masks of an earlier run ({min(earlier)}, ...)"
            self.summary.notes.append(f"{self.outputs.masks} also holds {left}: remove them")
        if self.outputs.hides_soft:
            shutil.rmtree(self.outputs.soft_folder, ignore_errors=True)

    def _check_earlier(self, earlier: set[str], resume: bool) -> None:
        """Raise if results of an earlier run would be lost, or would lie beside those of this run."""
        folder, count = self.outputs.masks, None if self.source.estimated else self.extent.count
        if not resume:
            raise ValueError(
                f"expected a folder without masks, got {len(earlier)} masks of an earlier run in {folder}: "
                "give another folder, use overwrite to replace them, or resume to continue a run that was killed"
            )
        if count is not None and (strange := earlier - self._names(count)):
            raise ValueError(
                f"expected masks of {self.source.name} in {folder}, got {len(strange)} of another run ({min(strange)}, ...): "
                "give another folder, or use overwrite to replace them"
            )

    def _track_backward(self, restored: bool, record_writer: BackgroundWriter) -> Iterator[Result]:
        """Yield the results from the first mask back to the first frame; the mask's own frame is part of the forward pass."""
        tracker = self.new_tracker()
        if restored:
            tracker.restore(self.state)
        stop = self.finished.start if restored else self.first + 1
        with contextlib.closing(prefetch(self.extent.frames(stop, reverse=True))) as frames:
            for frame in frames:
                self._refuse_damage(frame)
                has_mask = frame.index == self.first
                if not has_mask and not tracker.objects:
                    raise ValueError(self._mask_after_the_end(frame.index))
                tracked = tracker.step(frame.image, self.masks[self.first] if has_mask else None)
                if has_mask:
                    continue
                result = self._result(frame, tracked)
                self._reach(frame, "backward", frame.index, tracker)
                record_writer.write(result)
                yield result
                if (self.first - frame.index) % SAVE_EVERY == 0:
                    record_writer.wait()
                    self.save()

    def _track_forward(self, restored: bool, record_writer: BackgroundWriter) -> Iterator[Result]:
        """Yield the result of every frame in order of time: finished ones are read back, the others are computed."""
        tracker = self.new_tracker()
        if restored:
            tracker.restore(self.state)
        with contextlib.closing(prefetch(self.extent.frames())) as frames:
            for frame in frames:
                self._refuse_damage(frame)
                self.last = frame.index
                if frame.index in self.finished:
                    yield self._read_back(frame)
                    continue
                if frame.index < self.first:
                    result = self._empty(frame)
                else:
                    result = self._result(frame, tracker.step(frame.image, self.masks.get(frame.index)))
                    self._reach(frame, "forward", frame.index + 1, tracker)
                record_writer.write(result)
                yield result
                if result.index >= self.first and (frame.index + 1 - self.first) % SAVE_EVERY == 0:
                    record_writer.wait()
                    self.save()
        last = self.last
        unused = [i for i in sorted(self.masks) if i > last]
        if unused and not self.summary.tracked and not self.finished:
            raise ValueError(self._mask_after_the_end(last))
        if unused:
            self.summary.notes.append(f"the mask for frame {unused[0]} was not used: the last frame is {last}")
        if self.extent.last is not None and last < self.extent.last:
            self.summary.notes.append(f"the stop frame {self.extent.last} was not reached: the last frame is {last}")

    def _refuse_damage(self, frame: Frame) -> None:
        if self.strict and frame.index in self.source.damaged:
            raise ValueError(
                f"frame {frame.index} of {self.source.name} does not decode ({self.source.damaged[frame.index]}): "
                "use a whole copy of the file, or leave out strict"
            )

    def _mask_after_the_end(self, last: int) -> str:
        where = f"at frame {last}" if last >= 0 else f"before frame {self.extent.start}"
        return f"mask for frame {self.first}, but {self.source.name} ended {where}: give a mask of an earlier frame"

    def _result(self, frame: Frame, tracked: Any) -> Result:
        soft = tracked.soft() if self.outputs.needs_soft else None
        labels = tracked.labels.astype(label_dtype(max(self.summary.objects)))
        result = Result(
            frame.index,
            frame.name,
            frame.time,
            frame.image,
            labels,
            tracked.objects,
            soft,
            tracked.confidence,
            tracked.lost,
            frame.deep,
        )
        return self.outputs.refined(result)

    def _read_back(self, frame: Frame) -> Result:
        """Make the result of a finished frame from its files."""
        labels = read_labels(self.outputs.masks / f"{frame.name}.png")
        if self.outputs.streams_soft:
            soft, objects = writers.read_soft(self.outputs.soft_folder / f"{frame.name}.npz")
        else:
            soft, objects = None, tuple(sorted({i for k in self._masks_before(frame.index) for i in objects_in(self.masks[k])}))
        lost = frozenset(objects) - frozenset(objects_in(labels))
        return Result(frame.index, frame.name, frame.time, frame.image, labels, objects, soft, lost=lost, deep=frame.deep)

    def _masks_before(self, index: int) -> list[int]:
        """Return the frames whose masks the tracker has used when it reaches this frame."""
        return [self.first] if index < self.first else [i for i in self.masks if i <= index]

    def _empty(self, frame: Frame) -> Result:
        labels = np.zeros(frame.image.shape[:2], label_dtype(max(self.summary.objects)))
        soft = np.zeros((0, *labels.shape), np.float32) if self.outputs.needs_soft else None
        return Result(frame.index, frame.name, frame.time, frame.image, labels, (), soft, deep=frame.deep)

    def _count(self, result: Result, progress: Progress) -> None:
        self.summary.frames += 1
        if result.confidence:
            self.summary.tracked += 1
        for i in result.lost:
            self.summary.lost.setdefault(i, []).append(result.name)
        progress(self.summary.frames, self.extent.count)

    def _restore_progress(self) -> str:
        """Return the phase in which a run was killed, "" if there is no run to resume; set `resumed` and `finished`."""
        for folder in self.outputs.frame_folders():
            for part in folder.glob(".*.part"):  # files that were being written when the run was killed
                part.unlink(missing_ok=True)
        if not self.state.is_file():
            self.summary.notes.append(f"nothing to resume in {self.outputs.folder}: all frames are computed from the start")
            return ""
        note = self.new_tracker().restore(self.state)
        if not isinstance(note.get("job"), dict) or not isinstance(note.get("index"), int) or "phase" not in note:
            raise ValueError(f"{self.state} is not the state of a run: start again with overwrite instead of resume")
        for key, now in self.job.items():
            before = note["job"].get(key)
            if before != now:
                raise ValueError(
                    f"{self.outputs.folder} holds another run (its {key} was {before}, now {now}): "
                    "give another folder, or start again with overwrite instead of resume"
                )
        index, phase = int(note["index"]), str(note["phase"])
        self.resumed = (
            range(index, self.first)
            if phase == "backward"
            else range(self.extent.start if self.backward else self.first, index)
        )
        self.finished = self.resumed
        missing = {self.extent.name_of(i) for i in self.resumed} - writers.completed(self.outputs.masks)
        if missing:
            raise ValueError(
                f"{self.outputs.masks} lacks {len(missing)} finished masks ({min(missing)}, ...): "
                "start again with overwrite instead of resume"
            )
        return phase

    def _names(self, count: int) -> set[str]:
        return {self.extent.name_of(self.extent.start + i) for i in range(count)}

    def _reach(self, frame: Frame, phase: str, index: int, tracker: Tracker) -> None:
        """Note the state after a frame, before its result is passed to the writers: Ctrl-C can come between the two."""
        before = {i: state for i, state in self.reached.items() if i == next(reversed(self.reached))}
        self.reached = before | {frame.index: (phase, index, copy.copy(tracker))}

    def save(self) -> None:
        """Save the state after the last frame whose files are complete, if the run has computed that frame."""
        if self.written in self.reached:
            phase, index, tracker = self.reached[self.written]
            tracker.save(self.state, phase=phase, index=index, job=self.job)

    def _write_to(self, records: Iterable[writers.Writer]) -> Callable[[Result], None]:
        """Return a function that passes a result to the writers of records, and notes its frame as written."""
        write = _write_to(records)

        def write_and_note(result: Result) -> None:
            write(result)
            self.written = result.index

        return write_and_note


def _write_to(all_writers: Iterable[writers.Writer]) -> Callable[[Result], None]:
    """Return a function that passes a result to all writers."""

    def write(result: Result) -> None:
        for writer in all_writers:
            writer.write(result)

    return write
