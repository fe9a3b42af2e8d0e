"""What a run did, for messages and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """What a run did.

    Attributes:
        frames: number of frames that have a mask now.
        tracked: number of frames that the network segmented in this run.
        seconds: duration of this run, in seconds.
        objects: ids in the given masks, sorted.
        lost: id -> names of the frames on which no pixel was assigned to the object, in order of time.
        notes: warnings and remarks, one line each.
        damaged: number of each frame that does not decode -> FFmpeg's message; its mask is that of a neighbour's picture.
        stopped: where and why a damaged source ended, None if it was read to its end.
        interrupted: True if Ctrl-C ended the run.
        flicker: id -> percent of the area of its matte that appears or disappears for a single frame, before and after
            `smooth_time`; empty without it.
    """

    frames: int = 0
    tracked: int = 0
    seconds: float = 0.0
    objects: tuple[int, ...] = ()
    lost: dict[int, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    stopped: str | None = None
    interrupted: bool = False
    flicker: dict[int, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as values for JSON, and `frames_per_second` (tracked frames, None without a duration)."""
        return {
            **vars(self),
            "objects": list(self.objects),
            "damaged": {str(i): message for i, message in self.damaged.items()},
            "lost": {str(i): names for i, names in self.lost.items()},
            "flicker": {str(i): list(figures) for i, figures in self.flicker.items()},
            "frames_per_second": round(self.tracked / self.seconds, 3) if self.seconds else None,
        }
