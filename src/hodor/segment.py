"""The whole job: a source and a few masks in, the masks of every frame out, written while it runs.

    summary = segment(open_source("clip.mp4"), {0: labels}, network, Outputs(Path("out"), overlay=True))

Decoding runs a few frames ahead in one thread and writing a few behind in another; the network has the rest. A run that was
killed goes on with `resume=True` and ends with the same bytes (overlay and ProRes, which are encoded anew, with the same
pictures).
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hodor.masks import Labels, fit_size, label_dtype, objects_in, read_labels
from hodor.models.base import Network
from hodor.outputs import writers
from hodor.outputs.writers import Result
from hodor.tracking import Tracker
from hodor.video.source import Frame, Source, prefetch

BEHIND = 6
"""Frames that may wait to be written."""
SAVE_EVERY = 20
"""Frames between two savings of the tracker's state, the most that a killed run does again."""


@dataclass(frozen=True)
class Outputs:
    """What a run leaves in `folder`. masks/<frame>.png is always written; the rest on demand.

    overlay: overlay.mp4. sheet: sheet.png, a contact sheet. soft: soft/<frame>.npz. coco, ytvis: coco.json, ytvis.json. table:
    objects.csv, confidence, area and box of each object on each frame. cutout: ids, each cut out to cutout_<id>/<frame>.png
    (RGBA). prores: ids, each to cutout_<id>.mov (ProRes 4444).
    """

    folder: Path
    overlay: bool = False
    sheet: bool = False
    soft: bool = False
    coco: bool = False
    ytvis: bool = False
    table: bool = False
    cutout: tuple[int, ...] = ()
    prores: tuple[int, ...] = ()

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    @property
    def needs_soft(self) -> bool:
        return self.soft or bool(self.cutout) or bool(self.prores)

    @property
    def soft_folder(self) -> Path:
        """Soft masks also go through files where only ProRes wants them: it is made in order of time, after the way back."""
        return self.folder / ("soft" if self.soft else ".hodor-soft")

    @property
    def names(self) -> list[str]:
        """What must have been written from the first frame on, and so cannot be asked for when a run is resumed."""
        flags = [name for name in ("soft", "coco", "ytvis", "table") if getattr(self, name)]
        return [*flags, *(f"cutout {i}" for i in self.cutout), *(f"prores {i}" for i in self.prores)]

    def records(self, keep: set[str] | None, name: str) -> list[writers.Writer]:
        """Writers that take frames in any order; the masks come last, so that a mask says that its frame is whole."""
        return [
            *([writers.SoftWriter(self.soft_folder)] if self.soft or self.prores else []),
            *([writers.CocoWriter(self.folder / "coco.json", keep)] if self.coco else []),
            *([writers.YtvisWriter(self.folder / "ytvis.json", keep, name)] if self.ytvis else []),
            *([writers.TableWriter(self.folder / "objects.csv", keep)] if self.table else []),
            *(writers.CutoutWriter(self.folder / f"cutout_{i}", i) for i in self.cutout),
            writers.MaskWriter(self.masks),
        ]

    def streams(self, source: Source) -> list[writers.Writer]:
        """Writers that need every frame in order of time; a resumed run makes them anew from the finished masks."""
        rate = source.rate
        return [
            *([writers.OverlayWriter(self.folder / "overlay.mp4", rate)] if self.overlay else []),
            *([writers.SheetWriter(self.folder / "sheet.png")] if self.sheet else []),
            *(writers.CutoutWriter(self.folder / f"cutout_{i}.mov", i, "prores", rate) for i in self.prores),
        ]


@dataclass
class Summary:
    """What a run did. frames: all that have a mask now. tracked: those the network saw in this run, in `seconds`. lost: id ->
    frames it was nowhere. stopped: where a damaged source ended, None if it was read whole. interrupted: by Ctrl-C."""

    frames: int = 0
    tracked: int = 0
    seconds: float = 0.0
    objects: tuple[int, ...] = ()
    lost: dict[int, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: str | None = None
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "objects": list(self.objects),
            "lost": {str(i): names for i, names in self.lost.items()},
            "frames_per_second": round(self.tracked / self.seconds, 3) if self.seconds else None,
        }


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
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Summary:
    """Follow the objects of `masks` (labels by frame index) through the source.

    From the earliest mask the run goes forward to the end, taking up the other masks on their way; then, where `backward`,
    from the earliest mask back to the first frame. Without it, frames before the first mask are empty. Every frame gets a
    file. resume: go on with a run of the same source, masks, network and settings that was killed; where there is none, or
    where it came to its end, all is done anew, and the notes say so.

    Raises ValueError: "no mask: want at least one", "mask for frame 90, but clip has frames 0 to 79", "mask for frame 90, but
    clip ended at frame 79" where that shows late, "no object 9 to cut out: the masks hold 1, 2", "OUT holds another run (its
    history was 7, now 5): start anew without resume".
    """
    if not masks:
        raise ValueError("no mask: want at least one")
    job = _Job(source, dict(masks), network, outputs, history, size, backward)
    began = time.monotonic()
    try:
        job.play(resume, progress)
    except KeyboardInterrupt:
        job.summary.interrupted = True
    job.summary.seconds = round(time.monotonic() - began, 3)
    job.summary.stopped = source.stopped
    job.summary.notes += source.notes
    return job.summary


class _Job:
    def __init__(
        self,
        source: Source,
        masks: dict[int, Labels],
        network: Network,
        outputs: Outputs,
        history: int | None,
        size: int | None,
        backward: bool,
    ) -> None:
        self.source, self.masks, self.outputs, self.backward = source, masks, outputs, backward
        self.first = min(masks)
        self.summary = Summary(objects=tuple(sorted({int(i) for m in masks.values() for i in np.unique(m) if i})))
        history = network.history if history is None else history
        self.network, self.history, self.size = network, history, size
        self.state = outputs.folder / ".hodor-state.safetensors"
        self.done = range(0)
        """Frames finished before the forward run: by an earlier process, or by the backward run."""
        self.counted = range(0)
        """Frames that the backward run of this process has counted."""
        self._check()
        self.job = {
            "source": source.name,
            "frame size": list(source.size),
            "history": history,
            "size": size,
            "backward": backward,
            "mask": ", ".join(f"frame {i} {hashlib.sha256(m.tobytes()).hexdigest()[:8]}" for i, m in sorted(masks.items())),
            "network": _fingerprint(network),
            "list of outputs": outputs.names,
        }

    def _check(self) -> None:
        """Refuse before anything is written."""
        for i, labels in self.masks.items():
            if labels.shape != self.source.size:
                was, want = (f"{h}x{w}" for h, w in (labels.shape, self.source.size))
                raise ValueError(f"mask for frame {i} is {was}, the frames {want}: resize it with nearest neighbour")
            if not objects_in(labels):
                raise ValueError(f"mask for frame {i} holds no object: want an id above 0 on some pixel")
        objects = self.summary.objects
        label_dtype(max(objects))
        for i in (*self.outputs.cutout, *self.outputs.prores):
            if i not in objects:
                raise ValueError(f"no object {i} to cut out: the masks hold {', '.join(map(str, objects))}")
        self.new_tracker()
        fit_size(self.source.size, self.size)
        count = None if self.source.estimated else self.source.count
        if count is not None and max(self.masks) >= count:
            raise ValueError(f"mask for frame {max(self.masks)}, but {self.source.name} has frames 0 to {count - 1}")

    def new_tracker(self) -> Tracker:
        return Tracker(self.network, history=self.history, size=self.size)

    def play(self, resume: bool, progress: Callable[[int, int | None], None]) -> None:
        """The backward run, then the forward one; each frame's result goes to the writers as it comes."""
        phase = self._found() if resume else ""
        if phase == "":
            self.state.unlink(missing_ok=True)
        done = {self.source.name_of(i) for i in self.done} if phase else None
        with contextlib.ExitStack() as open_writers:
            records = [open_writers.enter_context(w) for w in self.outputs.records(done, self.source.name)]
            if self.backward and self.first > 0 and phase != "forward":
                with _Behind(records) as behind:
                    for result in self._track_back(phase == "backward", behind):
                        self.done = range(result.index, self.first)
                        self.counted = range(result.index, max(self.counted.stop, result.index + 1))
                        self._count(result, progress)
                for names in self.summary.lost.values():
                    names.reverse()  # in order of time, as the forward run goes on
            streams = [open_writers.enter_context(w) for w in self.outputs.streams(self.source)]
            with _Behind(records) as behind, _Behind(streams) as beside:
                for result in self._track_on(phase == "forward", behind):
                    beside.write(result)
                    if result.index not in self.counted:
                        self._count(result, progress)
            # A run that is killed while its long files are put together can still be resumed: the state goes after them.
            for writer in [*streams, *records]:
                writer.close(finished=False)
            self.state.unlink(missing_ok=True)
        if self.outputs.prores and not self.outputs.soft:
            shutil.rmtree(self.outputs.soft_folder, ignore_errors=True)

    def _track_back(self, restored: bool, behind: _Behind) -> Iterator[Result]:
        """From the first mask back to frame 0; that mask's own frame belongs to the forward run."""
        tracker = self.new_tracker()
        if restored:
            tracker.restore(self.state)
        stop = self.done.start if restored else self.first + 1
        with contextlib.closing(prefetch(self.source.frames(0, stop, reverse=True))) as frames:
            for frame in frames:
                given = frame.index == self.first
                if not given and not tracker.objects:
                    raise ValueError(self._beyond(frame.index))
                tracked = tracker.step(frame.image, self.masks[self.first] if given else None)
                if given:
                    continue
                result = self._result(frame, tracked)
                behind.write(result)
                yield result
                if (self.first - frame.index) % SAVE_EVERY == 0:
                    behind.wait()
                    tracker.save(self.state, phase="backward", index=frame.index, job=self.job)

    def _track_on(self, restored: bool, behind: _Behind) -> Iterator[Result]:
        """-> every frame in order of time: finished ones come back from their masks, the others are tracked and written."""
        tracker = self.new_tracker()
        if restored:
            tracker.restore(self.state)
        last = -1
        with contextlib.closing(prefetch(self.source.frames())) as frames:
            for frame in frames:
                last = frame.index
                if frame.index in self.done:
                    yield self._again(frame)
                    continue
                if frame.index < self.first:
                    result = self._empty(frame)
                else:
                    result = self._result(frame, tracker.step(frame.image, self.masks.get(frame.index)))
                behind.write(result)
                yield result
                if result.index >= self.first and (frame.index + 1 - self.first) % SAVE_EVERY == 0:
                    behind.wait()
                    tracker.save(self.state, phase="forward", index=frame.index + 1, job=self.job)
        unused = [i for i in sorted(self.masks) if i > last]
        if unused and not self.summary.tracked and not self.done:
            raise ValueError(self._beyond(last))
        if unused:
            self.summary.notes.append(f"the mask for frame {unused[0]} was not used: the last frame is {last}")

    def _beyond(self, last: int) -> str:
        return f"mask for frame {self.first}, but {self.source.name} ended at frame {last}"

    def _result(self, frame: Frame, tracked: Any) -> Result:
        soft = tracked.soft() if self.outputs.needs_soft else None
        labels = tracked.labels.astype(label_dtype(max(self.summary.objects)))
        return Result(
            frame.index,
            frame.name,
            frame.time,
            frame.image,
            labels,
            tracked.objects,
            soft,
            tracked.confidence,
            tracked.lost,
        )

    def _again(self, frame: Frame) -> Result:
        labels = read_labels(self.outputs.masks / f"{frame.name}.png")
        if self.outputs.prores:
            soft, objects = writers.read_soft(self.outputs.soft_folder / f"{frame.name}.npz")
        else:
            soft, objects = None, tuple(sorted({i for k in self._masks_before(frame.index) for i in objects_in(self.masks[k])}))
        lost = frozenset(objects) - frozenset(objects_in(labels))
        return Result(frame.index, frame.name, frame.time, frame.image, labels, objects, soft, lost=lost)

    def _masks_before(self, index: int) -> list[int]:
        """Frames whose masks the tracker has seen when it comes to this frame."""
        return [self.first] if index < self.first else [i for i in self.masks if i <= index]

    def _empty(self, frame: Frame) -> Result:
        labels = np.zeros(frame.image.shape[:2], label_dtype(max(self.summary.objects)))
        soft = np.zeros((0, *labels.shape), np.float32) if self.outputs.needs_soft else None
        return Result(frame.index, frame.name, frame.time, frame.image, labels, (), soft)

    def _count(self, result: Result, progress: Callable[[int, int | None], None]) -> None:
        self.summary.frames += 1
        if result.confidence:
            self.summary.tracked += 1
        for i in result.lost:
            self.summary.lost.setdefault(i, []).append(result.name)
        progress(self.summary.frames, self.source.count)

    def _found(self) -> str:
        """-> the phase in which a run was killed, "" where there is none; `done` then holds its finished frames."""
        cutouts = [self.outputs.folder / f"cutout_{i}" for i in self.outputs.cutout]
        for place in (self.outputs.folder, self.outputs.masks, self.outputs.soft_folder, *cutouts):
            for part in place.glob(".*.part"):  # what was being written when it was killed
                part.unlink(missing_ok=True)
        if not self.state.is_file():
            self.summary.notes.append(f"nothing to resume in {self.outputs.folder}: all was done anew")
            return ""
        note = self.new_tracker().restore(self.state)
        for key, now in self.job.items():
            was = note["job"].get(key)
            if was != now:
                raise ValueError(
                    f"{self.outputs.folder} holds another run (its {key} was {was}, now {now}): start anew without resume"
                )
        index, phase = int(note["index"]), str(note["phase"])
        self.done = range(index, self.first) if phase == "backward" else range(0 if self.backward else self.first, index)
        gone = {self.source.name_of(i) for i in self.done} - writers.completed(self.outputs.masks)
        if gone:
            raise ValueError(
                f"{self.outputs.masks} lacks {len(gone)} finished masks ({min(gone)}, ...): start anew without resume"
            )
        return phase


class _Behind:
    """Writers in a thread of their own, at most BEHIND results waiting; what they raise is raised at the next call.

    Whatever ends the run, the results handed over before are written, up to the first that cannot be.
    """

    def __init__(self, writers: list[writers.Writer]) -> None:
        self.writers, self.pending = writers, list[Future[None]]()
        self.pool = ThreadPoolExecutor(1, "hodor-write")
        self.broken = False

    def write(self, result: Result) -> None:
        if not self.writers:
            return
        while len(self.pending) >= BEHIND:
            self.pending.pop(0).result()
        self.pending.append(self.pool.submit(self._all, result))

    def _all(self, result: Result) -> None:
        if self.broken:
            return
        try:
            for writer in self.writers:
                writer.write(result)
        except BaseException:
            self.broken = True
            raise

    def wait(self) -> None:
        while self.pending:
            self.pending.pop(0).result()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.wait()
        finally:
            self.pool.shutdown()


def _fingerprint(network: Network) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
