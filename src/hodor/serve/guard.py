"""What every request passes first: host, origin, token, limits; and the headers of every answer."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException

from hodor.serve.limits import Limits, refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PREFIX = "/api/v1"
UPLOADS = f"{PREFIX}/uploads"
PUBLIC = (f"{PREFIX}/docs", f"{PREFIX}/openapi.json")
"""Paths of the interface that need no token: they are the same in every installation, and hold nothing of a user."""
TICKET_SECONDS = 60.0
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
"""What a token consists of: it must fit into an address, a header and the name of a subprotocol."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class BodyTooLargeError(HTTPException):
    """The body of a request without a length is larger than the limit; the argument is the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"expected a body of at most {limit} bytes, got more: send less")
        self.limit = limit


class Tickets:
    """Tickets for one download each, since a browser sends no token when it follows a link."""

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[str, float]] = {}

    def give(self, path: str) -> str:
        """Return a ticket for one GET of a path within a minute."""
        now = time.monotonic()
        self._tickets = {t: about for t, about in self._tickets.items() if about[1] > now}
        while len(self._tickets) >= 1000:
            del self._tickets[next(iter(self._tickets))]
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = path, now + TICKET_SECONDS
        return ticket

    def use(self, ticket: str, path: str) -> bool:
        """Whether a ticket is valid for a path; it is not valid again."""
        if not any(hmac.compare_digest(ticket.encode(), each.encode()) for each in list(self._tickets)):
            return False
        allowed, end = self._tickets[ticket]
        if allowed != path or end <= time.monotonic():
            return False
        del self._tickets[ticket]
        return True


class Guard:
    """ASGI middleware: refuse requests of other hosts, other origins, without the token or above a limit.

    Args:
        app: the application.
        token: the token.
        hosts: names that a Host header may have, without a port; "*" allows every address, but no other name.
        limits: the limits.

    Attributes:
        tickets: the tickets of downloads.
        answers: HTTP status -> number of answers.
        running: number of requests that are being processed.
        connections: number of open WebSocket connections.
    """

    def __init__(self, app: App, token: str, hosts: Iterable[str], limits: Limits) -> None:
        self._app, self._token, self._hosts, self._limits = app, token.encode(), {h.lower() for h in hosts}, limits
        self.tickets = Tickets()
        self.answers: Counter[int] = Counter()
        self.running = self.connections = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        is_socket = scope["type"] == "websocket"
        refused = self._refused(scope, headers, is_socket)
        if refused is not None:
            await self._refuse(scope, send, *refused)
            return
        if is_socket:
            self.connections += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self.connections -= 1
            return
        self.running += 1
        try:
            await self._app(scope, self._limited(scope, receive), self._with_headers(send))
        finally:
            self.running -= 1

    def _refused(self, scope: Scope, headers: dict[str, list[str]], is_socket: bool) -> tuple[int, dict[str, Any]] | None:
        """Status and body of the answer to a request that is refused, None for one that is accepted."""
        hosts, path, method = headers.get("host", []), scope["path"], scope.get("method", "GET")
        if len(hosts) != 1 or not self._is_host(hosts[0]):
            named = hosts[0][:60] if hosts else "none"
            return 403, refusal(
                f"expected the Host of this server, got {named!r}: open its link, or start it with --allow-host"
            )
        origins = headers.get("origin", [])
        if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
            return 403, refusal(f"expected a request of this server's page, got one of {origins[0][:60]!r}: open the link")
        is_api = path == PREFIX or path.startswith((f"{PREFIX}/", "/api"))
        if not is_api or (path in PUBLIC and method in ("GET", "HEAD")):
            return self._over(is_socket)
        if headers.get("sec-fetch-site", ["none"])[0] == "cross-site":
            return 403, refusal("expected a request of this server's page, got one of another site: open the link")
        if not self._is_authorised(scope, headers, is_socket, path, method):
            return 401, refusal(
                "expected the token of this server, got none or another one: send 'Authorization: Bearer TOKEN'"
            )
        return self._over(is_socket) or self._too_large(headers, path)

    def _is_host(self, given: str) -> bool:
        try:
            parts = urlsplit(f"//{given}")
            name, _ = parts.hostname, parts.port
        except ValueError:
            return False
        if not name or parts.path or parts.query or parts.fragment or "@" in given:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return "*" in self._hosts

    def _is_authorised(self, scope: Scope, headers: dict[str, list[str]], is_socket: bool, path: str, method: str) -> bool:
        given = [v[7:] for v in headers.get("authorization", []) if v[:7].lower() == "bearer "]
        if is_socket:
            given += [p[6:] for p in scope.get("subprotocols", []) if p.startswith("token.")]
        if any(hmac.compare_digest(each.encode("latin-1", "replace"), self._token) for each in given):
            return True
        tickets = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("ticket", [])
        return not is_socket and method == "GET" and len(tickets) == 1 and self.tickets.use(tickets[0], path)

    def _over(self, is_socket: bool) -> tuple[int, dict[str, Any]] | None:
        name, count = ("connections", self.connections) if is_socket else ("requests", self.running)
        limit = getattr(self._limits, name)
        if count < limit:
            return None
        return 429, refusal(f"expected at most {limit} {name} at the same time, got one more: wait", name, limit)

    def _too_large(self, headers: dict[str, list[str]], path: str) -> tuple[int, dict[str, Any]] | None:
        lengths = headers.get("content-length", ["0"])
        if not lengths[0].isdecimal() or not lengths[0].isascii():
            return 400, refusal("expected a length of the body in bytes, got another header: leave it to the HTTP library")
        limit = self._limits.upload_bytes if path == UPLOADS else self._limits.body_bytes
        name = "upload_bytes" if path == UPLOADS else "body_bytes"
        if len(lengths[0]) > 18 or int(lengths[0]) > limit:
            return 413, refusal(f"expected a body of at most {limit} bytes, got {lengths[0][:20]}: send less", name, limit)
        return None

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Count the bytes of a body; an upload has its own limit."""
        if scope["path"] == UPLOADS:
            return receive
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limits.body_bytes:
                raise BodyTooLargeError(self._limits.body_bytes)
            return message

        return counted

    def _with_headers(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
                present = {name for name, _ in message["headers"]}
                wanted = {"cache-control": "no-store", **HEADERS}
                more = [(k.encode(), v.encode()) for k, v in wanted.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        return sent

    async def _refuse(self, scope: Scope, send: Send, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 429:
            headers.append((b"retry-after", b"1"))
        kind = "http.response"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008, "reason": body["detail"][:100]})
                return
            kind = "websocket.http.response"
        wrapped = self._with_headers(send) if kind == "http.response" else send
        await wrapped({"type": f"{kind}.start", "status": status, "headers": headers})
        await wrapped({"type": f"{kind}.body", "body": data})
