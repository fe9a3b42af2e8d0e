"""The JSON of requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[int, Field(ge=1, le=65535)]
Index = Annotated[int, Field(ge=0, le=1 << 31)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Given(BaseModel):
    """The body of a request: unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class Limit(BaseModel):
    """The limit that a request exceeds."""

    name: str
    value: float


class Refusal(BaseModel):
    """A request that was refused."""

    detail: str
    """expected ..., got ...: what to do."""
    limit: Limit | None = None


class Health(BaseModel):
    """That the server runs, and what it accepts."""

    status: Literal["ok"]
    version: str
    network: str
    sessions: int
    limits: dict[str, float]
    outputs: list[str]
    """Names of the outputs of an export."""


class Rle(BaseModel):
    """A mask as compressed run lengths of COCO: runs go down the columns."""

    model_config = ConfigDict(extra="forbid")
    size: tuple[int, int]
    """Height and width."""
    counts: Annotated[str, Field(max_length=1 << 25)]


class File(BaseModel):
    """A file or folder below the root."""

    name: str
    folder: bool
    bytes: int | None


class Files(BaseModel):
    """What is in a folder below the root."""

    path: str
    files: list[File]


class Upload(BaseModel):
    """A file that was uploaded."""

    upload: str
    bytes: int


class TicketFor(Given):
    """The path of a download, with /api/v1."""

    path: Annotated[str, Field(max_length=1024, pattern=r"^/api/v1/")]


class Ticket(BaseModel):
    """A ticket for one GET within a minute: append ?ticket=... to the path."""

    ticket: str


class NewSession(Given):
    """A video below the root, or an upload."""

    path: Annotated[str, Field(max_length=1024)] | None = None
    upload: Annotated[str, Field(max_length=64)] | None = None
    name: Name | None = None


class Summary(BaseModel):
    """A session in the list."""

    id: str
    name: str
    source: str
    created: float
    """Seconds since 1970."""
    frames: int
    height: int
    width: int
    rate: float | None
    """Frames a second, on average."""
    open: bool
    """Whether it is in memory. A stored session is loaded by the next request."""


class Object(BaseModel):
    """An object."""

    id: int
    name: str | None
    colour: str | None
    given: list[int]
    """Frames on which a mask is given."""


class Propagation(BaseModel):
    """A propagation."""

    id: int
    direction: Literal["forward", "backward", "both"]
    start: int
    stop: int
    state: Literal["running", "done", "stopped", "failed"]
    done: int
    total: int
    message: str | None


class Damage(BaseModel):
    """A frame that does not decode; the picture is that of the frame before."""

    frame: int
    message: str


class State(Summary):
    """A session."""

    revision: int
    """Increases with each edit."""
    event: int
    """Number of the latest event: read events after it."""
    undo: int
    """Edits that can be undone."""
    redo: int
    objects: list[Object]
    propagation: Propagation | None
    notes: list[str]
    damaged: list[Damage]


class ObjectMask(BaseModel):
    """The mask of an object on a frame."""

    id: int
    rle: Rle
    confidence: float
    """Calibrated: the expected J; 1 for a given mask, 0 for a lost object."""
    lost: bool
    given: bool
    points: list[tuple[float, float]]
    """Clicks (x, y) from which the given mask was made."""
    labels: list[int]
    box: tuple[float, float, float, float] | None


class FrameMasks(BaseModel):
    """The masks of a frame."""

    frame: int
    complete: bool
    """False while the result of an object is missing; its mask is then empty."""
    objects: list[ObjectMask]


class Edited(BaseModel):
    """The state after an edit, and the masks of the frame that was edited."""

    state: State
    frame: FrameMasks | None


class Prompts(Given):
    """Clicks, or a box."""

    points: Annotated[list[tuple[float, float]], Field(max_length=1000)] = []
    """(x, y) in pixels of the frame."""
    labels: Annotated[list[Literal[0, 1]], Field(max_length=1000)] = []
    """1 for a click on the object, 0 for one beside it. Default: all 1."""
    box: tuple[float, float, float, float] | None = None
    """(x0, y0, x1, y1) in pixels of the frame."""
    replace: bool = False
    """Use only these clicks, without those of before and the present mask."""


class Preview(BaseModel):
    """The mask that a prompt would give; nothing is stored."""

    rle: Rle
    score: float


class NewObject(Given):
    """An object; its id is chosen by the server if it is not given."""

    id: Id | None = None
    name: Name | None = None
    colour: Colour | None = None


class ObjectChange(Given):
    """Another name, colour or id."""

    name: Name | None = None
    colour: Colour | None = None
    id: Id | None = None


class Other(Given):
    """Another object."""

    other: Id


class Swap(Other):
    """Another object, and the first frame on which both are exchanged."""

    frame: Index


class Propagate(Given):
    """Which frames are propagated, and in which order."""

    direction: Literal["forward", "backward", "both"] = "both"
    frame: Index | None = None
    """Where it begins. Default: the first frame of the range, for backward the last one, for both the first given frame."""
    start: Index = 0
    """First frame of the range."""
    stop: Index | None = None
    """Frame after the last one. Default: the end of the video."""


class Ranges(BaseModel):
    """Ranges of frames (first, frame after the last)."""

    ranges: list[tuple[int, int]]


class Lane(BaseModel):
    """An object over a range of frames."""

    id: int
    given: list[int]
    confidence: list[float | None]
    """Of each frame; None without a result, 0 where the object is lost."""
    agreement: list[float | None]
    """J of the forward and the backward result."""


class Lanes(BaseModel):
    """All objects over a range of frames."""

    start: int
    stop: int
    objects: list[Lane]


class Suggestions(BaseModel):
    """Frames whose correction helps most, the best one first."""

    frames: list[int]


class Events(BaseModel):
    """Events after a number."""

    events: list[dict[str, Any]]
    last: int
    missed: bool
    """Events are missing: read the state and the masks again."""


class Mask(Given):
    """A mask file of a kind that `hodor doctor` reads, below the root or uploaded."""

    path: Annotated[str, Field(max_length=1024)] | None = None
    upload: Annotated[str, Field(max_length=64)] | None = None
    frame: Index = 0
    image: Annotated[str, Field(max_length=1024)] | None = None
    """Which picture of a COCO file with several."""


class Import(Given):
    """Masks of one or several frames. A colour, an id, a track or a name is one object in all of them."""

    masks: Annotated[list[Mask], Field(min_length=1, max_length=1000)]


class Imported(Edited):
    """The state after an import, and how the masks were read."""

    notes: list[str]


class NewExport(Given):
    """What is exported, and where."""

    folder: Annotated[str, Field(max_length=1024)] | None = None
    """Below the root. Default: none, the export is only downloaded."""
    overwrite: bool = False
    outputs: dict[str, Any] = {}
    """Outputs besides the masks, such as {"overlay": true, "cutout": [1]}: those of `hodor segment`."""


class Export(BaseModel):
    """An export."""

    id: int
    folder: str | None
    state: Literal["running", "done", "failed"]
    message: str | None
    files: int
    """Number of files."""
    names: list[str]
    """Names of its files and folders."""
    summary: dict[str, Any] | None
