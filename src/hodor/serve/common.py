"""What the routes share: the host, the session of a path, and bodies that are not JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Path
from fastapi.requests import HTTPConnection

from hodor.serve.host import Host
from hodor.serve.hosted import Hosted
from hodor.serve.schema import Refusal

PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": text}
    for status, text in {
        400: "The request is malformed.",
        401: "The token is missing.",
        403: "The host, the origin or the path is not allowed.",
        404: "There is no such thing.",
        409: "The state does not allow it.",
        412: "The session was changed by another client.",
        413: "Too large.",
        422: "A value is not as expected.",
        429: "Too many requests.",
        507: "The disk is full.",
    }.items()
}


def _host(connection: HTTPConnection) -> Host:
    host: Host = connection.app.state.host
    return host


HostDep = Annotated[Host, Depends(_host)]


def _hosted(host: HostDep, session: Annotated[str, Path(max_length=64, description="Id of the session.")]) -> Hosted:
    return host.find(session)


HostedDep = Annotated[Hosted, Depends(_hosted)]
FrameNumber = Annotated[int, Path(ge=0, le=1 << 31, description="Index of the frame, from 0.")]
ObjectId = Annotated[int, Path(ge=1, le=65535, alias="object", description="Id of the object.")]
Revision = Annotated[
    int | None,
    Header(alias="If-Match", ge=0, description="The revision that the client has seen; another one is refused with 412."),
]


def body_schema(*kinds: str, text: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return how OpenAPI describes a body of raw bytes, and of JSON where there is a schema for it."""
    content: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    if schema is not None:
        content["application/json"] = {"schema": schema}
    return {"requestBody": {"required": True, "description": text, "content": content}}
