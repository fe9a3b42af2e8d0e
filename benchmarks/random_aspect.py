"""Write a copy of a data set of square images in which every image has a random aspect ratio from 1:1 to 16:9.

    python benchmarks/random_aspect.py feral_cats cats

Some data sets are squeezed to squares by their makers. The aspect ratio is sampled log-uniformly from the name of the file, so
that the copy is the same at every call. Images become JPEG files of quality 95, masks are resized with nearest neighbour.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with images/ and masks/<name>.png")
    parser.add_argument("out", type=Path, help="folder of the copy")
    given = parser.parse_args()
    for name in ("images", "masks"):
        (given.out / name).mkdir(parents=True, exist_ok=True)
    for path in sorted((given.source / "images").iterdir()):
        ratio = math.exp(random.Random(path.stem).uniform(0, math.log(16 / 9)))
        image = Image.open(path).convert("RGB")
        size = round(image.height * ratio), image.height
        image.resize(size, Image.Resampling.BICUBIC).save(given.out / "images" / f"{path.stem}.jpg", quality=95)
        labels = Image.fromarray(np.asarray(Image.open(given.source / "masks" / f"{path.stem}.png")))
        labels.resize(size, Image.Resampling.NEAREST).save(given.out / "masks" / f"{path.stem}.png")


if __name__ == "__main__":
    main()
