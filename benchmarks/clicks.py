"""Measure masks from simulated clicks and boxes, and the tracking that begins from them.

    python benchmarks/clicks.py frames DAVIS                        # first frames of the videos of a data set
    python benchmarks/clicks.py instances IMAGES ...                # the objects that hodor.train_clicks holds out
    python benchmarks/clicks.py tracking DAVIS --sequences bmx-bumps dance-jump drift-turn horsejump-low scooter-gray

The next click is the standard one: of the connected regions of wrong pixels (missing or too many, 8 neighbours) the largest is
taken, and in it the pixel that is farthest from its border; the border of the frame counts. The first click is that of an empty
mask. The box is that of the ground truth. `instances` needs the folders in the order in which they were given to the training.

Prints Markdown tables: mean IoU in percent after 1 to --clicks clicks, after the box, and after the box and one click;
milliseconds of the features, and of the first and the later predictions; of `tracking`, J&F of the frames after the first one
(without the last), for each start. Needs OpenCV (`pip install hodor-vos[bench]`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hodor.data.file_cache import read_picture, void_of
from hodor.data.layouts import open_layout
from hodor.data.videofiles import VideoFiles
from hodor.metrics import boundary_f, jaccard
from hodor.models import weights
from hodor.models.clicks import ClickNetwork, load_clicks
from hodor.prompter import Prompter
from hodor.tracking import Tracker
from hodor.training.clicks import WHOLE, hold_out, open_roots

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


class Case(NamedTuple):
    """An object to find: its name, the picture [H, W, 3], its mask [H, W] and the void pixels [H, W]."""

    name: str
    picture: Picture
    mask: Mask
    void: Mask


class Found(NamedTuple):
    """The masks of a case after each click, after the box, and after the box and a click; the predicted IoUs after each click.

    `seconds` are those of the features and of each click; a click is left out where no pixel was wrong.
    """

    clicks: list[Mask]
    box: list[Mask]
    scores: list[float]
    seconds: list[float]


def next_click(mask: Mask, found: Mask) -> tuple[tuple[int, int], int] | None:
    """Return the next click (x, y) and its label, or None if no pixel is wrong.

    Args:
        mask: ground truth, [H, W].
        found: prediction, [H, W].
    """
    best: tuple[int, Mask, int] | None = None
    for label, wrong in ((1, mask & ~found), (0, found & ~mask)):
        count, regions, facts, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=8)
        if count > 1:
            largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
            area = int(facts[largest, cv2.CC_STAT_AREA])
            if best is None or area > best[0]:
                best = area, regions == largest, label
    if best is None:
        return None
    _, region, label = best
    inside = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return (int(x), int(y)), label


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """Return the box (x0, y0, x1, y1) of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def simulate(case: Case, clicks: int, network: ClickNetwork) -> Found:
    """Prompt with simulated clicks, each with the mask before; then with the box, and the box and a click."""

    def timed(**prompts: object) -> tuple[Mask, float]:
        begin = time.perf_counter()
        mask, score = prompter.predict(**prompts)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - begin)
        return mask & ~case.void, score

    begin = time.perf_counter()
    prompter = Prompter(case.picture, network)
    seconds = [time.perf_counter() - begin]
    points: list[tuple[int, int]] = []
    labels: list[int] = []
    masks, scores = [np.zeros_like(case.mask)], []
    for _ in range(clicks):
        click = next_click(case.mask, masks[-1])
        if click is not None:
            points.append(click[0])
            labels.append(click[1])
            mask, score = timed(points=points, labels=labels, mask=masks[-1] if masks[1:] else None)
        masks.append(mask)
        scores.append(score)
    spent = list(seconds)
    box = box_of(case.mask)
    boxed = [timed(box=box)[0]]
    click = next_click(case.mask, boxed[0])
    boxed.append(boxed[0] if click is None else timed(points=[click[0]], labels=[click[1]], box=box, mask=boxed[0])[0])
    return Found(masks[1:], boxed, scores, spent)


def first_frames(videos: Iterable[VideoFiles]) -> Iterator[Case]:
    """Yield the objects of the first frame of each video."""
    for video in videos:
        labels = video.labels(video.frames[0])
        [picture] = video.pictures([0])
        for i in (int(i) for i in np.unique(labels) if i not in (0, 255)):
            yield Case(video.name if labels.max() == i == 1 else f"{video.name} {i}", picture, labels == i, labels == 255)


def held_out(roots: list[Path], count: int) -> Iterator[Case]:
    """Yield the objects that training leaves out."""
    stills = [still for each in open_roots(roots) for still in each]
    for each in hold_out(stills, count):
        still = stills[each.image]
        labels = still.draw()
        picture = read_picture(still.image, (labels.shape[0], labels.shape[1]), WHOLE)
        name = f"{still.image.parent.parent.name}/{still.image.stem} {each.object}"
        yield Case(name, picture, labels == each.object, labels == void_of(labels))


def iou(case: Case, mask: Mask) -> float:
    """Return the IoU of a mask with that of a case."""
    return jaccard(mask, case.mask, case.void)


def show(folder: Path, case: Case, found: Found) -> None:
    """Write the masks of a case as red overlays side by side: ground truth, each click, box, box and a click."""
    views = []
    for mask in (case.mask, *found.clicks, *found.box):
        view = case.picture.copy()
        view[mask] = view[mask] * 0.5 + np.array([127, 0, 0])
        edge = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        view[edge] = (255, 255, 0)
        views.append(np.array(Image.fromarray(view).resize((240, round(240 * view.shape[0] / view.shape[1])))))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(views, 1)).save(folder / f"{case.name.replace('/', '-').replace(' ', '-')}.png")


def table(cases: Iterable[Case], network: ClickNetwork, clicks: int, each: bool, overlays: Path | None) -> None:
    """Print the mean IoU, how well it is predicted, and the times; a row for every case if `each`."""
    names = [f"{k} click{'s' * (k > 1)}" for k in range(1, clicks + 1)] + ["box", "box + 1 click"]
    print(f"| | {' | '.join(names)} |")
    print(f"|---|{'---|' * len(names)}")
    rows, scores, seconds = [], [], []
    for case in cases:
        found = simulate(case, clicks, network)
        rows.append([iou(case, mask) for mask in (*found.clicks, *found.box)])
        scores.append(found.scores)
        seconds.append(found.seconds)
        if each:
            print(f"| {case.name} | {' | '.join(f'{100 * v:.1f}' for v in rows[-1])} |", flush=True)
        if overlays:
            show(overlays, case, found)
    print(f"| mean of {len(rows)} | {' | '.join(f'{100 * v:.1f}' for v in np.mean(rows, 0))} |")
    wrong = np.abs(np.array(scores) - np.array(rows)[:, :clicks]).mean(0)
    print(f"\nmean error of the predicted IoU: {', '.join(f'{100 * v:.1f}' for v in wrong)}")
    times = 1000 * np.array([each for each in seconds if len(each) > clicks])
    for name, values in (("features", times[:, 0]), ("first click", times[:, 1]), ("later clicks", times[:, 2:])):
        print(f"milliseconds of {name}: median {np.median(values):.0f}, 90 % below {np.quantile(values, 0.9):.0f}")


def follow(video: VideoFiles, tracker: Tracker, first: Mask) -> float:
    """Return the J&F of a video followed from a mask of its first frame."""
    scores = []
    for index, picture in enumerate(video.stream()):
        labels = tracker.track(picture, first.astype(np.uint8) if index == 0 else None)
        if 0 < index < len(video.frames) - 1:
            target = video.labels(video.frames[index]) == 1
            scores.append((jaccard(labels == 1, target) + boundary_f(labels == 1, target)) / 2)
    return float(np.mean(scores))


def tracking(videos: Iterable[VideoFiles], network: ClickNetwork, checkpoint: str, size: int | None) -> None:
    """Print the J&F of each video for each start: 1, 3 and 5 clicks, the box, the box and a click, the ground truth."""
    names = ("1 click", "3 clicks", "5 clicks", "box", "box + 1 click", "ground truth")
    print(f"| | {' | '.join(names)} |")
    print(f"|---|{'---|' * len(names)}")
    rows = []
    follower = weights.ready(checkpoint)
    for video in videos:
        [case] = first_frames([video])
        found = simulate(case, 5, network)
        starts = [found.clicks[0], found.clicks[2], found.clicks[4], *found.box, case.mask]
        rows.append([follow(video, Tracker(follower, size=size), start) if start.any() else 0.0 for start in starts])
        print(f"| {video.name} | {' | '.join(f'{100 * v:.1f}' for v in rows[-1])} |", flush=True)
    print(f"| mean | {' | '.join(f'{100 * v:.1f}' for v in np.mean(rows, 0))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("frames", "instances", "tracking"))
    parser.add_argument("roots", type=Path, nargs="+", help="a data set of videos, or the folders of images of the training")
    parser.add_argument("--sequences", nargs="+", help="use only these sequences (default: all)")
    parser.add_argument("--clicks", type=int, default=5, help="number of clicks (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=200, help="number of objects of `instances` (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="file of clicks (default: the bundled weights)")
    parser.add_argument("--trunk", default="xmem-lite", help="weights whose trunk is used (default: %(default)s)")
    parser.add_argument("--tracker", default="xmem-lite", help="weights that follow the object (default: %(default)s)")
    parser.add_argument("--size", type=int, help="short side inside the tracker, in pixels (default: the model's)")
    parser.add_argument("--each", action="store_true", help="print a row for every object")
    parser.add_argument("--overlays", type=Path, help="folder for pictures of the masks")
    options = parser.parse_args()
    try:
        network = load_clicks(options.weights, options.trunk)
        if options.what == "instances":
            table(held_out(options.roots, options.held_out), network, options.clicks, options.each, options.overlays)
            return
        videos = open_layout(options.roots[0], only=options.sequences).videos
        if options.what == "frames":
            table(first_frames(videos), network, options.clicks, options.each, options.overlays)
        else:
            tracking(videos, network, options.tracker, options.size)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
