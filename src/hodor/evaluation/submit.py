"""Pack masks as the zip file that a benchmark's server accepts. The masks are checked before, the zip file is read back after.

    layout = open_layout("DAVIS", "davis2017", "test-dev")
    problems = check(layout, Path("masks"))          # [] if the server can accept them
    packed = pack(layout, Path("masks"), Path("davis.zip"))

The rules come from the benchmarks' pages and from the published scorers. The servers themselves are not public, so a file that
passes here contains what these ask for; more is not claimed.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from hodor.data.benchmarks import BENCHMARKS, Submission
from hodor.data.layouts import Layout, VideoFiles
from hodor.data.videofiles import shown
from hodor.masks import objects_in, written_whole
from hodor.video.pictures import picture_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
STAMP = (1980, 1, 1, 0, 0, 0)
"""The time of every file in a zip file, so that the same masks give the same bytes."""
OWN_FILES = frozenset({"run.json", "results.json"})
"""Files that `hodor segment --dataset` and `hodor evaluate` write beside the masks."""


class Packed(NamedTuple):
    """A zip file that was written.

    Attributes:
        path: the zip file.
        sequences: number of sequences in it.
        masks: number of masks in it.
        size: its size in bytes.
        sha256: its hash.
    """

    path: Path
    sequences: int
    masks: int
    size: int
    sha256: str


def submission_of(kind: str) -> Submission:
    """Return what the server of a benchmark accepts.

    Raises:
        ValueError: "expected a benchmark with a server (davis2017, youtube-vos, lvos, mose), got 'davis2016'".
    """
    one = BENCHMARKS.get(kind)
    if one is None or one.submission is None:
        names = ", ".join(name for name, other in BENCHMARKS.items() if other.submission)
        raise ValueError(f"expected a benchmark with a server ({names}), got {kind!r}")
    return one.submission


def check(layout: Layout, masks: Path) -> list[str]:
    """Find everything that is wrong with masks that are to be submitted.

    Checked are missing and extra sequences and frames, names, the size of each mask (the picture's), the format (8-bit palette
    PNG), and the ids (only objects that were given on this frame or before).

    Args:
        layout: the benchmark's folder and split.
        masks: a folder <video>/<frame>.png, or a zip file.

    Returns:
        The problems, one line each; [] if the server can accept the masks.

    Raises:
        FileNotFoundError: "MASKS does not exist: give a folder of masks, or a zip file".
        ValueError: "expected a folder of masks or a zip file, got FILE"; what `submission_of` raises.
    """
    return _Checked(layout, _opened(masks, submission_of(layout.kind))).problems


def pack(layout: Layout, masks: Path, out: Path) -> Packed:
    """Check a folder of masks and write it as a zip file.

    The file is written completely or not at all, and is read back before it gets its name. The same masks always give the same
    bytes.

    Args:
        layout: the benchmark's folder and split.
        masks: a folder <video>/<frame>.png, or a zip file.
        out: the zip file to write.

    Returns:
        The zip file's path, counts, size and hash.

    Raises:
        ValueError: "MASKS cannot be submitted: ..." with everything that `check` finds in one line; "OUT does not read back as
            written: check the disk".
    """
    form = submission_of(layout.kind)
    store = _opened(masks, form)
    checked = _Checked(layout, store)
    if checked.problems:
        raise ValueError(f"{masks} cannot be submitted: {'; '.join(checked.problems)}")
    with written_whole(out) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # a PNG does not shrink any more
            for name in checked.names:
                about = zipfile.ZipInfo(form.top + name, STAMP)
                about.external_attr, about.create_system = 0o644 << 16, 3
                archive.writestr(about, store.read(name))
        file.flush()
        written = Path(str(file.name))
        if _hashes(_Zip(written, form), checked.names) != _hashes(store, checked.names) or check(layout, written):
            raise ValueError(f"{out} does not read back as written: check the disk")
    data = out.read_bytes()
    sequences = len({name.partition("/")[0] for name in checked.names})
    return Packed(out, sequences, len(checked.names), len(data), hashlib.sha256(data).hexdigest())


LARGEST_MEMBER = 1 << 26  # bytes of one PNG in a zip file


class _Files(Protocol):
    problems: list[str]

    def names(self) -> list[str]:
        """Names such as "bear/00000.png", sorted."""

    def read(self, name: str) -> bytes: ...


class _Folder:
    def __init__(self, root: Path, form: Submission) -> None:
        self.root, self.problems = root, list[str]()
        if form.top and (root / form.top).is_dir():
            self.root = root / form.top

    def names(self) -> list[str]:
        files = (p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
        return sorted(name for name in files if name not in OWN_FILES)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class _Zip:
    def __init__(self, path: Path, form: Submission) -> None:
        try:
            self.archive, self.top, self.problems = zipfile.ZipFile(path), form.top, list[str]()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"zip file {path} cannot be opened: {str(error)[:200]}") from None
        listed = [name for name in self.archive.namelist() if name and not name.endswith("/")]
        if len(listed) != len(set(listed)):
            self.problems.append("a name occurs twice in the zip file")
        outside = [name for name in listed if not name.startswith(form.top)]
        if outside:
            self.problems.append(f"files outside {form.top}: {shown(outside)}")
        self.listed = sorted(name.removeprefix(form.top) for name in listed if name.startswith(form.top))
        tops = {name.partition("/")[0] for name in self.listed}
        if len(tops) == 1 and all(name.count("/") > 1 for name in self.listed):
            where = form.top or "the root of the zip file"
            self.problems.append(f"expected the sequences' folders in {where}, got all of them in {tops.pop()}")

    def names(self) -> list[str]:
        return self.listed

    def read(self, name: str) -> bytes:
        try:
            if self.archive.getinfo(self.top + name).file_size > LARGEST_MEMBER:
                return b""  # no mask; it could fill the memory
            return self.archive.read(self.top + name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError):
            return b""  # damaged, encrypted or compressed in an unknown way: `_faults` reports it


def _opened(masks: Path, form: Submission) -> _Files:
    if masks.is_dir():
        return _Folder(masks, form)
    if not masks.exists():
        raise FileNotFoundError(f"{masks} does not exist: give a folder of masks, or a zip file")
    if not zipfile.is_zipfile(masks):
        raise ValueError(f"expected a folder of masks or a zip file, got {masks}")
    return _Zip(masks, form)


class _Checked:
    """A check's result: `problems`, one line each, and `names`, those that belong in the zip file, sorted."""

    def __init__(self, layout: Layout, files: _Files) -> None:
        self.form, self.files, self.problems = submission_of(layout.kind), files, files.problems
        self.names: list[str] = []
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
        expected = {f"{video.name}/{frame}.png": frame for frame in video.required}
        needed = list(expected) if self.form.ends else list(expected)[1:-1]
        present = set(names)
        if missing := [expected[name] for name in needed if name not in present]:
            self.problems.append(f"{video.name}: frames missing: {shown(missing)}")
        if extra := [name.partition("/")[2] for name in names if name not in expected]:
            self.problems.append(f"{video.name}: extra files: {shown(extra)}")
        if self.form.digits and (odd := [f for f in video.required if len(f) != self.form.digits or not f.isdecimal()]):
            self.problems.append(f"{video.name}: expected names of {self.form.digits} digits, got {shown(odd)}")
        allowed, wrong = _Allowed(video), dict[str, list[str]]()
        for name, frame in expected.items():  # in time order
            if name in present:
                self.names.append(name)
                for fault in _faults(self.files.read(name), allowed.size(frame), allowed.ids(frame)):
                    wrong.setdefault(fault, []).append(frame)
        self.problems += [f"{video.name}: {fault}: {shown(frames)}" for fault, frames in wrong.items()]


class _Allowed:
    """The ids and the size that a server accepts on a frame; frames are queried in time order."""

    def __init__(self, video: VideoFiles) -> None:
        self.video, self.begun = video, frozenset[int]()
        self.order = {frame: i for i, frame in enumerate(video.frames)}
        self.coming = sorted(video.given, key=self.order.__getitem__)
        self.first = self.coming[0] if self.coming else None

    def ids(self, frame: str) -> frozenset[int]:
        while self.coming and self.order[self.coming[0]] <= self.order[frame]:
            begins = self.coming.pop(0)
            named = self.video.given[begins]
            self.begun |= frozenset(objects_in(self.video.labels(begins)) if named is None else named)
        return self.begun

    def size(self, frame: str) -> tuple[int, int]:
        """Return (H, W) of the frame's picture, without decoding it; for a video file that of the first mask."""
        if isinstance(self.video.images, Path):
            height, width = self.video.labels(self.first or frame).shape
            return height, width
        return picture_size(self.video.images[self.order[frame]], self.video.mask_size)


def _faults(data: bytes, size: tuple[int, int], allowed: frozenset[int]) -> list[str]:
    """Return what is wrong with one mask."""
    if not data:
        return ["empty or damaged"]
    if data[:8] != SIGNATURE or len(data) < 33:
        return ["expected PNG, got another format"]
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    faults = []
    if (height, width) != size:
        faults.append(f"expected {size[0]}x{size[1]} pixels, the size of the picture, got {height}x{width}")
    if (depth, colour) != (8, 3):
        return [*faults, f"expected 8-bit palette PNG whose index is the id, got {depth}-bit {COLOURS.get(colour, '?')}"]
    try:
        with Image.open(io.BytesIO(data)) as picture:
            counted = picture.getcolors(256) or []
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return [*faults, "damaged"]
    if strange := sorted({value for _, value in counted if isinstance(value, int)} - allowed - {0}):
        begun = ", ".join(map(str, sorted(allowed))) or "none"
        faults.append(f"expected ids that were given before ({begun}), got {', '.join(map(str, strange))}")
    return faults


def _hashes(files: _Files, names: list[str]) -> dict[str, bytes]:
    return {name: hashlib.sha256(files.read(name)).digest() for name in names} if set(names) <= set(files.names()) else {}
