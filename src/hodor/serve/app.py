"""The application: routes, errors, the page, and the process that serves them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import mimetypes
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydantic
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hodor import __version__
from hodor.serve import api_masks, api_runs, api_server
from hodor.serve.documentation import front
from hodor.serve.guard import PREFIX, App, BodyTooLargeError, Guard
from hodor.serve.host import Host
from hodor.serve.limits import RefusedError, refusal

PAGE = Path(__file__).parent / "page"
"""The built files of the page."""
IDLE_CHECK_SECONDS = 5.0


def build(host: Host, token: str, hosts: Iterable[str], videos: Sequence[Path] = ()) -> App:
    """Return the application with its guard.

    Args:
        host: the sessions; they are closed when the application ends.
        token: the token.
        hosts: see `Guard`.
        videos: videos whose sessions are opened at the start.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for video in videos:
            await host.open_file(video)
        idle = asyncio.create_task(_store_idle(host))
        try:
            yield
        finally:
            idle.cancel()
            await asyncio.to_thread(host.close)
            app.state.decoders.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="hodor",
        version=__version__,
        description="Sessions of video object segmentation. See docs/serve.md.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.host = host
    app.state.decoders = ThreadPoolExecutor(2, "hodor-serve-decode")
    bearer = Depends(HTTPBearer(auto_error=False, description="The guard checks it before."))
    for routes in (api_server, api_masks, api_runs):
        app.include_router(routes.router, prefix=PREFIX, dependencies=[bearer])
    app.include_router(api_runs.sockets, prefix=PREFIX)
    _add_page(app)
    known = (
        RefusedError,
        ValueError,
        OSError,
        HTTPException,
        RequestValidationError,
        MemoryError,
        ClientDisconnect,
    )
    for error in (*known, Exception):
        app.add_exception_handler(error, _answer)
    guard = Guard(app, token, hosts, host.limits)
    app.state.guard = guard
    return guard


async def _store_idle(host: Host) -> None:
    while True:
        await asyncio.sleep(min(IDLE_CHECK_SECONDS, max(0.05, host.limits.idle_seconds / 2)))
        host.store_idle()


def _add_page(app: FastAPI) -> None:
    """Serve the files of the page by their exact names, so that no path of a client reaches the disk."""
    files = {p.relative_to(PAGE).as_posix(): p for p in PAGE.rglob("*") if p.is_file()} if PAGE.is_dir() else {}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file(files["index.html"]) if "index.html" in files else HTMLResponse(front())

    @app.get("/{path:path}", include_in_schema=False)
    async def file(path: str) -> Response:
        if path not in files:
            raise RefusedError(404, f"expected a path of this server, got /{path[:60]}: see {PREFIX}/docs")
        return _file(files[path])


def _file(path: Path) -> Response:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    kind = "text/javascript" if path.suffix in (".js", ".mjs") else kind
    # names of built files contain a hash of their content, except for the first page
    cache = "no-cache" if path.name == "index.html" else "public, max-age=31536000, immutable"
    return Response(path.read_bytes(), media_type=kind, headers={"cache-control": cache})


def _answer(request: Request, error: Exception) -> Response:
    """Turn an error into one line of JSON."""
    status, limit, value = 422, None, None
    message = str(error) or type(error).__name__
    headers: dict[str, str] = {}
    if isinstance(error, RefusedError):
        status, limit, value = error.status, error.limit, error.value
    elif isinstance(error, RequestValidationError | pydantic.ValidationError):
        message = "; ".join(_problem(each) for each in error.errors()[:5])
    elif isinstance(error, BodyTooLargeError):
        status, message, limit, value = 413, str(error.detail), "body_bytes", error.limit
    elif isinstance(error, HTTPException):
        status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
    elif isinstance(error, FileNotFoundError):
        status = 404
    elif isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        status, message = (507 if is_full else 500), error.strerror or message
    elif isinstance(error, ClientDisconnect):
        status, message = 400, "expected the whole body, got a part: send it again"
    elif not isinstance(error, ValueError | MemoryError):
        status, message = 500, f"the server failed ({type(error).__name__}): report this"
    elif isinstance(error, MemoryError):
        status, message = 413, "not enough memory: give smaller pictures or fewer objects"
    root = str(request.app.state.host.root)
    message = message.replace(root + "/", "").replace(str(request.app.state.host.folder.path), "WORK")
    return JSONResponse(refusal(" ".join(message.split())[:1000], limit, value), status, headers)


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    got = repr(error.get("input"))
    return f"expected a valid {where[:100] or 'body'}, got {got[:60]}: {error['msg'][:200]}"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: address or name of this machine.
        port: number of the port; 0 chooses a free one.

    Raises:
        ValueError: "expected a free port, got 8765 (Address already in use): ...".
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"expected an address of this machine, got {host} ({error.strerror}): give --host 127.0.0.1") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        raise ValueError(
            f"expected a free port, got {port} on {host} ({error.strerror}): give another one with --port"
        ) from None
    return made


def serve(app: App, listening: socket.socket, ready: Callable[[], object]) -> None:
    """Serve an application until a signal ends it.

    Args:
        app: the application.
        listening: from `listen`.
        ready: called when requests are answered.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses can hold tickets
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        ws_max_size=1 << 16,
        ws_per_message_deflate=True,
        h11_max_incomplete_event_size=1 << 16,
    )
    Server(config).run([listening])
