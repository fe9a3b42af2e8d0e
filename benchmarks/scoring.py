"""Measure the speed of scoring: make a set with the shape of DAVIS 2017 val, and time `hodor.evaluate` on it.

    python benchmarks/scoring.py make SET                    # 30 sequences, 1999 frames, 61 objects; takes a minute or two
    python benchmarks/scoring.py make SET --masks FOLDER     # objects with the outlines of real masks (DAVIS 2016)
    python benchmarks/scoring.py time SET --workers 2

`make` writes `SET/ground_truth/<sequence>/<frame>.png` and `SET/predictions/...`, palette PNGs, 480 pixels high and 854, 910
or 1152 wide. Without real masks the objects are blobs that move and change their shape. The predictions are the ground
truth, warped smoothly by a few pixels. The same seed gives the same set.

`time` prints frame-objects a second. A frame-object is one object on one scored frame: its J and its F, including reading
both PNGs. It also prints processor seconds, peak memory of a worker, the decompressor of the PNGs, and the machine.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hodor import masks
from hodor.mask_files import png

Labels = NDArray[np.uint8]
Shape = Callable[[int], NDArray[np.bool_]]

OBJECTS = (2, 1, 2, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 5, 2, 3, 2, 3, 5, 1, 3, 2, 2, 3, 1, 3, 2, 3, 3)
"""Objects of the thirty sequences of DAVIS 2017 val, in order of their names: 61."""

FRAMES = 1999
HEIGHT, WIDTHS = 480, (854,) * 26 + (910,) * 3 + (1152,)


def make(folder: Path, real: Path | None = None, seed: int = 0, frames: int = FRAMES, sequences: int = len(OBJECTS)) -> None:
    """Write the set.

    Args:
        folder: new or empty folder of the set.
        real: folder of sequences of real masks, one object each; None for blobs.
        seed: of all random numbers.
        frames: number of frames of the whole set.
        sequences: number of sequences, at most 30.

    Raises:
        ValueError: "SET is not empty: give a new folder".
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder")
    rng = np.random.default_rng(seed)
    # lengths vary as in DAVIS (34 to 104 frames) and add up to `frames`
    ends = np.round(np.cumsum(shares := rng.uniform(0.5, 1.5, sequences)) / shares.sum() * frames).astype(int)
    widths = rng.permutation(WIDTHS)
    for number, (count, width) in enumerate(zip(OBJECTS[:sequences], widths, strict=False)):
        length = int(ends[number] - (ends[number - 1] if number else 0))
        size = (HEIGHT, int(width))
        shapes = [_real(real, size, rng) if real else _blob(size, length, count, rng) for _ in range(count)]
        for frame in range(length):
            ground_truth = np.zeros(size, np.uint8)
            for key, shape in enumerate(shapes, 1):
                ground_truth[shape(frame)] = key
            name = Path(f"sequence-{number:02d}", f"{frame:05d}.png")
            masks.write_labels(folder / "predictions" / name, _warped(ground_truth, frame, number))
            _write_as_released(folder / "ground_truth" / name, ground_truth)


def _write_as_released(path: Path, labels: Labels) -> None:
    """Write a mask compressed as in DAVIS: more strongly than by `write_labels`, and therefore slower to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels)
    picture.putpalette(masks.palette().tobytes())
    picture.save(path, bits=8)


def _blob(size: tuple[int, int], length: int, count: int, rng: np.random.Generator) -> Shape:
    """Return a round shape with a wavy outline that moves, turns and changes. Alone it covers about 8 % of the frame."""
    radius = np.sqrt(0.08 / np.pi / count**0.5 * rng.uniform(0.3, 2) * size[0] * size[1])
    start, end = rng.uniform((0.2, 0.15), (0.8, 0.85), (2, 2)) * size
    waves, phases = rng.uniform(0, 0.18, 5) / np.arange(1, 6) ** 0.5, rng.uniform(0, 2 * np.pi, (2, 5))

    def shape(frame: int) -> NDArray[np.bool_]:
        time_ = frame / length
        centre = start + (end - start) * time_ + 15 * np.sin(6 * time_ + phases[0, :2])
        reach = int(radius * 1.9)
        top, left = np.maximum(centre.astype(int) - reach, 0)
        bottom, right = np.maximum(np.minimum(centre.astype(int) + reach, size), (top, left))
        y, x = np.mgrid[top:bottom, left:right].astype(np.float32) - centre.astype(np.float32)[:, None, None]
        angle = np.arctan2(y, x)
        ripples = (wave * np.sin(n * angle + phases[1, n - 1] + 5 * time_) for n, wave in enumerate(waves, 1))
        rim = radius * (1 + sum(ripples))
        mask = np.zeros(size, bool)
        mask[top:bottom, left:right] = y * y + x * x < rim * rim
        return mask

    return shape


def _real(folder: Path, size: tuple[int, int], rng: np.random.Generator) -> Shape:
    """Return the masks of a random sequence of the folder, played forwards and backwards and shifted sideways."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    files = sorted(folders[rng.integers(len(folders))].glob("*.png"))
    shift = int(rng.integers(-size[1] // 4, size[1] // 4))

    def shape(frame: int) -> NDArray[np.bool_]:
        place = frame % (2 * len(files))
        mask = masks.fit_labels(masks.read_labels(files[min(place, 2 * len(files) - 1 - place)]), size) > 0
        moved = np.zeros_like(mask)
        moved[:, max(0, shift) : size[1] + min(0, shift)] = mask[:, max(0, -shift) : size[1] - max(0, shift)]
        return moved

    return shape


def _warped(labels: Labels, frame: int, seed: int) -> Labels:
    """Return the labels warped by slow waves; a pixel moves by up to a dozen pixels."""
    y, x = (np.arange(length, dtype=np.float32) for length in labels.shape)
    turn = seed + frame / 9
    rows = y[:, None] + 7 * np.sin(x / 55 + turn)[None] + 4 * np.cos(y / 31 - turn)[:, None]
    columns = x[None] + 7 * np.cos(y / 63 + turn)[:, None] + 4 * np.sin(x / 27 + turn)[None]
    places = (
        grid.round().clip(0, length - 1).astype(np.intp) for grid, length in zip((rows, columns), labels.shape, strict=True)
    )
    warped: Labels = labels[tuple(places)]
    return warped


def measure(folder: Path, workers: int, repeat: int = 1) -> dict[str, Any]:
    """Score `repeat` times; return the best time, the fewest processor seconds, and the memory of the largest worker."""
    from hodor.evaluate import evaluate

    runs = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), _processor_seconds()
        report = evaluate(folder / "predictions", folder / "ground_truth", workers=workers)
        runs.append((time.perf_counter() - wall, _processor_seconds() - cpu))
    seconds, processor = (min(column) for column in zip(*runs, strict=True))
    who = resource.RUSAGE_SELF if workers == 1 else resource.RUSAGE_CHILDREN
    return {
        "frame_objects": report.frame_objects,
        "J&F": report.jf,
        "workers": workers,
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        "frame_objects_per_second": round(report.frame_objects / seconds),
        "frame_objects_per_processor_second": round(report.frame_objects / processor),
        "peak_MB_per_worker": round(resource.getrusage(who).ru_maxrss / 1024),
        "inflater": png.inflater(),
        "machine": machine(),
    }


def _processor_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def machine() -> dict[str, Any]:
    """Return the processor, its cores, the threads that a library can use, and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "cores_allowed": len(affinity(0)) if affinity else os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="write the set")
    maker.add_argument("set", type=Path, help="new folder of the set")
    maker.add_argument("--masks", type=Path, help="a folder of sequences of real masks, one object each (default: blobs)")
    maker.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    maker.add_argument("--frames", type=int, default=FRAMES, help="frames of the whole set (default: %(default)s)")
    maker.add_argument("--sequences", type=int, default=len(OBJECTS), help="number of sequences (default: %(default)s)")
    timer = commands.add_parser("time", help="time the scoring")
    timer.add_argument("set", type=Path, help="folder that `make` wrote")
    timer.add_argument("--workers", type=int, default=2, help="number of processes (default: %(default)s)")
    timer.add_argument("--repeat", type=int, default=3, help="number of repetitions, of which the best counts (default: 3)")
    timer.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if options.command == "make":
        make(options.set, options.masks, options.seed, options.frames, options.sequences)
        return
    result = measure(options.set, options.workers, options.repeat)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{result['frame_objects']} frame-objects in {result['seconds']} s with {result['workers']} workers: "
        f"{result['frame_objects_per_second']} a second; {result['processor_seconds']} processor seconds "
        f"({result['frame_objects_per_processor_second']} a processor second), at most "
        f"{result['peak_MB_per_worker']} MB a worker, {result['inflater']}"
    )
    print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))


if __name__ == "__main__":
    main()
