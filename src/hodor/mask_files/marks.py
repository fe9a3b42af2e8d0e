"""What a mask file states about the identity of its objects, by which objects of several files are matched."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["value", "grey", "number", "number0", "track", "track0", "cvat", "cvat0", "colour", "name", "file"]
Marks = Mapping[int, "tuple[Mark, ...]"]
"""Id in one file -> the marks of this object. The entry 0 is the colour of a background that is not black."""


class Mark(NamedTuple):
    """One statement about the identity of an object.

    Attributes:
        kind: "value": the id, stored as a pixel value or as a colour of the DAVIS palette; with "grey", the stored grey,
            where the palette was converted to grey. "number": the number at the end
            of the name of a file with one object; "number0" where numbers count from 0. "track": the track_id of an
            annotation, "cvat" where CVAT wrote it; "track0" and "cvat0" where the file has a track 0.
            "colour": red, green, blue. "name": label or category, and group (None without groups). "file": name of a file
            with one object.
        value: a number, a colour (r, g, b), (label, group), or the name of a file without its ending.
    """

    kind: Kind
    value: object

    def __str__(self) -> str:
        """Describe the mark, such as "track 3"."""
        if self.kind == "name" and isinstance(self.value, tuple):
            label, group = self.value
            return f"name {label}" + ("" if group is None else f" (group {group})")
        return f"{self.kind.removesuffix('0').replace('cvat', 'track')} {self.value}"
