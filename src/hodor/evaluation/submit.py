"""Masks as the zip file that a benchmark's server takes: checked whole before it is written, read again after.

    layout = open_layout("DAVIS", "davis2017", "test-dev")
    problems = check(layout, Path("masks"))          # [] where the server can take them
    packed = pack(layout, Path("masks"), Path("davis.zip"))

What a server does with a file is known from its page and from the scorers that are public; a file that passes here holds what
they ask for, no more is claimed.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from hodor.data.layouts import Kind, Layout, VideoFiles
from hodor.data.videofiles import shown
from hodor.masks import objects_in, written_whole

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
STAMP = (1980, 1, 1, 0, 0, 0)
"""The time of every file in a zip: the same masks make the same bytes."""
OURS = frozenset({"run.json", "results.json"})
"""What `hodor segment --dataset` leaves beside the masks."""


@dataclass(frozen=True)
class Form:
    """What a server takes. top: the folder in the zip that holds the sequences, "" for none. ends: whether a sequence's first
    and last frame must be there (DAVIS does not score them). digits: length of a frame's name, 0 for any. split: the one
    that is handed in."""

    top: str = ""
    ends: bool = True
    digits: int = 5
    split: str | None = None


FORMS: Mapping[Kind, Form] = {
    "davis2017": Form(ends=False, split="test-dev"),
    "youtube-vos": Form(top="Annotations/"),
    "mose": Form(),
    "lvos": Form(top="Annotations/", digits=8),
}


class Packed(NamedTuple):
    """A zip that was written: where, sequences and masks in it, bytes, its sha256."""

    path: Path
    sequences: int
    masks: int
    size: int
    sha256: str


def form_of(kind: Kind) -> Form:
    """Raises ValueError: "davis2016 is not handed in: want davis2017, youtube-vos, mose, lvos"."""
    if kind not in FORMS:
        raise ValueError(f"{kind} is not handed in: want {', '.join(FORMS)}")
    return FORMS[kind]


def check(layout: Layout, masks: Path) -> list[str]:
    """-> all that is wrong with a folder <video>/<frame>.png, or with a zip file, one line each; [] if the server can take it.

    Sequences and frames that are missing or too many, names, sizes other than the picture's, files that are not 8-bit palette
    PNG, ids that have not been introduced by that frame. Raises FileNotFoundError "MASKS does not exist", ValueError "FILE is
    not a zip file".
    """
    return _Checked(layout, _opened(masks, form_of(layout.kind))).problems


def pack(layout: Layout, masks: Path, out: Path) -> Packed:
    """Check a folder of masks and write it as a zip, whole or not at all; the same masks always make the same bytes.

    Raises ValueError with everything that `check` finds in one line: "MASKS cannot be handed in: ...", and "OUT does not read
    back as written".
    """
    form = form_of(layout.kind)
    store = _opened(masks, form)
    checked = _Checked(layout, store)
    if checked.problems:
        raise ValueError(f"{masks} cannot be handed in: {'; '.join(checked.problems)}")
    with written_whole(out) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # a PNG does not shrink any more
            for name in checked.taken:
                about = zipfile.ZipInfo(form.top + name, STAMP)
                about.external_attr, about.create_system = 0o644 << 16, 3
                archive.writestr(about, store.read(name))
        file.flush()
        written = Path(str(file.name))
        if _hashes(_Zip(written, form), checked.taken) != _hashes(store, checked.taken) or check(layout, written):
            raise ValueError(f"{out} does not read back as written: is the disk sound?")
    data = out.read_bytes()
    sequences = len({name.partition("/")[0] for name in checked.taken})
    return Packed(out, sequences, len(checked.taken), len(data), hashlib.sha256(data).hexdigest())


class _Files(Protocol):
    problems: list[str]

    def names(self) -> list[str]:
        """Names such as "bear/00000.png", sorted."""

    def read(self, name: str) -> bytes: ...


class _Folder:
    def __init__(self, root: Path, form: Form) -> None:
        self.root, self.problems = root, list[str]()
        if form.top and (root / form.top).is_dir():
            self.root = root / form.top

    def names(self) -> list[str]:
        files = (p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
        return sorted(name for name in files if name not in OURS)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class _Zip:
    def __init__(self, path: Path, form: Form) -> None:
        self.archive, self.top, self.problems = zipfile.ZipFile(path), form.top, list[str]()
        listed = [name for name in self.archive.namelist() if not name.endswith("/")]
        if len(listed) != len(set(listed)):
            self.problems.append("a name stands twice in the zip")
        outside = [name for name in listed if not name.startswith(form.top)]
        if outside:
            self.problems.append(f"files outside {form.top}: {shown(outside)}")
        self.listed = sorted(name.removeprefix(form.top) for name in listed if name.startswith(form.top))
        tops = {name.partition("/")[0] for name in self.listed}
        if len(tops) == 1 and all(name.count("/") > 1 for name in self.listed):
            where = form.top or "the zip's root"
            self.problems.append(f"everything lies in the folder {tops.pop()}: want the sequences' folders in {where}")

    def names(self) -> list[str]:
        return self.listed

    def read(self, name: str) -> bytes:
        try:
            return self.archive.read(self.top + name)
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError):
            return b""  # damaged, encrypted or packed in a way of its own: `_faults` tells it


def _opened(masks: Path, form: Form) -> _Files:
    if masks.is_dir():
        return _Folder(masks, form)
    if not masks.exists():
        raise FileNotFoundError(f"{masks} does not exist: want a folder of masks, or a zip file")
    if not zipfile.is_zipfile(masks):
        raise ValueError(f"{masks} is not a zip file: want a folder of masks, or a zip file")
    return _Zip(masks, form)


class _Checked:
    """problems: one line each. taken: the names that belong in the zip, sorted."""

    def __init__(self, layout: Layout, files: _Files) -> None:
        self.form, self.files, self.problems = form_of(layout.kind), files, files.problems
        self.taken: list[str] = []
        by_video: dict[str, list[str]] = {}
        for name in files.names():
            by_video.setdefault(name.partition("/")[0] if "/" in name else "", []).append(name)
        loose = by_video.pop("", [])
        if extra := [v for v in by_video if v not in layout.names]:
            split = f"of {layout.split}" if layout.split else f"in {layout.root}"
            self.problems.append(f"sequences that are not {split}: {shown(extra)}")
        if loose:
            self.problems.append(f"files beside the sequences: {shown(loose)}")
        if missing := [video for video in layout.names if video not in by_video]:
            self.problems.append(f"sequences missing: {shown(missing)}")
        for video in layout.videos:
            if video.name in by_video:
                self._video(video, by_video[video.name])

    def _video(self, video: VideoFiles, names: list[str]) -> None:
        wanted = {f"{video.name}/{frame}.png": frame for frame in video.required}
        needed = list(wanted) if self.form.ends else list(wanted)[1:-1]
        there = set(names)
        if missing := [wanted[name] for name in needed if name not in there]:
            self.problems.append(f"{video.name}: frames missing: {shown(missing)}")
        if extra := [name.partition("/")[2] for name in names if name not in wanted]:
            self.problems.append(f"{video.name}: files that are not wanted: {shown(extra)}")
        if self.form.digits and (odd := [f for f in video.required if len(f) != self.form.digits or not f.isdecimal()]):
            self.problems.append(f"{video.name}: names are not of {self.form.digits} digits: {shown(odd)}")
        known, wrong = _Introduced(video), dict[str, list[str]]()
        for name, frame in wanted.items():  # in time order
            if name in there:
                self.taken.append(name)
                for fault in _faults(self.files.read(name), known.size(frame), known.ids(frame)):
                    wrong.setdefault(fault, []).append(frame)
        self.problems += [f"{video.name}: {fault}: {shown(frames)}" for fault, frames in wrong.items()]


class _Introduced:
    """Which ids a server knows of by a frame, and the size it wants; frames are asked for in time order."""

    def __init__(self, video: VideoFiles) -> None:
        self.video, self.known = video, frozenset[int]()
        self.order = {frame: i for i, frame in enumerate(video.frames)}
        self.coming = sorted(video.given, key=self.order.__getitem__)
        self.first = self.coming[0] if self.coming else None

    def ids(self, frame: str) -> frozenset[int]:
        while self.coming and self.order[self.coming[0]] <= self.order[frame]:
            begins = self.coming.pop(0)
            named = self.video.given[begins]
            self.known |= frozenset(objects_in(self.video.labels(begins)) if named is None else named)
        return self.known

    def size(self, frame: str) -> tuple[int, int]:
        """(H, W) of the frame's picture, from the head of its file; of a video file the first mask's."""
        if isinstance(self.video.images, Path):
            height, width = self.video.labels(self.first or frame).shape
            return height, width
        with Image.open(self.video.images[self.order[frame]]) as picture:
            return picture.height, picture.width


def _faults(data: bytes, size: tuple[int, int], known: frozenset[int]) -> list[str]:
    """-> what is wrong with one mask."""
    if not data:
        return ["empty or damaged"]
    if data[:8] != SIGNATURE or len(data) < 33:
        return ["not PNG"]
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    faults = []
    if (height, width) != size:
        faults.append(f"{height}x{width} pixels, the picture has {size[0]}x{size[1]}")
    if (depth, colour) != (8, 3):
        return [*faults, f"{depth}-bit {COLOURS.get(colour, '?')}, want 8-bit palette PNG whose index is the id"]
    try:
        with Image.open(io.BytesIO(data)) as picture:
            counted = picture.getcolors(256) or []
    except (OSError, SyntaxError, ValueError):
        return [*faults, "damaged"]
    if strange := sorted({value for _, value in counted if isinstance(value, int)} - known - {0}):
        told = ", ".join(map(str, sorted(known))) or "none"
        faults.append(f"ids {', '.join(map(str, strange))}, introduced by then: {told}")
    return faults


def _hashes(files: _Files, names: list[str]) -> dict[str, bytes]:
    return {name: hashlib.sha256(files.read(name)).digest() for name in names} if set(names) <= set(files.names()) else {}
