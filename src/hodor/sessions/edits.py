"""The edits of a session, and the objects that result from them, as values. No file is read and no network is used here.

An object consists of tracks. A track is what is followed by one plane of the tracker: its given masks by frame, and the
range of frames on which it belongs to the object. Renaming, merging and swapping objects only changes which tracks an object
has, so that no frame is computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from hodor.masks import label_dtype

END = 1 << 40
"""The end of a track without a limit."""
Edit = Mapping[str, Any]


class Given(NamedTuple):
    """A given mask.

    Attributes:
        mask: hash of the mask, which is the name of its file.
        order: number of the edit; where given masks overlap, the later one is on top.
        empty: whether the mask has no pixel: the object is not on this frame.
    """

    mask: str
    order: int
    empty: bool


@dataclass(frozen=True)
class Track:
    """One thing that is followed.

    Attributes:
        number: number of the plane in the tracker. Two tracks have the same number after a swap; their ranges differ.
        given: frame -> the mask that was given on it.
        start: first frame on which the track belongs to its object.
        stop: frame after the last one.
    """

    number: int
    given: Mapping[int, Given]
    start: int = 0
    stop: int = END

    def covers(self, frame: int) -> bool:
        """Return whether the track belongs to its object on this frame."""
        return self.start <= frame < self.stop

    def origin(self, frame: int, direction: int) -> int | None:
        """Return the given frame from which this frame is reached: the nearest one on that side, None if there is none.

        Args:
            frame: a frame; if it is given itself, it is its own origin.
            direction: 1 for the pass in order of time, -1 for the pass against it.
        """
        before = [k for k in self.given if direction * k <= direction * frame]
        return max(before, key=lambda k: direction * k, default=None)

    def run(self, origin: int, direction: int) -> str:
        """Return the name of the results that were computed from a given frame in one direction."""
        return f"{self.number}-{'f' if direction > 0 else 'b'}-{origin:05d}-{self.given[origin].mask}"


class Prompt(NamedTuple):
    """The clicks and the box of an object on a frame.

    Attributes:
        points: (x, y) of each click, in pixels.
        labels: 1 foreground, 0 background, one for each click.
        box: (x0, y0, x1, y1) in pixels, or None.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class State:
    """The objects of a session after some edits.

    Attributes:
        objects: id -> its tracks.
        prompts: (frame, id) -> the clicks and the box from which the given mask was made.
        count: number of edits so far.
    """

    objects: Mapping[int, tuple[Track, ...]] = field(default_factory=dict)
    prompts: Mapping[tuple[int, int], Prompt] = field(default_factory=dict)
    count: int = 0

    @property
    def tracks(self) -> list[Track]:
        """The tracks of all objects."""
        return [track for tracks in self.objects.values() for track in tracks]

    def given_frames(self, obj_id: int) -> list[int]:
        """Return the frames on which an object is given, in order of time."""
        return sorted({k for track in self.objects.get(obj_id, ()) for k in track.given if track.covers(k)})

    def runs(self) -> set[str]:
        """Return the names of all results that belong to this state."""
        return {track.run(k, d) for track in self.tracks for k in track.given for d in (1, -1)}


def applied(state: State, edit: Edit) -> State:
    """Return the state after one more edit.

    Args:
        state: the state before.
        edit: the edit, as it is in the journal: `edit` is its name.

    Raises:
        ValueError: "expected one of the objects 1, 2, got 7: ...", "expected a frame on which object 2 is given, got 5: ...",
            "expected an id that is not in use, got 2: ...".
    """
    after: State = _EDITS[edit["edit"]](state, edit)
    objects = {i: kept for i, tracks in after.objects.items() if (kept := tuple(t for t in tracks if t.given))}
    prompts = {key: value for key, value in after.prompts.items() if key[1] in objects}
    return State(dict(sorted(objects.items())), prompts, state.count + 1)


def states_of(edits: Iterable[Edit]) -> tuple[list[State], list[State]]:
    """Return the states after each edit that is in effect, the empty one first, and the states that `redo` returns to.

    Args:
        edits: the lines of the journal; "undo" and "redo" are among them.
    """
    done, undone = [State()], list[State]()
    for edit in edits:
        if edit["edit"] == "undo" and len(done) > 1:
            undone.append(done.pop())
        elif edit["edit"] == "redo" and undone:
            done.append(undone.pop())
        else:
            done.append(applied(done[-1], edit))
            undone = []
    return done, undone


def _tracks(state: State, obj_id: int) -> tuple[Track, ...]:
    if obj_id not in state.objects:
        ids = ", ".join(map(str, state.objects)) or "none, since nothing is given"
        raise ValueError(f"expected one of the objects ({ids}), got {obj_id}: give a mask, points or a box of it first")
    return state.objects[obj_id]


def check_id(obj_id: int) -> None:
    """Raise ValueError for what is no id of an object."""
    if isinstance(obj_id, bool) or not isinstance(obj_id, int) or obj_id < 1:
        raise ValueError(f"expected an object id from 1 to 65535, got {obj_id!r}: give a whole number")
    label_dtype(obj_id)


def _mask(state: State, edit: Edit) -> State:
    frame, obj_id = edit["frame"], edit["object"]
    check_id(obj_id)
    given = Given(edit["mask"], state.count, edit["empty"])
    tracks, is_first = list(state.objects.get(obj_id, ())), True
    for n, track in enumerate(tracks):
        if track.covers(frame):
            # of an object made of several, the first has the whole mask, and the others are not on the frame
            one = given if is_first else Given(edit["nothing"], state.count, True)
            tracks[n], is_first = replace(track, given={**track.given, frame: one}), False
    if is_first:
        number = 1 + max((t.number for t in state.tracks), default=0)
        tracks.append(Track(number, {frame: given}))
    prompts = {key: value for key, value in state.prompts.items() if key != (frame, obj_id)}
    if "points" in edit:
        points = tuple((float(x), float(y)) for x, y in edit["points"])
        box = edit["box"] and tuple(map(float, edit["box"]))
        prompts[frame, obj_id] = Prompt(points, tuple(edit["labels"]), box)
    return replace(state, objects={**state.objects, obj_id: tuple(tracks)}, prompts=prompts)


def _clear(state: State, edit: Edit) -> State:
    frame, obj_id = edit["frame"], edit["object"]
    tracks = _tracks(state, obj_id)
    if frame not in state.given_frames(obj_id):
        frames = ", ".join(map(str, state.given_frames(obj_id)))
        raise ValueError(f"expected a frame on which object {obj_id} is given ({frames}), got {frame}: clear one of them")
    kept = tuple(replace(t, given={k: g for k, g in t.given.items() if k != frame}) if t.covers(frame) else t for t in tracks)
    prompts = {key: value for key, value in state.prompts.items() if key != (frame, obj_id)}
    return replace(state, objects={**state.objects, obj_id: kept}, prompts=prompts)


def _remove(state: State, edit: Edit) -> State:
    _tracks(state, edit["object"])
    return replace(state, objects={i: t for i, t in state.objects.items() if i != edit["object"]})


def _rename(state: State, edit: Edit) -> State:
    old, new = edit["object"], edit["other"]
    tracks = _tracks(state, old)
    check_id(new)
    if new in state.objects:
        raise ValueError(
            f"expected an id that is not in use ({', '.join(map(str, state.objects))}), got {new}: use merge_objects"
        )
    objects = {i: t for i, t in state.objects.items() if i != old} | {new: tracks}
    prompts = {(k, new if i == old else i): value for (k, i), value in state.prompts.items()}
    return replace(state, objects=objects, prompts=prompts)


def _two(state: State, edit: Edit) -> tuple[int, int]:
    a, b = edit["object"], edit["other"]
    if a == b:
        raise ValueError(f"expected two objects, got {a} twice: give another one")
    _tracks(state, a), _tracks(state, b)
    return a, b


def _merge(state: State, edit: Edit) -> State:
    a, b = _two(state, edit)
    objects = {i: t for i, t in state.objects.items() if i != b} | {a: (*state.objects[a], *state.objects[b])}
    # clicks on a part do not describe the whole
    prompts = {key: value for key, value in state.prompts.items() if key[1] not in (a, b)}
    return replace(state, objects=objects, prompts=prompts)


def _swap(state: State, edit: Edit) -> State:
    a, b = _two(state, edit)
    frame = edit["frame"]
    early, late = ({i: _within(state.objects[i], *span) for i in (a, b)} for span in ((0, frame), (frame, END)))
    objects = {**state.objects, a: early[a] + late[b], b: early[b] + late[a]}
    other = {a: b, b: a}
    prompts = {(k, other.get(i, i) if k >= frame else i): value for (k, i), value in state.prompts.items()}
    return replace(state, objects=objects, prompts=prompts)


def _within(tracks: Sequence[Track], start: int, stop: int) -> tuple[Track, ...]:
    """The parts of tracks on a range of frames. Each keeps all its given masks, from which the range is reached."""
    cut = (replace(t, start=max(t.start, start), stop=min(t.stop, stop)) for t in tracks)
    return tuple(t for t in cut if t.start < t.stop)


_EDITS = {"mask": _mask, "clear": _clear, "remove": _remove, "rename": _rename, "merge": _merge, "swap": _swap}
