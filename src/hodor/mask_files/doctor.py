"""The mask doctor: read masks in the forms in which they occur, repair them, and report what was done.

`read` accepts a picture of any common format, a file per object, or COCO and labelme JSON, and returns labels. Each of
its decisions is reported in `Reading.notes`, with pixel counts; what cannot be decided is a ValueError of one line.
`examine` reports what a file contains, for `hodor doctor FILE`. Sizes in messages are width x height, as players show
them; sizes in code are (H, W).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from hodor.files import parse_json
from hodor.mask_files.annotations import draw_annotations
from hodor.mask_files.images import Found, Plane, describe_picture, read_picture
from hodor.mask_files.marks import Kind, Mark, Marks
from hodor.masks import Labels, fit_labels, label_dtype, objects_in

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Size = tuple[int, int]
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".tga")
FOLDER = "one file per object"
MAX_STRETCH = 0.02
"""Maximum difference of the aspect ratios of a mask and of the video, as a share; or one pixel, if that is more."""
WHOLE = 0.9
"""Share of the picture from which an object gets a remark."""
OBJECT_NAME = re.compile(
    r"(?:^|[^a-z])(?:obj|object|objid|objectid|id|instance|inst|track|person|label)[ _.-]*\d+$", re.IGNORECASE
)
"""Names of files that state the number of an object."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A mask that was read.

    Attributes:
        labels: ids per pixel [H, W], uint8 or uint16, with at least one object.
        objects: the ids in the labels, sorted.
        notes: what was found and repaired, one line each.
        kind: format of the source in words, such as "palette PNG".
        names: id -> name of the object, where the source has names (labelme labels, COCO categories, file names).
        marks: id -> what the source states about the identity of the object, for `hodor.mask_files.identity`.
    """

    labels: Labels
    objects: tuple[int, ...]
    notes: tuple[str, ...]
    kind: str
    names: dict[int, str] = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)


def read(source: Source, size: Size | None = None, image: str | int | None = None) -> Reading:
    """Read a mask from a picture, a folder or list of pictures (one per object), or COCO or labelme JSON.

    The ids are those of this file alone. `hodor.mask_files.identity.join` finds the ids of several masks of one video.

    Args:
        source: path, or several paths. Of several files each is one object. Its id is the number at the end of the
            file's name (plus 1 if a number is 0) if all files have different numbers there, else 1, 2, ... in sorted
            order. Where objects overlap, the one with the higher id is used. The single object of a folder with one file,
            or of a file such as obj_2.png, has the id of the name, unless its pixel values state another.
        size: (H, W) of the video. A mask of another size is resized with nearest neighbour, with a note; one of another aspect
            ratio is refused. Default: the size of the mask.
        image: which picture of a COCO file with several: its file name or id.

    Returns:
        The labels, with notes, format and names.

    Raises:
        FileNotFoundError: "mask x.png does not exist".
        ValueError: one line that names the file: an empty mask, a file that is no picture, a JPEG or a photograph
            without clear objects (with counts), JSON of another format, an aspect ratio that differs from that of the video
            by more than 2 %.
    """
    where, found = _find(source, size, image)
    height, width = found.labels.shape
    before = objects_in(found.labels)
    if not before:
        raise ValueError(f"mask {where} is empty: no object in {width}x{height} pixels")
    labels, notes = found.labels, list(found.notes)
    if size is not None and labels.shape != tuple(size):
        _check_aspect(f"mask {where}", labels.shape, size)
        labels = fit_labels(labels, size)
        notes.append(f"resized from {width}x{height} to the video's {size[1]}x{size[0]} (nearest neighbour)")
    objects = objects_in(labels)
    notes += _remarks(labels, objects) if found.kind != FOLDER else []
    if not objects:
        sizes = f"from {width}x{height} to {labels.shape[1]}x{labels.shape[0]}"
        raise ValueError(f"mask {where} is empty after resizing {sizes}: draw larger objects")
    if lost := sorted(set(before) - set(objects)):
        notes.append(f"object {_list(lost)} is too small for the new size: no pixel is left")
    labels = labels.astype(label_dtype(objects[-1]))
    names = {i: name for i, name in found.names.items() if i in objects}
    marks = {i: marks for i, marks in found.marks.items() if i in objects or i == 0}
    return Reading(labels, objects, tuple(notes), found.kind, names, marks)


def _check_aspect(what: str, got: tuple[int, ...], size: Size) -> None:
    """Raise ValueError for a mask that would be distorted, such as one of the sideways picture."""

    def is_fit(height: int, width: int) -> bool:
        allowed = max(MAX_STRETCH * height * size[1], *size)  # one pixel of a small mask, whose sides are rounded
        return abs(width * size[0] - height * size[1]) <= allowed

    if not is_fit(got[0], got[1]):
        sideways = ", which is rotated by 90 degrees" if is_fit(got[1], got[0]) else ""
        raise ValueError(
            f"expected {what} in the aspect ratio of the upright frames, {size[1]}x{size[0]}, got {got[1]}x{got[0]}{sideways}: "
            "draw on the picture that `hodor frame SOURCE -o frame.png` writes"
        )


def split_image(given: str) -> tuple[str, str | None]:
    """Split FILE.json:IMAGE, which names one picture of a JSON file.

    Args:
        given: "task.json:frame_7.png", or any other path. An existing file whose name has a colon is not split.

    Returns:
        The file, and the name or id of the picture; None if none is named.
    """
    parts = re.fullmatch(r"(.+?\.json):(.+)", given, re.IGNORECASE)
    return (parts[1], parts[2]) if parts and not Path(given).exists() else (given, None)


def examine(source: Source, size: Size | None = None, image: str | int | None = None) -> list[str]:
    """Describe what a mask contains and how `read` would read it.

    Args:
        source: as for `read`.
        size: as for `read`.
        image: as for `read`.

    Returns:
        Lines of text: format, mode and size; the values with pixel counts; pixels and bounding box of each object; the
        notes; last the verdict, which starts with "good:", "repaired:" or "refused:".

    Raises:
        FileNotFoundError: "mask x.png does not exist". Other errors of `read` become the verdict.
    """
    lines = []
    for path in _files(source)[:1]:
        try:
            lines += describe_picture(path)
        except FileNotFoundError:
            raise
        except ValueError:
            lines.append(f"file    {path}: {path.stat().st_size} bytes")
    try:
        reading = read(source, size, image)
    except ValueError as error:
        return [*lines, f"refused: {error}"]
    lines.append(f"kind    {reading.kind}")
    for i in reading.objects:
        ys, xs = np.nonzero(reading.labels == i)
        name = f" {reading.names[i]}" if i in reading.names else ""
        box = f"x {xs.min()}..{xs.max()}, y {ys.min()}..{ys.max()}"
        lines.append(f"object  {i}{name}: {len(ys)} px ({len(ys) / reading.labels.size:.1%}), {box}")
    lines += [f"note    {note}" for note in reading.notes]
    count = f"{len(reading.objects)} object{'s' if len(reading.objects) > 1 else ''}"
    return [*lines, f"repaired: {count}, see the notes" if reading.notes else f"good: {count}, ids as stored"]


def _files(source: Source) -> list[Path]:
    """Return the files of a source; of a folder its pictures, sorted."""
    if not isinstance(source, str | os.PathLike):
        return [Path(s) for s in source]
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"mask {path} does not exist")
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))


def _find(source: Source, size: Size | None, image: str | int | None) -> tuple[str, Found]:
    files = _files(source)
    where = str(source if isinstance(source, str | os.PathLike) else ", ".join(map(str, files[:3])))
    if not files:
        raise ValueError(f"mask {where or 'list'} holds no picture: give one file per object ({' '.join(ENDINGS)})")
    if len(files) > 1:
        return where, _one_file_per_object(files, size)
    if files[0].suffix.lower() == ".json":
        return where, _json(files[0], size, image)
    in_folder = files[0] != Path(where)
    return where, _numbered_by_name(read_picture(files[0]), files[0], in_folder)


def _numbered_by_name(found: Found, file: Path, in_folder: bool) -> Found:
    """Give the only object of a file the number in the file's name, unless its pixel values state another id.

    In a folder every name counts, elsewhere only names such as obj_2.png: 00007.png is a frame.
    """
    objects, end = objects_in(found.labels), re.search(r"(\d+)$", file.stem)
    stored = {m.value for m in found.marks.get(objects[0], ()) if m.kind == "value"} if len(objects) == 1 else {0}
    frame = file.stem.isdecimal() and (stored or int(file.stem) == 0)
    named = file.stem if in_folder else OBJECT_NAME.search(file.stem)
    if not stored <= {1} or not named or frame or (end and int(end[1]) > 65535):
        return found
    number = int(end[1]) if end else 1
    notes = (
        [*found.notes, f"the id is the number at the end of the file name{', plus 1' * (not number)}"] if end else found.notes
    )
    marks = (Mark("number" if number else "number0", number),) * bool(end) + (Mark("file", file.stem),) * in_folder
    i = number or 1
    return Found(
        (found.labels != 0).astype(label_dtype(i)) * label_dtype(i).type(i), found.kind, notes, {i: file.stem}, {i: marks}
    )


def _remarks(labels: Labels, objects: Sequence[int]) -> list[str]:
    """Remark on objects that cover nearly the whole picture, and on a mask that seems inverted."""
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    counts, notes = np.bincount(labels.ravel(), minlength=max(objects, default=0) + 1), []
    for i in objects:
        share = counts[i] / labels.size
        if share > 0.5 and share < 1 and np.sum(corners == i) >= 3 and np.mean(border == i) >= 0.6:
            notes.append(
                f"the mask seems inverted: object {i} covers {share:.1%} of the picture and {np.mean(border == i):.0%} of its "
                "border; invert the mask if the object is the rest"
            )
        elif share >= WHOLE:
            notes.append(f"object {i} covers {share:.1%} of the picture: check that it is the object and not the background")
    return notes


def _json(path: Path, size: Size | None, image: str | int | None) -> Found:
    if not path.exists():
        raise FileNotFoundError(f"mask {path} does not exist")
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"mask {path} is not valid JSON: {error}") from None
    drawn = draw_annotations(data, f"mask {path}", size, image)
    return Found(drawn.labels, drawn.kind, list(drawn.notes), drawn.names, drawn.marks)


def _one_file_per_object(files: list[Path], size: Size | None) -> Found:
    ends = [re.search(r"(\d+)$", file.stem) for file in files]
    numbers = [int(end[1]) for end in ends if end]
    numbered = len(set(numbers)) == len(files)
    from_zero = numbered and min(numbers) == 0
    ids = [number + from_zero for number in numbers] if numbered else list(range(1, len(files) + 1))
    if numbered and max(ids) > 65535:
        numbered, ids = False, list(range(1, len(files) + 1))
    notes = ["ids are the numbers at the end of the file names" if numbered else "ids follow the sorted file names"]
    if numbered and from_zero:
        notes[0] += ", plus 1 since they count from 0"
    kind: Kind = "number0" if from_zero else "number"
    marks = {
        i: ((Mark(kind, i - from_zero),) if numbered else ()) + (Mark("file", f.stem),) for f, i in zip(files, ids, strict=True)
    }
    planes: list[Plane] = []
    for file, i in zip(files, ids, strict=True):
        found = read_picture(file)
        if len(objects_in(found.labels)) > 1:
            raise ValueError(
                f"mask {file} holds {len(objects_in(found.labels))} objects, but of several files each must be one object: "
                "give a single file; of the masks of a video, the first"
            )
        plane = found.labels != 0
        if size is not None and plane.shape != tuple(size):
            _check_aspect(f"mask {file}", plane.shape, size)
            plane = fit_labels(plane.astype(np.uint8), size).astype(bool)
            notes.append(f"{file.name}: resized to the video's {size[1]}x{size[0]} (nearest neighbour)")
        if planes and plane.shape != planes[0].shape:
            expected, got = (f"{shape[1]}x{shape[0]}" for shape in (planes[0].shape, plane.shape))
            raise ValueError(f"mask {file}: expected {expected} pixels, the size of {files[0].name}, got {got}")
        if not plane.any():
            notes.append(f"{file.name} is empty: no object {i}")
        notes += [f"{file.name}: {note}" for note in found.notes if not note.startswith(("0 and 255", "0 and 65535"))]
        notes += [f"{file.name}: {note}" for note in _remarks(plane * label_dtype(i).type(i), [i])]
        planes.append(plane)
    _reject_video(files, planes)
    labels: Labels = np.zeros(planes[0].shape, label_dtype(max(ids)))
    covered = 0
    for plane, i in sorted(zip(planes, ids, strict=True), key=lambda pair: pair[1]):
        covered += int(np.count_nonzero(labels[plane]))
        labels[plane] = i
    if covered:
        notes.append(f"{covered} px are in several objects: the later object is used")
    return Found(labels, FOLDER, notes, {i: f.stem for f, i in zip(files, ids, strict=True)}, marks)


def _reject_video(files: list[Path], planes: list[Plane]) -> None:
    """Raise ValueError for masks of successive frames: they overlap almost entirely, masks of different objects do not."""
    pairs = list(pairwise(planes))
    if len(pairs) >= 2 and all(2 * np.sum(a & b) > np.sum(a | b) for a, b in pairs):
        raise ValueError(
            f"mask files {files[0].name}, {files[1].name}, ... overlap like successive frames of a video: "
            f"give only the first, {files[0]}"
        )


def _list(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:10])) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
