"""Find the ids of the objects of several mask files that belong to one video.

Each file states the identity of its objects in its own way (`marks.Mark`): by ids (pixel values, colours of the DAVIS
palette, numbers of file names, tracks), by colours, or by names. Objects of two files with the same statement are one
object. A file that states nothing, such as a black and white picture, can only be used where there is one object. Files
that contradict each other are refused, and so are files that cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from hodor.mask_files.doctor import Reading
from hodor.mask_files.images import ids_by_grey
from hodor.mask_files.marks import Mark
from hodor.masks import Labels, label_dtype, palette

Scheme = Literal["id", "colour", "name"]
SCHEMES: tuple[Scheme, ...] = ("id", "colour", "name")
"""Ways in which files are compared; the first that two files share is used."""
TRACKS = ("track", "track0", "cvat", "cvat0")
NEARLY = 10
"""Levels up to which two different colours are too similar to be two objects of different files."""


class Given(NamedTuple):
    """A mask and the frame to which it belongs.

    Attributes:
        file: name of the file, for messages.
        frame: index of the frame, from 0.
        reading: the mask.
    """

    file: str
    frame: int
    reading: Reading


class Row(NamedTuple):
    """What in which file became which id.

    Attributes:
        id: id of the object in the run.
        frame: index of the frame.
        file: name of the file.
        stated: what the file states about the object, such as "colour (250, 50, 83)" or "track 1, name cat".
    """

    id: int
    frame: int
    file: str
    stated: str


class Joined(NamedTuple):
    """Several masks with common ids.

    Attributes:
        labels: index of a frame -> ids per pixel [H, W].
        rows: one row for each object of each file, sorted by frame and id.
    """

    labels: dict[int, Labels]
    rows: tuple[Row, ...]


def join(masks: Sequence[Given]) -> Joined:
    """Find common ids.

    An id that a file states is used. Other objects have the numbers of the first file in order of the frames; those that
    only later files show have the next free numbers.

    Args:
        masks: the masks, one for each frame.

    Returns:
        The labels and the table of ids.

    Raises:
        ValueError: one line that names two files: they contradict each other, or cannot be compared.
    """
    ordered = sorted(masks, key=lambda mask: mask.frame)
    ids = _Objects(ordered).ids()
    labels, rows = {}, []
    for mask, table in zip(ordered, ids, strict=True):
        top = max(table.values())
        lookup = np.zeros(max(table) + 1, label_dtype(top))
        lookup[list(table)] = list(table.values())
        labels[mask.frame] = lookup[mask.reading.labels]
        rows += sorted(Row(i, mask.frame, mask.file, _stated(mask.reading, local)) for local, i in table.items())
    return Joined(labels, tuple(rows))


def lines_of(rows: Sequence[Row], frames: bool = True) -> list[str]:
    """Format the table of ids, one line a row after a heading, with or without the frames."""
    cells = [["id", "frame", "mask", "object in the mask"], *([str(r.id), str(r.frame), r.file, r.stated] for r in rows)]
    if not frames:
        cells = [[i, file, stated] for i, _, file, stated in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


class _Objects:
    """The objects of several masks; those that are one object have one number."""

    def __init__(self, masks: Sequence[Given]) -> None:
        self.masks = masks
        self.schemes = _schemes(masks)
        self.known: dict[Scheme, dict[object, tuple[int | None, Given]]] = {scheme: {} for scheme in SCHEMES}
        """Scheme -> what is stated -> number of the object, None if it is stated of several; and the first file with it."""
        self.forms: dict[Scheme, set[frozenset[str]]] = {scheme: set() for scheme in SCHEMES}
        """Scheme -> the kinds of marks of each mask that states it."""
        self.stated: list[dict[Scheme, tuple[object, Given]]] = []
        """By number of the object: what is stated about it first, and where."""
        self.numbers: dict[int, dict[int, int]] = {}
        """Position of a mask -> id in its file -> number of the object."""
        left = [m for m in range(len(masks)) if self.schemes[m]]
        while left:
            at = next((m for m in left if self._common(m)), left[0])
            if self.numbers and not self._common(at):
                raise ValueError(self._cannot_compare(at, next(iter(self.numbers))))
            left.remove(at)
            self._match(at)
        for m in range(len(masks)):
            if not self.schemes[m]:
                self._match_single(m)
        _check_colours(masks, self.schemes)
        _check_names(masks, self.schemes)

    def _common(self, m: int) -> Scheme | None:
        """Return the first scheme by which a mask can be compared with those before.

        Numbers can always be compared. Other statements need one in common, or masks of one form: of two forms without one
        in common, such as two palettes, the same objects can be stated differently.
        """
        form = _form(self.masks[m].reading)
        for scheme, table in self.schemes[m].items():
            known = self.known[scheme]
            if known and (scheme == "id" or form in self.forms[scheme] or any(key in known for key in table.values())):
                return scheme
        return None

    def _match(self, m: int) -> None:
        """Find the objects of a mask among those of the masks before, or add them, and compare all that is stated."""
        mask, schemes, common = self.masks[m], self.schemes[m], self._common(m)
        table = schemes[common] if common else {}
        self.numbers[m] = {}
        for local in mask.reading.objects:
            key = table.get(local)
            number, other = self.known[common].get(key, (-1, mask)) if common else (-1, mask)
            if number is None or (number != -1 and list(table.values()).count(key) > 1):
                several, one = (other, mask) if number is None else (mask, other)
                raise ValueError(
                    f"expected one object for each name, got {_shown(common, key)} for several objects in "
                    f"{several.file} and also in {one.file}: "
                    "give each object its own name, group_id or track_id"
                )
            if number == -1:
                number = len(self.stated)
                self.stated.append({})
            self.numbers[m][local] = number
        for scheme, table in schemes.items():
            self.forms[scheme].add(_form(mask.reading))
            for local, number in self.numbers[m].items():
                self._state(mask, scheme, table[local], number, common)

    def _state(self, mask: Given, scheme: Scheme, key: object, number: int, common: Scheme | None) -> None:
        """Note what a mask states about an object. Raises ValueError if this contradicts a mask before."""
        before, where = self.stated[number].setdefault(scheme, (key, mask))
        if before != key and not (scheme == "colour" and common == "id" and self._is_palette(number, {before, key})):
            known_by = self.stated[number].get(common) if common else None
            what = f"{_shown(common, known_by[0])} is " if known_by else "one object is "
            raise ValueError(
                f"masks {where.file} and {mask.file} contradict each other: {what}{_shown(scheme, before)} in the first and "
                f"{_shown(scheme, key)} in the second: correct one of them"
            )
        other, where = self.known[scheme].setdefault(key, (number, mask))
        if other == number:
            return
        if scheme == "name":
            self.known[scheme][key] = (None, where)
            return
        ids = [self.stated[n].get(common, ("",))[0] if common else "" for n in (other or 0, number)]
        raise ValueError(
            f"masks {where.file} and {mask.file} contradict each other: {_shown(scheme, key)} is {_shown(common, ids[0])} in "
            f"the first and {_shown(common, ids[1])} in the second: correct one of them"
        )

    def _is_palette(self, number: int, colours: set[object]) -> bool:
        """Return whether one of the colours is that of the object's id in the DAVIS palette, so that the index decides."""
        i = self.stated[number]["id"][0]
        return isinstance(i, int) and i < 256 and tuple(palette()[i].tolist()) in colours

    def _match_single(self, m: int) -> None:
        """Match a mask that states no identity: it is used if it is the only one, or if there is one object in all."""
        mask, objects = self.masks[m], self.masks[m].reading.objects
        if len(self.masks) > 1 and (len(objects) > 1 or len(self.stated) > 1):
            other = next(o for o in self.masks if o is not mask)
            shown = f"{len(objects)} objects" if len(objects) > 1 else f"which of the {len(self.stated)} objects it shows"
            how = "name the file obj_ID.png, or save it with the ids as pixel values"
            if "JSON" in mask.reading.kind:
                how = "give each object its own name, group_id or track_id"
            raise ValueError(
                f"expected masks that state the identity of their objects, got {mask.file} ({mask.reading.kind}), which does "
                f"not state {'that of its ' if len(objects) > 1 else ''}{shown}, beside {other.file}: {how}"
            )
        self.numbers[m] = {}
        for local in objects:
            if len(self.masks) == 1 or not self.stated:
                self.stated.append({})
            self.numbers[m][local] = len(self.stated) - 1

    def _cannot_compare(self, m: int, other: int) -> str:
        common = next((scheme for scheme in self.schemes[m] if scheme in self.schemes[other]), None)
        shown = []
        for k in (other, m):
            scheme, table = next((s, t) for s, t in self.schemes[k].items() if common in (None, s))
            listed = [_shown(scheme, key) for key in dict.fromkeys(table.values())]
            more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
            shown.append(f"{', '.join(listed[:3])}{more} in {self.masks[k].file}")
        return f"expected masks that can be compared, got {shown[0]} and {shown[1]}: give both in one form, such as palette PNG"

    def ids(self) -> list[dict[int, int]]:
        """Return id in the file -> id in the run, for each mask."""
        ids: dict[int, int] = {}
        for number, stated in enumerate(self.stated):
            if "id" in stated and isinstance(i := stated["id"][0], int):
                ids[number] = i
        taken = set(ids.values())
        for m in range(len(self.masks)):
            for local, number in self.numbers[m].items():
                if number not in ids:
                    ids[number] = local if local not in taken else next(i for i in range(1, 1 << 17) if i not in taken)
                    taken.add(ids[number])
        return [{local: ids[n] for local, n in self.numbers[m].items()} for m in range(len(self.masks))]


def _schemes(masks: Sequence[Given]) -> list[dict[Scheme, dict[int, object]]]:
    """Return for each mask: scheme -> id in the file -> what the file states, for schemes that cover all its objects."""
    readings = [mask.reading for mask in masks]
    folders = [r for r in readings if _all(r, "number", "number0", "file")]
    by_number = all(_all(r, "number", "number0") for r in folders)
    counts_from_zero = {
        "track": any(_all(r, "track0", "cvat0") for r in readings),
        "number": any(_all(r, "number0") for r in folders),
    }
    greys = _greys(readings)
    found: list[dict[Scheme, dict[int, object]]] = []
    origins: dict[tuple[str, bool, bool], Given] = {}
    for mask, reading in zip(masks, readings, strict=True):
        schemes: dict[Scheme, dict[int, object]] = {}
        origin, ids = "value", greys.get(id(reading)) or _all(reading, "value")
        if numbers := _all(reading, "number", "number0"):
            origin, ids = "number", numbers if by_number else {}
        elif tracks := _all(reading, *TRACKS):
            origin, ids = "track", tracks
        if ids:
            shift = counts_from_zero.get(origin, False)
            schemes["id"] = {local: int(str(i)) + shift for local, i in ids.items()}
            if max(map(int, map(str, schemes["id"].values()))) > 65535:
                raise ValueError(f"expected ids from 1 to 65535, got {origin} 65535 plus 1 in {mask.file}: use lower numbers")
            origins[origin, shift, bool(_all(reading, "cvat", "cvat0"))] = mask
        if colours := _all(reading, "colour"):
            schemes["colour"] = colours
        if names := _all(reading, "name") or ({} if by_number else {i: (n, None) for i, n in _all(reading, "file").items()}):
            schemes["name"] = names
        found.append(schemes)
    for (origin, shift, by_cvat), mask in origins.items():
        others = [other for key, other in origins.items() if key != (origin, shift, by_cvat)]
        if others and (shift or by_cvat):
            raise ValueError(
                f"expected ids that count from one number, got {origin}s {'of CVAT, ' * by_cvat}from 0 in {mask.file}, but "
                f"not in {others[0].file}: give both masks in one form"
            )
    return found


def _greys(readings: Sequence[Reading]) -> dict[int, dict[int, object]]:
    """Return the ids of grey pictures by `id()` of the reading, where one of them is a DAVIS palette converted to grey.

    A file alone cannot show whether 75 is an id or the grey of id 2. All are converted if all values are such greys.
    """
    grey = [r for r in readings if r.kind.startswith("grey ") and _all(r, "value")]
    stored = {id(r): _all(r, "grey") or _all(r, "value") for r in grey}
    if not any(_all(r, "grey") for r in grey):
        return {}
    by_grey: dict[object, int] = dict(ids_by_grey().items())
    if all(by_grey.get(value) for table in stored.values() for value in table.values()):
        return {key: {local: by_grey[value] for local, value in table.items()} for key, table in stored.items()}
    return stored


def _form(reading: Reading) -> frozenset[str]:
    return frozenset(mark.kind for i in reading.objects for mark in reading.marks[i])


def _all(reading: Reading, *kinds: str) -> dict[int, object]:
    """Return id in the file -> value of its mark of one of these kinds; {} unless all objects have one."""
    values = {
        i: next(mark.value for mark in reading.marks[i] if mark.kind in kinds)
        for i in reading.objects
        if any(mark.kind in kinds for mark in reading.marks.get(i, ()))
    }
    return values if len(values) == len(reading.objects) else {}


def _check_colours(masks: Sequence[Given], schemes: Sequence[dict[Scheme, dict[int, object]]]) -> None:
    """Raise ValueError where a background of one mask is an object of another, or colours are too similar to differ."""
    for mask in masks:
        ground = [mark.value for mark in mask.reading.marks.get(0, ())]
        for other, table in zip(masks, schemes, strict=True):
            if ground and ground[0] in table.get("colour", {}).values():
                raise ValueError(
                    f"masks {mask.file} and {other.file} contradict each other: colour {ground[0]} is background in the "
                    "first and an object in the second: make the background of both black"
                )
    for a, b, colour, similar in _pairs(masks, schemes, "colour"):
        if np.abs(np.subtract(np.asarray(colour), np.asarray(similar))).max() <= NEARLY:
            raise ValueError(
                f"expected equal or clearly different colours, got {colour} in {a.file} and {similar} in {b.file}: "
                "use one colour for one object"
            )


def _check_names(masks: Sequence[Given], schemes: Sequence[dict[Scheme, dict[int, object]]]) -> None:
    """Raise ValueError for names that differ in case, spaces or the presence of a group only."""
    for a, b, name, other in _pairs(masks, schemes, "name"):
        (label, group), (other_label, other_group) = _normal(name), _normal(other)
        if label == other_label and (group == other_group or None in (group, other_group)):
            raise ValueError(
                f"expected equal or clearly different names, got {_shown('name', name)} in {a.file} and "
                f"{_shown('name', other)} in {b.file}: use one name for one object"
            )


def _normal(name: object) -> tuple[str, object]:
    label, group = name if isinstance(name, tuple) else (name, None)
    return "".join(str(label).casefold().replace("_", " ").split()), group


def _pairs(
    masks: Sequence[Given], schemes: Sequence[dict[Scheme, dict[int, object]]], scheme: Scheme
) -> Iterator[tuple[Given, Given, object, object]]:
    """Yield the different statements of two masks that occur together in no mask; not where both masks state ids."""
    together = [set(table.get(scheme, {}).values()) for table in schemes]
    for (a, ours, by), (b, theirs, other_by) in combinations(zip(masks, together, schemes, strict=True), 2):
        if "id" in by and "id" in other_by:
            continue
        for one in ours - theirs:
            for other in theirs - ours:
                if not any({one, other} <= keys for keys in together):
                    yield a, b, one, other


def _stated(reading: Reading, i: int) -> str:
    marks = [mark for mark in reading.marks.get(i, ()) if mark.kind != "name" or mark.value != ("", None)]
    if any(mark.kind == "value" for mark in marks):
        marks = [mark for mark in marks if mark.kind == "grey"] or [mark for mark in marks if mark.kind == "value"]
    if any(mark.kind == "file" for mark in marks):
        marks = [mark for mark in marks if mark.kind == "file"]
    return ", ".join(map(str, marks)) or f"object {i} of a {reading.kind}"


def _shown(scheme: Scheme | None, key: object) -> str:
    return str(Mark("name", key)) if scheme == "name" else f"{scheme or ''} {key}".strip()
