"""Read outlines and run lengths in JSON (COCO, labelme) as labels of one picture.

COCO: a file with `images` and `annotations`, a bare list of annotations as segment-anything writes it, or a single run
length; polygons, plain runs and compressed runs. YouTube-VIS: one picture of a video. labelme: polygon, rectangle, circle
and mask shapes. In all, x goes to the right and y down from the corner of the picture: pixel (0, 0) covers 0..1, and is
inside an outline when its centre (0.5, 0.5) is. Only numpy and Pillow are needed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.files import check_pixels
from hodor.mask_files.marks import Kind, Mark, Marks

if TYPE_CHECKING:
    from hodor.masks import Labels

Plane = npt.NDArray[np.bool_]
Size = tuple[int, int]
MAX_COORDINATE = 1e9  # a corner farther away is moved to this distance, so that products do not overflow
MAX_MESSAGE = 1000  # characters: messages of numpy repeat values of the file
MAX_DIGITS = 20  # characters of one compressed run; more than any picture needs
NOT_OBJECTS = ("__ignore__", "_background_")
"""Labels of labelme's own lists for regions that are no object."""


class Drawn(NamedTuple):
    """Labels drawn from a file.

    Attributes:
        labels: ids per pixel [H, W], uint8 or uint16.
        notes: remarks on what was read, one line each.
        kind: format of the file in words, such as "COCO JSON".
        names: id -> name of the object, where the file has one.
        marks: id -> what the file states about the identity of the object.
    """

    labels: Labels
    notes: tuple[str, ...]
    kind: str
    names: dict[int, str]
    marks: Marks


class Shape(NamedTuple):
    """One annotation.

    Attributes:
        key: key of its object; shapes with equal keys are one object.
        name: name of its object, "" if it has none.
        draw: function from a size (H, W) to its plane.
        marks: what the annotation states about the identity of its object.
    """

    key: object
    name: str
    draw: Callable[[Size], Plane]
    marks: tuple[Mark, ...]


def draw_annotations(data: Any, where: str, size: Size | None = None, image: str | int | None = None) -> Drawn:
    """Draw the objects of parsed COCO or labelme JSON.

    Ids of COCO: the `track_id` of the annotations (their own or in `attributes`) if all have one, and equal ones are one
    object; plus 1 if the file has a track 0, as CVAT's have. Else 1, 2, ... in the order of the file. COCO's own
    annotation ids count over the whole data set and are not used. Ids of labelme: 1, 2, ... in order of appearance;
    shapes of the same label and the same `group_id` are one object, each shape without group_id is an object. Where
    objects overlap, the later one is used.

    Args:
        data: result of `json.load`.
        where: name of the file, for messages.
        size: (H, W) of the video; used only where the file does not state its own size.
        image: which picture of a COCO or YouTube-VIS file: its file name (with or without folder and suffix) or its id, of
            YouTube-VIS with one video the index of the frame. It can be omitted if only one picture of COCO has annotations.

    Returns:
        The labels, with notes, format, names and marks.

    Raises:
        ValueError: one line that begins with `where`: the file is neither COCO nor labelme, it has several pictures and
            none was chosen, it has no shape to draw, the size is unknown, or run lengths do not fill the picture.
    """
    try:
        if isinstance(data, dict) and "shapes" in data:
            return _labelme(data, size, image)
        if isinstance(data, dict) and "counts" in data:
            data = [{"segmentation": data}]
        if isinstance(data, list) and data and all(isinstance(a, dict) and "segmentation" in a for a in data):
            data = {"images": [{"id": i} for i in dict.fromkeys(a.get("image_id") for a in data)], "annotations": data}
        if isinstance(data, dict) and "videos" in data:
            if image is None:
                raise ValueError("holds whole videos (YouTube-VIS): name a picture as image, in the command --mask FILE:IMAGE")
            return _coco(_pictures(data), size, image)._replace(kind="YouTube-VIS JSON")
        if isinstance(data, dict) and "annotations" in data:
            return _coco(data, size, image)
        raise ValueError("is JSON, but neither COCO (images, annotations) nor labelme (shapes): give one of these")
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: {type(error).__name__} {str(error)[:200]}") from None
    except ValueError as error:
        raise ValueError(f"{where} {str(error)[:MAX_MESSAGE]}") from None


def polygon(points: npt.ArrayLike, size: Size) -> Plane:
    """Fill one closed outline, with the even-odd rule where it crosses itself.

    In each row, every edge that crosses the line through the pixel centres inverts all pixels to its right.

    Args:
        points: corners [(x, y), ...], in pixels.
        size: size of the picture (H, W).

    Returns:
        bool [H, W]: the pixels whose centres are inside.

    Raises:
        ValueError: "holds an outline that is not pairs of numbers", and as `check_pixels`.
    """
    check_pixels(*size)
    height, width = size
    flat = np.asarray(points, np.float64).ravel()
    if flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError("holds an outline that is not pairs of numbers")
    start = flat.reshape(-1, 2).clip(-MAX_COORDINATE, MAX_COORDINATE)
    flips = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(start, np.roll(start, -1, 0), strict=True):
        # half-open in y, so that a corner on the line counts once
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        if rows.size:
            crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            flips[rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)] ^= 1
    inside: Plane = np.bitwise_xor.accumulate(flips, axis=1)[:, :width].view(bool)
    return inside


def decode_runs(counts: Sequence[int] | str | bytes, size: Size) -> Plane:
    """Decode COCO run lengths.

    Runs go down the columns; the first one counts zeros. A string holds compressed runs: 5 bits a character (code - 48),
    low bits first; 32 marks that more follow, and bit 16 of the last character is the sign. From the fourth number on, a
    number is the difference from the number two places before.

    Args:
        counts: run lengths, or a string of compressed ones.
        size: size of the picture (H, W).

    Returns:
        bool [H, W].

    Raises:
        ValueError: "holds runs of 11 pixels for a picture of 4x3" (width x height), and as `check_pixels`.
    """
    if isinstance(counts, str | bytes):
        runs: list[int] = []
        value = shift = 0
        for code in counts.encode() if isinstance(counts, str) else counts:
            bits = code - 48
            if shift > 5 * MAX_DIGITS:
                raise ValueError("holds compressed runs with a number of more than 20 characters")
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                value -= (1 << shift) if bits & 16 else 0
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        counts = runs
    check_pixels(*size)
    height, width = size
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"holds runs of {sum(counts)} pixels for a picture of {width}x{height}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def _coco(data: dict[str, Any], size: Size | None, image: str | int | None) -> Drawn:
    picture = _choose(data.get("images", []), data["annotations"], image)
    chosen = [a for a in data["annotations"] if picture is None or a.get("image_id") == picture.get("id")]
    if picture and picture.get("height") and picture.get("width"):
        size = int(picture["height"]), int(picture["width"])
    names = {c["id"]: str(c["name"]) for c in data.get("categories") or []}
    drawable = [a for a in chosen if a.get("segmentation")]
    notes = []
    if chosen and not drawable and all(a.get("bbox") for a in chosen):
        turned = any((a.get("attributes") or {}).get("rotation") for a in chosen)
        boxes = "rotated boxes" if turned else "boxes"
        raise ValueError(
            f"holds {boxes} alone, expected outlines or masks: draw polygons or masks, or convert the boxes to polygons"
        )
    if len(drawable) < len(chosen):
        notes.append(f"{len(chosen) - len(drawable)} annotations without a segmentation left out")
    tracks = [_track(a) for a in drawable]
    tracked, stated = None not in tracks, sum(t is not None for t in tracks)
    from_zero = any(_track(a) == 0 for a in data["annotations"])
    by_cvat = any("keyframe" in (a.get("attributes") or {}) for a in drawable)
    kinds: tuple[tuple[Kind, Kind], ...] = (("track", "track0"), ("cvat", "cvat0"))
    kind = kinds[by_cvat][from_zero]
    shapes: list[Shape] = []
    keys: dict[object, int] = {}
    for order, (annotation, track) in enumerate(zip(drawable, tracks, strict=True), 1):
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            size = size or (int(segmentation["size"][0]), int(segmentation["size"][1]))
        name = names.get(annotation.get("category_id"), "")
        key = track if tracked else order
        if any(s.key == key and s.name != name for s in shapes):
            raise ValueError(
                f"holds track {key} with the categories {_name_of(shapes, key)!r} and {name!r}: correct one of them"
            )
        marks = (Mark(kind, track),) * tracked + (Mark("name", (name, None)),) * bool(name)
        shapes.append(Shape(key, name, _segment(segmentation), marks))
        keys[key] = (track or 0) + from_zero if tracked else order
    if tracked and shapes:
        notes.append("ids are the track_id of the annotations" + ", plus 1 since they count from 0" * from_zero)
    else:
        partly = f": only {stated} of {len(tracks)} have a track_id" if stated else ""
        notes.append(f"ids follow the order of the annotations{partly}")
    return _paint(shapes, keys, size, "COCO JSON", notes)


def _pictures(data: dict[str, Any]) -> dict[str, Any]:
    """Convert YouTube-VIS JSON to COCO: pictures are named by their files, those of a single video also by index."""
    images, annotations = [], []
    for video in data["videos"]:
        for k, name in enumerate(video["file_names"]):
            key = k if len(data["videos"]) == 1 else f"{video['id']}/{k}"
            images.append({"id": key, "file_name": name, "height": video.get("height"), "width": video.get("width")})
            annotations += [
                {
                    "image_id": key,
                    "segmentation": a["segmentations"][k],
                    "track_id": a["id"],
                    "category_id": a.get("category_id"),
                }
                for a in data["annotations"]
                if a["video_id"] == video["id"] and a["segmentations"][k]
            ]
    return {"images": images, "annotations": annotations, "categories": data.get("categories")}


def _track(annotation: dict[str, Any]) -> int | None:
    """Return the track_id of an annotation, its own or in `attributes`; None if it is not a number from 0 to 65535."""
    track = annotation.get("track_id")
    if track is None:
        track = (annotation.get("attributes") or {}).get("track_id")
    if isinstance(track, str) and track.strip().isdecimal():
        track = int(track)
    if isinstance(track, bool) or not isinstance(track, int | float) or track != track // 1 or not 0 <= track <= 65535:
        return None
    return int(track)


def _name_of(shapes: list[Shape], key: object) -> str:
    return next(s.name for s in shapes if s.key == key)


def _choose(images: list[dict[str, Any]], annotations: list[dict[str, Any]], chosen: str | int | None) -> Any:
    """Return the entry of `images` to draw; None if the file lists no picture."""

    found = [i for i in images if chosen is None or _is_named(i, chosen)]
    if chosen is None and len(found) > 1:
        annotated = {a.get("image_id") for a in annotations}
        found = [i for i in found if i.get("id") in annotated] or found
    if len(found) == 1 or (not images and chosen is None):
        return found[0] if found else None
    listed = [str(i.get("file_name", i.get("id"))) for i in (found or images)]
    listing = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
    if found:
        raise ValueError(
            f"holds {len(found)} pictures ({listing}): name one of them as image, in the command --mask FILE:IMAGE"
        )
    raise ValueError(f"holds no picture {chosen!r}: it has {listing or 'none'}")


def _is_named(entry: dict[str, Any], chosen: str | int) -> bool:
    name = PurePath(str(entry.get("file_name", "")))
    return str(chosen) in (str(entry.get("id")), str(name), name.name, name.stem)


def _segment(segmentation: Any) -> Callable[[Size], Plane]:
    """Return a function that draws a COCO segmentation."""

    def draw(size: Size) -> Plane:
        if isinstance(segmentation, dict):
            height, width = segmentation["size"]
            if (height, width) != size:
                raise ValueError(f"holds runs for {width}x{height} in a picture of {size[1]}x{size[0]}")
            return decode_runs(segmentation["counts"], size)
        outlines = segmentation if isinstance(segmentation[0], list) else [segmentation]
        plane = np.zeros(size, bool)
        for outline in outlines:
            plane |= polygon(outline, size)
        return plane

    return draw


def _labelme(data: dict[str, Any], size: Size | None, image: str | int | None) -> Drawn:
    drawn_on = str(data.get("imagePath") or "").replace("\\", "/")
    if image is not None and drawn_on and not _is_named({"file_name": drawn_on}, image):
        raise ValueError(f"holds no picture {str(image)!r}: it has {drawn_on}")
    if data.get("imageHeight") and data.get("imageWidth"):
        size = int(data["imageHeight"]), int(data["imageWidth"])
    shapes, left_out, ignored = [], [], 0
    for order, shape in enumerate(data["shapes"]):
        kind = shape.get("shape_type") or "polygon"
        if str(shape.get("label", "")).strip() in NOT_OBJECTS:
            ignored += 1
            continue
        if kind not in ("polygon", "rectangle", "circle", "mask"):
            left_out.append(kind)
            continue
        label, group = str(shape.get("label", "")), shape.get("group_id")
        key = (label, order, None) if group is None else (label, None, group)
        marks = (Mark("name", (label, group)),) if label else ()
        shapes.append(Shape(key, label, _labelme_shape(kind, shape), marks))
    notes = [f"shapes of kind {', '.join(sorted(set(left_out)))} left out: {len(left_out)}"] if left_out else []
    if ignored:
        notes.append(f"shapes labelled {' or '.join(NOT_OBJECTS)} are no objects and left out: {ignored}")
    keys = {key: i for i, key in enumerate(dict.fromkeys(s.key for s in shapes), 1)}
    return _paint(shapes, keys, size, "labelme JSON", notes)


def _labelme_shape(kind: str, shape: dict[str, Any]) -> Callable[[Size], Plane]:
    """Return a function that draws a labelme shape."""

    def draw(size: Size) -> Plane:
        points = np.asarray(shape["points"], np.float64)
        if kind == "polygon":
            return polygon(points, size)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not np.isfinite(points).all():
            raise ValueError(f"holds a {kind} whose points are not two pairs of numbers")
        points = points.clip(-MAX_COORDINATE, MAX_COORDINATE)
        (x0, y0), (x1, y1) = points[:2]
        if kind == "rectangle":
            return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size)
        if kind == "circle":  # its centre, then a point on the circle
            y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
            disc: Plane = (x - x0) ** 2 + (y - y0) ** 2 <= (x1 - x0) ** 2 + (y1 - y0) ** 2
            return disc
        return _stamp(shape["mask"], round(x0), round(y0), size)

    return draw


def _stamp(encoded: str, left: int, top: int, size: Size) -> Plane:
    """Place a base64 picture of one object at its position, cropped at the borders."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=["PNG", "JPEG"]) as picture:
            check_pixels(picture.height, picture.width)
            small = np.asarray(picture.convert("L")) > 0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # a wrong base64 text is a ValueError
        raise ValueError("holds a mask shape whose picture cannot be read: save it again") from None
    canvas = np.zeros(size, bool)
    rows, columns = (slice(max(at, 0), max(at + n, 0)) for at, n in zip((top, left), small.shape, strict=True))
    region = canvas[rows, columns]
    region[:] = small[max(-top, 0) :, max(-left, 0) :][: region.shape[0], : region.shape[1]]
    return canvas


def _paint(shapes: list[Shape], keys: dict[object, int], size: Size | None, kind: str, notes: list[str]) -> Drawn:
    """Draw the shapes in order. Notes report overlap of different objects, and shapes without a pixel."""
    from hodor.masks import label_dtype  # imports Pillow, which other users of this module do not need

    if not shapes:
        raise ValueError("holds no outline or run length to draw")
    if size is None:
        raise ValueError(
            "does not state the height and width of the picture, and no size was given: give the size of the video"
        )
    check_pixels(*size)
    labels: Labels = np.zeros(size, label_dtype(max(keys.values())))
    covered = 0
    for shape in shapes:
        plane, i = shape.draw(size), keys[shape.key]
        if not plane.any():
            notes.append(f"object {i} {shape.name} covers no pixel".replace("  ", " "))
        covered += int(np.count_nonzero(plane & (labels != 0) & (labels != i)))
        labels[plane] = i
    if covered:
        notes.append(f"{covered} px are in several objects: the later object is used")
    names = {keys[s.key]: s.name for s in shapes if s.name}
    return Drawn(labels, tuple(notes), kind, names, {keys[s.key]: s.marks for s in shapes})
