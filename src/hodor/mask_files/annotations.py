"""Outlines and run lengths in JSON (COCO, labelme) -> labels of one picture.

COCO: a file with `images` and `annotations`, or a bare list of annotations as segment-anything writes it, or one run
length alone; polygons, plain runs and compressed runs. labelme: polygon, rectangle, circle and mask shapes. Nothing
beyond numpy and Pillow is needed. Both count x to the right and y down, from the corner of the picture: pixel (0, 0)
covers 0..1, and belongs to an outline when its centre (0.5, 0.5) is inside.
"""

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, label_dtype

Plane = npt.NDArray[np.bool_]
Size = tuple[int, int]


class Drawn(NamedTuple):
    """Labels [H, W] drawn from a file, what there is to say about it, its kind in words, and names by id if any."""

    labels: Labels
    notes: tuple[str, ...]
    kind: str
    names: dict[int, str]


class Shape(NamedTuple):
    """One annotation: its object's key (equal keys are one object), its name, and how to draw it at a size."""

    key: object
    name: str
    draw: Callable[[Size], Plane]


def draw_annotations(data: Any, where: str, size: Size | None = None, image: str | int | None = None) -> Drawn:
    """Draw the objects of parsed COCO or labelme JSON.

    data    what json.load gave
    where   the file's name, for messages
    size    (H, W) of the video; used only where the file does not say its own size
    image   which picture of a COCO file: its file name (with or without folder and ending) or its id; may be left
            out when only one picture has annotations

    Ids. COCO: the `track_id` of the annotations (their own or in `attributes`) when all have one in 1..65535, and equal
    ones are one object; else 1, 2, ... in the order of the file. COCO's own annotation ids count over the whole data
    set and are not used. labelme: 1, 2, ... in order of appearance; shapes of the same label and the same `group_id`
    are one object, shapes without group_id are objects of their own. Where objects overlap the later one wins.
    Raises ValueError, one line naming `where`: not such a file, several pictures and none chosen, no shape to draw,
    sizes unknown, or runs that do not fill the picture.
    """
    try:
        if isinstance(data, dict) and "shapes" in data:
            return _labelme(data, size)
        if isinstance(data, dict) and "counts" in data:
            data = [{"segmentation": data}]
        if isinstance(data, list) and data and all(isinstance(a, dict) and "segmentation" in a for a in data):
            data = {"images": [{"id": i} for i in dict.fromkeys(a.get("image_id") for a in data)], "annotations": data}
        if isinstance(data, dict) and "videos" in data:
            raise ValueError("holds whole videos (YouTube-VIS): wanted the masks of one frame")
        if isinstance(data, dict) and "annotations" in data:
            return _coco(data, size, image)
        raise ValueError("is JSON, but neither COCO (images, annotations) nor labelme (shapes)")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} is damaged: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None


def polygon(points: npt.ArrayLike, size: Size) -> Plane:
    """The pixels whose centres lie inside one closed outline [(x, y), ...], even-odd where it crosses itself.

    For each row, every edge that crosses the line through the pixel centres flips all pixels to its right.
    """
    height, width = size
    flat = np.asarray(points, np.float64).ravel()
    if flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError("holds an outline that is not pairs of numbers")
    start = flat.reshape(-1, 2)
    flips = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(start, np.roll(start, -1, 0), strict=True):
        # half-open in y, so that a corner on the line counts once
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        if rows.size:
            crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            flips[rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)] += 1
    inside: Plane = (flips.cumsum(1)[:, :width] & 1).astype(bool)
    return inside


def decode_runs(counts: Sequence[int] | str | bytes, size: Size) -> Plane:
    """COCO run lengths -> plane. Runs go down the columns, the first counts zeros. A string is COCO's compression.

    The string holds 5 bits a character (code - 48), low bits first, 32 says that more follow, the last one's bit 16 is
    the sign; from the fourth number on it is the difference to the number two places before.
    Raises ValueError: "holds runs of 11 pixels for a picture of 4x3" (width x height).
    """
    if isinstance(counts, str | bytes):
        runs: list[int] = []
        value = shift = 0
        for code in counts.encode() if isinstance(counts, str) else counts:
            bits = code - 48
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                value -= (1 << shift) if bits & 16 else 0
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        counts = runs
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
    if len(drawable) < len(chosen):
        notes.append(f"{len(chosen) - len(drawable)} annotations without a segmentation left out")
    tracks = [a.get("track_id", (a.get("attributes") or {}).get("track_id")) for a in drawable]
    tracked = bool(tracks) and all(isinstance(t, int) and 1 <= t <= 65535 for t in tracks)
    shapes = []
    for order, (annotation, track) in enumerate(zip(drawable, tracks, strict=True), 1):
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            size = size or (int(segmentation["size"][0]), int(segmentation["size"][1]))
        name = names.get(annotation.get("category_id"), "")
        shapes.append(Shape(track if tracked else order, name, _segment(segmentation)))
    notes.append("ids are the track_id of the annotations" if tracked else "ids follow the order of the annotations")
    keys = {s.key: int(str(s.key)) for s in shapes}
    return _paint(shapes, keys, size, "COCO JSON", notes)


def _choose(images: list[dict[str, Any]], annotations: list[dict[str, Any]], wanted: str | int | None) -> Any:
    """The entry of `images` to draw; None when the file lists no picture at all."""

    def is_wanted(entry: dict[str, Any]) -> bool:
        name = PurePath(str(entry.get("file_name", "")))
        return str(wanted) in (str(entry.get("id")), str(name), name.name, name.stem)

    found = [i for i in images if wanted is None or is_wanted(i)]
    if wanted is None and len(found) > 1:
        annotated = {a.get("image_id") for a in annotations}
        found = [i for i in found if i.get("id") in annotated] or found
    if len(found) == 1 or (not images and wanted is None):
        return found[0] if found else None
    listed = [str(i.get("file_name", i.get("id"))) for i in (found or images)]
    listing = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
    if found:
        raise ValueError(f"holds {len(found)} pictures ({listing}): name one of them as image")
    raise ValueError(f"holds no picture {wanted!r}: it has {listing or 'none'}")


def _segment(segmentation: Any) -> Callable[[Size], Plane]:
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


def _labelme(data: dict[str, Any], size: Size | None) -> Drawn:
    if data.get("imageHeight") and data.get("imageWidth"):
        size = int(data["imageHeight"]), int(data["imageWidth"])
    shapes, left_out = [], []
    for order, shape in enumerate(data["shapes"]):
        kind = shape.get("shape_type") or "polygon"
        if kind not in ("polygon", "rectangle", "circle", "mask"):
            left_out.append(kind)
            continue
        label, group = str(shape.get("label", "")), shape.get("group_id")
        key = (label, order, None) if group is None else (label, None, group)
        shapes.append(Shape(key, label, _labelme_shape(kind, shape)))
    notes = [f"shapes of kind {', '.join(sorted(set(left_out)))} left out: {len(left_out)}"] if left_out else []
    keys = {key: i for i, key in enumerate(dict.fromkeys(s.key for s in shapes), 1)}
    return _paint(shapes, keys, size, "labelme JSON", notes)


def _labelme_shape(kind: str, shape: dict[str, Any]) -> Callable[[Size], Plane]:
    def draw(size: Size) -> Plane:
        points = np.asarray(shape["points"], np.float64)
        if kind == "polygon":
            return polygon(points, size)
        (x0, y0), (x1, y1) = points[:2]
        if kind == "rectangle":
            return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size)
        if kind == "circle":  # centre, then a point on the rim
            y, x = np.mgrid[: size[0], : size[1]] + 0.5
            disc: Plane = (x - x0) ** 2 + (y - y0) ** 2 <= (x1 - x0) ** 2 + (y1 - y0) ** 2
            return disc
        return _stamp(shape["mask"], round(x0), round(y0), size)

    return draw


def _stamp(encoded: str, left: int, top: int, size: Size) -> Plane:
    """A base64 picture of one object laid at its place, cut at the borders."""
    from PIL import Image

    try:
        small = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L")) > 0
    except (OSError, binascii.Error):
        raise ValueError("holds a mask shape whose picture cannot be read") from None
    canvas = np.zeros((size[0] + 2 * small.shape[0], size[1] + 2 * small.shape[1]), bool)
    top, left = top + small.shape[0], left + small.shape[1]
    if top >= 0 and left >= 0:
        region = canvas[top : top + small.shape[0], left : left + small.shape[1]]
        region[:] = small[: region.shape[0], : region.shape[1]]
    return canvas[small.shape[0] :, small.shape[1] :][: size[0], : size[1]]


def _paint(shapes: list[Shape], keys: dict[object, int], size: Size | None, kind: str, notes: list[str]) -> Drawn:
    """Draw the shapes one over the other. Overlap between different objects and shapes without a pixel are noted."""
    if not shapes:
        raise ValueError("holds no outline or run length to draw")
    if size is None:
        raise ValueError("does not say the picture's height and width, and no size was given")
    labels: Labels = np.zeros(size, label_dtype(max(keys.values())))
    covered = 0
    for shape in shapes:
        plane, i = shape.draw(size), keys[shape.key]
        if not plane.any():
            notes.append(f"object {i} {shape.name} covers no pixel".replace("  ", " "))
        covered += int(np.count_nonzero(plane & (labels != 0) & (labels != i)))
        labels[plane] = i
    if covered:
        notes.append(f"{covered} px lie in several objects: the later object wins")
    names = {keys[s.key]: s.name for s in shapes if s.name}
    return Drawn(labels, tuple(notes), kind, names)
