"""Write the objects of each frame as records: COCO, YouTube-VIS and tables. See hodor.outputs.writers.

While a run continues, one line of JSON is stored per frame. The files are assembled from these lines at the end, one
record at a time.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from hodor.files import DAMAGES, parse_json
from hodor.masks import Labels, written_whole

CATEGORY = [{"id": 1, "name": "object"}]
COLUMNS = "frame name time object confidence lost area_px x y width height".split()  # noqa: SIM905
Record = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The result of one frame.

    Attributes:
        index: number of the frame, from 0.
        name: name of the frame, used for file names.
        time: time in seconds, None for images.
        image: RGB picture, uint8 [H, W, 3].
        labels: ids per pixel [H, W]; 0 is the background.
        objects: ids that are followed, whether they are on this frame or not, in the order of the soft planes.
        soft: one soft mask per object in [0, 1], float [N, H, W], or None.
        deep: the RGB picture with 16 bits, uint16 [H, W, 3], where the source has more than 8; else None.
        confidence: id -> confidence in [0, 1].
        lost: ids to which the tracker assigned no pixel.
    """

    index: int
    name: str
    time: float | None
    image: npt.NDArray[np.uint8]
    labels: Labels
    objects: tuple[int, ...]
    soft: npt.NDArray[np.floating[Any]] | None = None
    confidence: Mapping[int, float] = field(default_factory=dict)
    lost: frozenset[int] | set[int] = frozenset()
    deep: npt.NDArray[np.uint16] | None = None


class Writer:
    """The base class of all writers.

    Attributes:
        notes: what is missing in the file or was left out, one line each; complete after `close`.
        flicker: id -> flicker of its matte before and after smoothing in time, in percent; complete after `close`.
    """

    notes: Sequence[str] = ()
    flicker: Mapping[int, tuple[float, float]] = MappingProxyType({})

    def write(self, result: Result) -> None:
        """Write one frame. A full disk raises OSError and leaves no incomplete file."""
        raise NotImplementedError

    def close(self, finished: bool = True) -> None:
        """Complete the file from the frames so far.

        Args:
            finished: False if the run can be resumed; then the records that this needs are kept.
        """

    def abort(self) -> None:
        """Keep the file of before the run, if there was one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close(finished=kind is None)
        else:
            self.abort()


class Records(Writer):
    """Append one line of JSON per frame to a hidden file beside `path`; `close` assembles the file from the lines.

    The lines are read in order of frame index; of a frame that was written twice, the last line is used. `abort` keeps
    the lines, which a resumed run needs. A finished run removes them, and a new run starts without them.

    Args:
        path: the file.
        keep: names of the finished frames of the run to resume. Default: a new run.

    Raises:
        ValueError: "coco.json cannot be resumed, 3 finished frames are not in .coco.json.records (00002, ...): start
            again with overwrite".
    """

    _masks = True

    def __init__(self, path: str | os.PathLike[str], keep: Collection[str] | None = None) -> None:
        self._path = Path(path)
        self._lines = self._path.with_name(f".{self._path.name}.records")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        names = frozenset(keep or ())
        missing = set(names)
        with written_whole(self._lines) as file:
            for line in _lines_of(self._lines) if names else ():
                # the last line can be incomplete; a frame that was killed before its mask was written is not in `keep`
                if line.endswith(b"\n") and (name := self._name_of(line)) in names:
                    file.write(line)
                    missing.discard(name)
            if missing:
                problem = f"{len(missing)} finished frames are not in {self._lines.name} ({min(missing)}, ...)"
                raise ValueError(f"{self._path} cannot be resumed, {problem}: start again with overwrite")
        self._offsets: list[int] = []
        self._is_assembled = False
        self._file: IO[bytes] | None = self._lines.open("ab")

    def _name_of(self, line: bytes) -> str:
        """Return the name of a record's frame. Raises ValueError for a line that no run has written."""
        with contextlib.suppress(*DAMAGES):
            record = parse_json(line)
            if all(self._fits(one) for one in record["objects"]) and _has(record, FRAME_TYPES):
                return str(record["name"])
        raise ValueError(f"{self._path} cannot be resumed, {self._lines.name} is damaged: run without resume")

    def _fits(self, one: Mapping[str, Any]) -> bool:
        with_mask = self._masks and bool(one["area"])
        return _has(one, OBJECT_TYPES) and (not with_mask or isinstance(one["counts"], str))

    def write(self, result: Result) -> None:
        """Append the record of one frame."""
        if self._file is None:
            raise ValueError(f"{self._path} is closed: open another writer")
        line = json.dumps(_record(result, self._masks), separators=(",", ":")).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            self.abort()
            raise

    def close(self, finished: bool = True) -> None:
        """Assemble the file, and with `finished` remove the lines. It can be called first without, then with `finished`."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._offsets = self._ordered()
            with written_whole(self._path) as file:
                for text in self._assembled():
                    file.write(text.encode())
            self._is_assembled = True
        if finished and self._is_assembled:
            self._lines.unlink(missing_ok=True)

    def abort(self) -> None:
        """Close the file of lines without assembling the file."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # on a full disk, flushing the rest of the last line fails again
                file.close()
            with contextlib.suppress(OSError):
                if self._lines.stat().st_size == 0:
                    self._lines.unlink()  # nothing to resume

    def _ordered(self) -> list[int]:
        """Return the offset of each frame in the file of lines, in order of frame index."""
        offsets: dict[int, int] = {}
        with self._lines.open("rb") as file:
            while line := file.readline():
                offsets[json.loads(line)["index"]] = file.tell() - len(line)
        return [offset for _, offset in sorted(offsets.items())]

    def _records(self) -> Iterator[Record]:
        with self._lines.open("rb") as file:
            for offset in self._offsets:
                file.seek(offset)
                yield json.loads(file.readline())

    def _assembled(self) -> Iterator[str]:
        """Yield the text of the file, in parts."""
        raise NotImplementedError


class CocoWriter(Records):
    """Write COCO JSON.

    It has `images`, whose `file_name` is the frame's name and ".jpg"; `annotations` with compressed RLE, area, bbox [x, y,
    w, h], track_id (the object's id) and score (the confidence, omitted if unknown); and one category, "object".

    Args:
        path: the file.
        keep: names of the finished frames of the run to resume. Default: a new run.
    """

    def _assembled(self) -> Iterator[str]:
        images = (
            {"id": r["index"], "file_name": r["name"] + ".jpg", "height": r["height"], "width": r["width"]}
            for r in self._records()
        )
        yield '{"images": ['
        yield from _listed(images)
        yield '],\n"annotations": ['
        yield from _listed(self._annotations())
        yield f'],\n"categories": {json.dumps(CATEGORY)}}}\n'

    def _annotations(self) -> Iterator[Record]:
        number = 0
        for r in self._records():
            for o in (o for o in r["objects"] if o["area"]):
                number += 1
                annotation = {"id": number, "image_id": r["index"], "category_id": 1, "track_id": o["object"]}
                annotation |= {"segmentation": {"size": [r["height"], r["width"]], "counts": o["counts"]}}
                annotation |= {"area": o["area"], "bbox": o["box"], "iscrowd": 0}
                yield annotation | ({} if o["confidence"] is None else {"score": o["confidence"]})


class YtvisWriter(Records):
    """Write YouTube-VIS JSON of one video.

    It has `videos`, and one annotation per object with `segmentations`, `bboxes` and `areas` per frame, null where the
    object has no pixel. `score` is the mean confidence over the frames with the object, `id` the object's id.

    Args:
        path: the file.
        keep: names of the finished frames of the run to resume. Default: a new run.
        video: name of the video, and the folder in `file_names`.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Collection[str] | None = None, video: str = "video") -> None:
        super().__init__(path, keep)
        self._video = video

    def _assembled(self) -> Iterator[str]:
        length, size, scores = 0, (0, 0), dict[int, list[float]]()
        for r in self._records():
            length, size = length + 1, (r["height"], r["width"])
            for o in r["objects"]:
                total = scores.setdefault(o["object"], [])
                if o["area"] and o["confidence"] is not None:
                    total[:] = [total[0] + o["confidence"], total[1] + 1] if total else [o["confidence"], 1]
        names = (f"{self._video}/{r['name']}.jpg" for r in self._records())
        yield f'{{"videos": [{{"id": 1, "name": {json.dumps(self._video)}, "length": {length}, "height": {size[0]}, '
        yield f'"width": {size[1]}, "file_names": ['
        yield from _listed(names, "", ", ")
        yield f']}}],\n"categories": {json.dumps(CATEGORY)},\n"annotations": ['
        for i, (number, total) in enumerate(sorted(scores.items())):
            mean = f'"score": {round(total[0] / total[1], 4)}, ' if total else ""
            yield f'{"," if i else ""}\n{{"id": {number}, "video_id": 1, "category_id": 1, "iscrowd": 0, '
            yield f'"height": {size[0]}, "width": {size[1]}, "length": {length}, {mean}"segmentations": ['
            masks = (o and {"size": list(size), "counts": o["counts"]} for o in self._of(number))
            yield from _listed(masks, "", ", ")
            yield '], "bboxes": ['
            yield from _listed((o and o["box"] for o in self._of(number)), "", ", ")
            yield '], "areas": ['
            yield from _listed((o and o["area"] for o in self._of(number)), "", ", ")
            yield "]}"
        yield "]}\n"

    def _of(self, number: int) -> Iterator[Record | None]:
        """Yield the record of one object on each frame, None where it has no pixel."""
        for r in self._records():
            yield next((o for o in r["objects"] if o["object"] == number and o["area"]), None)


class TableWriter(Records):
    """Write a table with a row per frame and object.

    Columns: frame (index), name, time in seconds, object (id), confidence, lost, area_px, and the box x, y, width, height
    in pixels. Unknown values are empty (CSV) or null (JSON).

    Args:
        path: the file, which ends in .csv or .json.
        keep: names of the finished frames of the run to resume. Default: a new run.

    Raises:
        ValueError: "expected a table whose name ends in .csv or .json, got a.txt".
    """

    _masks = False

    def __init__(self, path: str | os.PathLike[str], keep: Collection[str] | None = None) -> None:
        if Path(path).suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"expected a table whose name ends in .csv or .json, got {path}")
        super().__init__(path, keep)

    def _assembled(self) -> Iterator[str]:
        if self._path.suffix.lower() == ".json":
            yield "["
            yield from _listed(self._rows())
            yield "]\n"
            return
        yield ",".join(COLUMNS) + "\n"
        for row in self._rows():
            text = io.StringIO()
            values = (str(v).lower() if isinstance(v, bool) else v for v in row.values())
            csv.writer(text, lineterminator="\n").writerow(values)
            yield text.getvalue()

    def _rows(self) -> Iterator[Record]:
        for r in self._records():
            for o in r["objects"]:
                box = o["box"] or [None] * 4
                values = (r["index"], r["name"], r["time"], o["object"], o["confidence"], o["lost"], o["area"], *box)
                yield dict(zip(COLUMNS, values, strict=True))


def encode_rle(mask: npt.NDArray[Any]) -> Record:
    """Encode a mask as COCO's compressed run lengths, as pycocotools does.

    Runs go down the columns and begin with zeros. From the fourth on, a run is stored as its difference from the run two
    before. A number is written in groups of 5 bits, low bits first, each as chr(48 + group) with 32 added when more groups
    follow; it ends when only sign bits are left.

    Args:
        mask: mask [H, W]; pixels other than 0 are the object.

    Returns:
        {"size": [H, W], "counts": "..."}.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, 0] if flat.size and flat[0] else [0]
    runs = np.diff(np.concatenate([starts, changes, [flat.size]])).astype(np.int64)
    runs[3:] -= runs[1:-2].copy()
    groups, remaining, unfinished = [], runs, np.ones(runs.shape, bool)
    while unfinished.any():
        low, rest = remaining & 31, remaining >> 5
        more = unfinished & np.where(low & 16, rest != -1, rest != 0)
        groups.append(np.where(unfinished, low + 32 * more + 48, 0))
        remaining, unfinished = rest, more
    letters = np.stack(groups, axis=1)
    return {
        "size": [int(n) for n in np.shape(mask)],
        "counts": letters[letters > 0].astype(np.uint8).tobytes().decode(),
    }


NUMBER = (int, float, type(None))
FRAME_TYPES: dict[str, Any] = {"index": int, "name": str, "time": NUMBER, "height": int, "width": int}
OBJECT_TYPES: dict[str, Any] = {"object": int, "area": int, "box": (list, type(None)), "confidence": NUMBER, "lost": bool}


def _has(values: Mapping[str, Any], types: Mapping[str, Any]) -> bool:
    return all(isinstance(values[key], kind) for key, kind in types.items())


def _record(result: Result, with_masks: bool) -> Record:
    """Make the record of one frame, with run lengths if `with_masks`."""
    objects = []
    for number in result.objects:
        mask = result.labels == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = None
        if rows.size:
            box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
        confidence = result.confidence.get(number)
        entry = {
            "object": int(number),
            "area": int(np.count_nonzero(mask)),
            "box": box,
            "confidence": None if confidence is None else round(float(confidence), 4),
            "lost": number in result.lost,
        }
        objects.append(entry | ({"counts": encode_rle(mask)["counts"]} if with_masks and box else {}))
    height, width = result.labels.shape
    time = None if result.time is None else round(float(result.time), 6)
    frame = {"index": result.index, "name": result.name, "time": time, "height": height, "width": width}
    return frame | {"objects": objects}


def _lines_of(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file


def _listed(items: Iterable[Any], first: str = "\n", between: str = ",\n") -> Iterator[str]:
    """Yield the items of a JSON list, with separators."""
    for i, item in enumerate(items):
        yield (between if i else first) + json.dumps(item)
