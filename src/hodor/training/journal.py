"""What a run tells of itself: JSON lines, the same to TensorBoard, and pictures of what it predicts.

A line of log.jsonl is a step ({"step": 12, "loss": ...}) or a validation ({"step": 99, "validation": {"J&F": ...}}). `step`
counts from 0 and names the step that was just done.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hodor.data.clip import Clip
from hodor.masks import palette, written_whole
from hodor.models.attention import SoftMaskedAttention
from hodor.models.weights import write_atomically
from hodor.training.plans import Supervised

log = logging.getLogger(__name__)

LOG = "log.jsonl"
WINDOW = 20
"""Steps over which speed and waiting are averaged."""


class Journal:
    """Writes OUT/log.jsonl, OUT/pictures/ and OUT/tensorboard/; without `out` (another process writes) it does nothing.

    first: the step that the run begins or goes on with; what an interrupted run wrote of later ones is dropped.
    """

    def __init__(self, out: Path | None, first: int, steps: int) -> None:
        self.out, self.steps = out, steps
        self.board: Any = None
        if out is None:
            return
        cut(out / LOG, first)
        self.lines = open(out / LOG, "a", buffering=1)  # noqa: SIM115 a line is written whole, and closed in `close`
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info("no TensorBoard: pip install tensorboard to see curves beside %s", out / LOG)
        else:
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=first)

    def step(self, line: Mapping[str, Any]) -> None:
        """One step's numbers, with "step" among them; lists go to TensorBoard element by element."""
        if self.out is None:
            return
        self._write(line)
        if line["step"] % WINDOW == 0 or line["step"] + 1 == self.steps:
            told = {k: line[k] for k in ("loss", "norm", "clips_per_second", "waiting") if k in line}
            log.info("step %d of %d: %s", line["step"], self.steps, ", ".join(f"{k} {v:.4g}" for k, v in told.items()))

    def validated(self, step: int, scores: Mapping[str, Any]) -> None:
        """Scores on held-out videos after this step."""
        if self.out is None:
            return
        self._write({"step": step, "validation": dict(scores)})
        log.info("step %d of %d: held-out J&F %.4f", step, self.steps, scores["J&F"])

    def picture(self, step: int, image: npt.NDArray[np.uint8]) -> None:
        """OUT/pictures/0000123.png and the same in TensorBoard."""
        if self.out is None:
            return
        from PIL import Image

        with written_whole(self.out / "pictures" / f"{step:07d}.png") as file:
            Image.fromarray(image).save(file, "PNG")
        if self.board is not None:
            self.board.add_image("supervised", image, step, dataformats="HWC")

    def close(self) -> None:
        if self.out is not None:
            self.lines.close()
        if self.board is not None:
            self.board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self.lines.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in _numbers(line):
                self.board.add_scalar(name, value, line["step"])


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """-> every number with its path: "scales/0/3"."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _numbers({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield prefix + name, value


class Pace:
    """Steps timed over the last `WINDOW` of them."""

    def __init__(self) -> None:
        self.marks: deque[tuple[float, float]] = deque([(time.perf_counter(), 0.0)], WINDOW + 1)

    def mark(self, waited: float, clips: int) -> dict[str, float]:
        """At the end of a step of `clips` clips; waited: seconds spent waiting for data since the start.

        -> clips a second, seconds a step and the share of the time spent waiting for data, over the last steps.
        """
        self.marks.append((time.perf_counter(), waited))
        (began, before), steps = self.marks[0], len(self.marks) - 1
        seconds = max(self.marks[-1][0] - began, 1e-9)
        return {
            "clips_per_second": round(clips * steps / seconds, 3),
            "seconds": round(seconds / steps, 4),
            "waiting": round((waited - before) / seconds, 4),
        }


def cut(path: Path, first: int) -> None:
    """Drop the lines of steps that will be done again, and a last line that was not finished."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] < first]
    if len(kept) < len(lines):
        write_atomically(path, b"".join(kept))


def scales(network: nn.Module) -> list[Tensor]:
    """The soft-mask scale of every head, one tensor a layer of the encoder (HODOR's a in Eq. 2; 32 ... 4 at the start)."""
    return [m.scaling_factors for m in network.modules() if isinstance(m, SoftMaskedAttention) and m.conditioning == "soft"]


WAY_BACK = ("copied", "empty", "rebuilt")
"""What `way_back` tells, by name in the log."""


@torch.no_grad()
def way_back(last: Supervised, clip: Clip) -> Tensor:
    """Of a scheme that goes back from a predicted mask, by the last prediction that it judges; means over the clips of means
    over their objects, float [3]:

    copied: Jaccard index of the mask that the way back began with and the true mask of the supervised frame; near 1 where objects
    move, the network copies what it was given. empty: share of objects without a pixel in that mask. rebuilt: Jaccard index of
    the prediction and the ground truth. Zeros for other schemes.
    """
    if last.began_BNHW is None:
        return last.masks_BNHW.new_zeros(len(WAY_BACK))
    truth_BNHW, began_BNHW, objects_BN = clip.masks_BTNHW[:, last.target] > 0.5, last.began_BNHW > 0.5, clip.objects_BN
    label_BHW = last.prediction.logits().argmax(1)
    found_BNHW = torch.stack([label_BHW == n for n in range(1, truth_BNHW.shape[1] + 1)], 1)
    empty_BN = ~began_BNHW.flatten(2).any(-1)
    each_BN3 = torch.stack([_jaccard(began_BNHW, truth_BNHW), empty_BN.float(), _jaccard(found_BNHW, truth_BNHW)], -1)
    sums_B3 = (each_BN3 * objects_BN[..., None]).sum(1)
    return (sums_B3 / objects_BN.sum(1).clamp(min=1)[:, None]).mean(0)


def _jaccard(one_BNHW: Tensor, two_BNHW: Tensor) -> Tensor:
    """-> BN; two empty masks are alike."""
    union_BN = (one_BNHW | two_BNHW).flatten(2).sum(-1)
    return torch.where(union_BN > 0, (one_BNHW & two_BNHW).flatten(2).sum(-1) / union_BN.clamp(min=1), 1.0)


@torch.no_grad()
def draw(frames_BTCHW: Tensor, supervised: Sequence[Supervised], most: int = 4) -> npt.NDArray[np.uint8]:
    """-> uint8 RGB: for each of the first `most` clips two rows, ground truth above, prediction below; a column for each supervised
    frame, objects in the palette's colours, half over the picture."""
    colours = torch.from_numpy(palette())
    rows = []
    for b in range(min(most, len(frames_BTCHW))):
        ground_truth, found = [], []
        for j in supervised:
            picture = (frames_BTCHW[b, j.target].float().cpu() * 255).clamp(0, 255).byte()
            plane = j.masks_BNHW[b].cpu()
            labels = torch.where(plane.amax(0) > 0.5, plane.argmax(0) + 1, 0)
            ground_truth.append(_over(picture, labels, colours))
            found.append(_over(picture, j.prediction.logits()[b].argmax(0).cpu(), colours))
        rows += [torch.cat(ground_truth, 2), torch.cat(found, 2)]
    image: npt.NDArray[np.uint8] = torch.cat(rows, 1).permute(1, 2, 0).contiguous().numpy()
    return image


def _over(picture_CHW: Tensor, labels_HW: Tensor, colours: Tensor) -> Tensor:
    colour_CHW = colours[labels_HW.clamp(max=255)].permute(2, 0, 1)
    mixed = (picture_CHW.int() + colour_CHW.int()) // 2
    return torch.where(labels_HW > 0, mixed, picture_CHW.int()).byte()
