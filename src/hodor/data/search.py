"""Looking round in a benchmark's folder: what was asked for, what was found, and all that is wrong, told at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hodor.data.videofiles import VideoFiles, shown
from hodor.names import natural_key

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
MOVIES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
SIZES = ("480p", "Full-Resolution", "1080p")
VALID = ("val", "valid")


@dataclass
class Search:
    """What is asked for, and what was found out on the way: notes, and problems that are told all at once."""

    root: Path
    kind: str
    only: tuple[str, ...] | None
    without: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    meta: Path | None = None

    def chosen(self, names: Iterable[str]) -> list[str]:
        """The names asked for, in order. Raises ValueError for one that is not there."""
        listed = list(dict.fromkeys(names))
        for name in self.only or ():
            if name not in listed:
                raise ValueError(f"no sequence {name!r} in {self.root}: want {shown(listed)}")
        return [name for name in listed if name not in self.without and (self.only is None or name in self.only)]

    def check(self, videos: Sequence[VideoFiles]) -> None:
        if self.problems:
            listed = "; ".join(self.problems[:30])
            more = f"; and {len(self.problems) - 30} more" if len(self.problems) > 30 else ""
            raise ValueError(f"{self.root}, read as {self.kind}: {listed}{more}")
        if not videos:
            raise ValueError(f"{self.root}, read as {self.kind}, has no sequence that was asked for: want frames and masks")

    def files(
        self, name: str, images: Path | None, masks: Path | None, *, gapless: bool = False
    ) -> tuple[tuple[str, ...], tuple[Path, ...] | Path, dict[str, Path]] | None:
        """-> (frames, images, masks) of one sequence; None, and a problem, if it has no frames."""
        mask_files = pictures_in(masks) if masks and masks.is_dir() else {}
        if images is None:
            self.problems.append(f"{name} has no frames")
            return None
        taken: tuple[Path, ...] | Path
        if images.is_dir():
            found = pictures_in(images)
            frames, taken = tuple(found), tuple(found.values())
        else:
            frames, taken = _movie_frames(images, mask_files), images
        if not frames:
            self.problems.append(f"{name} has no frames in {images}")
            return None
        known = frozenset(frames)
        if strays := [frame for frame in mask_files if frame not in known]:
            self.problems.append(f"{name} has masks without frames: {shown(strays)}")
        if gapless and all(frame.isdecimal() for frame in frames):
            there = {int(frame) for frame in frames}
            missing = [f"{i:0{len(frames[0])}d}" for i in range(min(there), max(there)) if i not in there]
            if missing:
                self.problems.append(f"{name} lacks frames {shown(missing)}")
        return frames, taken, {f: p for f, p in mask_files.items() if f in known}

    def videos_of(self, place: Path, split: str) -> dict[str, dict[str, Any]]:
        """Video -> what the split's meta file says: meta.json beside the frames, or <split>_meta.json there or one above."""
        names = [f"{n}_meta.json" for n in alike(split)] + [f"meta_{n}.json" for n in alike(split)]
        for path in (place / "meta.json", *(where / n for where in (place, place.parent) for n in names)):
            if path.is_file():
                self.meta, read = path, read_json(path)
                videos = read.get("videos", read)
                if not isinstance(videos, dict) or not all(isinstance(v, dict) for v in videos.values()):
                    raise ValueError(f'{path} does not list videos: want {{"videos": {{name: ...}}}}')
                return videos
        return {}


def pictures_in(folder: Path) -> dict[str, Path]:
    """Name -> file of the pictures in a folder, in time order; hidden files are passed over, the first of twins stays."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    ordered: dict[str, Path] = {}
    for path in sorted(found, key=lambda p: (natural_key(p.stem), p.suffix)):
        ordered.setdefault(path.stem, path)
    return ordered


def split_folder(search: Search, split: str | None) -> tuple[str, Path]:
    """-> the split's name and its folder, which holds JPEGImages: ROOT/<split>, or ROOT itself."""
    there = [p.name for p in sorted(search.root.iterdir()) if (p / "JPEGImages").is_dir()]
    if not there and (search.root / "JPEGImages").is_dir():
        own = search.root.resolve().name
        if split and own not in alike(split):
            search.notes.append(f"{search.root} has no split folders: it is taken as {split}")
        return split or own, search.root
    picked = pick_split(search.root, split, there)
    return picked, search.root / picked


def pick_split(root: Path, split: str | None, there: Sequence[str]) -> str:
    """Raises ValueError: "ROOT has no split 'test': want train, val"."""
    wanted = alike(split) if split else [*VALID, "test-dev", "test", "train"]
    for name in wanted:
        if name in there:
            return name
    if not split and len(there) == 1:
        return there[0]
    raise ValueError(f"{root} has no split {split or 'val'!r}: want {', '.join(there) or 'a folder or list of one'}")


def alike(split: str) -> list[str]:
    return [split, *VALID] if split in VALID else [split]


def read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again") from None
    return read if isinstance(read, dict) else {}


def sized(base: Path) -> Path:
    return next((base / name for name in SIZES if (base / name).is_dir()), base)


def folders(base: Path) -> list[str]:
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is not a folder: want one folder of masks a sequence in it")
    return sorted((p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def place_of(bases: Iterable[Path], name: str) -> Path | None:
    """Where a sequence's frames are: a folder, or a video file."""
    for base in bases:
        if (base / name).is_dir():
            return base / name
        for suffix in MOVIES:
            if (base / f"{name}{suffix}").is_file():
                return base / f"{name}{suffix}"
    return None


def _movie_frames(path: Path, masks: Mapping[str, Path]) -> tuple[str, ...]:
    """Names of a video's frames: those of its masks where there is one each, else 00000, 00001, ..."""
    from hodor.frames import open_source

    with open_source(path) as source:
        count = source.count
        if count is None or source.estimated:
            count = sum(1 for _ in source.frames())
    return tuple(masks) if len(masks) == count else tuple(f"{i:05d}" for i in range(count))
