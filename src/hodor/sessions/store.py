"""The folder of a session. Every file in it is complete at any moment, so that a killed process loses nothing that it returned.

    session.json                        the source and its hash, the number of frames, size and history
    journal.jsonl                       one edit a line, only ever appended; undo and redo are lines, too
    given/<hash>.png                    the given masks
    results-<hash>/<run>/<frame>.png    soft masks, with their confidence, of one track, one direction and one given frame
    results-<hash>/snapshots/           states of the tracker
    results-<hash>/geometry.json        how the soft masks cover the frame
    export/                             what `Session.export` writes by default

The hash of the results is that of the weights and of the settings that results depend on, so that results of different networks
are never mixed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hodor.files import DAMAGES, lock_folder, parse_json
from hodor.masks import read_labels, write_labels, written_whole
from hodor.sessions.edits import Edit
from hodor.sessions.planning import thinned

Mask = npt.NDArray[np.bool_]
VERSION = 1


class Plane(NamedTuple):
    """A soft mask of one track on one frame.

    Attributes:
        values: uint8 [h, w], of `results.encoded`.
        confidence: calibrated confidence in [0, 1]; 0 if the object won no pixel.
    """

    values: npt.NDArray[np.uint8]
    confidence: float


class Snapshot(NamedTuple):
    """A stored state of the tracker: after which frame, in which direction, and the hash of its basis."""

    path: Path
    direction: int
    frame: int
    basis: str


def basis_hash(basis: Any) -> str:
    """Return 16 hexadecimal digits for JSON values."""
    return hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:16]


def mask_hash(mask: Mask) -> str:
    """Return 16 hexadecimal digits for a mask, by its size and pixels."""
    height, width = mask.shape
    return hashlib.sha256(f"{height}x{width}".encode() + np.packbits(mask).tobytes()).hexdigest()[:16]


class Store:
    """Read and write the folder of a session. One process at a time uses a folder.

    Args:
        folder: the folder; it is created if needed.

    Raises:
        ValueError: "another process uses the session in FOLDER: close it first".
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder
        self._frames: dict[str, set[int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(folder, f"another process uses the session in {folder}: close it first")
        for part in folder.rglob(".*.part"):  # files that were being written when a process was killed
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder for other processes."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def use(self, results: str) -> None:
        """Select the results of a network and its settings, by their hash."""
        self.results, self._frames = self.folder / f"results-{results}", {}

    # The session and its edits

    def write_about(self, about: dict[str, Any]) -> None:
        """Write session.json."""
        with written_whole(self.folder / "session.json") as file:
            file.write(json.dumps({"version": VERSION, **about}, indent=1).encode() + b"\n")

    def about(self) -> dict[str, Any]:
        """Read session.json.

        Raises:
            FileNotFoundError: there is none.
            ValueError: "FOLDER/session.json is not that of a session of this version".
        """
        path = self.folder / "session.json"
        with contextlib.suppress(*DAMAGES):
            about = parse_json(path.read_bytes())
            if about["version"] == VERSION and {"source", "content", "count", "frame size", "size", "history"} <= about.keys():
                return dict(about)
        raise ValueError(f"{path} is not that of a session of this version: restore it from a copy")

    def edits(self) -> list[Edit]:
        """Read the journal. A last line that was cut off by a kill is removed from it: its method had not returned.

        Raises:
            ValueError: "FOLDER/journal.jsonl is damaged in line 3: restore it from a copy".
        """
        path = self.folder / "journal.jsonl"
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        edits: list[Edit] = []
        for number, line in enumerate(whole.splitlines(), 1):
            edit = None
            with contextlib.suppress(*DAMAGES):
                edit = parse_json(line)
            if not isinstance(edit, dict) or "edit" not in edit:
                raise ValueError(f"{path} is damaged in line {number}: restore it from a copy")
            edits.append(edit)
        return edits

    def append(self, edit: Edit) -> None:
        """Add an edit to the journal. It is on the disk when this returns; a full disk raises OSError and adds nothing."""
        path = self.folder / "journal.jsonl"
        line = json.dumps(edit, separators=(",", ":")).encode() + b"\n"
        with path.open("ab") as file:
            length = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(path, length)
                raise

    # Given masks

    def put(self, mask: Mask) -> str:
        """Store a given mask; return its hash."""
        name = mask_hash(mask)
        path = self.folder / "given" / f"{name}.png"
        if not path.is_file():
            write_labels(path, mask.astype(np.uint8))
        return name

    def mask(self, name: str) -> Mask:
        """Read a given mask by its hash."""
        return np.asarray(read_labels(self.folder / "given" / f"{name}.png") > 0)

    def lacks(self, names: Iterable[str]) -> list[str]:
        """Return the hashes whose masks are missing."""
        return sorted(name for name in set(names) if not (self.folder / "given" / f"{name}.png").is_file())

    # Results

    def has(self, run: str, frame: int) -> bool:
        """Return whether a run has a result of a frame."""
        if run not in self._frames:
            files = (self.results / run).glob("*.png")
            self._frames[run] = {int(path.stem) for path in files if path.stem.isdecimal()}
        return frame in self._frames[run]

    def write_plane(self, run: str, frame: int, plane: Plane) -> None:
        """Store the result of a frame."""
        about = PngInfo()
        about.add_text("confidence", repr(plane.confidence))
        with written_whole(self.results / run / f"{frame:05d}.png") as file:
            Image.fromarray(plane.values).save(file, "PNG", compress_level=1, pnginfo=about)
        self.has(run, frame)
        self._frames[run].add(frame)

    def plane(self, run: str, frame: int) -> Plane:
        """Read the result of a frame.

        Raises:
            ValueError: "PATH is damaged: remove it, so that it is computed again".
        """
        path = self.results / run / f"{frame:05d}.png"
        try:
            with Image.open(path) as picture:
                return Plane(np.asarray(picture, np.uint8), float(getattr(picture, "text", {})["confidence"]))
        except (OSError, SyntaxError, *DAMAGES):
            raise ValueError(f"{path} is damaged: remove it, so that it is computed again") from None

    def keep_runs(self, runs: set[str]) -> None:
        """Remove the results of all other runs of this network."""
        for path in self.results.glob("*-[fb]-*"):
            if path.name not in runs:
                shutil.rmtree(path, ignore_errors=True)
                self._frames.pop(path.name, None)

    def write_geometry(self, geometry: Any) -> None:
        """Store how the planes cover the frame."""
        with written_whole(self.results / "geometry.json") as file:
            file.write(json.dumps(geometry).encode())

    def geometry(self) -> Any:
        """Read how the planes cover the frame; None before the first result."""
        path = self.results / "geometry.json"
        return parse_json(path.read_bytes()) if path.is_file() else None

    # Snapshots

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots of this network."""
        found = []
        for path in (self.results / "snapshots").glob("[fb]-*.safetensors"):
            side, frame, basis = path.stem.split("-")
            found.append(Snapshot(path, 1 if side == "f" else -1, int(frame), basis))
        return found

    def snapshot_path(self, direction: int, frame: int, basis: str) -> Path:
        """Return the file of a snapshot."""
        folder = self.results / "snapshots"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{'f' if direction > 0 else 'b'}-{frame:05d}-{basis}.safetensors"

    def thin(self, limit: int) -> None:
        """Remove snapshots until those of each direction have at most half of `limit` bytes."""
        for direction in (1, -1):
            group = [s for s in self.snapshots() if s.direction == direction]
            for i in thinned([(s.frame, s.path.stat().st_size) for s in group], limit // 2):
                group[i].path.unlink(missing_ok=True)
