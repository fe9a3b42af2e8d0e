"""Write the results of a session as `hodor segment` does."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable

from hodor.outputs.background import BackgroundWriter
from hodor.outputs.selection import Outputs
from hodor.outputs.summary import Summary
from hodor.outputs.writers import Result, completed
from hodor.sessions.results import FrameResult
from hodor.video.source import Frame, Source, prefetch

MAX_PENDING = 6
"""Maximum number of results that wait to be written."""


def result_of(frame: Frame, found: FrameResult) -> Result:
    """Return the result of a frame as writers expect it."""
    lost = frozenset(i for i in found.objects if not found.confidence[i])
    picture = frame.index, frame.name, frame.time, frame.image
    return Result(*picture, found.labels, found.objects, found.soft, found.confidence, lost, frame.deep)


def export(source: Source, count: int, outputs: Outputs, find: Callable[[int], FrameResult]) -> Summary:
    """Write every frame of a session whose results are complete.

    Args:
        source: the frames.
        count: number of frames.
        outputs: the outputs and their folder.
        find: returns the result of a frame, with soft masks if `outputs` needs them.
    """
    began, summary, names = time.monotonic(), Summary(), set[str]()
    source.deep = outputs.needs_deep
    for folder in outputs.frame_folders():
        for part in folder.glob(".*.part"):  # files of a killed export
            part.unlink(missing_ok=True)
    with contextlib.ExitStack() as opened:
        every = [*outputs.records(None, source.name), *outputs.streams(source.rate, source)]
        writers = [opened.enter_context(writer) for writer in every]

        def write(result: Result) -> None:
            for writer in writers:
                writer.write(result)

        with (
            BackgroundWriter(write, MAX_PENDING) as background,
            contextlib.closing(prefetch(source.frames(0, count))) as frames,
        ):
            for frame in frames:
                result = outputs.refined(result_of(frame, find(frame.index)))
                background.write(result)
                names.add(frame.name)
                summary.objects = result.objects
                for i in sorted(result.lost):
                    summary.lost.setdefault(i, []).append(frame.name)
        for writer in writers:
            writer.close()
            summary.notes += writer.notes
            summary.flicker |= writer.flicker
    if outputs.hides_soft:
        shutil.rmtree(outputs.soft_folder, ignore_errors=True)
    for name in completed(outputs.masks) - names:  # of an export before the source was found to be shorter
        (outputs.masks / f"{name}.png").unlink()
    summary.frames, summary.seconds = len(names), round(time.monotonic() - began, 3)
    summary.damaged, summary.stopped = dict(sorted(source.damaged.items())), source.stopped
    return summary
