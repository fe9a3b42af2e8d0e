"""One session of a server: its record on the disk, and the `hodor.Session`, which is loaded when it is needed."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hodor.files import parse_json
from hodor.masks import written_whole
from hodor.outputs.records import encode_rle
from hodor.serve.events import EventLog
from hodor.serve.limits import RefusedError
from hodor.serve.pictures import Cache, Reader
from hodor.serve.processor import Processor
from hodor.session import Session

if TYPE_CHECKING:
    from hodor.sessions.results import FrameResult

T = TypeVar("T")
LANE_FRAMES = 500
"""Frames of the largest part of the lanes that is read at once."""


@dataclass
class Propagation:
    """A propagation: which frames, and how far it is.

    Attributes:
        id: its number in the session, from 1.
        parts: (start, stop, reverse) of each pass over the frames.
        direction: "forward", "backward" or "both".
        state: "running", "done", "stopped" or "failed".
        done: number of frames that were sent.
        total: number of frames to send.
        message: why it failed.
    """

    id: int
    parts: list[tuple[int, int, bool]]
    direction: str
    state: str = "running"
    done: int = 0
    total: int = 0
    message: str | None = None
    is_stopped: bool = field(default=False, repr=False)
    finished: Callable[[], object] = field(default=lambda: None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The values that clients see."""
        frames = [n for start, stop, _ in self.parts for n in (start, stop)]
        return {
            "id": self.id,
            "direction": self.direction,
            "start": min(frames),
            "stop": max(frames),
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "message": self.message,
        }


class Hosted:
    """A session of the server.

    Args:
        folder: its folder.
        record: what `record.json` in the folder contains.
        processor: where its work is done.
        load: opens its `Session`; called in a turn of the session.
        decoded: cache of decoded frames of all sessions.
        encoded: cache of encoded frames of all sessions.

    Attributes:
        id: its id.
        session: the session, None while it is only on the disk.
        revision: increases with each edit, also over restarts.
        used: when it was last used, in seconds of the monotonic clock.
        propagation: the latest propagation.
    """

    def __init__(
        self,
        folder: Path,
        record: dict[str, Any],
        processor: Processor,
        load: Callable[[Hosted], Session],
        decoded: Cache,
        encoded: Cache,
    ) -> None:
        self.folder, self.record, self.id = folder, record, str(record["id"])
        self.session: Session | None = None
        self.events = EventLog()
        self.revision = time.time_ns() // 1000
        self.used = time.monotonic()
        self.propagation: Propagation | None = None
        self.reader = Reader(self.id, Path(record["path"]), decoded, encoded)
        self._processor, self._load = processor, load
        self._numbers = itertools.count(1)

    @classmethod
    def read_record(cls, folder: Path) -> dict[str, Any]:
        """Return the record of a folder.

        Raises:
            ValueError: it is damaged.
            OSError: there is none.
        """
        record = parse_json((folder / "record.json").read_bytes())
        if not isinstance(record, dict) or record.get("version") != 1 or record.get("id") != folder.name:
            raise ValueError(f"{folder}/record.json is not that of a session of this version")
        return record

    def write_record(self, **changes: Any) -> None:
        """Change values of the record, and write it."""
        record = {**self.record, **changes}
        with written_whole(self.folder / "record.json") as file:
            file.write(json.dumps(record, indent=1).encode() + b"\n")
        self.record = record

    # Work

    def opened(self) -> Session:
        """The session, loaded from the disk if needed. Only in a turn of this session."""
        if self.session is None:
            self.session = self._load(self)
        return self.session

    async def call(self, function: Callable[[Session], T], is_long: bool = False) -> T:
        """Run a function of the session in its turn."""
        self.used = time.monotonic()
        future = self._processor.call(self.id, lambda: function(self.opened()), is_long)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled() and not self._processor.is_known(self.id):
                raise RefusedError(404, "expected a session, got one that was removed") from None
            raise
        finally:
            self.used = time.monotonic()

    async def edit(
        self, function: Callable[[Session], object], frame: int | None = None, expected: int | None = None
    ) -> dict[str, Any]:
        """Change the session.

        Args:
            function: makes one edit or several.
            frame: the frame whose masks are returned. Default: none.
            expected: the revision that the client has seen; with another one, nothing is changed.

        Returns:
            The state and the masks of the frame.

        Raises:
            RefusedError: 412, the session was changed by another client.
        """

        def work(session: Session) -> dict[str, Any]:
            if expected is not None and expected != self.revision:
                raise RefusedError(
                    412, f"expected revision {self.revision}, got {expected}: read the state of the session again"
                )
            before = session.state
            try:
                function(session)
            finally:
                if session.state is not before:
                    self.publish(session)
            return {
                "state": self.state(session),
                "frame": None if frame is None else frame_masks(session, frame),
            }

        return await self.call(work)

    def publish(self, session: Session) -> None:
        """Send the state after an edit to all clients."""
        self.revision += 1
        self.events.add("state", state=self.state(session))

    def store(self) -> None:
        """Free the memory of the session; it stays on the disk. Only in a turn of this session."""
        if self.session is not None:
            self.session.save()
            self.session.close()
            self.session = None
        self.reader.close()

    # What clients see

    def summary(self) -> dict[str, Any]:
        """What is known without loading the session."""
        keys = ("id", "name", "source", "created", "frames", "height", "width", "rate")
        return {**{key: self.record[key] for key in keys}, "open": self.session is not None}

    def state(self, session: Session) -> dict[str, Any]:
        """The state of the session: objects, given frames, and what can be undone."""
        undo, redo = session.depth
        about = self.record["objects"]
        return {
            **self.summary(),
            "frames": session.count,
            "revision": self.revision,
            "event": self.events.last,
            "undo": undo,
            "redo": redo,
            "objects": [
                {"id": i, "given": session.given_frames(i), "name": None, "colour": None} | about.get(str(i), {})
                for i in session.objects
            ],
            "propagation": None if self.propagation is None else self.propagation.to_json(),
            "notes": [*dict.fromkeys([*session.source.notes, *session.notes])],
            "damaged": [{"frame": n, "message": text} for n, text in sorted(session.source.damaged.items())],
        }

    def lanes(self, session: Session, start: int, stop: int) -> dict[str, Any]:
        """Confidence and agreement of each object on a range of frames; None where the object has no result."""
        given = {i: set(session.given_frames(i)) for i in session.objects}
        rows = [session.trust(n) for n in range(start, stop)]
        objects = []
        for i in session.objects:
            pairs = [
                (1.0, 1.0) if n in given[i] else row.get(i, (0.0, 1.0)) for n, row in zip(range(start, stop), rows, strict=True)
            ]
            objects.append(
                {
                    "id": i,
                    "given": sorted(n for n in given[i] if start <= n < stop),
                    "confidence": [None if pair is None else round(pair[0], 4) for pair in pairs],
                    "agreement": [None if pair is None else round(pair[1], 4) for pair in pairs],
                }
            )
        return {"start": start, "stop": stop, "objects": objects}

    # Propagation

    def propagate(self, session: Session, parts: list[tuple[int, int, bool]], direction: str) -> Propagation:
        """Begin a propagation; its masks are sent as events. Only in a turn of this session.

        Args:
            session: the session.
            parts: (start, stop, reverse) of each pass over the frames.
            direction: the direction, for clients.

        Raises:
            RefusedError: 409, one is running.
            ValueError: nothing is given, or the frames are not of the video.
        """
        if self.propagation is not None and self.propagation.state == "running":
            raise RefusedError(409, f"expected no propagation, got {self.propagation.id}, which is running: stop it first")
        for part in parts:
            session.steps(*part)  # raises
        job = Propagation(next(self._numbers), parts, direction, total=sum(stop - start for start, stop, _ in parts))
        self.propagation = job
        self.events.add("propagation", propagation=job.to_json())
        self._processor.begin(self.id, self._steps(session, job))
        return job

    def stop(self) -> Propagation | None:
        """Stop the propagation: no frame after the one in progress is computed."""
        job = self.propagation
        if job is not None and job.state == "running":
            job.is_stopped = True
            self._processor.hurry(self.id)
        return job

    def _steps(self, session: Session, job: Propagation) -> Iterator[None]:
        sent: dict[int, int] = {}
        try:
            for part in job.parts:
                while (yield from self._pass(session, job, part, sent)):
                    pass
                if job.is_stopped:
                    break
            job.state = "stopped" if job.is_stopped else "done"
        except Exception as error:  # one line for the client; the other sessions continue
            job.state, job.message = "failed", str(error) or type(error).__name__
        finally:
            self.used = time.monotonic()
            self.events.add("propagation", propagation=job.to_json())
            job.finished()

    def _pass(
        self, session: Session, job: Propagation, part: tuple[int, int, bool], sent: dict[int, int]
    ) -> Generator[None, None, bool]:
        """Send the masks of a range; return True if an edit came in between, after which the pass begins again."""
        start, stop, reverse = part
        state = session.state
        for step in session.steps(start, min(stop, session.count), reverse):
            if step is not None:
                frame, found = step
                content = hash((found.labels.tobytes(), *found.confidence.items()))
                if sent.get(frame) != content:  # of frames that an edit has not changed, nothing is sent again
                    sent[frame], job.done = content, len({*sent, frame})
                    masks = masks_of(session, frame, found, True)
                    self.events.add(
                        "frame", propagation=job.id, done=job.done, total=job.total, revision=self.revision, **masks
                    )
            yield
            if job.is_stopped:
                return False
            if session.state is not state:
                return True
        return False


def frame_masks(session: Session, frame: int) -> dict[str, Any]:
    """The masks of a frame as far as they are known.

    Raises:
        ValueError: there is no such frame.
    """
    try:
        return masks_of(session, frame, session.result(frame), True)
    except ValueError:
        return masks_of(session, frame, session.result(frame, partial=True), False)


def masks_of(session: Session, frame: int, found: FrameResult, is_complete: bool) -> dict[str, Any]:
    """The masks of a frame, as JSON can hold them: compressed COCO run lengths."""
    objects = []
    for i in found.objects:
        prompt = session.prompts(frame, i)
        objects.append(
            {
                "id": i,
                "rle": encode_rle(found.labels == i),
                "confidence": round(found.confidence[i], 4),
                "lost": is_complete and not found.confidence[i],
                "given": frame in session.given_frames(i),
                "points": prompt.points,
                "labels": prompt.labels,
                "box": prompt.box,
            }
        )
    return {"frame": frame, "complete": is_complete, "objects": objects}


def ranges(frames: list[int]) -> list[tuple[int, int]]:
    """Join frame numbers in order to ranges (first, frame after the last)."""
    found: list[tuple[int, int]] = []
    for n in frames:
        if found and found[-1][1] == n:
            found[-1] = (found[-1][0], n + 1)
        else:
            found.append((n, n + 1))
    return found
