"""Correct the masks of a video step by step, so that only what an edit changes is computed again."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from hodor.frames import open_source
from hodor.masks import Labels, fit_size, label_dtype
from hodor.models.base import Network
from hodor.models.weights import load as load_network
from hodor.models.weights import weights_hash
from hodor.outputs.selection import Outputs
from hodor.outputs.summary import Summary
from hodor.prompter import Prompter
from hodor.sessions import planning, results
from hodor.sessions.edits import Edit, Prompt, State, applied, check_id, states_of
from hodor.sessions.exporting import export as export_frames
from hodor.sessions.passes import EndedError, Passes
from hodor.sessions.results import FrameResult
from hodor.sessions.store import Mask, Store, basis_hash
from hodor.tracking import Tracker
from hodor.video.content import content_hash
from hodor.video.images import Stream
from hodor.video.source import Picture, Source

SNAPSHOT_BYTES = 256 << 20
"""Default limit of the snapshots of a session, in bytes."""
Found = tuple[int, list[int], Mask]
"""Index of a frame, the ids of all objects, and their masks, bool [N, H, W]."""


class Prompting(Protocol):
    """What a session calls to make a mask from clicks or a box: `hodor.prompter.Prompter` of one frame."""

    def predict(
        self,
        points: npt.NDArray[np.float64] | None = None,
        labels: npt.NDArray[np.int64] | None = None,
        box: tuple[float, float, float, float] | None = None,
        mask: Mask | None = None,
    ) -> tuple[Mask, float]:
        """Return the mask [H, W] of the object and a score."""


class Session:
    """A video, the masks, clicks and boxes that were given of its objects, and the masks of all other frames.

        session = hodor.Session("clip.mp4", folder="work")          # without folder: a temporary one
        session.add_points(0, 1, points=[(310, 190)], labels=[1])   # frame 0, object 1: a click
        session.add_box(0, 2, (400, 120, 520, 300))                 # or a box
        for frame_idx, obj_ids, masks in session.propagate():       # masks: bool [N, H, W]
            show(frame_idx, masks)
        session.add_mask(session.suggest(1)[0], 1, corrected)       # correct the frame where it helps most
        for frame_idx, obj_ids, masks in session.propagate():       # computes only what the correction changes
            show(frame_idx, masks)
        session.export(overlay=True, coco=True)                     # all that `hodor segment` writes
        session = hodor.Session.load("work")                        # later, also after a crash

    Everything that a method was given is on the disk when it returns. An edit changes the results of its object from its frame
    to the next given frame of the object on either side, and nothing else: the results of all other frames stay as they are, to
    the byte. See docs/sessions.md.

    A session is used by one thread, and its folder by one process at a time.

    Args:
        source: a video file, a folder of images, a glob pattern, or an opened source. A camera or an iterator cannot be used,
            since frames are read more than once.
        network: the network. Default: `hodor.load()`.
        folder: folder of the session; it must not contain one yet. Default: a temporary folder, removed by `close`.
        size: short side inside the network, in pixels. Default: the network's own.
        history: number of past frames kept in memory. Default: the network's own.
        prompter: called with a frame uint8 [H, W, 3]; it returns an object with the method `predict` of
            `hodor.prompter.Prompter`. Default: that class, with its bundled weights.
        snapshot_bytes: limit of the snapshots of the memory, in bytes. Without snapshots, more frames are followed again.

    Attributes:
        source: the opened source.
        network: the network.
        folder: the folder of the session.
        count: number of frames.
        notes: remarks, one line each.

    Raises:
        ValueError: "expected a source that can be read again, got camera 0: ...", "expected a folder without a session, got
            work: use Session.load".
    """

    _temporary: Callable[[], object] | None = None
    """Removes the temporary folder."""

    def __init__(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        network: Network | None = None,
        folder: str | os.PathLike[str] | None = None,
        size: int | None = None,
        history: int | None = None,
        prompter: Callable[[Picture], Prompting] | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
    ) -> None:
        opened = _opened(source)
        network = load_network() if network is None else network
        Tracker(network, history=history, size=size)  # raises before anything is written
        fit_size(opened.size, size)
        if folder is not None and (Path(folder) / "session.json").exists():
            raise ValueError(f"expected a folder without a session, got {folder}: use Session.load, or give another folder")
        temporary = tempfile.mkdtemp(prefix="hodor-session-") if folder is None else None
        store = Store(Path(temporary or folder or "."))
        count = opened.count if opened.count is not None and not opened.estimated else sum(1 for _ in opened.frames())
        about = {
            "source": source.name if isinstance(source, Source) else os.path.abspath(source),
            "content": content_hash(opened),
            "count": count,
            "frame size": list(opened.size),
            "size": size,
            "history": history,
        }
        store.write_about(about)
        self._begin(store, about, opened, network, prompter, snapshot_bytes)
        if temporary is not None:
            self._temporary = weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        source: str | os.PathLike[str] | Source | None = None,
        network: Network | None = None,
        prompter: Callable[[Picture], Prompting] | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
    ) -> Self:
        """Open the session in a folder, with all edits, also those that can be undone or redone, and all results.

        Args:
            folder: the folder.
            source: where the source is now. Default: where it was.
            network: the network. With another one than before, the results of before are kept, but not used. Default:
                `hodor.load()`.
            prompter: see the class.
            snapshot_bytes: see the class.

        Raises:
            FileNotFoundError: "no session in FOLDER: ...", "clip.mp4 does not exist".
            ValueError: "expected the source of this session (hash 0a..., 90 frames of 480x854 pixels), got clip (...): give
                source=".
            ValueError: a damaged journal, a missing mask, or a folder that another process uses.
        """
        if not (Path(folder) / "session.json").is_file():
            raise FileNotFoundError(f"no session in {folder}: make one with Session(source, folder=...)")
        store = Store(Path(folder))
        try:
            about = store.about()
            opened = _opened(about["source"] if source is None else source)
            content, size = content_hash(opened), list(opened.size)
            if (content, size) != (about["content"], about["frame size"]):
                raise ValueError(
                    f"expected the source of this session (hash {about['content']}, {_pixels(about['frame size'])} pixels), "
                    f"got {opened.name} (hash {content}, {_pixels(size)} pixels): give source= with the file of before"
                )
            if source is not None and not isinstance(source, Source):
                about["source"] = os.path.abspath(source)
                store.write_about(about)
            self = cls.__new__(cls)
            network = load_network() if network is None else network
            self._begin(store, about, opened, network, prompter, snapshot_bytes)
        except BaseException:
            store.close()
            raise
        return self

    def _begin(
        self,
        store: Store,
        about: dict[str, Any],
        source: Source,
        network: Network,
        prompter: Callable[[Picture], Prompting] | None,
        snapshot_bytes: int,
    ) -> None:
        self.source, self.network, self.folder = source, network, store.folder
        self.count, self.notes = int(about["count"]), list[str]()
        self._store, self._about = store, about
        self._make_prompter, self._prompters = prompter or _prompter, dict[int, Prompting]()
        self._read_edits()
        made_with = {
            "weights": weights_hash(network),
            "dtype": str(next(network.parameters()).dtype),
            "size": network.size if about["size"] is None else about["size"],
            "history": network.history if about["history"] is None else about["history"],
            "pin_first": network.pin_first,
            "hold_lost": network.hold_lost,
        }
        store.use(basis_hash(made_with))
        if not store.results.is_dir() and any(store.folder.glob("results-*")):
            self.notes.append(f"the results in {store.folder} are of another network: all frames are computed again")
        self._snapshot_bytes = snapshot_bytes
        self._passes = Passes(source, self._new_tracker, store, snapshot_bytes, self._compose)
        self._closed = weakref.finalize(self, store.close)

    def _read_edits(self) -> None:
        edits = self._store.edits()
        try:
            self._done, self._undone = states_of(edits)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.folder}/journal.jsonl is damaged ({error}): restore it from a copy") from None
        names = (g.mask for s in [*self._done, *self._undone] for t in s.tracks for g in t.given.values())
        if missing := self._store.lacks(names):
            raise ValueError(f"{self.folder}/given lacks {missing[0]}.png, which was given: restore the folder from a copy")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for other processes, close the source, and remove a temporary folder."""
        self.source.close()
        self._closed()
        if self._temporary is not None:
            self._temporary()

    # What is known

    @property
    def state(self) -> State:
        """The objects, their given masks and their clicks, as a value."""
        return self._done[-1]

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids of all objects, in order."""
        return tuple(self.state.objects)

    def given_frames(self, obj_id: int) -> list[int]:
        """Return the frames on which an object is given, in order of time."""
        return self.state.given_frames(obj_id)

    def prompts(self, frame_idx: int, obj_id: int) -> Prompt:
        """Return the clicks and the box of an object on a frame; empty without any."""
        return self.state.prompts.get((frame_idx, obj_id), Prompt())

    def incomplete(self) -> list[int]:
        """Return the frames whose result must be computed by `propagate`, in order of time."""
        whole = range(self.count)
        found = set[int]()
        for track in self.state.tracks:
            for direction in (1, -1):
                missing = planning.wanted(track, direction, whole, self.count, self._store.has)
                found.update(t for t in missing if track.covers(t))
        return sorted(found)

    def labels(self, frame_idx: int) -> Labels:
        """Return the ids per pixel of a frame, [H, W].

        Raises:
            ValueError: "frame 7 has no result yet: run propagate".
        """
        return self.result(frame_idx).labels

    def result(self, frame_idx: int, *, soft: bool = False) -> FrameResult:
        """Return all that is known of a frame: labels, confidence, and how far the two directions agree.

        Args:
            frame_idx: index of the frame.
            soft: whether to compute the soft masks.

        Raises:
            ValueError: "frame 7 has no result yet: run propagate".
        """
        self._check_frame(frame_idx)
        found = self._compose(self.state, frame_idx, soft)
        if found is None:
            raise ValueError(f"expected a result for frame {frame_idx}, got none yet: run propagate first")
        return found

    def _compose(self, state: State, frame: int, with_soft: bool = False) -> FrameResult | None:
        return results.compose(state, frame, self._store, self._passes.geometry, self.source.size, with_soft=with_soft)

    # Edits

    def add_mask(self, frame_idx: int, obj_id: int, mask: npt.ArrayLike) -> Found:
        """Give the mask of an object on a frame: a new object, or a correction. It replaces what was given there before.

        Args:
            frame_idx: index of the frame.
            obj_id: id of the object, 1 to 65535.
            mask: bool, or integers of which 0 is background, [H, W] of the frame's size. An empty mask states that the object
                is not on this frame.

        Returns:
            The frame's index, the ids of all objects, and their masks on the frame, bool [N, H, W].

        Raises:
            ValueError: "expected a mask of 480x854 pixels, the size of the frames, got 60x80: ...", "expected a frame from 0 to
                89, got 90: ...".
        """
        self._check_frame(frame_idx)
        return self._give(frame_idx, obj_id, self._mask(mask), {})

    def add_points(
        self,
        frame_idx: int,
        obj_id: int,
        points: Sequence[tuple[float, float]] | npt.NDArray[Any],
        labels: Sequence[int] | npt.NDArray[Any],
        *,
        clear_old_points: bool = False,
    ) -> Found:
        """Give clicks on an object or beside it. Clicks of the same object and frame accumulate; all are used together.

        If the object has a mask on the frame already, given or computed, the clicks correct it.

        Args:
            frame_idx: index of the frame.
            obj_id: id of the object.
            points: (x, y) of each click, in pixels of the frame, [K, 2].
            labels: 1 for a click on the object, 0 for one beside it, [K].
            clear_old_points: whether to use only these clicks, without those of before, the box and the present mask.

        Returns:
            As `add_mask`.

        Raises:
            ValueError: "expected one label for each point, got 2 points and 1 label: ...", "expected a mask with pixels from
                these points, got an empty one: ...".
        """
        old = Prompt() if clear_old_points else self.prompts(frame_idx, obj_id)
        new = np.asarray(points, np.float64).reshape(-1, 2)
        marks = [int(i) for i in np.asarray(labels).reshape(-1)]
        if len(new) != len(marks) or not marks:
            raise ValueError(f"expected one label for each point, got {len(new)} points and {len(marks)} labels: give both")
        if set(marks) - {0, 1}:
            raise ValueError(f"expected labels of 1 (object) and 0 (background), got {sorted(set(marks))}: use these two")
        prompt = Prompt((*old.points, *((float(x), float(y)) for x, y in new)), (*old.labels, *marks), old.box)
        return self._prompt(frame_idx, obj_id, prompt, not clear_old_points)

    def add_box(self, frame_idx: int, obj_id: int, box: Sequence[float] | npt.NDArray[Any]) -> Found:
        """Give a box around an object. It replaces an earlier box of the object on the frame; clicks stay.

        Args:
            frame_idx: index of the frame.
            obj_id: id of the object.
            box: (x0, y0, x1, y1) in pixels of the frame, x0 < x1 and y0 < y1.

        Returns:
            As `add_mask`.

        Raises:
            ValueError: "expected a box (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got ...".
        """
        corners = [float(each) for each in box]
        if len(corners) != 4 or not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise ValueError(f"expected a box (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {corners}: give two corners")
        old = self.prompts(frame_idx, obj_id)
        found = Prompt(old.points, old.labels, (corners[0], corners[1], corners[2], corners[3]))
        return self._prompt(frame_idx, obj_id, found, bool(old.points))

    def clear(self, frame_idx: int, obj_id: int) -> None:
        """Remove what was given of an object on a frame: mask, clicks and box. An object without any given mask is removed.

        Raises:
            ValueError: "expected a frame on which object 1 is given (0, 40), got 5: ...".
        """
        self._edit({"edit": "clear", "frame": int(frame_idx), "object": obj_id})

    def remove_object(self, obj_id: int) -> None:
        """Remove an object. The others stay as they are.

        Raises:
            ValueError: "expected one of the objects (1, 2), got 7: ...".
        """
        self._edit({"edit": "remove", "object": obj_id})

    def rename_object(self, old_id: int, new_id: int) -> None:
        """Give an object another id, which must not be in use. Nothing is computed again.

        Raises:
            ValueError: "expected an id that is not in use (1, 2), got 2: use merge_objects".
        """
        self._edit({"edit": "rename", "object": old_id, "other": new_id})

    def merge_objects(self, obj_id: int, other_id: int) -> None:
        """Make the pixels of `other_id` pixels of `obj_id`, on all frames. Nothing is computed again.

        A later correction of the merged object replaces the masks of both on its frame.

        Raises:
            ValueError: "expected two objects, got 1 twice: ...".
        """
        self._edit({"edit": "merge", "object": obj_id, "other": other_id})

    def swap_objects(self, a: int, b: int, from_frame: int) -> None:
        """Exchange two objects on a frame and all later ones, where the tracker has confused them. Nothing is computed again.

        Args:
            a: id of one object.
            b: id of the other.
            from_frame: the first frame on which they are exchanged. A later correction does not reach over it.

        Raises:
            ValueError: "expected one of the objects (1, 2), got 7: ...".
        """
        self._check_frame(from_frame)
        self._edit({"edit": "swap", "object": a, "other": b, "frame": int(from_frame)})

    def undo(self) -> None:
        """Take back the last edit, also one from before `load`. Results of before are found again, and not computed.

        Raises:
            ValueError: "expected an edit to undo, got none".
        """
        if len(self._done) < 2:
            raise ValueError("expected an edit to undo, got none: nothing was given")
        self._store.append({"edit": "undo"})
        self._undone.append(self._done.pop())

    def redo(self) -> None:
        """Apply the edit again that `undo` took back.

        Raises:
            ValueError: "expected an edit to redo, got none".
        """
        if not self._undone:
            raise ValueError("expected an edit to redo, got none: nothing was undone since the last edit")
        self._store.append({"edit": "redo"})
        self._done.append(self._undone.pop())

    def _edit(self, edit: Edit) -> None:
        after = applied(self.state, edit)  # raises before anything is written
        self._store.append(edit)
        self._done.append(after)
        self._undone = []

    def _give(self, frame: int, obj_id: int, mask: Mask, more: Edit) -> Found:
        check_id(obj_id)
        given = {"edit": "mask", "frame": int(frame), "object": obj_id, "mask": self._store.put(mask), "empty": not mask.any()}
        tracks = [t for t in self.state.objects.get(obj_id, ()) if t.covers(frame)]
        if len(tracks) > 1:
            given["nothing"] = self._store.put(np.zeros_like(mask))
        self._edit({**given, **more})
        return self._found(frame)

    def _prompt(self, frame: int, obj_id: int, prompt: Prompt, with_mask: bool) -> Found:
        self._check_frame(frame)
        check_id(obj_id)
        height, width = self.source.size
        places = [*prompt.points, *(zip(prompt.box[::2], prompt.box[1::2], strict=True) if prompt.box else ())]
        if any(not (0 <= x <= width and 0 <= y <= height) for x, y in places):
            raise ValueError(f"expected places inside the frame of {width}x{height} pixels (x, y), got {places}: give pixels")
        before = None
        if with_mask and obj_id in self.objects:
            _, ids, masks = self._found(frame)
            before = masks[ids.index(obj_id)]
        mask, _ = self._prompter(frame).predict(
            points=np.array(prompt.points, np.float64) if prompt.points else None,
            labels=np.array(prompt.labels, np.int64) if prompt.points else None,
            box=prompt.box,
            mask=before if before is not None and before.any() else None,
        )
        found = self._mask(mask)
        if not found.any():
            raise ValueError("expected a mask with pixels from these points, got an empty one: click inside the object")
        return self._give(frame, obj_id, found, {"points": prompt.points, "labels": prompt.labels, "box": prompt.box})

    def _prompter(self, frame: int) -> Prompting:
        """The prompter of a frame; those of the last two frames are kept, since they hold the features of the frame."""
        if frame not in self._prompters:
            self._prompters = dict([*self._prompters.items()][-1:])
            image = next(iter(self.source.frames(frame, frame + 1))).image
            self._prompters[frame] = self._make_prompter(image)
        return self._prompters[frame]

    def _found(self, frame: int) -> Found:
        found = results.compose(self.state, frame, self._store, self._passes.geometry, self.source.size, partial=True)
        assert found is not None
        return _triple(frame, found)

    def _mask(self, mask: npt.ArrayLike) -> Mask:
        array = np.asarray(mask)
        if array.ndim != 2 or not (array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer)):
            raise ValueError(f"expected a mask of bool or integers [H, W], got {array.dtype} {array.shape}: give one object")
        if array.shape != self.source.size:
            got, expected = _pixels(array.shape), _pixels(self.source.size)
            raise ValueError(
                f"expected a mask of {expected} pixels, the size of the frames, got {got}: resize it with nearest neighbour"
            )
        if len(values := np.unique(array[array != 0])) > 1:
            raise ValueError(f"expected a mask of one object, got the values {values[:3].tolist()}: give labels == id")
        return np.asarray(array != 0)

    def _check_frame(self, frame: int) -> None:
        if isinstance(frame, bool) or not isinstance(frame, int | np.integer) or not 0 <= frame < self.count:
            raise ValueError(f"expected a frame from 0 to {self.count - 1}, got {frame!r}: give one of them")

    # Results

    def propagate(self, start: int | None = None, stop: int | None = None, reverse: bool = False) -> Iterator[Found]:
        """Compute the results that are missing, and yield the frames. Where nothing is missing, they are read.

        Every frame gets the results of both directions, whatever the order in which frames are yielded. The results of the
        other direction are computed first, before the first frame is yielded. What is yielded is stored: a killed process
        continues there.

        Args:
            start: first frame to yield. Default: 0.
            stop: frame after the last one. Default: the number of frames.
            reverse: yield the last frame first.

        Returns:
            An iterator of (index of the frame, ids of all objects, their masks as bool [N, H, W]).

        Raises:
            ValueError: "expected at least one given mask, got none: ...", "expected 0 <= start < stop <= 90, got ...".
            RuntimeError: "the session was edited while propagate was running: call it again".
        """
        first, last = 0 if start is None else start, self.count if stop is None else stop
        if not 0 <= first < last <= self.count:
            raise ValueError(
                f"expected 0 <= start < stop <= {self.count}, got start {start}, stop {stop}: give frames of the video"
            )
        if not self.objects:
            raise ValueError("expected at least one given mask, got none: use add_mask, add_points or add_box")
        return self._propagate(range(first, last), reverse)

    def _propagate(self, frames: range, reverse: bool) -> Iterator[Found]:
        state, direction = self.state, -1 if reverse else 1
        for _ in self._computed(state, -direction, frames):
            self._unchanged(state)
        computed = self._computed(state, direction, frames)
        for frame in reversed(frames) if reverse else frames:
            if frame >= self.count:
                break
            while (found := self._compose(state, frame)) is None:
                if next(computed, None) is None and frame < self.count:
                    raise RuntimeError(f"frame {frame} has no result: report this")
                if frame >= self.count:
                    return
            yield _triple(frame, found)
            self._unchanged(state)

    def _computed(self, state: State, direction: int, frames: range) -> Iterator[int]:
        """Compute what is missing in one direction; a source that ends early shortens the session."""
        for leg, tracks in self._passes.plan(state, direction, frames, self.count):
            try:
                yield from self._passes.run(state, leg, tracks)
            except EndedError as error:
                self._shorten(int(error.args[0]))

    def _shorten(self, last: int) -> None:
        given = max(k for t in self.state.tracks for k in t.given)
        if given > last:
            raise ValueError(f"expected {self.count} frames, {self.source.name} ended at frame {last}: clear frame {given}")
        self.notes.append(f"{self.source.name} ended at frame {last}, where {self.count} frames were announced")
        self.count = self._about["count"] = last + 1
        self._store.write_about(self._about)

    def _unchanged(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError("the session was edited while propagate was running: call it again")

    def suggest(self, k: int = 1) -> list[int]:
        """Return the frames whose correction is expected to help most, the best one first.

        The expected error of a frame is high where the calibrated confidence is low, where the forward and the backward result
        differ, and far from given frames. A frame is good if the expected error of all frames that its correction reaches is
        high. See docs/sessions.md for the formula and how it was measured.

        Args:
            k: number of frames, at least 1. Fewer are returned if fewer are not given.

        Raises:
            ValueError: "expected results of all frames, got none for frame 7: run propagate first".
        """
        if k < 1:
            raise ValueError(f"expected at least 1 frame, got {k}: give a number from 1")
        geometry = self._passes.geometry
        rows = [results.trust(self.state, t, self._store, geometry) if geometry else None for t in range(self.count)]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            raise ValueError(f"expected results of all frames, got none for frame {rows.index(None)}: run propagate first")
        given = {i: self.given_frames(i) for i in self.objects}
        errors = [planning.expected_error(row, t, given) for t, row in enumerate(known)]
        complete = set.intersection(*(set(each) for each in given.values())) if given else set()
        return planning.most_useful(errors, complete, k, planning.REACH)

    # Files

    def export(self, folder: str | os.PathLike[str] | None = None, *, overwrite: bool = False, **outputs: Any) -> Summary:
        """Write the masks of all frames, and everything that `hodor segment` writes. What is missing is computed first.

        Args:
            folder: the folder. Default: `export` in the folder of the session.
            overwrite: remove an earlier export from the folder first. Without it, a folder with masks is refused, except for
                the default one, whose files are replaced one by one.
            **outputs: fields of `hodor.outputs.selection.OutputOptions`, such as `overlay=True`, `coco=True`, `cutout=(1,)`.

        Returns:
            The summary, as of `hodor.segment.segment`. `tracked` is the number of frames that the network processed.

        Raises:
            ValueError: "expected objects of the session to cut out (1, 2), got 9", "expected a folder without masks, ...", an
                unknown output.
        """
        chosen = Outputs(Path(self.folder / "export" if folder is None else folder), **outputs)
        label_dtype(max(self.objects, default=0))
        for i in chosen.cut_out_objects:
            if i not in self.objects:
                raise ValueError(f"expected objects of the session to cut out ({', '.join(map(str, self.objects))}), got {i}")
        if folder is not None and not overwrite and any(chosen.masks.glob("[!.]*.png")):
            raise ValueError(f"expected a folder without masks, got {chosen.masks}: give another folder, or overwrite")
        if overwrite:
            chosen.clear()
        before = self._passes.steps
        for _ in self.propagate():
            pass
        summary = export_frames(self.source, self.count, chosen, lambda t: self.result(t, soft=chosen.needs_soft))
        summary.tracked, summary.notes = self._passes.steps - before, [*self.notes, *self.source.notes]
        return summary

    def save(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Make sure that the session can be loaded from a folder.

        Edits and results are stored when they are made, so this only removes results that no undo or redo can bring back. With
        another folder, the session is copied there and continues there.

        Args:
            folder: a folder that does not exist yet. Default: the folder of the session, unless it is temporary.

        Returns:
            The folder.

        Raises:
            ValueError: "expected a folder for a temporary session, got none: ...", "expected a folder that does not exist or is
                empty, got ...".
        """
        if folder is None and self._temporary is not None:
            raise ValueError("expected a folder for a temporary session, got none: give save(folder)")
        self._store.keep_runs(set[str]().union(*(s.runs() for s in [*self._done, *self._undone])))
        self._store.thin(self._snapshot_bytes)
        if folder is None or Path(folder).resolve() == self.folder.resolve():
            return self.folder
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"expected a folder that does not exist or is empty, got {target}: give another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        shutil.copytree(self.folder, part)
        os.replace(part, target)
        self._closed()
        if self._temporary is not None:
            self._temporary()
            self._temporary = None
        done = self._done, self._undone
        store = Store(target)
        self._begin(store, self._about, self.source, self.network, self._make_prompter, self._snapshot_bytes)
        self._done, self._undone = done
        return target

    def _new_tracker(self) -> Tracker:
        return Tracker(self.network, history=self._about["history"], size=self._about["size"])


def _opened(source: str | os.PathLike[str] | Source) -> Source:
    opened = source if isinstance(source, Source) else open_source(source)
    if isinstance(opened, Stream):
        raise ValueError(f"expected a source that can be read again, got {opened.name}: save it as a video or a folder first")
    return opened


def _prompter(frame: Picture) -> Prompting:
    return Prompter(frame)


def _triple(frame: int, found: FrameResult) -> Found:
    ids = list(found.objects)
    height, width = found.labels.shape
    return frame, ids, np.stack([found.labels == i for i in ids]) if ids else np.zeros((0, height, width), bool)


def _pixels(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
