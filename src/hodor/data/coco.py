"""COCO annotation files as images with masks: run lengths or polygons; crowds are void."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hodor.data.file_cache import WIDE_VOID, Labels, Objects, Size
from hodor.data.stills import Still
from hodor.mask_files.annotations import decode_runs, polygon
from hodor.masks import VOID


def find_json(root: Path) -> Path | None:
    """Return the annotation file of a COCO root, or None if there is none.

    It is the file itself, or the only instances*.json in the folder or in its annotations/.

    Raises:
        ValueError: "expected one annotation file in ROOT, got 2: give one of instances_train2017.json, ...".
    """
    if root.is_file():
        return root if root.suffix.lower() == ".json" else None
    for folder in (root, root / "annotations"):
        found = sorted(folder.glob("instances*.json"))
        if len(found) > 1:
            names = ", ".join(str(p) for p in found)
            raise ValueError(f"expected one annotation file in {root}, got {len(found)}: give one of {names}")
        if found:
            return found[0]
    return None


def open_coco(file: Path) -> list[Still]:
    """Return the images of a COCO file that have annotations, in the order of the file. Masks are rasterised later.

    Objects are numbered 1, 2, ... in the order of the file, without crowds. Their areas and boxes are those stated in the file.
    A pixel of several objects belongs to the smallest one. A crowd is void where there is no object. Images are searched in
    images/, in the folder of the file, and, for instances_train2017.json, in train2017/ beside annotations/.

    Args:
        file: the annotation file.

    Raises:
        ValueError: "x.json is not a COCO file: give a JSON file with lists of images and annotations"; "x.json names images
            that are in none of ...: move them there, or the file beside them".
    """
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list) or not isinstance(data.get("annotations"), list):
        raise ValueError(f"{file} is not a COCO file: give a JSON file with lists of images and annotations")
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in data["annotations"]:
        if annotation.get("segmentation"):
            by_image[annotation.get("image_id")].append(annotation)
    listed = [image for image in data["images"] if image.get("id") in by_image]
    if not listed:
        raise ValueError(f"{file} has no annotation with a segmentation: give a file with polygons or run lengths")
    folder = _images_of(file, [str(image.get("file_name", "")) for image in listed])
    return [_still(file, folder, image, by_image[image["id"]]) for image in listed]


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
    """Convert one image of a COCO file. Its objects are None if the file lacks an area or a box."""
    outlines = [a["segmentation"] for a in annotations if not a.get("iscrowd")]
    crowds = [a["segmentation"] for a in annotations if a.get("iscrowd")]
    objects: Objects | None = Objects()
    for i, a in enumerate((a for a in annotations if not a.get("iscrowd")), 1):
        box = a.get("bbox")
        if objects is None or a.get("area") is None or not box or len(box) != 4:
            objects = None
        else:
            objects[i] = int(a["area"]), int(min(box[2:]))
    name = str(image.get("file_name", ""))
    size = image.get("height"), image.get("width")
    draw = Drawing(outlines, crowds, (int(size[0]), int(size[1])) if size[0] and size[1] else None)
    return Still(name, folder / name, Path(f"{file}#{image['id']}"), draw, objects)


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

    def _plane(self, segmentation: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Rasterise one segmentation. Raises ValueError for wrong run lengths or polygons, and if the size is missing."""
        if isinstance(segmentation, dict):
            height, width = segmentation["size"]
            if self.size not in (None, (height, width)):
                raise ValueError(f"expected run lengths of {self.size}, the size of the image, got {height}x{width}")
            return decode_runs(segmentation["counts"], (height, width))
        if self.size is None:
            raise ValueError("contains polygons, but not the height and width of the image: add them")
        outlines = segmentation if isinstance(segmentation[0], list) else [segmentation]
        plane = np.zeros(self.size, bool)
        for outline in outlines:
            _fill(plane, outline)
        return plane


def _fill(plane: np.ndarray[Any, np.dtype[np.bool_]], outline: Any) -> None:
    """Add one polygon to a mask. It is rasterised in its own box, because most polygons are small."""
    flat = np.asarray(outline, np.float64).ravel()
    if flat.size < 2 or flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError("expected a polygon of finite pairs of numbers, got another list")
    points = flat.reshape(-1, 2)
    low = np.clip(np.floor(points.min(0)), 0, plane.shape[::-1]).astype(int)
    high = np.clip(np.ceil(points.max(0)), 0, plane.shape[::-1]).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    if right > left and bottom > top:
        plane[top:bottom, left:right] |= polygon(points - low, (bottom - top, right - left))
