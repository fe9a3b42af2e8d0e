"""COCO annotation files as images with masks: run lengths or polygons; crowds are void."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hodor.data.file_cache import WIDE_VOID, Labels, Objects, Size
from hodor.data.search import pick_split
from hodor.data.stills import Still
from hodor.data.videofiles import shown
from hodor.files import check_pixels, parse_json
from hodor.mask_files.annotations import MAX_COORDINATE, decode_runs, polygon
from hodor.masks import VOID

JSON_NAMES = ("instances*.json", "_annotations.coco.json")
"""Names of annotation files: those of COCO and CVAT, and that of Roboflow."""


def find_json(root: Path, split: str | None = None) -> Path | None:
    """Return the annotation file of a COCO root, or None if there is none.

    It is the file itself, or the only instances*.json or _annotations.coco.json in the folder, in its annotations/, or in
    the folder of a split (train/_annotations.coco.json).

    Args:
        root: the file, or the folder.
        split: the split to use, if the annotation files are in folders of splits. Default: the only one.

    Raises:
        ValueError: "expected one annotation file in ROOT, got 2: give one of instances_train2017.json, ..."; "expected a split
            of ROOT (train, valid), got 'test'".
    """
    if root.is_file():
        return root if root.suffix.lower() == ".json" else None
    for folder in (root, root / "annotations"):
        found = _jsons_in(folder)
        if len(found) > 1:
            names = ", ".join(str(p) for p in found)
            raise ValueError(f"expected one annotation file in {root}, got {len(found)}: give one of {names}")
        if found:
            return found[0]
    splits = {p.name: p for p in sorted(root.iterdir()) if (p / JSON_NAMES[1]).is_file()}
    return splits[pick_split(root, split, list(splits))] / JSON_NAMES[1] if splits else None


def _jsons_in(folder: Path) -> list[Path]:
    return sorted(path for name in JSON_NAMES for path in folder.glob(name))


def open_coco(file: Path, notes: list[str] | None = None) -> list[Still]:
    """Return the images of a COCO file that have annotations, in the order of the file. Masks are rasterised later.

    Objects are numbered 1, 2, ... in the order of the file, without crowds. The outlines decide what an object is: stated areas
    and boxes are used only where they agree with the outline, and an annotation without an outline is left out. A pixel of
    several objects belongs to the smallest one. A crowd is void where there is no object. Images are searched in images/, in
    the folder of the file, and, for instances_train2017.json, in train2017/ beside annotations/.

    Args:
        file: the annotation file.
        notes: list to which remarks are added: annotations that are left out.

    Raises:
        ValueError: "x.json is not a COCO file: give a JSON file with lists of images and annotations"; "expected one image for
            each id in x.json, got id 0 for 0.jpg and 1.jpg: ..."; "expected annotations of the images of x.json (0, 1, ...),
            got image_id 'a': ..."; "x.json names images that are in none of ...: move them there, or the file beside them".
    """
    try:
        return _opened(file, [] if notes is None else notes)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{file} is damaged: {type(error).__name__} {str(error)[:200]}") from None


def _opened(file: Path, notes: list[str]) -> list[Still]:
    images, annotations = _parsed(file)
    by_id: dict[str, Mapping[str, Any]] = {}
    for image in images:
        if (other := by_id.setdefault(_key(image.get("id")), image)) is not image:
            both = f"{other.get('file_name')} and {image.get('file_name')}"
            advice = "give each image an id of its own, and its annotations the same image_id"
            raise ValueError(f"expected one image for each id in {file}, got id {image.get('id')} for {both}: {advice}")
    by_image: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    empty, strange = 0, list[Any]()
    for annotation in annotations:
        if not _has_outline(annotation.get("segmentation")):
            empty += 1
        elif (key := _key(annotation.get("image_id"))) in by_id:
            by_image[key].append(annotation)
        else:
            strange.append(annotation.get("image_id"))
    if strange and not by_image:
        ids = shown([str(image.get("id")) for image in images])
        advice = "the image_id of an annotation is the id of its image"
        raise ValueError(f"expected annotations of the images of {file} ({ids}), got image_id {strange[0]!r}: {advice}")
    listed = [image for key, image in by_id.items() if key in by_image]
    if not listed:
        raise ValueError(f"{file} has no annotation with a segmentation: give a file with polygons or run lengths")
    if empty:
        notes.append(f"{empty} annotations without an outline are left out")
    if strange:
        named = shown(dict.fromkeys(map(str, strange)))
        notes.append(f"{len(strange)} annotations name no image of the file (image_id {named}) and are left out")
    folder = _images_of(file, [str(image.get("file_name", "")) for image in listed])
    return [_still(file, folder, image, by_image[_key(image["id"])]) for image in listed]


def _parsed(file: Path) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the images and the annotations of a COCO file."""
    try:
        data = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    lists = [data.get(name) for name in ("images", "annotations")] if isinstance(data, dict) else []
    for entries in lists or [None]:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{file} is not a COCO file: give a JSON file with lists of images and annotations")
    return lists[0], lists[1]  # type: ignore[return-value]


def _key(image_id: Any) -> str:
    """Return the id of an image in one form: 7, 7.0 and "7" are the same image."""
    return str(int(image_id) if isinstance(image_id, float) and image_id.is_integer() else image_id)


def _has_outline(segmentation: Any) -> bool:
    """Whether a segmentation has run lengths, or a polygon that is not empty."""
    if isinstance(segmentation, dict):
        return bool(segmentation.get("counts"))
    return bool(segmentation) and any(part not in ([], None) for part in segmentation)


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    return str(annotation.get("iscrowd") or 0).lower() not in ("0", "false", "0.0")


def _images_of(file: Path, names: Sequence[str]) -> Path:
    """Return the folder that contains the images of an annotation file."""
    own, split = file.parent, file.stem.removeprefix("instances_")
    places = [own / "images", own, own / split, own.parent / split, own.parent / "images" / split, own.parent / "images"]
    for place in places:
        if any((place / name).is_file() for name in names[:20]):
            return place
    searched = ", ".join(str(p) for p in places)
    raise ValueError(f"{file} names images that are in none of {searched}: move them there, or the file beside them")


def _still(file: Path, folder: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> Still:
    """Convert one image of a COCO file."""
    objects = [a for a in annotations if not _is_crowd(a)]
    crowds = [a["segmentation"] for a in annotations if _is_crowd(a)]
    name = str(image.get("file_name", ""))
    try:
        height, width = (int(image.get(key) or 0) for key in ("height", "width"))
    except (TypeError, ValueError):
        raise ValueError(
            f"expected the height and width of {name} in {file} in pixels, got other values: correct them"
        ) from None
    draw = Drawing([a["segmentation"] for a in objects], crowds, (height, width) if height > 0 and width > 0 else None)
    stated = [Stated.of(a) for a in objects]
    return Still(name, folder / name, Path(f"{file}#{image['id']}"), draw, partial(draw.measure, stated))


@dataclass(frozen=True)
class Stated:
    """The area and the box that a COCO file states for an object.

    Attributes:
        area: area in pixels; not a number if the file states none.
        sides: width and height of the box; not a number if the file states none.
    """

    area: float
    sides: tuple[float, float]

    @classmethod
    def of(cls, annotation: Mapping[str, Any]) -> Stated:
        """Read the summary fields of an annotation."""
        box = annotation.get("bbox")
        sides = box[2:] if isinstance(box, list) and len(box) == 4 else (None, None)
        return cls(_number(annotation.get("area")), (_number(sides[0]), _number(sides[1])))

    def agrees(self, area: float, sides: tuple[float, float], outline: float) -> bool:
        """Whether the statement agrees with measurements of the outline.

        Args:
            area: measured area.
            sides: measured width and height.
            outline: length of the outline: areas differ by as much, depending on whether pixels of the edge count.
        """
        near = all(abs(a - b) <= 2 + 0.05 * b for a, b in zip(self.sides, sides, strict=True))
        return near and self.area >= 1 and abs(self.area - area) <= 2 + 0.1 * area + outline


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


@dataclass(frozen=True)
class Drawing:
    """The segmentations of an image. Calling it rasterises the labels.

    Attributes:
        outlines: segmentations of the objects, polygons or run lengths.
        crowds: segmentations of the crowds.
        size: height and width of the image; None if the file does not state them.
    """

    outlines: Sequence[Any]
    crowds: Sequence[Any]
    size: Size | None

    def __call__(self) -> Labels:
        planes = [self._plane(each) for each in self.outlines]
        crowds = [self._plane(each) for each in self.crowds]
        wide = len(planes) >= VOID
        void = WIDE_VOID if wide else VOID
        labels = np.zeros((planes or crowds)[0].shape, np.int32 if wide else np.uint8)
        for crowd in crowds:
            labels[crowd] = void
        for n in sorted(range(len(planes)), key=lambda n: -int(planes[n].sum())):
            labels[planes[n]] = n + 1
        return labels

    def measure(self, stated: Sequence[Stated]) -> Objects:
        """Measure the objects: stated areas and boxes where they agree with the outline, else those of the rasterised outline.

        An object without a pixel is left out. Raises the errors of a call.

        Args:
            stated: what the file states about each outline.
        """
        objects = Objects()
        for i, (outline, said) in enumerate(zip(self.outlines, stated, strict=True), 1):
            rough = _polygon_extent(outline)
            if rough is None or not said.agrees(*rough):
                plane = self._plane(outline)
                if not plane.any():
                    continue
                rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
                sides = float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)
                exact = float(np.count_nonzero(plane)), sides, sum(sides)
                said = said if said.agrees(*exact) else Stated(exact[0], sides)
            objects[i] = int(said.area), int(min(said.sides))
        return objects

    def _plane(self, segmentation: Any) -> npt.NDArray[np.bool_]:
        """Rasterise one segmentation. Raises ValueError for wrong run lengths or polygons, and if the size is missing."""
        if isinstance(segmentation, dict):
            height, width = map(int, segmentation["size"])
            if self.size not in (None, (height, width)):
                raise ValueError(f"expected run lengths of {self.size}, the size of the image, got {height}x{width}")
            return decode_runs(segmentation["counts"], (height, width))
        if self.size is None:
            raise ValueError("contains polygons, but not the height and width of the image: add them")
        check_pixels(*self.size)
        plane = np.zeros(self.size, bool)
        for part in _parts(segmentation):
            _fill(plane, part)
        return plane


def _parts(segmentation: Sequence[Any]) -> list[Any]:
    """Return the polygons of a segmentation, without empty ones."""
    parts = [part for part in segmentation if part not in ([], None)]
    return parts if any(isinstance(part, list) for part in parts) else [parts]


def _points(polygon: Any) -> npt.NDArray[np.float64]:
    """Return the corners of a polygon, [P, 2]."""
    flat = np.asarray(polygon, np.float64).ravel()
    if flat.size < 2 or flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError("expected a polygon of finite pairs of numbers, got another list")
    return flat.reshape(-1, 2).clip(-MAX_COORDINATE, MAX_COORDINATE)


def _polygon_extent(segmentation: Any) -> tuple[float, tuple[float, float], float] | None:
    """Return area, (width, height) and length of outline of polygons, without rasterising them; None for run lengths."""
    if isinstance(segmentation, dict):
        return None
    area = length = 0.0
    corners = [_points(part) for part in _parts(segmentation)]
    for corner in corners:
        following = np.roll(corner, -1, 0)
        area += abs(float((corner[:, 0] * following[:, 1] - corner[:, 1] * following[:, 0]).sum())) / 2
        length += float(np.hypot(*(following - corner).T).sum())
    every = np.concatenate(corners)
    return area, (float(np.ptp(every[:, 0])), float(np.ptp(every[:, 1]))), length


def _fill(plane: npt.NDArray[np.bool_], outline: Any) -> None:
    """Add one polygon to a mask. It is rasterised in its own box, because most polygons are small."""
    points = _points(outline)
    low = np.clip(np.floor(points.min(0)), 0, plane.shape[::-1]).astype(int)
    high = np.clip(np.ceil(points.max(0)), 0, plane.shape[::-1]).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    if right > left and bottom > top:
        plane[top:bottom, left:right] |= polygon(points - low, (bottom - top, right - left))
