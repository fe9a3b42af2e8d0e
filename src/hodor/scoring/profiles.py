"""What each benchmark judges: which frames, which objects, what void is, how it averages. One frozen value a benchmark.

    PROFILES["davis2017"]
    replace(PROFILES["youtube-vos"], first=True)       # a rule of your own: give it to hodor.evaluate.evaluate

The walk over frames is the same for all (hodor.evaluate); only these choices differ. docs/evaluation.md has a table of
each, with its source and with what is not known of the servers.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True)
class Profile:
    """The choices of one benchmark."""

    name: str
    objects: Literal["one", "first", "evaluated", "any", "listed"]
    """Which are scored: all that is not 0 as one; the ids of the first true frame; those of any evaluated true frame; those
    of any true frame; those that the meta file lists."""
    span: Literal["video", "sighted", "object", "listed"] = "video"
    """An object's frames: all of the video's; those from the first evaluated one in which ground truth or prediction shows it;
    those from the first that the ground truth shows it in; those that the meta file lists for it."""
    first: bool = False
    """Judge the first frame of the span: the video's, or the object's own."""
    last: bool = False
    """Judge the last frame of the span."""
    every: int = 1
    """Judge only true frames whose number is a multiple of this."""
    void: Literal["background", "ignored", "object"] = "background"
    """What 255 in an 8-bit ground truth is: background; pixels that count for nobody; an id like others."""
    match: Literal["id", "proposals"] = "id"
    """Predicted ids are the ground truth's, or proposals to be assigned to the true objects, the best way there is."""
    formulae: Literal["davis", "mose"] = "davis"
    """J and F of DAVIS, or of MOSE v2: (intersection + 1) / (union + 1), and F_new with a tolerance by area."""
    groups: Literal["none", "category", "video"] = "none"
    """Means apart for seen and unseen: none, by the object's category, by the video's name."""
    spread: bool = False
    """Also V, the standard deviation of an object's J&F over its frames (LVOS)."""
    short_decay: bool = False
    """The official tool keeps places in 8 bits: its decay is wrong above 256 frames; `compat` repeats it."""


MOST_PROPOSALS = 20
"""DAVIS 2017 unsupervised takes at most so many proposals a sequence."""

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("davis2016", objects="one", short_decay=True),
        Profile("davis2017", objects="first", short_decay=True),
        Profile(
            "davis2017-unsupervised",
            objects="first",
            first=True,
            last=True,
            void="ignored",
            match="proposals",
            short_decay=True,
        ),
        Profile("youtube-vos", objects="any", span="object", last=True, every=5, groups="category"),
        Profile("vos-benchmark", objects="evaluated", span="sighted", void="object"),
        Profile("lvos", objects="listed", span="listed", groups="video", spread=True),
        Profile("mose", objects="any", formulae="mose"),
    )
}

Source: TypeAlias = str | os.PathLike[str]


def profile_named(profile: str | Profile) -> Profile:
    """A profile by its name; a Profile is itself. Raises ValueError: "no profile 'x': want one of davis2016, ..."."""
    if isinstance(profile, Profile):
        if profile.every < 1:
            raise ValueError(f"every is {profile.every}: wanted 1 (all true frames) or more")
        return profile
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}: want one of {', '.join(PROFILES)}")
    return PROFILES[profile]


@dataclass(frozen=True)
class Listed:
    """What a meta file says of one object: its frames (() if it names none) and its category."""

    frames: tuple[str, ...] = ()
    category: str | None = None


Meta: TypeAlias = Mapping[str, Mapping[int, Listed]]
"""{sequence: {object: Listed}}."""


def read_meta(source: Source | Mapping[str, Any]) -> Meta:
    """A dataset's meta file, or the dict it holds -> {sequence: {object: Listed}}.

    YouTube-VOS: `videos` -> id -> `objects` -> id -> `category` and `frames`. LVOS: `frame_range` with `start` and `end` in
    place of `frames`: every fifth number from start up to, not with, end, in 8 digits. MOSE: `objects`, a dict or a list
    of ids.

    Raises FileNotFoundError "meta file x does not exist", ValueError "meta file x is no meta.json: ...".
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "meta"
    data: Any = _json(source) if isinstance(source, (str, os.PathLike)) else source
    try:
        videos = data["videos"]
        return {str(video): _objects(entry["objects"]) for video, entry in videos.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f'meta file {name} is no meta.json: wanted "videos", and "objects" in each ({error!r})') from None


def read_names(source: Source | Iterable[str]) -> frozenset[str]:
    """Names of categories or videos: from an iterable; a text file, one a line; a training meta.json (its categories).

    Raises FileNotFoundError "list x does not exist", ValueError "list x names nothing".
    """
    if not isinstance(source, (str, os.PathLike)):
        return frozenset(map(str, source))
    path = Path(source)
    if path.suffix.lower() == ".json":
        meta = read_meta(path)
        names = {one.category for objects in meta.values() for one in objects.values() if one.category}
    else:
        if not path.is_file():
            raise FileNotFoundError(f"list {path} does not exist: wanted a text file, one name a line, or a meta.json")
        names = {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    if not names:
        raise ValueError(f"list {path} names nothing: wanted one name a line, or a meta.json with categories")
    return frozenset(names)


@dataclass(frozen=True)
class Groups:
    """Which categories or videos count as seen in training: either list may be None, for not given."""

    seen: frozenset[str] | None = None
    unseen: frozenset[str] | None = None

    def __call__(self, item: str | None) -> bool | None:
        """Whether `item` counts as seen; None: not known."""
        if item is None or (self.seen is None and self.unseen is None):
            return None
        if self.seen is not None:
            return item in self.seen
        return item not in (self.unseen or ())


@dataclass(frozen=True)
class Terms:
    """How a run is scored: the rule, whether as the official tool has it, and what counts as seen."""

    rule: Profile
    compat: bool = False
    groups: Groups = Groups()


def _objects(entry: Any) -> dict[int, Listed]:
    if isinstance(entry, Mapping):
        return {int(i): _listed(one) for i, one in entry.items()}
    return {int(i): Listed() for i in entry}


def _listed(one: Any) -> Listed:
    if not isinstance(one, Mapping):
        return Listed()
    category = one.get("category")
    frames = tuple(str(frame) for frame in one.get("frames") or ())
    if "frame_range" in one:
        span = one["frame_range"]
        frames = tuple(f"{number:08d}" for number in range(int(span["start"]), int(span["end"]), 5))
    return Listed(frames, None if category is None else str(category))


def _json(source: Source) -> Any:
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"meta file {path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"meta file {path} is no meta.json: {error}") from None
