"""The scoring rule of each benchmark: frames, objects, void, averages. One frozen value per benchmark.

    PROFILES["davis2017"]
    replace(PROFILES["youtube-vos"], first=True)       # a custom rule: give it to hodor.evaluate.evaluate

The loop over frames is the same for all profiles (hodor.evaluate); only these choices differ. docs/evaluation.md has a table
for each, with its source and with what is not known about the servers.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hodor.files import DAMAGES, parse_json
from hodor.names import read_list

ProfileName = Literal["davis2016", "davis2017", "davis2017-unsupervised", "youtube-vos", "vos-benchmark", "lvos", "mose"]
"""The names of `PROFILES`."""


@dataclass(frozen=True)
class Profile:
    """The choices of one benchmark."""

    name: str
    objects: Literal["one", "first", "evaluated", "any", "listed"]
    """The scored objects: all that is not 0, as one; the ids of the first ground-truth frame; those of any scored ground-truth
    frame; those of any ground-truth frame; those that the meta file lists."""
    span: Literal["video", "sighted", "object", "listed"] = "video"
    """The frames of an object: all of the video; from the first scored frame in which ground truth or prediction shows it;
    from the first frame in which the ground truth shows it; those that the meta file lists for it."""
    first: bool = False
    """Score the first frame of the span (the video's, or the object's own)."""
    last: bool = False
    """Score the last frame of the span."""
    every: int = 1
    """Score only ground-truth frames whose number is a multiple of this."""
    void: Literal["background", "ignored", "object"] = "background"
    """Meaning of 255 in an 8-bit ground truth: background; pixels that are ignored; an id like others."""
    match: Literal["id", "proposals"] = "id"
    """Predicted ids are those of the ground truth, or proposals that are assigned to the objects so that J&F is largest."""
    formulae: Literal["davis", "mose"] = "davis"
    """J and F of DAVIS, or of MOSE v2: (intersection + 1) / (union + 1), and F_new with a tolerance by area."""
    groups: Literal["none", "category", "video"] = "none"
    """Separate means for seen and unseen: none, by the object's category, by the video's name."""
    spread: bool = False
    """Also V, the standard deviation of an object's J&F over its frames (LVOS)."""
    short_decay: bool = False
    """The official tool keeps frame positions in 8 bits: its decay is wrong above 256 frames; `compat` repeats this."""


MAX_PROPOSALS = 20
"""DAVIS 2017 unsupervised accepts at most this many proposals per sequence."""

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
    """Return the profile of a name; a `Profile` is returned as it is.

    Raises:
        ValueError: "expected a profile (davis2016, ...), got 'x'"; "expected every of at least 1, got 0".
    """
    if isinstance(profile, Profile):
        if profile.every < 1:
            raise ValueError(f"expected every of at least 1 (all ground-truth frames), got {profile.every}")
        return profile
    if profile not in PROFILES:
        raise ValueError(f"expected a profile ({', '.join(PROFILES)}), got {profile!r}")
    return PROFILES[profile]


@dataclass(frozen=True)
class Listed:
    """What a meta file lists for one object.

    Attributes:
        frames: names of its frames; () if the file names none.
        category: its category; None if the file names none.
    """

    frames: tuple[str, ...] = ()
    category: str | None = None


Meta: TypeAlias = Mapping[str, Mapping[int, Listed]]
"""{sequence: {object: Listed}}."""


def read_meta(source: Source | Mapping[str, Any]) -> Meta:
    """Read a data set's meta file.

    YouTube-VOS: `videos` -> id -> `objects` -> id -> `category` and `frames`. LVOS: `frame_range` with `start` and `end`
    instead of `frames`: every fifth number from start to below end, in 8 digits. MOSE: `objects`, a dict or a list of ids.

    Args:
        source: the file, or its content.

    Returns:
        {sequence: {object: Listed}}.

    Raises:
        FileNotFoundError: "meta file x does not exist".
        ValueError: "meta file x: expected "videos", and "objects" in each, got ...".
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "meta"
    data: Any = _json(source) if isinstance(source, (str, os.PathLike)) else source
    try:
        videos = data["videos"]
        return {str(video): _objects(entry["objects"]) for video, entry in videos.items()}
    except DAMAGES as error:
        raise ValueError(f'meta file {name}: expected "videos", and "objects" in each, got {repr(error)[:200]}') from None


def read_names(source: Source | Iterable[str]) -> frozenset[str]:
    """Read names of categories or videos.

    Args:
        source: an iterable of names; a text file, one name per line; or a training meta.json, whose categories are returned.

    Returns:
        The names.

    Raises:
        FileNotFoundError: "list x does not exist: give ...".
        ValueError: "list x: expected one name per line, or a meta.json with categories, got no name".
    """
    if not isinstance(source, (str, os.PathLike)):
        return frozenset(map(str, source))
    path = Path(source)
    if path.suffix.lower() == ".json":
        meta = read_meta(path)
        names = {one.category for objects in meta.values() for one in objects.values() if one.category}
    else:
        if not path.is_file():
            raise FileNotFoundError(f"list {path} does not exist: give a text file, one name per line, or a meta.json")
        names = set(read_list(path))
    if not names:
        raise ValueError(f"list {path}: expected one name per line, or a meta.json with categories, got no name")
    return frozenset(names)


@dataclass(frozen=True)
class Groups:
    """The categories or videos that count as seen in training.

    Attributes:
        seen: names that are seen; None: not given.
        unseen: names that are unseen; None: not given.
    """

    seen: frozenset[str] | None = None
    unseen: frozenset[str] | None = None

    def __call__(self, item: str | None) -> bool | None:
        """Return whether `item` counts as seen; None if this is not known."""
        if item is None or (self.seen is None and self.unseen is None):
            return None
        if self.seen is not None:
            return item in self.seen
        return item not in (self.unseen or ())


@dataclass(frozen=True)
class Terms:
    """How a run is scored.

    Attributes:
        rule: the profile.
        compat: whether to repeat the official tool, including its bugs.
        groups: what counts as seen.
    """

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
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"meta file {path}: expected JSON, got {error}") from None
