"""Masks of sequences in one JSON file: COCO with tracks, or YouTube-VIS, as `hodor segment --coco --ytvis` writes them.

hodor.scoring.stores.open opens them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hodor.files import DAMAGES, check_pixels, parse_json
from hodor.scoring.stores.base import Labels, MappingStore, Plane, Store, painted, some

Json = dict[str, Any]


@dataclass(frozen=True)
class Shapes:
    """The masks of a frame.

    Attributes:
        size: (H, W), if the file has it.
        objects: {id: segmentation}.
    """

    size: tuple[int, int] | None
    objects: Mapping[int, Any]


@dataclass(frozen=True)
class _Json(MappingStore):
    def read(self, sequence: str, frame: str) -> Labels:
        return painted(self.planes(sequence, frame), self._size(sequence, frame))

    def planes(self, sequence: str, frame: str) -> dict[int, Plane]:
        shapes = self.value(sequence, frame)
        size = self._size(sequence, frame)
        try:
            return {i: _drawn(segmentation, size) for i, segmentation in shapes.objects.items()}
        except DAMAGES as error:
            fault = error if isinstance(error, ValueError) else f"is damaged: {type(error).__name__} {error}"
            raise ValueError(f"{self.place(sequence, frame)} {str(fault)[:1000]}") from None

    def _size(self, sequence: str, frame: str) -> tuple[int, int]:
        """Return the frame's size; if the file does not have it, that of any run length of the sequence."""
        try:
            height, width = self._stated(sequence, frame)
            check_pixels(height, width)
        except DAMAGES as error:
            fault = error if isinstance(error, ValueError) else f"is damaged: {type(error).__name__} {error}"
            raise ValueError(f"{self.place(sequence, frame)} {str(fault)[:1000]}") from None
        return height, width

    def _stated(self, sequence: str, frame: str) -> tuple[int, int]:
        own: Shapes = self.value(sequence, frame)
        if own.size is not None:
            return own.size
        for shapes in (own, *self.sequences[sequence].values()):
            for segmentation in shapes.objects.values():
                if isinstance(segmentation, dict):
                    height, width = segmentation["size"]
                    return int(height), int(width)
        raise ValueError("has no height and width: add them to the file")


def open_json(path: Path, what: str) -> Store:
    """Open a COCO or YouTube-VIS JSON file; see hodor.scoring.stores.open.open_store.

    Objects are identified by `track_id`; without it those of YouTube-VIS by the `id` of their annotations, those of COCO and of
    plain results by their order, from 1. The name of a sequence is the video's `name`, else the folder of its file names, else
    its number. The names of frames are the file names.

    Raises:
        ValueError: one line: not JSON, another format, damaged.
    """
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{what} {path}: expected JSON, got {error}") from None
    try:
        if isinstance(data, dict) and "videos" in data:
            sequences, notes = _videos(data)
        elif isinstance(data, dict) and "images" in data and "annotations" in data:
            sequences, notes = _images(data, path)
        elif isinstance(data, list) and data and all(isinstance(a, dict) and "segmentations" in a for a in data):
            ids = {a["video_id"]: len(a["segmentations"]) for a in data}
            videos = [{"id": i, "file_names": [f"{t:05d}" for t in range(length)]} for i, length in ids.items()]
            sequences, notes = _videos({"videos": videos, "annotations": data})
        else:
            formats = "COCO (images, annotations) or YouTube-VIS (videos, or a list of results)"
            raise ValueError(f"is JSON of another format: give {formats}")
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{what} {path} is damaged: {type(error).__name__} {str(error)[:200]}") from None
    except ValueError as error:
        raise ValueError(f"{what} {path} {str(error)[:1000]}") from None
    if not sequences:
        raise ValueError(f"{what} {path} has no video and no picture: give a file with masks")
    return _Json(str(path), what, len(sequences) == 1, tuple(notes), sequences)


def _videos(data: Json) -> tuple[dict[str, dict[str, Shapes]], list[str]]:
    annotations: dict[Any, list[Json]] = {}
    for annotation in data.get("annotations") or []:
        annotations.setdefault(annotation["video_id"], []).append(annotation)
    sequences: dict[str, dict[str, Shapes]] = {}
    ordered = 0
    for video in data["videos"]:
        files = [PurePosixPath(str(file)) for file in video["file_names"]]
        name = str(video.get("name") or (files[0].parent.name if files else "") or video["id"])
        if name in sequences:
            raise ValueError(f"has two videos called {name}: give them different names")
        size = (int(video["height"]), int(video["width"])) if video.get("height") and video.get("width") else None
        own = annotations.pop(video["id"], [])
        ids, by_order = _ids(own, ("track_id", "id"))
        ordered += by_order
        for annotation in own:
            if (length := len(annotation["segmentations"])) != len(files):
                raise ValueError(f"has {length} masks of an object of {name}, which has {len(files)} frames")
        sequences[name] = {
            file.stem: Shapes(size, {i: a["segmentations"][t] for i, a in zip(ids, own, strict=True) if a["segmentations"][t]})
            for t, file in enumerate(files)
        }
    if annotations:
        raise ValueError(f"has annotations of videos that it does not list: {some(annotations)}")
    return sequences, [f"{ordered} videos: ids follow the order of the annotations"] if ordered else []


def _images(data: Json, path: Path) -> tuple[dict[str, dict[str, Shapes]], list[str]]:
    annotations: dict[Any, list[Json]] = {}
    for annotation in data["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    sequences: dict[str, dict[str, Shapes]] = {}
    ordered = 0
    for image in data["images"]:
        file = PurePosixPath(str(image.get("file_name", image["id"])))
        size = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
        own = [a for a in annotations.pop(image["id"], []) if a.get("segmentation")]
        ids, by_order = _ids(own, ("track_id",))
        ordered += by_order
        objects = {i: a["segmentation"] for i, a in zip(ids, own, strict=True)}
        sequences.setdefault(file.parent.name or path.stem, {})[file.stem] = Shapes(size, objects)
    if annotations:
        raise ValueError(f"has annotations of pictures that it does not list: {some(annotations)}")
    return sequences, [f"{ordered} pictures: ids follow the order of the annotations"] if ordered else []


def _ids(annotations: list[Json], keys: tuple[str, ...]) -> tuple[list[int], bool]:
    """Return ids, and whether they are the order: used is the first of `keys` with different, valid values in all."""
    for key in keys:
        ids = [a.get(key) for a in annotations]
        if all(isinstance(i, int) and 0 < i < 1 << 32 for i in ids) and len(set(ids)) == len(ids):
            return [int(i) for i in ids if i is not None], False
    return list(range(1, len(annotations) + 1)), True


def _drawn(segmentation: Any, size: tuple[int, int]) -> Plane:
    from hodor.mask_files.annotations import decode_runs, polygon

    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        if (height, width) != size:
            raise ValueError(f"has run lengths for {width}x{height} in a picture of {size[1]}x{size[0]}")
        return decode_runs(segmentation["counts"], size)
    check_pixels(*size)
    plane = np.zeros(size, bool)
    for outline in segmentation if isinstance(segmentation[0], list) else [segmentation]:
        plane |= polygon(outline, size)
    return plane
