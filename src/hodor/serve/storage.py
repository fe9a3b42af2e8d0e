"""The folder of a server: uploads and sessions. A killed server finds all sessions again."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from hodor.files import lock_folder
from hodor.serve.limits import Limits, RefusedError
from hodor.serve.paths import parts_of

KEPT_SECONDS = 24 * 3600
"""Age at which an upload that no session uses is removed."""


def new_id() -> str:
    """Return an id that cannot be guessed: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def is_id(text: str) -> bool:
    """Whether a text is an id of `new_id`."""
    return len(text) == 16 and all(c in "0123456789abcdef" for c in text)


class Folder:
    """The folder of a server; one process at a time uses it.

        record.json of each session lies in sessions/<id>/, with session/ (of `hodor.Session`), upload/ and exports/
        uploads/<id>/<name> are files that no session uses yet

    Args:
        path: the folder; it is created if needed.
        limits: the limits.

    Raises:
        ValueError: "expected a folder that no other server uses, got WORK: ...".
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self._limits = path, limits
        self.sessions, self.uploads = path / "sessions", path / "uploads"
        for folder in (path, self.sessions, self.uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        refusal = f"expected a folder that no other server uses, got {path}: give another one with --work"
        self._lock = lock_folder(path, refusal)
        for part in self.uploads.glob("*/.*.part"):
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder for other processes."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def upload_bytes(self) -> int:
        """The bytes of all uploads, used and unused."""
        found = [*self.uploads.glob("*/*"), *self.sessions.glob("*/upload/*")]
        return sum(path.stat().st_size for path in found if path.is_file())

    def remove_old_uploads(self) -> None:
        """Remove uploads that no session used for a day."""
        for folder in self.uploads.iterdir():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    async def receive(self, name: str, chunks: AsyncIterator[bytes], announced: int | None) -> tuple[str, int]:
        """Write an upload to the disk while it arrives.

        Args:
            name: name of the file.
            chunks: its content.
            announced: number of bytes that the client announced.

        Returns:
            Id of the upload, and its number of bytes.

        Raises:
            RefusedError: 400 for a name with folders, 413 for too many bytes, 422 for none.
        """
        parts = parts_of(name)
        if len(parts) != 1 or len(name.encode()) > 200:
            raise RefusedError(400, f"expected the name of a file such as clip.mp4, got {name[:60]!r}: give it without folders")
        self.remove_old_uploads()
        used = self.upload_bytes()
        self._check(announced or 0, used)
        upload = new_id()
        folder = self.uploads / upload
        folder.mkdir(mode=0o700)
        size = 0
        try:
            part = folder / f".{parts[0][:150]}.part"
            with part.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    self._check(size, used)
                    file.write(chunk)
            if not size:
                raise RefusedError(422, "expected a file with content, got an empty one: send its bytes as the body")
            if announced is not None and size != announced:
                raise RefusedError(400, f"expected {announced} bytes, got {size}: send the whole file")
            os.replace(part, folder / parts[0])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return upload, size

    def _check(self, size: int, used: int) -> None:
        one, every = self._limits.upload_bytes, self._limits.all_upload_bytes
        if size > one:
            raise RefusedError(413, f"expected at most {one} bytes, got more: cut or compress the file", "upload_bytes", one)
        if used + size > every:
            message = f"expected at most {every} bytes of all uploads, got more: remove sessions or uploads"
            raise RefusedError(413, message, "all_upload_bytes", every)

    def upload(self, upload: str) -> Path:
        """Return the file of an upload.

        Raises:
            RefusedError: 404.
        """
        files = [*(self.uploads / upload).glob("[!.]*")] if is_id(upload) else []
        if len(files) != 1:
            raise RefusedError(404, f"expected an upload, got {upload[:40]!r}: there is none, or a session uses it already")
        return files[0]

    def claim(self, upload: str, session: Path) -> Path:
        """Move an upload into the folder of a session; return its file there."""
        path = self.upload(upload)
        os.replace(path.parent, session / "upload")
        return session / "upload" / path.name

    def remove_upload(self, upload: str) -> None:
        """Remove an upload that no session uses.

        Raises:
            RefusedError: 404.
        """
        shutil.rmtree(self.upload(upload).parent, ignore_errors=True)
