"""Long videos: memory and time a frame of `segment` with all outputs that hold no picture until the end.

    python tests/campaigns/long_videos.py xmem-lite --frames 10000 --size 96 --json xmem.json

The video is written by FFmpeg first (H.264, 96x128 pixels, two objects). The resident memory is read after every frame. The
table has the peak of each hundred frames, and the processor time a frame of all threads, which other processes hardly change.
The last lines compare the memory of later frames with that at frame 200, 1,000 and 2,000.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from hodor.cli import _keep_freed_memory, _shorten_thread_spinning  # as the command does, before torch is imported

_keep_freed_memory()
_shorten_thread_spinning()

import torch  # noqa: E402
import training  # noqa: E402
from job import mask, video  # noqa: E402

from hodor.frames import open_source  # noqa: E402
from hodor.models import weights  # noqa: E402
from hodor.models.base import Network  # noqa: E402
from hodor.segment import Outputs, segment  # noqa: E402

SIZE = (96, 128)
EVERY = 100


def resident() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(network: Network, folder: Path, frames: int, size: int) -> list[dict[str, float]]:
    """Segment a video of this length; return a row for each hundred frames: peak memory in MB, processor ms a frame."""
    clip = video(folder / "long.mp4", frames, SIZE)
    rows: list[dict[str, float]] = []
    peak, began = 0.0, time.process_time()

    def after(done: int, total: int | None) -> None:
        nonlocal peak, began
        peak = max(peak, resident())
        if done % EVERY == 0:
            now = time.process_time()
            rows.append({"frame": done, "mb": round(peak, 1), "ms": round((now - began) / EVERY * 1000, 2)})
            peak, began = 0.0, now

    with open_source(clip) as source:
        outputs = Outputs(folder / "out", overlay=True, sheet=True, coco=True, table=True)
        summary = segment(source, {0: mask(size=SIZE)}, network, outputs, size=size, progress=after)
    assert summary.frames == frames, f"{summary.frames} of {frames} frames: {summary.notes}"
    assert len(list((folder / "out" / "masks").glob("*.png"))) == frames
    return rows


def growth(rows: list[dict[str, float]], first: int) -> float:
    """Return by which share the memory rises after frame `first`."""
    start = next(row["mb"] for row in rows if row["frame"] >= first)
    return max(row["mb"] for row in rows if row["frame"] >= first) / start - 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    training.add_models()
    bundled = options.model in ("hodor-lite", "xmem-lite")
    network = weights.load(options.model) if bundled else weights.build(options.model).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(network, Path(folder), options.frames, options.size)
    for row in rows:
        print(f"{row['frame']:>6.0f} {row['mb']:>8.1f} MB {row['ms']:>8.2f} ms")
    about: dict[str, Any] = {"model": options.model, "size": options.size, "threads": torch.get_num_threads(), "rows": rows}
    for first in (200, 1000, 2000):
        if options.frames > first:
            about[f"growth after {first}"] = growth(rows, first)
            print(f"memory after frame {first}: +{growth(rows, first):.1%}")
    if options.json:
        options.json.write_text(json.dumps(about))


if __name__ == "__main__":
    main()
