"""Files below the root: what a client may name, and which videos FFmpeg may open."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from hodor.serve.limits import RefusedError
from hodor.video.images import STILLS

MAX_LENGTH = 1024
"""Characters of the longest path that a client may name."""
WINDOWS_NAMES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE)
"""Names that Windows reads as devices, whatever their suffix."""
_CONTAINERS = (
    "apng asf avi dv flv gif h264 hevc ivf m4v matroska,webm mjpeg mov,mp4,m4a,3gp,3g2,mj2 mpeg mpegts mpegvideo mxf nut obu "
    "ogg rm swf webp_pipe yuv4mpegpipe"
)
FORMATS = frozenset(_CONTAINERS.split())
"""Containers that hold their own data. Playlists and manifests, which name other files, are not among them."""


def parts_of(text: str) -> list[str]:
    """Split a relative path of a client; raise for one that could leave the root on any system.

    Args:
        text: the path, with / between its parts; "" is the root.

    Raises:
        RefusedError: 400, with the reason.
    """

    def refused(what: str) -> RefusedError:
        return RefusedError(400, f"expected a path below the root such as shots/a.mp4, got {what}: give a relative path")

    if len(text) > MAX_LENGTH:
        raise refused(f"{len(text)} characters")
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise refused("a control character")
    if text.startswith("/") or "\\" in text or re.match(r"[A-Za-z]:", text):
        raise refused(f"{text[:60]!r}")
    parts = [part for part in text.split("/") if part]
    for part in parts:
        if part.startswith("."):
            raise refused(f"the part {part[:60]!r}, which begins with a dot")
        if WINDOWS_NAMES.fullmatch(part) or part != part.rstrip(". ") or (os.name == "nt" and re.search(r'[<>:"|?*]', part)):
            raise refused(f"the part {part[:60]!r}, which is no name of a file on Windows")
    return parts


def below(root: Path, text: str) -> Path:
    """Return the path below the root that a client named, with symbolic links resolved. It need not exist.

    Args:
        root: the root, resolved.
        text: the path of the client.

    Raises:
        RefusedError: 400 for a path that is not relative, 403 for one that leads out of the root.
    """
    parts = parts_of(text)
    try:
        path = root.joinpath(*parts).resolve()
    except (OSError, RuntimeError):  # a circle of links, a name that is too long
        raise RefusedError(400, f"expected a path that can be resolved, got {text[:60]!r}: give another one") from None
    if not path.is_relative_to(root):
        raise RefusedError(403, f"expected a path below the root, got {text[:60]!r}, which leads out of it: give another one")
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        raise RefusedError(
            403, f"expected a path without hidden files, got {text[:60]!r}, which leads to one: give another one"
        )
    return path


def existing(root: Path, text: str, is_source: bool = True) -> Path:
    """Return the file or folder below the root that a client named.

    Args:
        root: the root, resolved.
        text: the path of the client.
        is_source: whether the files of a folder will be read.

    Raises:
        RefusedError: as `below`; 404 if there is none, 403 for a device or a pipe, and for a folder with links out of the root.
    """
    path = below(root, text)
    try:
        mode = path.stat().st_mode
    except OSError:
        raise RefusedError(404, f"expected a file or folder below the root, got {text[:60]!r}: there is none") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise RefusedError(403, f"expected a file or folder, got {text[:60]!r}, which is neither: give another one")
    if is_source and path.is_dir():
        for child in path.iterdir():
            if child.is_symlink() and not child.resolve().is_relative_to(root):
                raise RefusedError(403, f"expected a folder without links out of the root, got {child.name[:60]!r}: remove it")
    return path


def new_folder(root: Path, text: str, overwrite: bool) -> Path:
    """Return the folder below the root into which a client exports.

    Raises:
        RefusedError: as `below`; 409 for a folder with files unless `overwrite`, 403 if it has links.
    """
    path = below(root, text)
    if path == root:
        raise RefusedError(400, f"expected a folder below the root, got {text[:60]!r}, the root itself: give a new folder")
    if path.exists() and not path.is_dir():
        raise RefusedError(409, f"expected a folder, got the file {text[:60]!r}: give another one")
    if path.is_dir():
        if any(child.is_symlink() for child in path.rglob("*")):
            raise RefusedError(403, f"expected a folder without links, got {text[:60]!r}: give another one")
        if not overwrite and any(path.iterdir()):
            raise RefusedError(
                409, f"expected a new or an empty folder, got {text[:60]!r} with files: give overwrite or another one"
            )
    return path


def listing(root: Path, text: str) -> list[dict[str, Any]]:
    """Return the folders and files of a folder below the root, without hidden ones and links out of the root, at most 1000."""
    path = existing(root, text, is_source=False)
    if not path.is_dir():
        raise RefusedError(400, f"expected a folder, got the file {text[:60]!r}: give its folder")
    found = []
    for child in sorted(path.iterdir(), key=lambda p: p.name.lower()):
        try:
            parts_of(child.name)
            about = below(root, child.relative_to(root).as_posix()).stat()
        except (RefusedError, OSError):
            continue
        is_file = stat.S_ISREG(about.st_mode)
        if is_file or stat.S_ISDIR(about.st_mode):
            found.append({"name": child.name, "folder": not is_file, "bytes": about.st_size if is_file else None})
    return found[:1000]


def check_playable(path: Path) -> None:
    """Raise for a file that FFmpeg would read as anything but a container with its own data.

    A playlist (HLS, DASH, concat) names other files, which FFmpeg would open. Pictures are not read by FFmpeg.

    Raises:
        RefusedError: 422, "clip.mp4 is not a video FFmpeg can read: ...".
    """
    import av

    if path.is_dir() or path.suffix.lower() in STILLS - {".gif"}:
        return
    allowed = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(FORMATS))}
    try:
        with av.open(f"file:{path}", options=allowed, metadata_errors="replace") as container:
            name = container.format.name
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RefusedError(
            422, f"expected a video, got {path.name}, which FFmpeg does not read ({reason}): give another file"
        ) from None
    if name not in FORMATS:
        raise RefusedError(422, f"expected a video, got {path.name}, which is {name[:40]}: convert it to MP4")
