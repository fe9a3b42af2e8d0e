"""The golden cases of STCN, XMem and Cutie (tests/golden/<name>.npz), run through the real Tracker and `rollout`.

numbers, network = golden.numbers("stcn"), golden.network("stcn", "stcn")
labels, recorded = golden.play(network, "A", "stcn")
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_rules import GOLDEN, PHASES, fill, frames, keys, masks

from hodor.data.clip import Clip
from hodor.models import released, weights
from hodor.models.base import Entry, Memory, Network
from hodor.models.prediction import Features, Prediction
from hodor.tracking import Tracker

# the README's tolerances: features (relative to the largest value), logits, probabilities, share of label pixels
RELATIVE, LOGITS, PROBABILITIES, PIXELS = 1e-4, 1e-3, 2e-4, 5e-4
SIZES = {"A": (96, 160), "B": (96, 160), "C": (90, 150)}


def numbers(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def official(name: str) -> dict[str, torch.Tensor]:
    """A synthetic state dict with the authors' names and shapes, counters included, filled by the rule; its sums checked
    where golden numbers exist."""
    shapes = keys(name)
    state = fill(shapes, name)
    if (GOLDEN / f"{name}.npz").is_file():
        golden = numbers(name)
        for key, total in zip(golden["weights_key"], golden["weights_abs_sum"], strict=True):
            if str(key) in state:
                assert float(state[str(key)].double().abs().sum()) == pytest.approx(float(total), rel=1e-6), key
    counters = {key: torch.zeros((), dtype=torch.long) for key in shapes if key.endswith("num_batches_tracked")}
    return {**state, **counters}


def network(name: str, preset: str, **settings: Any) -> Network:
    """The preset's network with the synthetic weights, strict, in evaluation mode."""
    made = weights.build(preset, **settings)
    weights.fill(made, released.rename(official(name), released.rules(preset)), "the rule")
    return made.eval()


def close(mine: torch.Tensor, theirs: np.ndarray, tolerance: float, relative: bool = True) -> None:
    assert tuple(mine.shape) == theirs.shape
    scale = float(np.abs(theirs).max()) if relative else 1.0
    worst = float((mine.detach() - torch.from_numpy(theirs)).abs().max())
    assert worst <= tolerance * scale, f"off by {worst:.2e}, allowed {tolerance * scale:.2e}"


class Recorder:
    """The network, which records in order: features of each frame, predictions (with the memory that was returned), and
    entries (index, objects, entry, state)."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.features: list[Features] = []
        self.predictions: list[tuple[Prediction, Memory]] = []
        self.entries: list[tuple[int, tuple[int, ...], Entry, dict[str, torch.Tensor]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def encode(self, image: torch.Tensor) -> Features:
        self.features.append(self.network.encode(image))
        return self.features[-1]

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        self.predictions.append(self.network.segment(memory, features, remembered=remembered))
        return self.predictions[-1]

    def remember(self, memory: Memory, index: int, *rest: torch.Tensor, complete: bool = False) -> Memory:
        memory = self.network.remember(memory, index, *rest, complete=complete)
        self.entries.append((index, memory.objects, memory.frames[index], dict(memory.state)))
        return memory


def play(network: Network, case: str, name: str) -> tuple[np.ndarray, Recorder]:
    """Label maps [5, H, W] of case A, B or C from the real Tracker, and the recorder. Memory frames are 0 and 2, by the
    network's own `due`: its setting mem_every must be 2."""
    height, width = SIZES[case]
    planes = masks(height, width)
    given = {0: (planes[1] + 2 * planes[2]).byte().numpy()}
    if case == "B":
        given[2] = (3 * masks()[3]).byte().numpy()
    recorder = Recorder(network)
    tracker = Tracker(recorder, size=height)  # type: ignore[arg-type]
    labels = [tracker.track(image, given.get(t)) for t, image in enumerate(frames(PHASES[name], H=height, W=width))]
    return np.stack(labels), recorder


def check_play(golden: dict[str, np.ndarray], case: str, labels: np.ndarray, recorded: Recorder) -> None:
    """Labels and probabilities of all frames equal the original's; a frame with given masks has no prediction to compare."""
    different = (labels != golden[f"{case}_labels"]).mean(axis=(1, 2))
    assert different.max() <= PIXELS, different
    for t, (prediction, _) in enumerate(recorded.predictions, 1):
        expected = golden[f"{case}_prob_t{t}"]
        probabilities = prediction.probabilities()[0]
        if (case, t) != ("B", 2):
            step = round(probabilities.shape[1] / expected.shape[1])
            close(probabilities[:, 2::step, 3::step], expected, PROBABILITIES, relative=False)


def clip(name: str, objects: int = 2) -> Clip:
    """The training graph's clip: frames 0 to 2, rectangles on frame 0. objects=1 switches the second object off (`sel10`): it
    is not valid, but its mask is still an input of the first one."""
    planes = torch.stack([masks()[1], masks()[2]])
    valid_BN = torch.tensor([[i < objects for i in range(2)]])
    ground_truth = planes.expand(1, 3, 2, 96, 160).clone()
    return Clip(
        frames(PHASES[name])[None, :3],
        ground_truth,
        torch.tensor([[True, False, False]]),
        valid_BN,
        torch.ones(1, 3, 96, 160, dtype=torch.bool),
    )
