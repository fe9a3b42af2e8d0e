"""What was found on each frame, as records: COCO, YouTube-VIS and tables. See hodor.outputs.writers.

While a run goes on there is one line of JSON per frame; the files are made from the lines at the end, streaming.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, written_whole

CATEGORY = [{"id": 1, "name": "object"}]
COLUMNS = "frame name time object confidence lost area_px x y width height".split()  # noqa: SIM905
Record = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What is known of one frame.

    image: uint8 [H, W, 3]. labels: ids [H, W], 0 is background. objects: the ids followed, in the order of the soft
    planes, on this frame or not. soft: one plane per object in [0, 1], [N, H, W], or None. confidence: id -> [0, 1].
    lost: ids the tracker says are not in view. time: seconds, None for stills.
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


class Writer:
    """The three verbs of every writer."""

    def write(self, result: Result) -> None:
        """Take one frame. Raises OSError if the disk is full, and leaves no half file then."""
        raise NotImplementedError

    def close(self, finished: bool = True) -> None:
        """Finish the file from the frames so far. `finished=False`: it may be resumed, keep what that takes."""

    def abort(self) -> None:
        """Leave the file as it was before the run, or absent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close(finished=kind is None)
        else:
            self.abort()


class _Records(Writer):
    """A line of JSON per frame, appended and flushed beside `path`; `close` turns the lines into the file.

    The lines are read back in order of frame index, a frame written twice counts as last written. Aborting keeps them,
    since they are what a resumed run goes on from; a run that finished removes them, a new run starts them anew.
    """

    _masks = True

    def __init__(self, path: str | os.PathLike[str], keep: Collection[str] | None = None) -> None:
        """`keep`: names of finished frames of the run to resume; None starts anew.

        Raises ValueError: "coco.json cannot be resumed, 3 finished frames are not in .coco.json.records (00002, ...):
        run without resume".
        """
        self._path = Path(path)
        self._lines = self._path.with_name(f".{self._path.name}.records")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        names = frozenset(keep or ())
        missing = set(names)
        with written_whole(self._lines) as file:
            for line in _lines_of(self._lines) if names else ():
                # The last line may be torn; a frame that was cut off before its mask is not in `keep`.
                if line.endswith(b"\n") and (name := json.loads(line)["name"]) in names:
                    file.write(line)
                    missing.discard(name)
            if missing:
                lost = f"{len(missing)} finished frames are not in {self._lines.name} ({min(missing)}, ...)"
                raise ValueError(f"{self._path} cannot be resumed, {lost}: run without resume")
        self._places: list[int] = []
        self._whole = False
        self._file: IO[bytes] | None = self._lines.open("ab")

    def write(self, result: Result) -> None:
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
        """May be called again: first `finished=False` puts the file together, then `finished=True` lets go of the lines."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._places = self._ordered()
            with written_whole(self._path) as file:
                for text in self._assembled():
                    file.write(text.encode())
            self._whole = True
        if finished and self._whole:
            self._lines.unlink(missing_ok=True)

    def abort(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # a full disk refuses the rest of the last line again
                file.close()
            with contextlib.suppress(OSError):
                if self._lines.stat().st_size == 0:
                    self._lines.unlink()  # nothing to resume

    def _ordered(self) -> list[int]:
        """Where in the file of lines each frame begins, in order of frame index."""
        places: dict[int, int] = {}
        with self._lines.open("rb") as file:
            while line := file.readline():
                places[json.loads(line)["index"]] = file.tell() - len(line)
        return [place for _, place in sorted(places.items())]

    def _records(self) -> Iterator[Record]:
        with self._lines.open("rb") as file:
            for place in self._places:
                file.seek(place)
                yield json.loads(file.readline())

    def _assembled(self) -> Iterator[str]:
        raise NotImplementedError


class CocoWriter(_Records):
    """COCO JSON: `images`; `annotations` with compressed RLE, area, bbox [x, y, w, h], track_id (the object's id) and
    score (confidence, absent if unknown); one category, "object". `file_name` is the frame's name and ".jpg".
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


class YtvisWriter(_Records):
    """YouTube-VIS JSON of one video: `videos`, and one annotation per object with `segmentations`, `bboxes` and `areas`
    per frame, null where it is absent. `score` is the mean confidence of the frames it is on, `id` the object's id.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Collection[str] | None = None, video: str = "video") -> None:
        """`video`: its name, and the folder in `file_names`."""
        super().__init__(path, keep)
        self._video = video

    def _assembled(self) -> Iterator[str]:
        length, size, scores = 0, (0, 0), dict[int, list[float]]()
        for r in self._records():
            length, size = length + 1, (r["height"], r["width"])
            for o in r["objects"]:
                known = scores.setdefault(o["object"], [])
                if o["area"] and o["confidence"] is not None:
                    known[:] = [known[0] + o["confidence"], known[1] + 1] if known else [o["confidence"], 1]
        names = (f"{self._video}/{r['name']}.jpg" for r in self._records())
        yield f'{{"videos": [{{"id": 1, "name": {json.dumps(self._video)}, "length": {length}, "height": {size[0]}, '
        yield f'"width": {size[1]}, "file_names": ['
        yield from _listed(names, "", ", ")
        yield f']}}],\n"categories": {json.dumps(CATEGORY)},\n"annotations": ['
        for i, (number, known) in enumerate(sorted(scores.items())):
            mean = f'"score": {round(known[0] / known[1], 4)}, ' if known else ""
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
        for r in self._records():
            yield next((o for o in r["objects"] if o["object"] == number and o["area"]), None)


class TableWriter(_Records):
    """A row per frame and object, CSV or JSON by suffix; what is unknown is empty (null).

    frame (index), name, time in seconds, object, confidence, lost, area_px, and the box x, y, width, height in pixels.
    """

    _masks = False

    def __init__(self, path: str | os.PathLike[str], keep: Collection[str] | None = None) -> None:
        if Path(path).suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"table {path}: wanted a name that ends in .csv or .json")
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
    """A mask [H, W] -> {"size": [H, W], "counts": "..."}: COCO's compressed run lengths, as pycocotools writes them.

    Runs go down the columns and begin with the zeros. From the fourth on a run is stored as its difference from the run
    two before. A number goes out in groups of 5 bits, low first, bit 6 set when more follow, each as chr(48 + group);
    it ends when what is left is all sign.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, 0] if flat.size and flat[0] else [0]
    runs = np.diff(np.concatenate([starts, changes, [flat.size]])).astype(np.int64)
    runs[3:] -= runs[1:-2].copy()
    groups, left, going = [], runs, np.ones(runs.shape, bool)
    while going.any():
        low, rest = left & 31, left >> 5
        more = going & np.where(low & 16, rest != -1, rest != 0)
        groups.append(np.where(going, low + 32 * more + 48, 0))
        left, going = rest, more
    letters = np.stack(groups, axis=1)
    return {
        "size": [int(n) for n in np.shape(mask)],
        "counts": letters[letters > 0].astype(np.uint8).tobytes().decode(),
    }


def _record(result: Result, with_masks: bool) -> Record:
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
    known = {"index": result.index, "name": result.name, "time": time, "height": height, "width": width}
    return known | {"objects": objects}


def _lines_of(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file


def _listed(items: Iterable[Any], first: str = "\n", between: str = ",\n") -> Iterator[str]:
    for i, item in enumerate(items):
        yield (between if i else first) + json.dumps(item)
