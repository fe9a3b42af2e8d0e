"""The limits of a server, and the error that names the limit that a request exceeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server accepts. What is more is refused with a 4xx answer that states the limit."""

    sessions: int = 64
    """Sessions, open and stored."""
    open_sessions: int = 8
    """Sessions in memory; the one that was not used for longest is stored first."""
    idle_seconds: float = 600.0
    """Seconds without a request after which a session is stored and its memory is freed."""
    upload_bytes: int = 4 << 30
    """Bytes of one upload."""
    all_upload_bytes: int = 16 << 30
    """Bytes of all uploads together."""
    body_bytes: int = 32 << 20
    """Bytes of the body of any other request."""
    frames: int = 200_000
    """Frames of a video."""
    pixels: int = 8192 * 4320
    """Pixels of a frame."""
    requests: int = 64
    """Requests that are processed at the same time."""
    connections: int = 128
    """WebSocket connections at the same time."""
    waiting: int = 32
    """Calls of one session that wait for the processor."""


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: the HTTP status.
        message: "expected ..., got ...: ...".
        limit: name of the limit in `Limits` that the request exceeds, if it does.
        value: the value of that limit.
    """

    def __init__(self, status: int, message: str, limit: str | None = None, value: float | None = None) -> None:
        super().__init__(message)
        self.status, self.limit, self.value = status, limit, value


def refusal(message: str, limit: str | None = None, value: float | None = None) -> dict[str, Any]:
    """Return the body of an answer that refuses a request."""
    return {"detail": message, "limit": None if limit is None else {"name": limit, "value": value}}
