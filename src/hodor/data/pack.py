"""Packs: training data reduced to the size that training needs, in a few files that are easy to copy.

    write_pack(["DAVIS", "coco"], "pack", short_side=360)         # pack/pack.json, pack/shard-000.zip, ...
    roots = unpack("pack", "/dev/shm/data")                       # folders that `hodor train --data.root` reads

A pack holds no new format: each shard is a zip file of H.264 videos, WebP images and PNG masks, in folders that
`hodor.data.layouts` and `hodor.data.stills` open. Shards can be copied one by one; `unpack` compares their hashes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from hodor.data.file_cache import DamagedFileError, FileCache, cover_size, shrink
from hodor.data.settings import Data
from hodor.data.stills import Source, Stills
from hodor.data.stream import open_root
from hodor.data.videofiles import VideoFiles
from hodor.data.videos import Videos
from hodor.masks import VOID, fit_labels, written_whole

INDEX = "pack.json"
FORMAT = "hodor-pack/1"
RATE = Fraction(24)
"""Frame rate of the packed videos. Training counts frames, so it has no effect."""


@dataclass(frozen=True)
class PackSettings:
    """How the files of a pack are made.

    Attributes:
        short_side: short side of images and frames, in pixels; smaller ones keep their size. Default: 360.
        max_mb: largest size of a shard, in millions of bytes. A single video is never split. Default: 45.
        quality: quality of WebP images, 0 to 100. Default: 80.
        crf: quality of H.264 videos, 0 (best) to 51. Default: 23.
    """

    short_side: int = 360
    max_mb: float = 45.0
    quality: int = 80
    crf: int = 23


def write_pack(
    roots: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: PackSettings = PackSettings(),
    *,
    data: Data | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Write training data as a pack.

    Images and frames are reduced to the short side, never enlarged; masks by nearest neighbour. Objects keep their ids, and
    void pixels stay void. Sizes of objects (`Data.min_area`, `Data.min_side`) then count pixels of the reduced masks.

    Args:
        roots: data sets, as `Data.root`. The folder of each in the pack has the name of the root.
        out: folder of the pack; it must be empty or not exist.
        settings: sizes and qualities.
        data: its fields `only`, `without` and `split` select videos and images; `labels` opens folders. Default: Data().
        progress: called with the number of items done and the number of all.

    Returns:
        The content of pack.json: format, settings, roots (name, kind, number of items, damaged files), shards (name, bytes,
        sha256).

    Raises:
        ValueError: "expected an empty folder for the pack, got OUT with files: choose another one"; two roots of one name;
            as `hodor.data.stream.open_root`.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"expected an empty folder for the pack, got {out} with files: choose another one")
    paths = [Path(root) for root in roots]
    names = [path.stem if path.is_file() else path.resolve().name for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected roots with different names, got {', '.join(twice)} twice: rename a folder")
    cache = FileCache(0, tolerated=1.0)
    sized = replace(data or Data(), size=(settings.short_side, settings.short_side))
    sources = [open_root(path, sized, 1, cache) for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    about: list[dict[str, Any]] = []
    total, done = sum(_count(source) for source in sources), 0
    with _Shards(out, round(settings.max_mb * 1e6)) as shards:
        for name, source in zip(names, sources, strict=True):
            before = len(cache.damaged)
            count = 0
            for files in _items(source, settings):
                shards.add({f"{name}/{path}": content for path, content in files.items()})
                done, count = done + 1, count + 1
                if progress:
                    progress(done, total)
            kind = "videos" if isinstance(source, Videos) else "stills"
            about.append({"name": name, "kind": kind, "items": count, "damaged": len(cache.damaged) - before})
    index = {"format": FORMAT, "settings": vars(settings), "roots": about, "shards": shards.written}
    with written_whole(out / INDEX) as file:
        file.write(json.dumps(index, indent=1).encode())
    return index


def read_index(pack: str | os.PathLike[str]) -> dict[str, Any]:
    """Read pack.json.

    Raises:
        ValueError: "expected a pack (a folder with pack.json), got DIR"; "expected format hodor-pack/1 in DIR/pack.json, got
            ...".
    """
    path = Path(pack) / INDEX
    if not path.is_file():
        raise ValueError(f"expected a pack (a folder with {INDEX}), got {pack}: make one with hodor data pack")
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        found = index["format"]
    except (ValueError, KeyError, TypeError):
        found = "another file"
    if found != FORMAT:
        raise ValueError(f"expected format {FORMAT} in {path}, got {found}: make the pack again with hodor data pack")
    return index


def unpack(pack: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Extract a pack, and return the folders of its roots in the order in which they were packed.

    Shards that were extracted by an earlier call are not extracted again. A folder that holds another pack is refused: the
    files of both would be mixed.

    Args:
        pack: folder of the pack.
        folder: folder to extract to; it is created.

    Raises:
        ValueError: "expected shard-001.zip with sha256 ab12..., got cd34...: copy it again"; "expected shard-001.zip in DIR
            ...: copy it"; "expected a folder without another pack, got DIR: ..."; as `read_index`.
    """
    pack, folder = Path(pack), Path(folder)
    index = read_index(pack)
    folder.mkdir(parents=True, exist_ok=True)
    marks = {f".{shard['sha256']}" for shard in index["shards"]}
    if any(other.name not in marks for other in folder.glob("." + "[0-9a-f]" * 64)):
        raise ValueError(f"expected a folder without another pack, got {folder}: remove it, or give another one")
    for shard in index["shards"]:
        path, mark = pack / shard["name"], folder / f".{shard['sha256']}"
        if mark.exists():
            continue
        if not path.is_file():
            raise ValueError(f"expected {shard['name']} in {pack}, got no such file: copy it")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard["sha256"]:
            raise ValueError(f"expected {path} with sha256 {shard['sha256'][:12]}, got {found[:12]}: copy it again")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        mark.touch()
    return [folder / root["name"] for root in index["roots"]]


class _Shards:
    """Zip files of a limited size, written whole and one after another."""

    def __init__(self, out: Path, limit: int) -> None:
        self.out, self.limit = out, limit
        self.written: list[dict[str, Any]] = []
        self._part = out / ".shard.part"
        self._archive: zipfile.ZipFile | None = None
        self._bytes = 0

    def add(self, files: dict[str, bytes]) -> None:
        """Add the files of one item to the current shard, or to a new one if they do not fit."""
        size = sum(len(content) + 2 * len(path) + 200 for path, content in files.items())
        if self._archive is not None and self._bytes + size > self.limit:
            self._finish()
        if self._archive is None:
            self._archive, self._bytes = zipfile.ZipFile(self._part, "w", zipfile.ZIP_STORED), 0
        for path, content in files.items():
            self._archive.writestr(zipfile.ZipInfo(path), content)  # a fixed date: the same data give the same shard
        self._bytes += size

    def _finish(self) -> None:
        if self._archive is None:
            return
        self._archive.close()
        self._archive = None
        with self._part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"shard-{len(self.written):03d}.zip"
        os.replace(self._part, self.out / name)
        self.written.append({"name": name, "bytes": (self.out / name).stat().st_size, "sha256": digest})

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
            return
        if self._archive is not None:
            self._archive.close()
        self._part.unlink(missing_ok=True)
        for shard in self.written:
            (self.out / shard["name"]).unlink(missing_ok=True)


def _count(source: Source) -> int:
    return len(source.layout.videos) if isinstance(source, Videos) else len(source)


def _items(source: Source, settings: PackSettings) -> Iterator[dict[str, bytes]]:
    """Yield the files of each video or image, {path below the root: content}. Damaged items are skipped."""
    if isinstance(source, Videos):
        for video in source.layout.videos:
            yield _video(video, settings)
        return
    assert isinstance(source, Stills)
    used: set[str] = set()
    for item in range(len(source)):
        try:
            mask = source.mask(item)
            image = source.picture(item, mask.size)
        except DamagedFileError:
            continue
        name = Path(source.name(item)).with_suffix("").as_posix().replace("/", "_")
        name = name if name not in used else f"{name}-{item}"
        used.add(name)
        encoded = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(encoded, "WEBP", quality=settings.quality)
        yield {f"images/{name}.webp": encoded.getvalue(), f"masks/{name}.png": _png(mask.labels)}


def _video(video: VideoFiles, settings: PackSettings) -> dict[str, bytes]:
    """One video as videos/NAME.mp4 and Annotations/NAME/FRAME.png. Frames are named by their numbers."""
    from hodor.video.films import VideoWriter

    files: dict[str, bytes] = {}
    clip = (settings.short_side, settings.short_side)
    name = video.name.replace("/", "_")
    with TemporaryDirectory() as place:
        path = Path(place) / "video.mp4"
        with VideoWriter(path, RATE, crf=settings.crf) as writer:
            for index, (frame, picture) in enumerate(zip(video.frames, video.stream(), strict=True)):
                height, width = cover_size((picture.shape[0], picture.shape[1]), clip)
                size = height - height % 2 or 2, width - width % 2 or 2
                writer.write(shrink(Image.fromarray(picture), size))
                if frame in video.masks:
                    files[f"Annotations/{name}/{index:05d}.png"] = _png(fit_labels(video.labels(frame), size))
        return {f"videos/{name}.mp4": path.read_bytes(), **files}


def _png(labels: Any) -> bytes:
    """Labels as a PNG that training reads with the same ids; void is 255 in 8-bit labels and dropped in wider ones."""
    if labels.dtype != np.uint8:
        wide = int(labels.max(initial=0)) >= VOID
        labels = np.where(labels < 0, 0 if wide else VOID, labels).astype(np.uint16 if wide else np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels)).save(encoded, "PNG", optimize=True)
    return encoded.getvalue()
