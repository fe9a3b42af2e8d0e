"""Routes of the frames, masks and objects of a session."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from hodor.mask_files.annotations import decode_runs
from hodor.mask_files.png import decode_labels
from hodor.masks import encode_labels
from hodor.outputs.records import encode_rle
from hodor.serve import schema
from hodor.serve.common import PNG, REFUSALS, FrameNumber, HostDep, HostedDep, ObjectId, Revision, body_schema
from hodor.serve.hosted import LANE_FRAMES, frame_masks, ranges
from hodor.serve.imports import read_masks
from hodor.serve.limits import RefusedError
from hodor.serve.pictures import encode
from hodor.session import Session

router = APIRouter(prefix="/sessions/{session}", responses=REFUSALS)


@router.get(
    "/frames/{frame}",
    tags=["frames"],
    response_class=Response,
    responses={200: {"content": {f"image/{kind}": PNG["image/png"] for kind in ("jpeg", "webp", "png")}}},
)
async def picture(
    request: Request,
    hosted: HostedDep,
    frame: FrameNumber,
    format: Literal["jpeg", "webp", "png"] = "jpeg",
    height: Annotated[int | None, Query(ge=1, le=16384, description="Height of a smaller picture, in pixels.")] = None,
    quality: Annotated[int, Query(ge=1, le=100)] = 90,
) -> Response:
    """Return a frame as a picture. The header Frame-Time has its time in seconds from the first frame, if it has one."""
    tag = f'"{hosted.id}-{frame}-{format}-{height}-{quality}"'
    headers = {"etag": tag, "cache-control": "private, max-age=86400, immutable"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    hosted.used = time.monotonic()
    pool = request.app.state.decoders
    found = await asyncio.get_running_loop().run_in_executor(pool, hosted.reader.encoded, frame, format, height, quality)
    if found.time is not None:
        headers["frame-time"] = f"{found.time:.6f}"
    return Response(found.data, media_type=found.kind, headers=headers)


@router.get("/frames/{frame}/masks", tags=["masks"], response_model=schema.FrameMasks)
async def masks(hosted: HostedDep, frame: FrameNumber) -> dict[str, Any]:
    """Return the masks of all objects on a frame as compressed run lengths, with confidence and clicks."""
    return await hosted.call(lambda session: frame_masks(session, frame))


@router.get("/frames/{frame}/labels.png", tags=["masks"], response_class=Response, responses={200: {"content": PNG}})
async def labels(hosted: HostedDep, frame: FrameNumber) -> Response:
    """Return the ids of a frame as a PNG like those of `hodor segment`: 8-bit palette, or 16-bit grey for ids above 254."""
    found = await hosted.call(lambda session: session.result(frame, partial=True).labels)
    return Response(await asyncio.to_thread(encode_labels, found), media_type="image/png")


@router.get(
    "/frames/{frame}/objects/{object}/mask.png", tags=["masks"], response_class=Response, responses={200: {"content": PNG}}
)
async def mask(hosted: HostedDep, frame: FrameNumber, obj_id: ObjectId, soft: bool = False) -> Response:
    """Return the mask of an object as a grey PNG: 255 on the object; with `soft`, values from 0 to 255."""

    def read(session: Session) -> np.ndarray[Any, np.dtype[np.uint8]]:
        _check_object(session, obj_id)
        found = session.result(frame, soft=soft, partial=True)
        if not soft:
            return np.asarray(found.labels == obj_id, np.uint8) * np.uint8(255)
        assert found.soft is not None
        return np.asarray(found.soft[found.objects.index(obj_id)] * 255 + 0.5, np.uint8)

    plane = await hosted.call(read)
    return Response(await asyncio.to_thread(encode, plane, "png"), media_type="image/png")


@router.put(
    "/frames/{frame}/objects/{object}/mask",
    tags=["masks"],
    response_model=schema.Edited,
    openapi_extra=body_schema("image/png", text="The mask of the frame's size.", schema=schema.Rle.model_json_schema()),
)
async def put_mask(
    request: Request, hosted: HostedDep, frame: FrameNumber, obj_id: ObjectId, revision: Revision = None
) -> dict[str, Any]:
    """Give the mask of an object on a frame: a new object, or a correction. An empty mask states that it is not there.

    The body is a PNG of one object (0 is background), or compressed run lengths as JSON.
    """
    body = await request.body()
    if request.headers.get("content-type", "").split(";")[0].strip() == "image/png":
        plane = await asyncio.to_thread(decode_labels, body, "of the request")
        return await hosted.edit(lambda session: session.add_mask(frame, obj_id, plane), frame, revision)
    rle = schema.Rle.model_validate_json(body)

    def give(session: Session) -> None:
        height, width = session.source.size
        if tuple(rle.size) != (height, width):
            raise ValueError(f"expected a mask of {height}x{width} pixels, the size of the frames, got {rle.size}: resize it")
        session.add_mask(frame, obj_id, decode_runs(rle.counts, (height, width)))

    return await hosted.edit(give, frame, revision)


@router.delete("/frames/{frame}/objects/{object}/mask", tags=["masks"], response_model=schema.Edited)
async def clear(hosted: HostedDep, frame: FrameNumber, obj_id: ObjectId, revision: Revision = None) -> dict[str, Any]:
    """Remove what was given of an object on a frame: mask, clicks and box."""
    return await hosted.edit(lambda session: session.clear(frame, obj_id), frame, revision)


@router.post("/frames/{frame}/objects/{object}/prompts", tags=["masks"], response_model=schema.Edited)
async def prompts(
    hosted: HostedDep, frame: FrameNumber, obj_id: ObjectId, given: schema.Prompts, revision: Revision = None
) -> dict[str, Any]:
    """Give clicks on an object, or a box around it. The mask that follows from them is given on the frame."""
    points, marks = _checked(given)

    def give(session: Session) -> None:
        if given.box is not None:
            session.add_box(frame, obj_id, given.box)
        else:
            session.add_points(frame, obj_id, points, marks, clear_old_points=given.replace)

    return await hosted.edit(give, frame, revision)


@router.post("/frames/{frame}/objects/{object}/preview", tags=["masks"])
async def preview(hosted: HostedDep, frame: FrameNumber, obj_id: ObjectId, given: schema.Prompts) -> schema.Preview:
    """Return the mask that these clicks or this box would give. Nothing is stored."""
    points, marks = _checked(given)

    def look(session: Session) -> tuple[dict[str, Any], float]:
        found, score = session.preview(frame, obj_id, points, marks, box=given.box, clear_old_points=given.replace)
        return encode_rle(found), score

    rle, score = await hosted.call(look)
    return schema.Preview(rle=schema.Rle(**rle), score=round(score, 4))


def _checked(given: schema.Prompts) -> tuple[list[tuple[float, float]], list[int]]:
    if bool(given.points) == (given.box is not None):
        raise RefusedError(422, "expected points or a box, got both or none: give one of them")
    if given.labels and len(given.labels) != len(given.points):
        raise RefusedError(422, f"expected {len(given.points)} labels, got {len(given.labels)}: give one for each point")
    return given.points, [*given.labels] or [1] * len(given.points)


# Objects


@router.post("/objects", tags=["objects"], status_code=201)
async def new_object(hosted: HostedDep, wanted: schema.NewObject) -> schema.Object:
    """Reserve an id, with a name and a colour. The object exists when its first mask is given."""

    def reserve(session: Session) -> int:
        used = {*session.objects, *map(int, hosted.record["objects"])}
        chosen = wanted.id or next(i for i in range(1, 65537) if i not in used)
        if chosen in session.objects:
            raise RefusedError(409, f"expected an id that is not in use, got {chosen}: leave it out")
        if chosen > 65535:
            raise RefusedError(409, "expected at most 65535 objects, got one more: remove one")
        about = {"name": wanted.name, "colour": wanted.colour}
        hosted.write_record(objects={**hosted.record["objects"], str(chosen): about})
        return chosen

    chosen = await hosted.call(reserve)
    return schema.Object(id=chosen, name=wanted.name, colour=wanted.colour, given=[])


@router.patch("/objects/{object}", tags=["objects"], response_model=schema.State)
async def change_object(
    hosted: HostedDep, obj_id: ObjectId, wanted: schema.ObjectChange, revision: Revision = None
) -> dict[str, Any]:
    """Give an object another name, colour or id. Only the id can be undone."""

    def change(session: Session) -> None:
        _check_object(session, obj_id)
        if wanted.id is not None and wanted.id != obj_id:
            session.rename_object(obj_id, wanted.id)
        about = hosted.record["objects"].get(str(obj_id), {})
        values = {**about, **{k: v for k, v in (("name", wanted.name), ("colour", wanted.colour)) if v is not None}}
        # the entry of the old id stays, for undo
        hosted.write_record(objects={**hosted.record["objects"], str(wanted.id or obj_id): values})
        hosted.publish(session)

    edited = await hosted.edit(change, None, revision)
    state: dict[str, Any] = edited["state"]
    return state


@router.delete("/objects/{object}", tags=["objects"], response_model=schema.State)
async def remove_object(hosted: HostedDep, obj_id: ObjectId, revision: Revision = None) -> dict[str, Any]:
    """Remove an object. The others stay as they are."""
    state: dict[str, Any] = (await hosted.edit(lambda s: s.remove_object(obj_id), None, revision))["state"]
    return state


@router.post("/objects/{object}/merge", tags=["objects"], response_model=schema.State)
async def merge(hosted: HostedDep, obj_id: ObjectId, wanted: schema.Other, revision: Revision = None) -> dict[str, Any]:
    """Make the pixels of the other object pixels of this one, on all frames."""
    state: dict[str, Any] = (await hosted.edit(lambda s: s.merge_objects(obj_id, wanted.other), None, revision))["state"]
    return state


@router.post("/objects/{object}/swap", tags=["objects"], response_model=schema.State)
async def swap(hosted: HostedDep, obj_id: ObjectId, wanted: schema.Swap, revision: Revision = None) -> dict[str, Any]:
    """Exchange two objects on a frame and all later ones."""

    def exchange(session: Session) -> None:
        session.swap_objects(obj_id, wanted.other, wanted.frame)

    state: dict[str, Any] = (await hosted.edit(exchange, None, revision))["state"]
    return state


@router.post("/undo", tags=["objects"], response_model=schema.State)
async def undo(hosted: HostedDep, revision: Revision = None) -> dict[str, Any]:
    """Take back the last edit."""

    def back(session: Session) -> None:
        if not session.depth[0]:
            raise RefusedError(409, "expected an edit to undo, got none: nothing was given")
        session.undo()

    state: dict[str, Any] = (await hosted.edit(back, None, revision))["state"]
    return state


@router.post("/redo", tags=["objects"], response_model=schema.State)
async def redo(hosted: HostedDep, revision: Revision = None) -> dict[str, Any]:
    """Apply the edit again that was taken back last."""

    def again(session: Session) -> None:
        if not session.depth[1]:
            raise RefusedError(409, "expected an edit to redo, got none: nothing was undone since the last edit")
        session.redo()

    state: dict[str, Any] = (await hosted.edit(again, None, revision))["state"]
    return state


@router.post("/imports", tags=["objects"], response_model=schema.Imported)
async def imports(host: HostDep, hosted: HostedDep, wanted: schema.Import, revision: Revision = None) -> dict[str, Any]:
    """Give the masks of files that `hodor doctor` reads: pictures, folders of pictures, COCO or labelme JSON."""
    notes: list[str] = []

    def give(session: Session) -> None:
        joined, read = read_masks(host, session, wanted.masks)
        notes.extend(read)
        for frame, found in joined.items():
            for i in (int(i) for i in np.unique(found) if i):
                session.add_mask(frame, i, found == i)

    edited = await hosted.edit(give, min(mask.frame for mask in wanted.masks), revision)
    return {**edited, "notes": notes}


# What is known


@router.get("/incomplete", tags=["propagation"])
async def incomplete(hosted: HostedDep) -> schema.Ranges:
    """Return the ranges of frames that a propagation would compute."""
    return schema.Ranges(ranges=ranges(await hosted.call(lambda session: session.incomplete())))


@router.get("/lanes", tags=["propagation"], response_model=schema.Lanes)
async def lanes(
    hosted: HostedDep, start: Annotated[int, Query(ge=0)] = 0, stop: Annotated[int | None, Query(ge=1)] = None
) -> dict[str, Any]:
    """Return confidence, agreement and given frames of each object on a range of at most 500 frames."""

    def read(session: Session) -> dict[str, Any]:
        last = min(session.count, start + LANE_FRAMES) if stop is None else stop
        if not start < last <= session.count:
            raise RefusedError(422, f"expected 0 <= start < stop <= {session.count}, got {start} and {stop}: give such a range")
        if last - start > LANE_FRAMES:
            message = f"expected at most {LANE_FRAMES} frames, got {last - start}: read the lanes in parts"
            raise RefusedError(422, message, "lane_frames", LANE_FRAMES)
        return hosted.lanes(session, start, last)

    return await hosted.call(read)


@router.get("/suggestions", tags=["propagation"])
async def suggestions(hosted: HostedDep, k: Annotated[int, Query(ge=1, le=100)] = 1) -> schema.Suggestions:
    """Return the frames whose correction is expected to help most, the best one first. All frames must have results."""
    return schema.Suggestions(frames=await hosted.call(lambda session: session.suggest(k)))


def _check_object(session: Session, obj_id: int) -> None:
    if obj_id not in session.objects:
        ids = json.dumps(session.objects)
        raise RefusedError(404, f"expected one of the objects {ids}, got {obj_id}: give a mask, points or a box of it first")
