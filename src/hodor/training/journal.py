"""The log of a run: JSON lines, experiment trackers such as TensorBoard, and pictures of predictions.

A line of log.jsonl is a training step ({"step": 12, "loss": ...}) or a validation ({"step": 99, "validation": {"J&F": ...}}).
`step` counts from 0 and is the step that was just done.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hodor.data.clip import Clip
from hodor.files import DAMAGES, parse_json
from hodor.masks import palette, written_whole
from hodor.models.attention import SoftMaskedAttention
from hodor.models.weights import write_atomically
from hodor.training.losses import Losses
from hodor.training.plans import Supervised

log = logging.getLogger(__name__)

LOG = "log.jsonl"
WINDOW = 20
"""Steps over which speed and waiting are averaged, and between two progress lines."""
EARLY = (0, 1, 2, 5, 10)
"""Steps after the start of a run that have a progress line of their own."""

LogTo = Literal["tensorboard", "wandb", "trackio", "mlflow"]
"""Experiment trackers, by the names of accelerate.tracking."""


class Journal:
    """Write OUT/log.jsonl, OUT/pictures/ and OUT/tensorboard/, and log to experiment trackers.

    TensorBoard is written whenever it is installed. The trackers are those of accelerate.tracking, which read their own
    environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, ...).

    Args:
        out: folder of the run. None: another process writes, and every method does nothing.
        first: step at which the run starts or resumes; log lines of later steps are removed.
        steps: steps of the whole run.
        log_to: trackers to log to beside TensorBoard; "tensorboard" makes TensorBoard required. Default: ().
        config: settings of the run, shown by the trackers. Default: none.

    Raises:
        ValueError: as `check_trackers`.
    """

    def __init__(
        self,
        out: Path | None,
        first: int,
        steps: int,
        log_to: Sequence[LogTo] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.out, self.first, self.steps = out, first, steps
        self.trackers: dict[str, Any] = {}
        if out is None:
            return
        check_trackers(log_to)
        cut(out / LOG, first)
        self.lines = open(out / LOG, "a", buffering=1)  # noqa: SIM115 a line is written whole, and closed in `close`
        for name in dict.fromkeys(("tensorboard", *log_to)):
            try:
                self.trackers[name] = _tracker(name, out, first)
            except ImportError:
                log.info("TensorBoard is not installed: pip install tensorboard to see the curves of %s", out / LOG)
            else:
                if name != "tensorboard":
                    self.trackers[name].store_init_configuration(dict(_flat(config or {})))

    def step(self, line: Mapping[str, Any]) -> None:
        """Log the numbers of a step.

        Args:
            line: names and numbers, with "step" among them; trackers get the numbers of lists and dictionaries one by one.
        """
        if self.out is None:
            return
        self._write(line)
        step = line["step"]
        if step - self.first in EARLY or step % WINDOW == 0 or step + 1 == self.steps:
            shown = [f"{k} {line[k]:.4g}" for k in ("loss", "norm", "clips_per_second", "waiting") if k in line]
            if "seconds" in line and step + 1 < self.steps:
                shown.append(f"{duration(line['seconds'] * (self.steps - step - 1))} left")
            log.info("step %d of %d: %s", step, self.steps, ", ".join(shown))

    def validated(self, step: int, scores: Mapping[str, Any]) -> None:
        """Log the scores on held-out videos after a step."""
        if self.out is None:
            return
        self._write({"step": step, "validation": dict(scores)})
        log.info("step %d of %d: held-out J&F %.4f", step, self.steps, scores["J&F"])

    def picture(self, step: int, image: npt.NDArray[np.uint8]) -> None:
        """Write OUT/pictures/0000123.png, and the same picture to the trackers that accept images."""
        if self.out is None:
            return
        from PIL import Image

        with written_whole(self.out / "pictures" / f"{step:07d}.png") as file:
            Image.fromarray(image).save(file, "PNG")
        for name, tracker in self.trackers.items():
            if hasattr(tracker, "log_images"):
                options = {"dataformats": "NHWC"} if name == "tensorboard" else {}
                tracker.log_images({"supervised": image[None]}, step=step, **options)

    def close(self) -> None:
        if self.out is not None:
            self.lines.close()
        for tracker in self.trackers.values():
            with contextlib.suppress(OSError):  # a full disk; the run has ended, and log.jsonl has all numbers
                tracker.finish()

    def _write(self, line: Mapping[str, Any]) -> None:
        self.lines.write(json.dumps(line) + "\n")
        numbers = {name: value for name, value in _flat(line) if isinstance(value, (int, float)) and name != "step"}
        for tracker in self.trackers.values():
            tracker.log(numbers, step=line["step"])


def check_trackers(names: Sequence[LogTo]) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        ValueError: "expected package wandb for --log-to wandb: pip install wandb", or "expected accelerate with a tracker
            for trackio, got accelerate 1.2.0: pip install -U accelerate".
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ValueError(f"expected package {name} for --log-to {name}: pip install {name}") from None
        import accelerate
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if name not in LOGGER_TYPE_TO_CLASS:
            version = accelerate.__version__
            raise ValueError(
                f"expected accelerate with a tracker for {name}, got accelerate {version}: pip install -U accelerate"
            )


def _tracker(name: str, out: Path, first: int) -> Any:
    """Start a tracker of accelerate for the run in `out`. Raises ImportError if its package is not installed."""
    importlib.import_module(name)
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        tracker = kind("tensorboard", logging_dir=out, purge_step=first)
    elif name == "mlflow":
        tracker = kind("hodor", run_name=out.resolve().name)
    else:
        tracker = kind("hodor", name=out.resolve().name)
    if hasattr(tracker, "start"):  # older versions of accelerate start a tracker in its constructor
        tracker.start()
    return tracker


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested dictionaries and lists by their path, such as "scales/0/3"."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _flat({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def duration(seconds: float) -> str:
    """Format a time: "45 s", "12 min", "3 h 20 min", "2 d 3 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


class Pace:
    """Speed over the last `WINDOW` steps."""

    def __init__(self) -> None:
        self.marks: deque[tuple[float, float]] = deque([(time.perf_counter(), 0.0)], WINDOW + 1)

    def mark(self, waited: float, clips: int) -> dict[str, float]:
        """Measure the time at the end of a step.

        Args:
            waited: seconds spent waiting for data since the start of the run.
            clips: clips of the step.

        Returns:
            "clips_per_second", "seconds" a step, and "waiting", the share of the time spent waiting for data.
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
    """Remove the log lines from step `first` on, which will be done again, and an unfinished last line."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    try:
        kept = [line for line in lines if line.endswith(b"\n") and parse_json(line)["step"] < first]
    except DAMAGES as error:
        reason = f"{type(error).__name__} {str(error)[:100]}"
        raise ValueError(f"{path} has a line that is no step of a run ({reason}): remove that line, or the file") from None
    if len(kept) < len(lines):
        write_atomically(path, b"".join(kept))


# The numbers of a step ------------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """Terms of the loss and measures of the return path; scalars, means over the clips of a step.

    Attributes:
        cross_entropy: see `Losses`.
        dice: see `Losses`.
        aux: see `Losses`.
        copied: see `return_path`.
        empty: see `return_path`.
        rebuilt: see `return_path`.
    """

    cross_entropy: Any
    dice: Any
    aux: Any
    copied: Any
    empty: Any
    rebuilt: Any

    @classmethod
    def of(cls, losses: Losses, last: Supervised, clip: Clip) -> Self:
        """Collect the terms, as tensors. last: the last supervised prediction of the rollout."""
        aux = torch.as_tensor(losses.aux, device=losses.dice.device)
        return cls(losses.cross_entropy.detach(), losses.dice.detach(), aux.detach(), *return_path(last, clip))

    @property
    def loss(self) -> float:
        """Sum of the unweighted terms of the loss."""
        return float(self.cross_entropy + self.dice + self.aux)

    def return_path(self) -> dict[str, float]:
        """The measures of the return path by their names."""
        return {"copied": self.copied, "empty": self.empty, "rebuilt": self.rebuilt}


class StepNumbers(NamedTuple):
    """The numbers of a step that are gathered from all processes, in one tensor so that a step waits for the device once.

    Attributes:
        norm: norm of the gradient.
        terms: terms of the loss, of this process's clips: `Terms`, or those of another scheme.
        scales: soft-mask scales of all layers in one list; see `scales`.
    """

    norm: float
    terms: Any
    scales: list[float]

    @staticmethod
    def pack(norm: Tensor, parts: Sequence[Any], scales: Sequence[Tensor]) -> Tensor:
        """Pack the numbers into one vector. parts: terms of the parts of the batch; their mean is packed."""
        terms = torch.zeros(len(parts[0]), device=norm.device)
        for part in parts:
            terms += torch.stack(part) / len(parts)
        return torch.cat([norm.detach().view(1), terms, *[s.detach().flatten() for s in scales]])

    @classmethod
    def unpack(cls, values: Sequence[float], kind: type[Any] = Terms) -> Self:
        """Undo `pack`. kind: the class of the terms, `Terms` or another tuple of scalars with a `loss`."""
        norm, *others = values
        count = len(kind._fields)
        return cls(norm, kind(*others[:count]), list(others[count:]))

    @classmethod
    def mean(cls, processes: Sequence[Self]) -> Self:
        """Average over the processes; the scales are the same in all of them."""
        norm, *terms = np.mean([(each.norm, *each.terms) for each in processes], 0).tolist()
        return cls(norm, type(processes[0].terms)(*terms), processes[0].scales)

    @property
    def loss(self) -> float:
        """Sum of the unweighted terms of the loss."""
        return float(self.terms.loss)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.norm) and math.isfinite(self.loss)

    def flat(self) -> list[float]:
        """All numbers in one list, in the order of `pack`."""
        return [self.norm, *self.terms, *self.scales]


def scales(network: nn.Module) -> list[Tensor]:
    """Return the soft-mask scales of every head, one tensor a layer of the encoder (a in HODOR's Eq. 2; initially 32 ... 4)."""
    return [m.scaling_factors for m in network.modules() if isinstance(m, SoftMaskedAttention) and m.conditioning == "soft"]


def by_layer(values: Sequence[float], scales: Sequence[Tensor]) -> list[list[float]]:
    """Split a flat list of scales into one list a layer, rounded to four decimals."""
    ends = np.cumsum([len(s) for s in scales]).tolist()
    return [[round(v, 4) for v in values[end - len(s) : end]] for s, end in zip(scales, ends, strict=True)]


@torch.no_grad()
def return_path(last: Supervised, clip: Clip) -> Tensor:
    """Measure the return path of one-shot training; zeros for other schemes.

    Args:
        last: the last supervised prediction of the rollout.
        clip: the clips.

    Returns:
        Tensor [3], means over the clips of means over their objects. copied: Jaccard index of the mask at the start of the
        return path with the ground truth of the supervised frame; where objects move, near 1 means that the network copies
        the given mask. empty: share of objects without a pixel in that mask. rebuilt: Jaccard index of the prediction with
        the ground truth.
    """
    if last.began_BNHW is None:
        return last.masks_BNHW.new_zeros(3)
    ground_truth_BNHW, objects_BN = clip.masks_BTNHW[:, last.target] > 0.5, clip.objects_BN
    began_BNHW = last.began_BNHW > 0.5
    label_BHW = last.prediction.logits().argmax(1)
    found_BNHW = torch.stack([label_BHW == n for n in range(1, ground_truth_BNHW.shape[1] + 1)], 1)
    empty_BN = ~began_BNHW.flatten(2).any(-1)
    copied_BN, rebuilt_BN = (_jaccard(masks_BNHW, ground_truth_BNHW) for masks_BNHW in (began_BNHW, found_BNHW))
    each_BN3 = torch.stack([copied_BN, empty_BN.float(), rebuilt_BN], -1)
    sums_B3 = (each_BN3 * objects_BN[..., None]).sum(1)
    return (sums_B3 / objects_BN.sum(1).clamp(min=1)[:, None]).mean(0)


def _jaccard(one_BNHW: Tensor, two_BNHW: Tensor) -> Tensor:
    """BN; 1 for two empty masks."""
    union_BN = (one_BNHW | two_BNHW).flatten(2).sum(-1)
    return torch.where(union_BN > 0, (one_BNHW & two_BNHW).flatten(2).sum(-1) / union_BN.clamp(min=1), 1.0)


# Pictures -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def draw(frames_BTCHW: Tensor, supervised: Sequence[Supervised], max_clips: int = 4) -> npt.NDArray[np.uint8]:
    """Draw the supervised predictions of some clips.

    Args:
        frames_BTCHW: the frames, RGB in [0, 1].
        supervised: the supervised predictions, one column each.
        max_clips: maximum number of clips. Default: 4.

    Returns:
        uint8 RGB [H, W, 3]: two rows a clip, ground truth above prediction, in the colours of the palette over the frame.
    """
    colours = torch.from_numpy(palette())
    rows = []
    for b in range(min(max_clips, len(frames_BTCHW))):
        ground_truth, found = [], []
        for s in supervised:
            picture = (frames_BTCHW[b, s.target].float().cpu() * 255).clamp(0, 255).byte()
            plane = s.masks_BNHW[b].cpu()
            labels = torch.where(plane.amax(0) > 0.5, plane.argmax(0) + 1, 0)
            ground_truth.append(over(picture, labels, colours))
            found.append(over(picture, s.prediction.logits()[b].argmax(0).cpu(), colours))
        rows += [torch.cat(ground_truth, 2), torch.cat(found, 2)]
    image: npt.NDArray[np.uint8] = torch.cat(rows, 1).permute(1, 2, 0).contiguous().numpy()
    return image


def over(picture_CHW: Tensor, labels_HW: Tensor, colours: Tensor) -> Tensor:
    """Return a picture with the colours of labels over it, half transparent.

    Args:
        picture_CHW: uint8 RGB.
        labels_HW: a colour's index a pixel, 0 for none.
        colours: uint8 [256, 3].
    """
    colour_CHW = colours[labels_HW.clamp(max=255)].permute(2, 0, 1)
    mixed = (picture_CHW.int() + colour_CHW.int()) // 2
    return torch.where(labels_HW > 0, mixed, picture_CHW.int()).byte()
