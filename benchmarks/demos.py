"""Segment the three example clips of the model card with the bundled weights, and draw a contact sheet of each.

    python benchmarks/demos.py --out runs/demos                                           # examples/cup.mp4
    python benchmarks/demos.py --box box.mp4 --bedroom bedroom.mp4 --out runs/demos       # and two videos from elsewhere

The given masks are in examples/, whose README names the sources of the clips. For each clip the script writes a folder of
masks and a contact sheet, <clip>.jpg. bedroom.mp4 is segmented twice: first the two children, then four small objects
(bedroom_small). The timestamps of box.mp4 jump, so its frames are used in the order in which they are decoded.

Prints one line a clip: number of frames, seconds, path of the sheet. For the cup it also prints J of each object on the last
frame, against a mask drawn by hand.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from hodor.frames import open_source
from hodor.masks import objects_in, read_labels
from hodor.metrics import jaccard
from hodor.models import weights
from hodor.segment import Outputs, segment
from hodor.video.render import contact_sheet

EXAMPLES = Path(__file__).parents[1] / "examples"
SHEETS = {"cup": (6, 3, 960), "box": (16, 4, 1024), "bedroom": (12, 4, 1024), "bedroom_small": (9, 3, 1440)}
"""Pictures, columns and width in pixels of a clip's sheet."""


def decoded(video: Path, folder: Path) -> Path:
    """Write every frame of the video to the folder as JPEG, in decoding order, ignoring timestamps; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(folder / f"{index:05d}.jpg", quality=95)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the masks and sheets")
    parser.add_argument("--box", type=Path, help="box.mp4 of OpenCV's documentation, all 455 frames")
    parser.add_argument("--bedroom", type=Path, help="bedroom.mp4, 960 x 540, 200 frames")
    parser.add_argument("--model", default="xmem-lite", help="bundled weights (default: %(default)s)")
    options = parser.parse_args()
    clips = {"cup": (EXAMPLES / "cup.mp4", 0)}
    try:
        if options.box:
            clips["box"] = (decoded(options.box, options.out / "box_frames"), 240)
        if options.bedroom:
            clips["bedroom"] = clips["bedroom_small"] = (options.bedroom, 0)
        network = weights.ready(options.model)
        for name, (clip, at) in clips.items():
            out = Outputs(options.out / name)
            with open_source(clip) as source:
                summary = segment(source, {at: read_labels(EXAMPLES / f"{name}.png")}, network, out, overwrite=True)
            labels = [read_labels(path) for path in sorted(out.masks.glob("*.png"))]
            cells, columns, width = SHEETS[name]
            every = max(1, len(labels) // cells)
            with open_source(clip) as source:
                shown = zip(source.frames(), labels, strict=True)
                sheet = contact_sheet(islice(shown, 0, cells * every, every), columns, width, cells)
            Image.fromarray(sheet).save(options.out / f"{name}.jpg", quality=85)
            print(f"{name}: {len(labels)} frames, {summary.seconds:.0f} s, {options.out / name}.jpg")
            if name == "cup":
                ground_truth = read_labels(EXAMPLES / "cup_last.png")
                for i in objects_in(ground_truth):
                    j = jaccard(np.equal(labels[-1], i), np.equal(ground_truth, i))
                    print(f"   frame {len(labels) - 1}, object {i}: J {j:.2f}")
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
