"""Routes of the server itself: health, metrics, files, uploads, tickets, and the list of sessions."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

import hodor
from hodor.outputs.selection import OutputOptions
from hodor.serve import schema
from hodor.serve.common import REFUSALS, HostDep, HostedDep, body_schema
from hodor.serve.hosted import Hosted
from hodor.serve.limits import RefusedError
from hodor.serve.paths import listing

router = APIRouter(responses=REFUSALS)


@router.get("/health", tags=["server"])
async def health(host: HostDep) -> schema.Health:
    """Report the version, the network, the limits and the possible outputs."""
    return schema.Health(
        status="ok",
        version=hodor.__version__,
        network=type(host.network).__name__,
        sessions=len(host.sessions),
        limits=asdict(host.limits),
        outputs=[option.name for option in fields(OutputOptions)],
    )


@router.get("/metrics", tags=["server"], response_class=PlainTextResponse)
async def metrics(request: Request, host: HostDep) -> PlainTextResponse:
    """Report counts in the text format of Prometheus."""
    guard = request.app.state.guard
    opened = sum(h.session is not None for h in host.sessions.values())
    values: list[tuple[str, str, str, list[tuple[str, float]]]] = [
        (
            "hodor_sessions",
            "gauge",
            "Sessions.",
            [('{state="open"}', opened), ('{state="stored"}', len(host.sessions) - opened)],
        ),
        ("hodor_turns_total", "counter", "Calls and frames that were processed.", [("", host.processor.turns)]),
        ("hodor_waiting", "gauge", "Calls and propagations that wait for the processor.", [("", host.processor.waiting)]),
        ("hodor_requests", "gauge", "Requests in progress.", [("", guard.running)]),
        ("hodor_connections", "gauge", "Open WebSocket connections.", [("", guard.connections)]),
        (
            "hodor_answers_total",
            "counter",
            "Answers by status.",
            [(f'{{status="{status}"}}', count) for status, count in sorted(guard.answers.items())],
        ),
        ("hodor_upload_bytes", "gauge", "Bytes of all uploads.", [("", host.folder.upload_bytes())]),
        ("hodor_resident_bytes", "gauge", "Memory of the process.", [("", _resident_bytes())]),
    ]
    lines = []
    for name, kind, text, samples in values:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{labels} {value}" for labels, value in samples)]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


@router.get("/docs", tags=["server"], response_class=HTMLResponse)
async def documentation(request: Request) -> HTMLResponse:
    """List all routes, as a page without scripts."""
    from hodor.serve.documentation import page

    return HTMLResponse(page(request.app.openapi()))


@router.get("/files", tags=["server"])
async def files(host: HostDep, path: Annotated[str, Query(max_length=1024)] = "") -> schema.Files:
    """List a folder below the root, without hidden files."""
    return schema.Files(path=path, files=[schema.File(**each) for each in listing(host.root, path)])


@router.post(
    "/uploads",
    tags=["server"],
    status_code=201,
    openapi_extra=body_schema("application/octet-stream", text="The content of the file."),
)
async def upload(request: Request, host: HostDep, name: Annotated[str, Query(min_length=1, max_length=200)]) -> schema.Upload:
    """Upload a video or a mask, as the body of the request. It is written to the disk while it arrives."""
    announced = request.headers.get("content-length")
    key, size = await host.folder.receive(name, request.stream(), None if announced is None else int(announced))
    return schema.Upload(upload=key, bytes=size)


@router.delete("/uploads/{upload}", tags=["server"], status_code=204)
async def remove_upload(host: HostDep, upload: str) -> Response:
    """Remove an upload that no session uses. One that is not used for a day is removed without a request."""
    host.folder.remove_upload(upload)
    return Response(status_code=204)


@router.post("/tickets", tags=["server"], status_code=201)
async def ticket(request: Request, wanted: schema.TicketFor) -> schema.Ticket:
    """Give a ticket for one download by a link, to which a browser adds no token."""
    return schema.Ticket(ticket=request.app.state.guard.tickets.give(wanted.path))


@router.get("/sessions", tags=["sessions"])
async def sessions(host: HostDep) -> list[schema.Summary]:
    """List all sessions, the latest first."""
    found = sorted(host.sessions.values(), key=lambda h: -h.record["created"])
    return [schema.Summary(**h.summary()) for h in found]


@router.post("/sessions", tags=["sessions"], status_code=201, response_model=schema.State)
async def create(host: HostDep, wanted: schema.NewSession) -> dict[str, Any]:
    """Create a session from a video or a folder of images below the root, or from an upload."""
    return await _state(await host.create(path=wanted.path, upload=wanted.upload, name=wanted.name))


@router.get("/sessions/{session}", tags=["sessions"], response_model=schema.State)
async def state(hosted: HostedDep) -> dict[str, Any]:
    """Return the state of a session: objects, given frames, what can be undone."""
    return await _state(hosted)


async def _state(hosted: Hosted) -> dict[str, Any]:
    return await hosted.call(hosted.state)


@router.delete("/sessions/{session}", tags=["sessions"], status_code=204)
async def remove(host: HostDep, hosted: HostedDep) -> Response:
    """Remove a session with everything that was given. Exports below the root stay."""
    await host.remove(hosted)
    return Response(status_code=204)


@router.post("/sessions/{session}/close", tags=["sessions"])
async def close(host: HostDep, hosted: HostedDep) -> schema.Summary:
    """Store a session and free its memory. The next request loads it again."""
    await host.store(hosted)
    return schema.Summary(**hosted.summary())


@router.get("/sessions/{session}/view", tags=["sessions"])
async def view(hosted: HostedDep) -> dict[str, Any]:
    """Return what a page has stored about its view."""
    found: dict[str, Any] = hosted.record["view"]
    return found


@router.put("/sessions/{session}/view", tags=["sessions"], status_code=204)
async def put_view(request: Request, hosted: HostedDep, view: dict[str, Any]) -> Response:
    """Store values of a page, such as in and out points or hidden objects, at most 64 kB. The server does not use them."""
    if len(await request.body()) > 1 << 16:
        raise RefusedError(413, f"expected at most {1 << 16} bytes, got more: store less", "view_bytes", 1 << 16)
    hosted.write_record(view=view)
    return Response(status_code=204)
