"""COCO annotation files as stills: run lengths or polygons, crowds as void."""

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
    """The annotation file of a COCO root: the file itself, or the one instances*.json in the folder or its annotations/.

    None if there is none. Raises ValueError: "ROOT holds 2 annotation files: name one of instances_train2017.json, ...".
    """
    if root.is_file():
        return root if root.suffix.lower() == ".json" else None
    for folder in (root, root / "annotations"):
        found = sorted(folder.glob("instances*.json"))
        if len(found) > 1:
            named = ", ".join(str(p) for p in found)
            raise ValueError(f"{root} holds {len(found)} annotation files: name one of {named}")
        if found:
            return found[0]
    return None


def open_coco(file: Path) -> list[Still]:
    """The images of a COCO file that have annotations, in the file's order. Nothing is drawn yet.

    Objects are numbered 1, 2, ... in the order of the file, crowds left out; their areas and boxes are those that the file
    states. Where objects overlap, the smaller one stands; a crowd is void where no object is. Images are looked for in images/,
    in the file's own folder, and in train2017/ beside annotations/ for instances_train2017.json.

    Raises ValueError: "x.json is not a COCO file: want images and annotations", "x.json names images that are in none of ...".
    """
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list) or not isinstance(data.get("annotations"), list):
        raise ValueError(f"{file} is not a COCO file: want images and annotations")
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in data["annotations"]:
        if annotation.get("segmentation"):
            by_image[annotation.get("image_id")].append(annotation)
    listed = [image for image in data["images"] if image.get("id") in by_image]
    if not listed:
        raise ValueError(f"{file} has no annotation with a segmentation: want polygons or run lengths")
    folder = _images_of(file, [str(image.get("file_name", "")) for image in listed])
    return [_still(file, folder, image, by_image[image["id"]]) for image in listed]


def _images_of(file: Path, names: Sequence[str]) -> Path:
    here, split = file.parent, file.stem.removeprefix("instances_")
    places = [here / "images", here, here / split, here.parent / split, here.parent / "images" / split, here.parent / "images"]
    for place in places:
        if any((place / name).is_file() for name in names[:20]):
            return place
    looked = ", ".join(str(p) for p in places)
    raise ValueError(f"{file} names images that are in none of {looked}: move them there, or the file beside them")


def _still(file: Path, folder: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> Still:
    outlines = [a["segmentation"] for a in annotations if not a.get("iscrowd")]
    crowds = [a["segmentation"] for a in annotations if a.get("iscrowd")]
    known: Objects | None = Objects()
    for i, a in enumerate((a for a in annotations if not a.get("iscrowd")), 1):
        box = a.get("bbox")
        if known is None or a.get("area") is None or not box or len(box) != 4:
            known = None
        else:
            known[i] = int(a["area"]), int(min(box[2:]))
    name = str(image.get("file_name", ""))
    sized = image.get("height"), image.get("width")
    draw = Drawing(outlines, crowds, (int(sized[0]), int(sized[1])) if sized[0] and sized[1] else None)
    return Still(name, folder / name, Path(f"{file}#{image['id']}"), draw, known)


@dataclass(frozen=True)
class Drawing:
    """Segmentations and the size they are of; called, it draws the labels."""

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
        """Raises ValueError for runs that do not fill the picture, outlines that are not pairs, and unknown sizes."""
        if isinstance(segmentation, dict):
            height, width = segmentation["size"]
            if self.size not in (None, (height, width)):
                raise ValueError(f"holds runs for {height}x{width} in a picture of {self.size}")
            return decode_runs(segmentation["counts"], (height, width))
        if self.size is None:
            raise ValueError("holds outlines, but not the height and width of their picture")
        outlines = segmentation if isinstance(segmentation[0], list) else [segmentation]
        plane = np.zeros(self.size, bool)
        for outline in outlines:
            _fill(plane, outline)
        return plane


def _fill(plane: np.ndarray[Any, np.dtype[np.bool_]], outline: Any) -> None:
    """Add one outline, drawn in its own box: most are small beside the picture."""
    flat = np.asarray(outline, np.float64).ravel()
    if flat.size < 2 or flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError("holds an outline that is not pairs of numbers")
    points = flat.reshape(-1, 2)
    low = np.clip(np.floor(points.min(0)), 0, plane.shape[::-1]).astype(int)
    high = np.clip(np.ceil(points.max(0)), 0, plane.shape[::-1]).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    if right > left and bottom > top:
        plane[top:bottom, left:right] |= polygon(points - low, (bottom - top, right - left))
