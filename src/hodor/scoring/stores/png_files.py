"""Masks of sequences in PNGs, below a folder or in a zip file. hodor.scoring.stores.open opens them.

Masks are read on demand. Only of folders whose names are numbers a few masks are read at once: they can be SA-V.
"""

import functools
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hodor.mask_files import png
from hodor.names import natural_key
from hodor.scoring.stores.base import Labels, MappingStore, Plane, Store, painted, some

Folder = tuple[str, ...]  # the parts of a path below the root
File = str | dict[int, str]  # a frame's label map, or a file per object

RUN = "masks"
"""Folder of the masks of `hodor segment -o DIR`: such a DIR is read as one sequence."""

DEPTH = 4  # levels of folders below the root that are searched
LARGEST_MEMBER = 1 << 26  # bytes of one PNG in a zip file


@dataclass(frozen=True)
class _Pngs(MappingStore):
    """PNG files; a value is the name of a frame's label map, or {object: name of its mask}."""

    files: "_Disk | _Archive" = field(default_factory=lambda: _Disk("."))

    def read(self, sequence: str, frame: str) -> Labels:
        file = self.value(sequence, frame)
        if isinstance(file, str):
            return self.files.labels(file)
        planes = self.planes(sequence, frame)
        sizes = {plane.shape for plane in planes.values()}
        if len(sizes) > 1:
            raise ValueError(f"{self.place(sequence, frame)}: expected objects of one size, got {some(sorted(sizes))}")
        height, width = sizes.pop()
        return painted(planes, (height, width))

    def planes(self, sequence: str, frame: str) -> dict[int, Plane]:
        file = self.value(sequence, frame)
        if isinstance(file, str):
            return super().planes(sequence, frame)
        return {i: self.files.labels(each) != 0 for i, each in file.items()}

    def place(self, sequence: str, frame: str) -> str:
        file = self._of(sequence).get(frame, f"{sequence}/{frame}.png")
        return self.files.place(file if isinstance(file, str) else next(iter(file.values())))


@dataclass(frozen=True)
class _Disk:
    """PNGs below a folder."""

    root: str

    def files(self) -> list[str]:
        return list(_below(self.root, "", DEPTH))

    def labels(self, file: str) -> Labels:
        return png.read_labels(self.place(file))

    def place(self, file: str) -> str:
        return os.path.join(self.root, file)


@dataclass(frozen=True)
class _Archive:
    """PNGs in a zip file. Nothing is unpacked to disk; each process opens the file itself."""

    path: str

    def files(self) -> list[str]:
        encrypted = [info.filename for info in self._zip.infolist() if info.flag_bits & 1]
        if encrypted:
            raise ValueError(f"zip file {self.path} is encrypted ({some(encrypted)}): give one without a password")
        return [info.filename for info in self._zip.infolist() if info.filename and not info.is_dir()]

    def labels(self, file: str) -> Labels:
        try:
            with self._zip.open(file) as member:
                data = member.read(LARGEST_MEMBER + 1)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise ValueError(f"zip file {self.path} is damaged at {file}: {str(error)[:200] or type(error).__name__}") from None
        if len(data) > LARGEST_MEMBER:
            raise ValueError(f"{self.place(file)} is larger than {LARGEST_MEMBER >> 20} MiB: give a mask PNG")
        return png.decode_labels(data, self.place(file))

    def place(self, file: str) -> str:
        return f"{self.path}: {file}"

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"zip file {self.path} cannot be opened: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # an open file cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _below(folder: str, prefix: str, depth: int) -> Iterator[str]:
    """Yield the files below a folder, without hidden ones, to a depth of `depth` folders."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield prefix + entry.name
            elif depth:
                yield from _below(entry.path, f"{prefix}{entry.name}/", depth - 1)


def open_files(root: Path, what: str) -> Store:
    """Open a folder or a zip file, and find out what its folders mean; see hodor.scoring.stores.open.open_store.

    Raises:
        ValueError: one line: "... has no PNGs, only .jpg: masks are PNGs"; "... has no PNGs, and neither have the folders in
            it: did you mean x/480p?"; "... has PNGs (...) and folders of PNGs (...): ..."; "zip file x cannot be opened: ...";
            "zip file x is encrypted (...): give one without a password".
    """
    files = _Disk(str(root)) if root.is_dir() else _Archive(str(root))
    listed = files.files()
    tree, strays = _folders(listed)
    tree, runs = _without_runs(tree)
    notes: list[str] = []
    prefix: Folder = ()
    wrapped = isinstance(files, _Archive)
    while True:
        depths = {len(folder) for folder in tree}
        tops = {folder[:1] for folder in tree}
        by_object = depths == {2} and _by_object(files, tree)
        if by_object or depths <= {0} or depths == {1} or not (wrapped and len(tops) == 1 and 0 not in depths):
            break
        prefix += tops.pop()
        tree = {folder[1:]: found for folder, found in tree.items()}
    if prefix:
        notes.append(f"the sequences of {root.name} were read from its folder {'/'.join(prefix)}/")
    if not tree or not (by_object or depths in ({0}, {1})):
        raise ValueError(_no_masks(root, what, tree, strays))
    sequences: dict[str, dict[str, File]] = {}
    for folder, found in sorted(tree.items()):
        frames = sequences.setdefault(folder[0] if folder else _called(root), {})
        for stem, file in found.items():
            if by_object:
                objects = frames.setdefault(stem, {})
                assert isinstance(objects, dict)
                objects[int(folder[1])] = file
            else:
                frames[stem] = file
    if by_object:
        notes.append(f"{root.name} was read as SA-V: <video>/<object>/<frame>.png, one folder per object")
    strays = [stray for stray in strays if PurePosixPath(stray).parts[:-1] not in runs]
    return _Pngs(str(root), what, depths == {0}, tuple(notes), sequences, tuple(strays), files)


def _folders(listed: Iterable[str]) -> tuple[dict[Folder, dict[str, str]], list[str]]:
    """Return {folder: {stem: PNG}} and the files that are not PNGs."""
    tree: dict[Folder, dict[str, str]] = {}
    strays = []
    for file in listed:
        *folder, name = PurePosixPath(file.replace("\\", "/")).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in (*folder, name)):
            continue
        stem, dot, suffix = name.rpartition(".")
        if dot and suffix.lower() == "png":
            tree.setdefault(tuple(folder), {})[stem] = file
        else:
            strays.append(file)
    return tree, strays


def _without_runs(tree: dict[Folder, dict[str, str]]) -> tuple[dict[Folder, dict[str, str]], set[Folder]]:
    """Return the tree with the folders of `hodor segment -o` instead of their folders of masks; and these folders."""
    runs = {folder[:-1] for folder in tree if folder[-1:] == (RUN,)}
    kept = {
        folder[:-1] if folder[-1:] == (RUN,) else folder: found
        for folder, found in tree.items()
        if not any(folder[: len(run)] == run and folder != (*run, RUN) for run in runs)
    }
    return kept, runs


def _by_object(files: _Disk | _Archive, tree: dict[Folder, dict[str, str]]) -> bool:
    """Return whether folders of depth 2 are SA-V's <video>/<object>.

    They are if their names are numbers, their PNGs contain 0 and 1 or 0 and 255, and the objects of a video have the same
    frames and the same size. Sequences in a wrapping folder rarely meet all of these conditions.
    """
    if not all(folder[1].isascii() and folder[1].isdigit() for folder in tree):
        return False
    video = min(tree)[0]
    objects = [found for folder, found in sorted(tree.items()) if folder[0] == video][:4]
    shared = set.intersection(*(set(found) for found in objects))
    if not shared:
        return False
    masks = [files.labels(found[min(shared, key=natural_key)]) for found in objects]
    values = [set(np.unique(mask).tolist()) for mask in masks]
    return len({mask.shape for mask in masks}) == 1 and all(each <= {0, 1} or each <= {0, 255} for each in values)


def _no_masks(root: Path, what: str, tree: dict[Folder, dict[str, str]], strays: Sequence[str]) -> str:
    """Return the message for a tree that is neither a sequence nor a set of sequences."""
    kind = "folder" if root.is_dir() else "zip file"
    if not tree:
        suffixes = sorted({PurePosixPath(stray).suffix for stray in strays} - {""})
        hint = f", only {some(suffixes)}: masks are PNGs" if suffixes else ": give <sequence>/<frame>.png"
        return f"{what} {kind} {root} has no PNGs{hint}"
    if () in tree:
        inner = sorted({folder[0] for folder in tree if folder})
        return (
            f"{what} {kind} {root} has PNGs ({some(tree[()].values())}) and folders of PNGs ({some(inner)}): "
            "give one sequence or a set of sequences"
        )
    parents = sorted({"/".join(folder[:-1]) for folder in tree})
    if len({len(folder) for folder in tree}) == 1 and len(parents) == 1:
        return f"{what} {kind} {root} has no PNGs, and neither have the folders in it: did you mean {root / parents[0]}?"
    levels = some("/".join(folder) for folder in sorted(tree, key=len))
    return f"{what} {kind} {root} has PNGs in {levels}: give <sequence>/<frame>.png"


def _called(root: Path) -> str:
    """Return the name of a sequence that is a folder or a zip file."""
    whole = root.resolve()
    return whole.parent.name if whole.name == RUN else whole.stem if whole.is_file() else whole.name
