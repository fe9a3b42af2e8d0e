"""The part of a session that is edited: masks, clicks and boxes are given, objects are renamed, merged and swapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels
from hodor.sessions import planning, results
from hodor.sessions.edits import Edit, Prompt, State, applied, check_id, states_of
from hodor.sessions.passes import Passes
from hodor.sessions.results import FrameResult
from hodor.sessions.store import Mask, Store
from hodor.video.source import Picture, Source

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


class Edited:
    """The edits of a session, and what is known of its frames. `hodor.session.Session` adds the rest.

    Attributes:
        source: the opened source.
        folder: the folder of the session.
        count: number of frames.
    """

    source: Source
    folder: Path
    count: int
    _store: Store
    _passes: Passes
    _make_prompter: Callable[[Picture], Prompting]
    _prompters: dict[int, Prompting]
    _done: list[State]
    _undone: list[State]

    def _read_edits(self) -> None:
        edits = self._store.edits()
        try:
            self._done, self._undone = states_of(edits)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.folder}/journal.jsonl is damaged ({error}): restore it from a copy") from None
        names = (g.mask for s in [*self._done, *self._undone] for t in s.tracks for g in t.given.values())
        if missing := self._store.lacks(names):
            raise ValueError(f"{self.folder}/given lacks {missing[0]}.png, which was given: restore the folder from a copy")

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
                missing = planning.to_compute(track, direction, whole, self.count, self._store.has)
                found.update(t for t in missing if track.covers(t))
        return sorted(found)

    def labels(self, frame_idx: int) -> Labels:
        """Return the ids per pixel of a frame, [H, W].

        Raises:
            ValueError: "expected a result for frame 7, got none yet: run propagate first".
        """
        return self.result(frame_idx).labels

    def result(self, frame_idx: int, *, soft: bool = False, partial: bool = False) -> FrameResult:
        """Return all that is known of a frame: labels, confidence, and how far the two directions agree.

        Args:
            frame_idx: index of the frame.
            soft: whether to compute the soft masks.
            partial: whether an object without a result yet is left empty, instead of an error.

        Raises:
            ValueError: "expected a result for frame 7, got none yet: run propagate first".
        """
        self._check_frame(frame_idx)
        found = self._compose(self.state, frame_idx, soft, partial)
        if found is None:
            raise ValueError(f"expected a result for frame {frame_idx}, got none yet: run propagate first")
        return found

    def trust(self, frame_idx: int) -> dict[int, tuple[float, float] | None]:
        """Return how far a frame can be trusted, in less time than `result` needs.

        Args:
            frame_idx: index of the frame.

        Returns:
            id -> confidence, and how far the forward and the backward result agree, both in [0, 1], of each object that is not
            given on the frame; None for an object of which a result is missing.
        """
        self._check_frame(frame_idx)
        return results.trust(self.state, frame_idx, self._store, self._passes.geometry)

    @property
    def depth(self) -> tuple[int, int]:
        """The number of edits that `undo` can take back, and that `redo` can apply again."""
        return len(self._done) - 1, len(self._undone)

    def _compose(self, state: State, frame: int, with_soft: bool = False, partial: bool = False) -> FrameResult | None:
        geometry, size = self._passes.geometry, self.source.size
        return results.compose(state, frame, self._store, geometry, size, with_soft=with_soft, partial=partial)

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
        prompt = self._clicked(frame_idx, obj_id, points, labels, clear_old_points)
        return self._prompt(frame_idx, obj_id, prompt, not clear_old_points)

    def _clicked(self, frame: int, obj_id: int, points: Any, labels: Any, alone: bool) -> Prompt:
        """The clicks and the box of an object with further clicks, or these clicks alone."""
        old = Prompt() if alone else self.prompts(frame, obj_id)
        new = np.asarray(points, np.float64).reshape(-1, 2)
        marks = [int(i) for i in np.asarray(labels).reshape(-1)]
        if len(new) != len(marks) or not marks:
            raise ValueError(f"expected one label for each point, got {len(new)} points and {len(marks)} labels: give both")
        if set(marks) - {0, 1}:
            raise ValueError(f"expected labels of 1 (object) and 0 (background), got {sorted(set(marks))}: use these two")
        return Prompt((*old.points, *((float(x), float(y)) for x, y in new)), (*old.labels, *marks), old.box)

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
        prompt = self._boxed(frame_idx, obj_id, box)
        return self._prompt(frame_idx, obj_id, prompt, bool(prompt.points))

    def _boxed(self, frame: int, obj_id: int, box: Sequence[float] | npt.NDArray[Any]) -> Prompt:
        """The clicks of an object with another box."""
        corners = [float(each) for each in box]
        if len(corners) != 4 or not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise ValueError(f"expected a box (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {corners}: give two corners")
        old = self.prompts(frame, obj_id)
        return Prompt(old.points, old.labels, (corners[0], corners[1], corners[2], corners[3]))

    def preview(
        self,
        frame_idx: int,
        obj_id: int,
        points: Sequence[tuple[float, float]] | npt.NDArray[Any] = (),
        labels: Sequence[int] | npt.NDArray[Any] = (),
        *,
        box: Sequence[float] | npt.NDArray[Any] | None = None,
        clear_old_points: bool = False,
    ) -> tuple[Mask, float]:
        """Return the mask that `add_points`, or with a box `add_box`, would give. Nothing is changed or stored.

        Args:
            frame_idx: index of the frame.
            obj_id: id of the object, which need not exist.
            points: as `add_points`.
            labels: as `add_points`.
            box: as `add_box`; points are then not used.
            clear_old_points: as `add_points`.

        Returns:
            The mask, bool [H, W], which can be empty, and its score in [0, 1].

        Raises:
            ValueError: as `add_points` and `add_box`.
        """
        if box is not None:
            prompt = self._boxed(frame_idx, obj_id, box)
            return self._predicted(frame_idx, obj_id, prompt, bool(prompt.points))
        prompt = self._clicked(frame_idx, obj_id, points, labels, clear_old_points)
        return self._predicted(frame_idx, obj_id, prompt, not clear_old_points)

    def clear(self, frame_idx: int, obj_id: int) -> None:
        """Remove what was given of an object on a frame: mask, clicks and box. An object without any given mask is removed.

        Raises:
            ValueError: "expected a frame on which object 1 is given (0, 40), got 5: ...".
        """
        self._edit({"edit": "clear", "frame": int(frame_idx), "object": obj_id})

    def remove_object(self, obj_id: int) -> None:
        """Remove an object. Nothing is computed again; its pixels become background or those of another object.

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
        found, _ = self._predicted(frame, obj_id, prompt, with_mask)
        if not found.any():
            raise ValueError("expected a mask with pixels from these points, got an empty one: click inside the object")
        return self._give(frame, obj_id, found, {"points": prompt.points, "labels": prompt.labels, "box": prompt.box})

    def _predicted(self, frame: int, obj_id: int, prompt: Prompt, with_mask: bool) -> tuple[Mask, float]:
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
        mask, score = self._prompter(frame).predict(
            points=np.array(prompt.points, np.float64) if prompt.points else None,
            labels=np.array(prompt.labels, np.int64) if prompt.points else None,
            box=prompt.box,
            mask=before if before is not None and before.any() else None,
        )
        return self._mask(mask), score

    def _prompter(self, frame: int) -> Prompting:
        """The prompter of a frame; those of the last two frames are kept, since they hold the features of the frame."""
        if frame not in self._prompters:
            self._prompters = dict([*self._prompters.items()][-1:])
            self._prompters[frame] = self._make_prompter(self.source.frame(frame).image)
        return self._prompters[frame]

    def _found(self, frame: int) -> Found:
        found = self._compose(self.state, frame, partial=True)
        assert found is not None
        return triple(frame, found)

    def _mask(self, mask: npt.ArrayLike) -> Mask:
        array = np.asarray(mask)
        if array.ndim != 2 or not (array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer)):
            raise ValueError(f"expected a mask of bool or integers [H, W], got {array.dtype} {array.shape}: give one object")
        if array.shape != self.source.size:
            got, expected = pixels(array.shape), pixels(self.source.size)
            raise ValueError(
                f"expected a mask of {expected} pixels, the size of the frames, got {got}: resize it with nearest neighbour"
            )
        if len(values := np.unique(array[array != 0])) > 1:
            raise ValueError(f"expected a mask of one object, got the values {values[:3].tolist()}: give labels == id")
        return np.asarray(array != 0)

    def _check_frame(self, frame: int) -> None:
        if isinstance(frame, bool) or not isinstance(frame, int | np.integer) or not 0 <= frame < self.count:
            raise ValueError(f"expected a frame from 0 to {self.count - 1}, got {frame!r}: give one of them")


def triple(frame: int, found: FrameResult) -> Found:
    ids = list(found.objects)
    height, width = found.labels.shape
    return frame, ids, np.stack([found.labels == i for i in ids]) if ids else np.zeros((0, height, width), bool)


def pixels(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
