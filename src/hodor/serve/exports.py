"""Exports of a session: folders below the root, or zip files that are sent while they are packed."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hodor.outputs.selection import OutputOptions, Outputs
from hodor.serve.hosted import Hosted
from hodor.serve.limits import RefusedError
from hodor.session import Session

KEPT = 2
"""Exports without a folder of their own that are kept for downloads."""


@dataclass
class Export:
    """An export.

    Attributes:
        id: its number in the session, from 1.
        folder: where it is written.
        shown: the folder as the client named it, None for one that is only downloaded.
        state: "running", "done" or "failed".
        message: why it failed.
        summary: what was written, as in the JSON of `hodor segment`.
    """

    id: int
    folder: Path
    shown: str | None
    state: str = "running"
    message: str | None = None
    summary: dict[str, Any] | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def files(self) -> list[Path]:
        """The files, in order, without hidden ones."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(self.folder).parts))

    def to_json(self) -> dict[str, Any]:
        """The values that clients see."""
        files = [p.relative_to(self.folder).as_posix() for p in self.files()] if self.state == "done" else []
        return {
            "id": self.id,
            "folder": self.shown,
            "state": self.state,
            "message": self.message,
            "files": len(files),
            "names": [name for name in files if "/" not in name] + sorted({f"{n.split('/')[0]}/" for n in files if "/" in n}),
            "summary": self.summary,
        }


def chosen_outputs(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return fields of `OutputOptions` from the JSON of a client.

    Raises:
        RefusedError: 422 for an unknown output, or a value of another type.
    """
    known: dict[str, Any] = {option.name: option.default for option in fields(OutputOptions)}
    choices = {option.name: get_args(option.type) for option in fields(OutputOptions) if get_origin(option.type) is Literal}
    chosen: dict[str, Any] = {}
    for name, value in outputs.items():
        if name not in known:
            raise RefusedError(422, f"expected outputs ({', '.join(known)}), got {name[:40]!r}: see docs/serve.md")
        kind = type(known[name])
        if isinstance(value, list) and kind is tuple:
            value = tuple(value)
            if not all(type(each) is int for each in value):
                raise RefusedError(422, f"expected ids of objects for {name}, got other values: give whole numbers")
        if value is None and known[name] is None:
            continue
        if type(value) is not kind:
            raise RefusedError(422, f"expected {kind.__name__} for {name}, got {type(value).__name__}: see docs/serve.md")
        if name in choices and value not in choices[name]:
            raise RefusedError(422, f"expected {name} of {', '.join(choices[name])}, got {value[:40]!r}: give one of them")
        chosen[name] = value
    Outputs(Path(), **chosen)  # raises for a number out of its range
    return chosen


class Exports:
    """The exports of a session.

    Args:
        hosted: the session.
    """

    def __init__(self, hosted: Hosted) -> None:
        self._hosted, self._numbers = hosted, itertools.count(1)
        self.all: dict[int, Export] = {}
        shutil.rmtree(hosted.folder / "exports", ignore_errors=True)  # of a server that was killed

    def find(self, number: int) -> Export:
        """Return an export.

        Raises:
            RefusedError: 404.
        """
        if number not in self.all:
            raise RefusedError(404, f"expected an export of this session, got {number}: there is none")
        return self.all[number]

    def begin(self, folder: Path | None, shown: str | None, outputs: dict[str, Any], overwrite: bool) -> Export:
        """Begin an export. What is missing is propagated first, frame by frame in the turns of the session.

        Args:
            folder: where to write. Default: a folder of the server, for downloads.
            shown: the folder as the client named it.
            outputs: fields of `OutputOptions`.
            overwrite: as `Session.export`.

        Raises:
            RefusedError: 409, an export is running.
        """
        if any(each.state == "running" for each in self.all.values()):
            raise RefusedError(409, "expected no export of this session, got one that is running: wait for it")
        number = next(self._numbers)
        for old in [e for e in self.all.values() if e.shown is None][: -KEPT + 1 or None]:
            shutil.rmtree(old.folder, ignore_errors=True)
            del self.all[old.id]
        export = Export(number, folder or self._hosted.folder / "exports" / str(number), shown)
        self.all[number] = export
        export.task = asyncio.create_task(self._run(export, outputs, overwrite))
        return export

    async def _run(self, export: Export, outputs: dict[str, Any], overwrite: bool) -> None:
        hosted = self._hosted

        def write(session: Session) -> dict[str, Any]:
            return session.export(export.folder, overwrite=overwrite, **outputs).to_json()

        try:
            await self._propagated()
            export.summary = await hosted.call(write, is_long=True)
            export.state = "done"
        except asyncio.CancelledError:
            export.state, export.message = "failed", "the server was stopped"
            raise
        except Exception as error:
            export.state, export.message = "failed", str(error) or type(error).__name__
        finally:
            hosted.events.add("export", export=export.to_json())

    async def _propagated(self) -> None:
        """Wait until all results are there."""
        hosted, loop = self._hosted, asyncio.get_running_loop()
        while True:
            ended = asyncio.Event()

            def join(session: Session, ended: asyncio.Event = ended) -> bool:
                job = hosted.propagation
                if job is not None and job.state == "running":
                    others = job.finished
                    job.finished = lambda: (others(), loop.call_soon_threadsafe(ended.set))
                    return False
                if not session.objects or not session.incomplete():
                    return True
                job = hosted.propagate(session, [(0, session.count, False)], "forward")
                job.finished = lambda: loop.call_soon_threadsafe(ended.set)
                return False

            if await hosted.call(join):
                return
            await ended.wait()
            job = hosted.propagation
            if job is not None and job.state == "failed":
                raise ValueError(job.message)
            if job is not None and job.is_stopped:
                raise ValueError("expected a whole propagation, got one that was stopped: export again")


class _Stream:
    """A file that cannot seek, whose bytes are taken out while it is written."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        data = b"".join(self.parts)
        self.parts.clear()
        return data


def zipped(export: Export) -> Iterator[bytes]:
    """Yield a zip file of an export; nothing is written to the disk, and no file is held in memory."""
    stream: Any = _Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for path in export.files():
            name = path.relative_to(export.folder).as_posix()
            info = zipfile.ZipInfo.from_file(path, name)
            with path.open("rb") as source, archive.open(info, "w", force_zip64=path.stat().st_size > 1 << 31) as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
                    yield stream.taken()
    yield stream.taken()
