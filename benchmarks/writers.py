"""Measure the outputs of `hodor segment`: processor time and bytes of a frame, as a table in Markdown.

    python benchmarks/writers.py [--height 480] [--frames 24]

The frames are those of examples/cup.mp4, enlarged; the masks are two discs with soft edges that move with the frame number.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hodor.frames import open_source
from hodor.outputs.refine import Refinement
from hodor.outputs.selection import Outputs
from hodor.outputs.writers import Result

OUTPUTS: dict[str, dict[str, Any]] = {
    "masks": {},
    "--overlay": {"overlay": True},
    "--soft": {"soft": True},
    "--coco": {"coco": True},
    "--mots": {"mots": True},
    "--labelme": {"labelme": True},
    "--labelme --simplify 1": {"labelme": True, "simplify": 1.0},
    "--yolo": {"yolo": True},
    "--davis": {"davis": True},
    "--cutout 1": {"cutout": (1,)},
    "--prores 1": {"prores": (1,)},
    "--vp9 1": {"vp9": (1,)},
    "--ffv1 1": {"ffv1": (1,)},
    "--matte 1 --matte-codec prores": {"matte": (1,)},
    "--matte 1 --matte-codec ffv1": {"matte": (1,), "matte_codec": "ffv1"},
    "--matte 1 --matte-codec vp9": {"matte": (1,), "matte_codec": "vp9"},
    "--matte 1 --matte-codec h264": {"matte": (1,), "matte_codec": "h264"},
    "--exr 1 2": {"exr": (1, 2)},
}
STEPS: dict[str, dict[str, int]] = {
    "--remove-specks 50": {"remove_specks": 50},
    "--fill-holes 50": {"fill_holes": 50},
    "--smooth 4": {"smooth": 4},
    "--grow 4": {"grow": 4},
    "--feather 4": {"feather": 4},
    "--smooth-time 2": {"smooth_time": 2},
}


def results(height: int, count: int) -> list[Result]:
    """Frames with two moving discs."""
    made = []
    with open_source(Path(__file__).parents[1] / "examples" / "cup.mp4") as source:
        for frame in source.frames(0, count):
            width = frame.image.shape[1] * height // frame.image.shape[0]
            image = np.asarray(Image.fromarray(frame.image).resize((width, height), Image.Resampling.BICUBIC))
            y, x = np.mgrid[:height, :width]
            radius, shift = height / 5, frame.index * height / 240
            distances = [np.hypot(x - width * place - shift, y - height / 2) for place in (0.3, 0.65)]
            soft = np.stack([np.clip((radius - d) / 4 + 0.5, 0, 1) for d in distances]).astype(np.float32)
            labels = np.where(soft.max(0) > 0.5, soft.argmax(0) + 1, 0).astype(np.uint8)
            made.append(Result(frame.index, frame.name, frame.time, image, labels, (1, 2), soft, {1: 0.9, 2: 0.8}))
    return made


def write(frames: list[Result], options: dict[str, Any], folder: Path) -> None:
    """Write the frames with the outputs of these options, apart from masks where there are others."""
    outputs = Outputs(folder, **options)
    made = [*outputs.records(None, "cup"), *outputs.streams(Fraction(25))]
    chosen = [w for w in made if not options or type(w).__name__ != "MaskWriter"]
    for frame in frames:
        for writer in chosen:
            writer.write(frame)
    for writer in chosen:
        writer.close()


def measure(work: Callable[[], None], frames: int) -> float:
    """Return milliseconds of processor time a frame, of all threads."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began) / frames


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=24)
    given = parser.parse_args()
    frames = results(given.height, given.frames)
    height, width = frames[0].labels.shape
    print(f"| output, {width}x{height} | ms a frame | KB a frame |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for i, (option, values) in enumerate(OUTPUTS.items()):
            folder = Path(name) / str(i)
            spent = measure(lambda values=values, folder=folder: write(frames, values, folder), len(frames))  # type: ignore[misc]
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and ".hodor-soft" not in p.parts)
            print(f"| `{option}` | {spent:.1f} | {size / len(frames) / 1024:.0f} |")
    print(f"\n| step, two objects, {width}x{height} | ms a frame |\n|---|---|")
    for option, steps in STEPS.items():
        refinement = Refinement(**steps)
        if refinement.smooth_time:
            with tempfile.TemporaryDirectory() as name:
                both = [
                    measure(lambda v=v: write(frames, v, Path(name) / str(len(v))), len(frames))
                    for v in ({"exr": (1, 2)}, {"exr": (1, 2), **steps})
                ]  # type: ignore[misc]
            spent = both[1] - both[0]
        else:
            spent = measure(lambda refinement=refinement: [refinement.refined(f) for f in frames] and None, len(frames))  # type: ignore[misc]
        print(f"| `{option}` | {spent:.1f} |")


if __name__ == "__main__":
    main()
