"""Write results in the formats of annotation and training tools: labelme, YOLO, DAVIS folders and MOTS text."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hodor.masks import objects_in, write_labels, written_whole
from hodor.outputs.polygons import polygons
from hodor.outputs.records import Records, Result, Writer

LABELME = "5.5.0"
"""Version of labelme's format."""


class LabelmeWriter(Writer):
    """Write labelme JSON to folder/<frame name>.json, and the picture beside it as <frame name>.jpg.

    Each part of an object is a polygon with the label "object_<id>" and the group of the id. A hole is joined to the outline by
    a cut of width zero.

    Args:
        folder: the folder; it is created if needed.
        tolerance: see `hodor.outputs.polygons.polygons`.
    """

    def __init__(self, folder: str | os.PathLike[str], tolerance: float = 0.0) -> None:
        self._folder, self._tolerance = Path(folder), tolerance

    def write(self, result: Result) -> None:
        """Write one frame."""
        height, width = result.labels.shape
        shapes: list[dict[str, Any]] = [
            {
                "label": f"object_{number}",
                "points": [[float(x), float(y)] for x, y in points],
                "group_id": number,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for number in objects_in(result.labels)
            for points in polygons(result.labels == number, self._tolerance)
        ]
        picture = f"{result.name}.jpg"
        content: dict[str, Any] = {"version": LABELME, "flags": {}, "shapes": shapes, "imagePath": picture, "imageData": None}
        write_jpeg(self._folder / picture, result.image)
        _write_text(
            self._folder / f"{result.name}.json", json.dumps(content | {"imageHeight": height, "imageWidth": width}, indent=1)
        )


class YoloWriter(Writer):
    """Write a data set for YOLO segmentation: images/<frame>.jpg, labels/<frame>.txt and data.yaml.

    A line of a label file is one object: its class, then the corners of its outline as x / width and y / height. The class is
    the id of the object minus 1; data.yaml names it "object_<id>". Several parts and holes are joined by cuts of width zero,
    since the format has one polygon an object. A frame without an object has an empty label file.

    Args:
        folder: the folder; it is created if needed.
        tolerance: see `hodor.outputs.polygons.polygons`.
    """

    def __init__(self, folder: str | os.PathLike[str], tolerance: float = 0.0) -> None:
        self._folder, self._tolerance = Path(folder), tolerance

    def write(self, result: Result) -> None:
        """Write one frame."""
        size = np.array(result.labels.shape[::-1])
        lines = []
        for number in objects_in(result.labels):
            rings = polygons(result.labels == number, self._tolerance)
            points = rings[0]
            for ring in rings[1:]:  # from the last corner to the ring, around it, and back
                points = [*points, *ring, ring[0], points[-1]]
            corners = (np.asarray(points) / size).ravel()
            lines.append(" ".join([str(number - 1), *(f"{value:.8f}".rstrip("0").rstrip(".") for value in corners)]))
        write_jpeg(self._folder / "images" / f"{result.name}.jpg", result.image)
        _write_text(self._folder / "labels" / f"{result.name}.txt", "".join(line + "\n" for line in lines))

    def close(self, finished: bool = True) -> None:
        """Write data.yaml, with the classes of all label files of the folder."""
        files = sorted((self._folder / "labels").glob("*.txt"))
        if not files:
            return
        classes = {int(line.split(" ", 1)[0]) for file in files for line in file.read_text().splitlines()}
        names = "".join(f"  {k}: object_{k + 1}\n" for k in range(max(classes, default=0) + 1))
        _write_text(self._folder / "data.yaml", f"path: .\ntrain: images\nval: images\nnames:\n{names}")


class DavisWriter(Writer):
    """Write the folders of DAVIS: JPEGImages/480p/<video>, Annotations/480p/<video> and ImageSets/2017/val.txt.

    Files are named by the number in the name of the frame, else by its index, with five digits. The frames keep
    their size: "480p" is the name that the tools of DAVIS expect.

    Args:
        folder: the folder; it is created if needed.
        video: name of the video.
    """

    def __init__(self, folder: str | os.PathLike[str], video: str = "video") -> None:
        self._folder = Path(folder)
        self._video = re.sub(r"[^\w.-]+", "_", video).strip(".") or "video"

    def write(self, result: Result) -> None:
        """Write one frame."""
        name = f"{int(result.name) if result.name.isdecimal() else result.index:05d}"
        write_jpeg(self._folder / "JPEGImages" / "480p" / self._video / f"{name}.jpg", result.image)
        write_labels(self._folder / "Annotations" / "480p" / self._video / f"{name}.png", result.labels)

    def close(self, finished: bool = True) -> None:
        """Write the list of videos."""
        if (self._folder / "Annotations").is_dir():
            _write_text(self._folder / "ImageSets" / "2017" / "val.txt", self._video + "\n")


class MotsWriter(Records):
    """Write MOTS text: a line "frame id class height width rle" for each object on each frame.

    The class is 1 and the id is 1000 + the id of the object, as in the PNG files of MOTS. The run lengths are those of COCO.

    Args:
        path: the file.
        keep: names of the finished frames of the run to resume. Default: a new run.
    """

    def _assembled(self) -> Iterator[str]:
        for r in self._records():
            for o in (o for o in r["objects"] if o["area"]):
                yield f"{r['index']} {1000 + o['object']} 1 {r['height']} {r['width']} {o['counts']}\n"


def to_supervision(
    labels: npt.NDArray[np.integer[Any]], confidence: dict[int, float] | None = None
) -> Any:  # supervision is not a dependency
    """Convert labels to `supervision.Detections`; requires the package supervision.

    Args:
        labels: ids per pixel [H, W], such as `Tracked.labels`.
        confidence: id -> confidence in [0, 1], such as `Tracked.confidence`. Default: none.

    Returns:
        Detections with one mask an object, in the order of the ids: `mask`, `xyxy` (x1 and y1 are the last column and row),
        `tracker_id` (the id), `class_id` (0) and, if it is known of all objects, `confidence`.

    Raises:
        ValueError: "expected the package supervision, got none: pip install supervision".

    Example:
        >>> detections = to_supervision(tracked.labels, tracked.confidence)
    """
    try:
        import supervision
    except ModuleNotFoundError:
        raise ValueError("expected the package supervision, got none: pip install supervision") from None
    objects = objects_in(labels)
    if not objects:
        return supervision.Detections.empty()
    masks = np.stack([labels == i for i in objects])
    known = confidence is not None and all(i in confidence for i in objects)
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
        mask=masks,
        class_id=np.zeros(len(objects), int),
        tracker_id=np.asarray(objects),
        confidence=np.asarray([confidence[i] for i in objects], np.float32) if known and confidence is not None else None,
    )


def write_jpeg(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write a picture as JPEG of quality 95 without chroma subsampling, completely or not at all."""
    from PIL import Image

    with written_whole(path) as file:
        Image.fromarray(image).save(file, "JPEG", quality=95, subsampling=0)


def _write_text(path: Path, text: str) -> None:
    with written_whole(path) as file:
        file.write(text.encode())
