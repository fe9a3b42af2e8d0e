"""Routes of what takes long: propagations and exports, and the events that they send."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, WebSocket
from fastapi.responses import StreamingResponse

from hodor.serve import schema
from hodor.serve.common import REFUSALS, HostDep, HostedDep
from hodor.serve.exports import Export, Exports, chosen_outputs, zipped
from hodor.serve.hosted import Hosted
from hodor.serve.limits import RefusedError
from hodor.serve.paths import new_folder
from hodor.session import Session

router = APIRouter(prefix="/sessions/{session}", responses=REFUSALS)
sockets = APIRouter(prefix="/sessions/{session}")
"""The WebSocket; OpenAPI does not describe it, docs/serve.md does."""
SUBPROTOCOL = "hodor.v1"


@router.post("/propagation", tags=["propagation"], status_code=202, response_model=schema.Propagation)
async def propagate(hosted: HostedDep, wanted: schema.Propagate) -> dict[str, Any]:
    """Begin to compute the masks of a range of frames. They are sent as events when they are computed.

    The results of a frame always use both directions; the direction is the order in which frames are sent.
    """

    def begin(session: Session) -> dict[str, Any]:
        return hosted.propagate(session, _parts(session, wanted), wanted.direction).to_json()

    return await hosted.call(begin)


def _parts(session: Session, wanted: schema.Propagate) -> list[tuple[int, int, bool]]:
    start, stop = wanted.start, session.count if wanted.stop is None else wanted.stop
    if not 0 <= start < stop <= session.count:
        raise RefusedError(422, f"expected 0 <= start < stop <= {session.count}, got {start} and {stop}: give such a range")
    given = [n for i in session.objects for n in session.given_frames(i)]
    default = {"forward": start, "backward": stop - 1, "both": min(max(min(given, default=start), start), stop - 1)}
    frame = default[wanted.direction] if wanted.frame is None else wanted.frame
    if not start <= frame < stop:
        raise RefusedError(422, f"expected a frame from {start} to {stop - 1}, got {frame}: give one of the range")
    forward, backward = (frame, stop, False), (start, frame + 1, True)
    if wanted.direction == "both":
        parts = [forward, (start, frame, True)]
        return [part for part in parts if part[0] < part[1]]
    return [forward if wanted.direction == "forward" else backward]


@router.get("/propagation", tags=["propagation"], response_model=schema.Propagation)
async def propagation(hosted: HostedDep) -> dict[str, Any]:
    """Return the latest propagation."""
    if hosted.propagation is None:
        raise RefusedError(404, "expected a propagation of this session, got none: begin one")
    return hosted.propagation.to_json()


@router.delete("/propagation", tags=["propagation"], response_model=schema.Propagation)
async def stop(hosted: HostedDep) -> dict[str, Any]:
    """Stop the propagation after the frame in progress. What is computed is kept."""
    job = hosted.stop()
    if job is None:
        raise RefusedError(404, "expected a propagation of this session, got none: begin one")
    return job.to_json()


@router.get("/events", tags=["propagation"], response_class=Response, responses={200: {"model": schema.Events}})
async def events(
    hosted: HostedDep,
    after: Annotated[int, Query(ge=0, le=1 << 62, description="Number of the last event that is known.")],
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for an event if there is none.")] = 0.0,
) -> Response:
    """Return the events after a number: the same ones as the WebSocket of this path sends."""
    part = await hosted.events.wait(after, wait)
    return Response(part.json, media_type="application/json")


@sockets.websocket("/events")
async def event_socket(
    socket: WebSocket, hosted: HostedDep, after: Annotated[int | None, Query(ge=0, le=1 << 62)] = None
) -> None:
    """Send the events after a number, by default those from now on, each as one text message."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", []) else None)
    number = hosted.events.last if after is None else after
    reader = asyncio.create_task(_until_closed(socket))
    try:
        while not reader.done():
            waiter = asyncio.create_task(hosted.events.wait(number, 30))
            await asyncio.wait({reader, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if not waiter.done():
                waiter.cancel()
                break
            part = waiter.result()
            if part.missed:
                await socket.send_text(f'{{"event":{part.last},"type":"missed"}}')
            for text in part.events:
                await socket.send_text(text)
            number = part.last
            if any('"type":"closed"' in text for text in part.events):
                await socket.close(1000)
                break
    except RuntimeError:  # the client has gone
        pass
    finally:
        reader.cancel()


async def _until_closed(socket: WebSocket) -> None:
    """Read and ignore what the client sends."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


# Exports


def _exports(host: HostDep, hosted: Hosted) -> Exports:
    return host.exports[hosted.id]


@router.post("/exports", tags=["exports"], status_code=202, response_model=schema.Export)
async def export(host: HostDep, hosted: HostedDep, wanted: schema.NewExport) -> dict[str, Any]:
    """Begin to write the masks of all frames, and what else is chosen. What is missing is propagated first.

    Into a folder below the root, or for a download as a zip file. An event states when it is done.
    """
    outputs = chosen_outputs(wanted.outputs)
    folder = None if wanted.folder is None else new_folder(host.root, wanted.folder, wanted.overwrite)
    return _exports(host, hosted).begin(folder, wanted.folder, outputs, wanted.overwrite).to_json()


@router.get("/exports", tags=["exports"], response_model=list[schema.Export])
async def exports(host: HostDep, hosted: HostedDep) -> list[dict[str, Any]]:
    """List the exports since the start of the server."""
    return [each.to_json() for each in _exports(host, hosted).all.values()]


@router.get("/exports/{number}", tags=["exports"], response_model=schema.Export)
async def one_export(host: HostDep, hosted: HostedDep, number: int) -> dict[str, Any]:
    """Return an export."""
    return _exports(host, hosted).find(number).to_json()


@router.get(
    "/exports/{number}/zip",
    tags=["exports"],
    response_class=Response,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def zip_file(host: HostDep, hosted: HostedDep, number: int) -> StreamingResponse:
    """Return an export as a zip file, which is sent while it is packed."""
    found: Export = _exports(host, hosted).find(number)
    if found.state != "done":
        raise RefusedError(409, f"expected an export that is done, got one that is {found.state}: wait for it")
    headers = {"content-disposition": f'attachment; filename="hodor-{hosted.id}-{number}.zip"'}
    return StreamingResponse(zipped(found), media_type="application/zip", headers=headers)
