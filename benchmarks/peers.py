"""Two peers that need no training, to know what a score is worth: masks in the layout that `hodor evaluate` reads.

    python benchmarks/peers.py copy --data DAVIS --out copied     # the first mask on every frame
    python benchmarks/peers.py flow --data DAVIS --out flowed     # the first mask carried along by optical flow
    hodor evaluate flowed DAVIS/Annotations                       # name the sequences if DAVIS holds more

On the five held-out sequences, the default, `copy` scores a J&F of 20.6 and `flow` 36.2.

DAVIS holds `Annotations/<sequence>/<frame>.png` and the pictures, as `JPEGImages/<sequence>/*.jpg` or as
`videos/<sequence>.mp4`, in the order of the masks. Needs OpenCV (`pip install hodor-vos[bench]`) for `flow`.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hodor.frames import open_source
from hodor.masks import objects_in, read_labels, to_labels, to_planes, write_labels

HELD_OUT = ("bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray")
"""The five sequences of DAVIS 2016 train that no training run whose number is reported has seen."""

Labels = NDArray[np.integer[Any]]
Picture = NDArray[np.uint8]
Peer = Callable[[Iterable[Picture], Labels], Iterator[Labels]]


def copy(pictures: Iterable[Picture], first: Labels) -> Iterator[Labels]:
    """The first labels [H, W], once for every picture."""
    for _ in pictures:
        yield first


def flow(pictures: Iterable[Picture], first: Labels) -> Iterator[Labels]:
    """Each frame's labels are the last frame's, fetched from where dense optical flow (DIS, medium) says they were.

    The flow goes backwards, from the new picture [H, W, 3] to the last, so every new pixel has one source. Masks are
    sampled between pixels and a pixel stays an object's above 0.5; what comes from outside the frame is background.
    """
    import cv2

    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    objects = objects_in(first)
    rows, columns = np.indices(first.shape, dtype=np.float32)
    labels, last = first, None
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if last is not None:
            field = estimator.calc(grey, last, None)  # type: ignore[call-overload]  # None: no first guess
            places = columns + field[..., 0], rows + field[..., 1]
            planes = [cv2.remap(plane, *places, cv2.INTER_LINEAR) for plane in to_planes(labels, objects)]
            labels = to_labels(np.stack(planes), objects) if objects else labels
        yield labels
        last = grey


PEERS: dict[str, Peer] = {"copy": copy, "flow": flow}


def run(peer: Peer, data: Path, out: Path, sequence: str) -> int:
    """Write out/<sequence>/<frame>.png, one for each true mask; gives their number.

    Raises FileNotFoundError or ValueError, one line, if masks or pictures are missing or not of one number.
    """
    truth = sorted((data / "Annotations" / sequence).glob("[!.]*.png"))
    if not truth:
        raise FileNotFoundError(f"{data / 'Annotations' / sequence} holds no mask PNGs")
    pictures = data / "JPEGImages" / sequence
    with open_source(pictures if pictures.is_dir() else data / "videos" / f"{sequence}.mp4") as source:
        found = peer((frame.image for frame in source.frames()), read_labels(truth[0]))
        count = 0
        for count, labels in enumerate(found, start=1):
            if count <= len(truth):
                write_labels(out / sequence / truth[count - 1].name, labels)
    if count != len(truth):
        raise ValueError(f"{sequence} has {len(truth)} masks but {count} pictures: every picture needs its mask")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--data", type=Path, required=True, metavar="DAVIS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", default=",".join(HELD_OUT), help="names, with commas (default: %(default)s)")
    given = parser.parse_args()
    try:
        for sequence in given.sequences.split(","):
            print(f"{sequence}: {run(PEERS[given.peer], given.data, given.out, sequence)} masks")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
