"""All sessions of a server: creating, finding, storing and removing them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hodor.frames import open_source
from hodor.models.base import Network
from hodor.serve.exports import Exports
from hodor.serve.hosted import Hosted
from hodor.serve.limits import Limits, RefusedError
from hodor.serve.paths import check_playable, existing
from hodor.serve.pictures import Cache
from hodor.serve.processor import Processor
from hodor.serve.storage import Folder, is_id, new_id
from hodor.session import Session
from hodor.sessions.edited import Prompting
from hodor.video.source import Picture

DECODED_BYTES = 256 << 20
"""Memory for decoded frames of all sessions."""
ENCODED_BYTES = 128 << 20
"""Memory for encoded frames of all sessions."""


class Host:
    """The sessions of a server.

    Args:
        root: the folder below which clients name files.
        work: the folder of the server.
        network: the network of all sessions.
        limits: the limits.
        size: short side inside the network, in pixels. Default: the network's own.
        history: number of past frames kept in memory. Default: the network's own.
        prompter: see `hodor.Session`.

    Attributes:
        sessions: id -> session.
    """

    def __init__(
        self,
        root: Path,
        work: Path,
        network: Network,
        limits: Limits,
        *,
        size: int | None = None,
        history: int | None = None,
        prompter: Callable[[Picture], Prompting] | None = None,
    ) -> None:
        self.root, self.limits, self.network = root.resolve(), limits, network
        self._options: dict[str, Any] = {"size": size, "history": history}
        self._prompter = prompter
        self.folder = Folder(work, limits)
        self.processor = Processor(limits.waiting)
        self._decoded, self._encoded = Cache(DECODED_BYTES), Cache(ENCODED_BYTES)
        self.sessions: dict[str, Hosted] = {}
        self.exports: dict[str, Exports] = {}
        self.notes: list[str] = []
        self._creating = 0
        for folder in sorted(self.folder.sessions.iterdir()):
            if not (folder / "record.json").is_file():
                if is_id(folder.name):  # a session whose creation was killed: nothing was given yet
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                self._add(folder, Hosted.read_record(folder))
            except (ValueError, OSError, KeyError) as error:
                self.notes.append(f"session {folder.name} is left out: {error}")

    def _add(self, folder: Path, record: dict[str, Any]) -> Hosted:
        hosted = Hosted(folder, record, self.processor, self._load, self._decoded, self._encoded)
        self.sessions[hosted.id] = hosted
        self.exports[hosted.id] = Exports(hosted)
        return hosted

    def close(self) -> None:
        """End the work after the frame in progress, and close all sessions. Nothing is lost: all edits are on the disk."""
        for hosted in self.sessions.values():
            hosted.stop()
        self.processor.close()
        for hosted in self.sessions.values():
            hosted.reader.close()
            if hosted.session is not None:
                hosted.session.close()
        self.folder.close()

    # Sessions

    def find(self, key: str) -> Hosted:
        """Return a session.

        Raises:
            RefusedError: 404.
        """
        if key not in self.sessions:
            raise RefusedError(404, f"expected a session, got {key[:40]!r}: there is none, see the list of sessions")
        return self.sessions[key]

    def find_path(self, path: Path) -> Hosted | None:
        """Return a session of a file."""
        return next((h for h in self.sessions.values() if h.record["path"] == str(path)), None)

    async def create(self, *, path: str | None = None, upload: str | None = None, name: str | None = None) -> Hosted:
        """Create a session.

        Args:
            path: the video below the root.
            upload: or the id of an upload, which the session then owns.
            name: name of the session. Default: that of the file.

        Raises:
            RefusedError: the path or the upload is refused, or a limit is exceeded.
            ValueError: the file is no video, or damaged. An upload is kept, so that the client can remove it.
        """
        if (path is None) == (upload is None):
            raise RefusedError(400, "expected a path or an upload, got both or none: give one of them")
        if upload is not None:
            return await self._create(self.folder.upload(upload), upload, name)
        return await self._create(existing(self.root, path or ""), None, name)

    async def open_file(self, path: Path) -> Hosted:
        """Return the session of a file that the operator named, which can be anywhere; create it if needed."""
        path = path.resolve()
        return self.find_path(path) or await self._create(path, None, None)

    async def _create(self, path: Path, upload: str | None, name: str | None) -> Hosted:
        limit = self.limits.sessions
        if len(self.sessions) + self._creating >= limit:
            raise RefusedError(409, f"expected at most {limit} sessions, got one more: remove one", "sessions", limit)
        key = new_id()
        folder = self.folder.sessions / key
        self._creating += 1
        try:
            folder.mkdir(mode=0o700)
            session = await asyncio.wrap_future(self.processor.call(key, lambda: self._begin(path, folder), is_long=True))
            try:
                await asyncio.wrap_future(self.processor.call(key, self._make_place))
                if upload is not None:
                    path = self.folder.claim(upload, folder)
                height, width = session.source.size
                record = {
                    "version": 1,
                    "id": key,
                    "name": (name or path.name)[:200],
                    "source": path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name,
                    "path": str(path),
                    "created": round(time.time(), 3),
                    "frames": session.count,
                    "height": height,
                    "width": width,
                    "rate": None if session.source.rate is None else float(session.source.rate),
                    "objects": {},
                    "view": {},
                }
                if upload is not None:
                    record["source"] = path.name
                    session.close()  # the source was moved
                hosted = self._add(folder, record)
                hosted.write_record()
                hosted.session = None if upload is not None else session
            except BaseException:
                session.close()
                raise
        except BaseException:
            self.sessions.pop(key, None), self.exports.pop(key, None)
            self.processor.forget(key)
            if upload is not None and (folder / "upload").is_dir():
                with contextlib.suppress(OSError):
                    (folder / "upload").rename(self.folder.uploads / upload)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._creating -= 1
        return hosted

    def _begin(self, path: Path, folder: Path) -> Session:
        check_playable(path)
        with open_source(path) as source:
            pixels, frames = source.size[0] * source.size[1], source.count
        if pixels > (limit := self.limits.pixels):
            raise RefusedError(413, f"expected frames of at most {limit} pixels, got {pixels}: reduce them", "pixels", limit)
        self._check_frames(frames or 0)
        session = Session(path, network=self.network, folder=folder / "session", prompter=self._prompter, **self._options)
        try:
            self._check_frames(session.count)
        except RefusedError:
            session.close()
            raise
        return session

    def _check_frames(self, count: int) -> None:
        if count > (limit := self.limits.frames):
            raise RefusedError(413, f"expected at most {limit} frames, got {count}: cut the video", "frames", limit)

    def _load(self, hosted: Hosted) -> Session:
        self._make_place()
        path = Path(hosted.record["path"])
        if not path.exists():
            raise RefusedError(409, f"expected the video of this session, got none at {path}: put it there again")
        check_playable(path)
        return Session.load(hosted.folder / "session", source=path, network=self.network, prompter=self._prompter)

    def _make_place(self) -> None:
        """Store the sessions that were not used for longest, so that one more can be open. In a turn of any session."""
        opened = [h for h in self.sessions.values() if h.session is not None]
        for hosted in sorted(opened, key=lambda h: h.used)[: max(0, len(opened) + 1 - self.limits.open_sessions)]:
            self._store_if_idle(hosted)

    def _store_if_idle(self, hosted: Hosted) -> None:
        if self.processor.is_idle(hosted.id):
            self.processor.call(hosted.id, hosted.store)

    def store_idle(self) -> None:
        """Store the sessions that were not used for the limit of idle seconds."""
        for hosted in list(self.sessions.values()):
            if hosted.session is not None and time.monotonic() - hosted.used > self.limits.idle_seconds:
                self._store_if_idle(hosted)

    async def store(self, hosted: Hosted) -> None:
        """Store a session and free its memory.

        Raises:
            RefusedError: 409, a propagation or an export is running.
        """
        if (job := hosted.propagation) is not None and job.state == "running":
            raise RefusedError(409, f"expected no propagation, got {job.id}, which is running: stop it first")
        await asyncio.wrap_future(self.processor.call(hosted.id, hosted.store))

    async def remove(self, hosted: Hosted) -> None:
        """Remove a session with everything that was given, and its upload."""
        hosted.stop()

        def close() -> None:
            if hosted.session is not None:
                hosted.session.close()
                hosted.session = None
            hosted.reader.close()
            (hosted.folder / "record.json").unlink(missing_ok=True)  # a killed server removes the rest at its start

        await asyncio.wrap_future(self.processor.call(hosted.id, close))
        self.sessions.pop(hosted.id, None), self.exports.pop(hosted.id, None)
        self.processor.forget(hosted.id)
        hosted.events.add("closed")
        await asyncio.to_thread(shutil.rmtree, hosted.folder, True)
