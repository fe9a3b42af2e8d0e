"""The three clips of the model card, followed by the weights in the box, as pictures to look at.

    python benchmarks/demos.py --out runs/demos                                           # examples/cup.mp4
    python benchmarks/demos.py --box box.mp4 --bedroom bedroom.mp4 --out runs/demos       # and two videos from elsewhere

Masks lie in examples/, whose README says where the clips come from. Each gets a folder of masks and a contact sheet,
<clip>.jpg; bedroom.mp4 is followed twice, first the children, then four small things (bedroom_small). The timestamps of
box.mp4 jump, so its frames are taken as they are decoded. Of the cup the last frame is scored against a mask drawn by
hand.
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
    """-> the folder, with the video's pictures as they are decoded, whatever their timestamps say."""
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(folder / f"{index:05d}.jpg", quality=95)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--box", type=Path, help="box.mp4 of OpenCV's documentation, all 455 frames")
    parser.add_argument("--bedroom", type=Path, help="bedroom.mp4, 960 x 540, 200 frames")
    parser.add_argument("--model", default="xmem-lite", help="weights in the box (default: %(default)s)")
    given = parser.parse_args()
    clips = {"cup": (EXAMPLES / "cup.mp4", 0)}
    try:
        if given.box:
            clips["box"] = (decoded(given.box, given.out / "box_frames"), 240)
        if given.bedroom:
            clips["bedroom"] = clips["bedroom_small"] = (given.bedroom, 0)
        network = weights.ready(given.model)
        for name, (clip, at) in clips.items():
            out = Outputs(given.out / name)
            with open_source(clip) as source:
                summary = segment(source, {at: read_labels(EXAMPLES / f"{name}.png")}, network, out)
            labels = [read_labels(path) for path in sorted(out.masks.glob("*.png"))]
            cells, columns, width = SHEETS[name]
            every = max(1, len(labels) // cells)
            with open_source(clip) as source:
                shown = zip(source.frames(), labels, strict=True)
                sheet = contact_sheet(islice(shown, 0, cells * every, every), columns, width, cells)
            Image.fromarray(sheet).save(given.out / f"{name}.jpg", quality=85)
            print(f"{name}: {len(labels)} frames, {summary.seconds:.0f} s, {given.out / name}.jpg")
            if name == "cup":
                ground_truth = read_labels(EXAMPLES / "cup_last.png")
                for i in objects_in(ground_truth):
                    print(
                        f"   frame {len(labels) - 1}, object {i}: J {jaccard(np.equal(labels[-1], i), np.equal(ground_truth, i)):.2f}"
                    )
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
