"""Helpers that find the files of a data set's folder and collect its problems, so that all are reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hodor.data.mask_reader import masks_in
from hodor.data.videofiles import VideoFiles, shown
from hodor.files import parse_json
from hodor.names import natural_key, read_list

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
MOVIES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
SIZES = ("480p", "Full-Resolution", "1080p")
VALID = ("val", "valid")
LISTS = frozenset((*VALID, "validation", "train", "trainval", "test", "test-dev", "test-challenge"))
"""Names of the files beside the images that are lists of a split."""


@dataclass
class Search:
    """A request for the videos of a folder, with the notes and problems found while it is read.

    Attributes:
        root: folder of the data set.
        kind: format of the data set.
        only: names of the requested sequences; None for all.
        without: names of sequences that are left out.
        notes: remarks that are printed.
        problems: errors; `check` raises all of them at once.
        meta: JSON file that lists the objects, if one was read.
        listing: file that lists the names of the split, if there is one; `chosen` obeys it.
    """

    root: Path
    kind: str
    only: tuple[str, ...] | None
    without: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    meta: Path | None = None
    listing: Path | None = None

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Return the requested names in their order. Names of the split's list that do not exist are added to the problems.

        Raises:
            ValueError: "expected a sequence of ROOT (bear, bmx-bumps, ...), got 'cow'".
        """
        listed = [*dict.fromkeys(names)]
        if self.listing is not None:
            count = len(listed)
            listed, unknown = _listed(self.listing, listed)
            self.notes.append(f"{self.listing}: {len(listed)} of {count} are used")
            if unknown:
                self.problems.append(f"{self.listing} lists {shown(unknown)}, of which there are no masks")
        for name in self.only or ():
            if name not in listed:
                raise ValueError(f"expected a sequence of {self.root} ({shown(listed)}), got {name!r}")
        return [name for name in listed if name not in self.without and (self.only is None or name in self.only)]

    def check(self, videos: Sequence[VideoFiles]) -> None:
        """Raise ValueError if there are problems, or if there is no video."""
        if self.problems:
            listed = "; ".join(self.problems[:30])
            more = f"; and {len(self.problems) - 30} more" if len(self.problems) > 30 else ""
            raise ValueError(f"{self.root}, read as {self.kind}: {listed}{more}")
        if not videos:
            raise ValueError(
                f"expected a requested sequence with frames and masks in {self.root}, read as {self.kind}, got none"
            )

    def files(
        self, name: str, images: Path | None, masks: Path | None, *, gapless: bool = False
    ) -> tuple[tuple[str, ...], tuple[Path, ...] | Path, dict[str, Path]] | None:
        """Find the files of one sequence.

        Args:
            name: name of the sequence.
            images: folder of its frames, or a video file; None if there is none.
            masks: folder of its masks, or None.
            gapless: add a problem if the numbers of the frames are not consecutive.

        Returns:
            Names of the frames, image files (or the video file), and {frame: mask file}. None, and a problem is added, if the
            sequence has no frames.
        """
        mask_files = masks_in(masks) if masks and masks.is_dir() else {}
        if images is None:
            self.problems.append(f"{name} has no frames")
            return None
        files: tuple[Path, ...] | Path
        if images.is_dir():
            found = pictures_in(images)
            frames, files = tuple(found), tuple(found.values())
        else:
            frames, files = _movie_frames(images, mask_files), images
        if not frames:
            self.problems.append(f"{name} has no frames in {images}")
            return None
        names = frozenset(frames)
        if strays := [frame for frame in mask_files if frame not in names]:
            self.problems.append(f"{name} has masks without frames: {shown(strays)}")
        if gapless and all(frame.isdecimal() for frame in frames):
            numbers = {int(frame) for frame in frames}
            missing = [f"{i:0{len(frames[0])}d}" for i in range(min(numbers), max(numbers)) if i not in numbers]
            if missing:
                self.problems.append(f"{name} lacks frames {shown(missing)}")
        return frames, files, {f: p for f, p in mask_files.items() if f in names}

    def videos_of(self, place: Path, split: str) -> dict[str, dict[str, Any]]:
        """Read the meta file of a split as {video: entry}; empty if there is none.

        It is meta.json in the folder of the split, or <split>_meta.json there or in its parent.
        """
        names = [f"{n}_meta.json" for n in split_names(split)] + [f"meta_{n}.json" for n in split_names(split)]
        for path in (place / "meta.json", *(where / n for where in (place, place.parent) for n in names)):
            if path.is_file():
                self.meta, read = path, read_json(path)
                videos = read.get("videos", read)
                if not isinstance(videos, dict) or not all(isinstance(v, dict) for v in videos.values()):
                    raise ValueError(
                        f'expected {{"videos": {{name: ...}}}} in {path}, got another structure: download it again'
                    )
                return videos
        return {}


def pictures_in(folder: Path) -> dict[str, Path]:
    """Return {name: file} of the images in a folder, in time order.

    Hidden files are skipped. Of files that differ only in the suffix, the first one is used.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    ordered: dict[str, Path] = {}
    for path in sorted(found, key=lambda p: (natural_key(p.stem), p.suffix)):
        ordered.setdefault(path.stem, path)
    return ordered


def split_folder(search: Search, split: str | None) -> tuple[str, Path]:
    """Return the name of the split and its folder, which contains JPEGImages: ROOT/<split>, or ROOT itself."""
    splits = [p.name for p in sorted(search.root.iterdir()) if (p / "JPEGImages").is_dir()]
    lists = split_lists(search.root)
    if not splits and (search.root / "JPEGImages").is_dir():
        own = search.root.resolve().name
        if lists:
            picked = pick_split(search.root, split or (own if own in lists else None), list(lists))
            search.listing = lists[picked]
            return picked, search.root
        if split and own not in split_names(split):
            search.notes.append(f"{search.root} has no split folders: it is used as {split}")
        return split or own, search.root
    picked = pick_split(search.root, split, splits)
    lists |= split_lists(search.root / picked)
    search.listing = next((lists[name] for name in split_names(picked) if name in lists), None)
    return picked, search.root / picked


def split_lists(root: Path) -> dict[str, Path]:
    """Return the lists of the splits of a folder, {split: file}; empty if there are none.

    They are ImageSets/<split>.txt, or ImageSets/<folder>/<split>.txt, or <split>.txt in the folder itself.

    Raises:
        ValueError: "expected the lists of one folder in ROOT/ImageSets, got 2016, 2017: ...".
    """
    sets = root / "ImageSets"
    found = _texts(sets)
    inner = {} if found or not sets.is_dir() else {p.name: lists for p in sorted(sets.iterdir()) if (lists := _texts(p))}
    if len(inner) > 1:
        raise ValueError(f"expected the lists of one folder in {sets}, got {', '.join(inner)}: remove the others")
    for lists in inner.values():
        found = lists
    return found or {name: path for name, path in _texts(root).items() if name in LISTS}


def _texts(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.glob("*.txt")) if not p.name.startswith(".")}


def obeyed(lists: Mapping[str, Path], root: Path, split: str | None, known: Sequence[str], notes: list[str]) -> list[str]:
    """Return the names of a split, as far as its list says.

    Args:
        lists: the lists of the splits, {split: file}.
        root: the folder, for messages.
        split: the requested split; see `pick_split`.
        known: the names that exist.
        notes: list to which a remark is added.

    Raises:
        ValueError: there is no list of the split; "expected images with masks for the names of train.txt, got none for a, b:
            correct the list".
    """
    path = lists[pick_split(root, split, list(lists))]
    names, unknown = _listed(path, known)
    if unknown:
        raise ValueError(f"expected images with masks for the names of {path}, got none for {shown(unknown)}: correct the list")
    notes.append(f"{path}: {len(names)} of {len(known)} are used")
    return names


def _listed(path: Path, known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the known names of a list, and its lines that name none of them. A line is a name, or the path of a file."""
    names, unknown, exist = list[str](), list[str](), frozenset(known)
    lines = read_list(path)
    if not lines:
        raise ValueError(f"expected a list of names in {path}, got none: write one name per line, or remove the file")
    for line in lines:
        place = Path(line.split()[0].replace("\\", "/"))
        candidates = (line, line.split()[0], place.name, place.stem, place.parent.name)
        name = next((name for name in candidates if name in exist), None)
        if name is None:
            unknown.append(line)
        else:
            names.append(name)
    return [*dict.fromkeys(names)], unknown


def pick_split(root: Path, split: str | None, splits: Sequence[str]) -> str:
    """Return the requested split, or the default one: val, or else test-dev, test, train, or the only one.

    Raises:
        ValueError: "expected a split of ROOT (train, val), got 'test'".
    """
    candidates = split_names(split) if split else [*VALID, "test-dev", "test", "train"]
    for name in candidates:
        if name in splits:
            return name
    if not split and len(splits) == 1:
        return splits[0]
    raise ValueError(f"expected a split of {root} ({', '.join(splits) or 'it has none'}), got {split or 'val'!r}")


def split_names(split: str) -> list[str]:
    """Return the names under which a split is looked for: "val" and "valid" are the same split."""
    return [split, *VALID] if split in VALID else [split]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; another JSON value gives an empty dictionary.

    Raises:
        ValueError: "x.json is not JSON (...): download it again".
    """
    try:
        read = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from None
    return read if isinstance(read, dict) else {}


def sized(base: Path) -> Path:
    """Return the subfolder of a resolution (480p, Full-Resolution, 1080p), or the folder itself if it has none."""
    return next((base / name for name in SIZES if (base / name).is_dir()), base)


def folders(base: Path) -> list[str]:
    """Return the names of the subfolders, without hidden ones."""
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is not a folder: create it, with one folder of masks for each sequence")
    return sorted((p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def place_of(bases: Iterable[Path], name: str) -> Path | None:
    """Return the frames of a sequence: a folder, or a video file; None if there is neither."""
    for base in bases:
        if (base / name).is_dir():
            return base / name
        for suffix in MOVIES:
            if (base / f"{name}{suffix}").is_file():
                return base / f"{name}{suffix}"
    return None


def _movie_frames(path: Path, masks: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the names of a video file's frames: those of its masks if each frame has one, else 00000, 00001, ..."""
    from hodor.frames import open_source

    with open_source(path) as source:
        count = source.count
        if count is None or source.estimated:
            count = sum(1 for _ in source.frames())
    return tuple(masks) if len(masks) == count else tuple(f"{i:05d}" for i in range(count))
