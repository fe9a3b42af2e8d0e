"""The memory-oracle gap and the error areas of `hodor analyse drift`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import training
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import Tensor, nn

from hodor.analysis import drift
from hodor.data.layouts import Layout, open_layout
from hodor.evaluation import datasets
from hodor.masks import write_labels
from hodor.models.base import Entry, Memory, Network, pad_to_multiple
from hodor.models.prediction import Features, Prediction
from hodor.scoring.metrics import jaccard


class Copy(Network):
    """Predict the mask of the latest frame in memory. Every `every`-th frame is stored."""

    name, size, history = "copy", 48, 3

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = every
        self.gain = nn.Parameter(torch.tensor(50.0), requires_grad=False)

    def due(self, memory: Memory, index: int) -> bool:
        return index % self.every == 0

    def encode(self, frames_BCHW: Tensor) -> Features:
        padded = pad_to_multiple(frames_BCHW, 16)
        return Features({"image": padded}, tuple(frames_BCHW.shape[-2:]), tuple(padded.shape[-2:]))  # type: ignore[arg-type]

    def remember(
        self,
        memory: Memory,
        index: int,
        features: Features,
        masks_BNHW: Tensor,
        valid_BN: Tensor,
        given_BN: Tensor,
        *,
        complete: bool = False,
    ) -> Memory:
        masks_BNHW = features.fit(masks_BNHW, features.padded)
        return memory.add(index, Entry(masks_BNHW, {}, valid_BN, given_BN & valid_BN, valid_BN.all(1) | complete))

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        last_BNHW = memory.frames[max(memory.frames)].per_object
        logits_BKHW = self.gain * torch.cat([1 - last_BNHW.sum(1, keepdim=True), last_BNHW], 1)
        return Prediction(logits_BKHW, 1, features.size, features.padded), memory


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return open_layout(training.write_videos(tmp_path_factory.mktemp("drift"), ["goat", "cow"], 10))


@pytest.mark.parametrize("every", [1, 3])
def test_the_oracle_predicts_each_frame_from_the_ground_truth_of_the_frames_before(layout: Layout, every: int) -> None:
    video = layout.videos[0]
    truths = [video.labels(frame) for frame in video.frames]
    for oracle in (False, True):
        found = [f.labels for f in datasets.follow(Copy(every), video, oracle=oracle)]
        assert np.array_equal(found[0], truths[0])
        for t in range(1, len(found)):
            stored = (t - 1) // every * every if oracle else 0
            assert np.array_equal(found[t], truths[stored]), t


def test_the_gap_is_the_difference_of_the_two_runs(layout: Layout) -> None:
    seen: list[tuple[int, int | None]] = []
    data = drift.find(Copy(), layout, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    for row, video in zip(data["sequences"], layout.videos, strict=True):
        assert row["sequence"] == video.name
        assert row["gap"] == row["oracle"]["J&F"] - row["own"]["J&F"] > 0.05
        truths = [video.labels(frame) for frame in video.frames]
        wanted = [np.mean([jaccard(truths[0] == i, t == i) for t in truths[1:]]) for i in np.unique(truths[0]) if i]
        assert row["own"]["J"] == pytest.approx(np.mean(wanted))
        parts = [j for j in row["own"]["J_by_part"] if j is not None]
        assert parts == sorted(parts, reverse=True), "blocks move away from their first place"
    assert data["mean"]["gap"] == pytest.approx(np.mean([row["gap"] for row in data["sequences"]]))


def test_the_oracle_needs_a_mask_on_every_frame(tmp_path: Path) -> None:
    root = training.write_videos(tmp_path, ["goat"], 4)
    next((root / "Annotations" / "480p" / "goat").glob("00002.png")).unlink()
    video = open_layout(root).videos[0]
    with pytest.raises(ValueError, match=r"^expected a mask on every frame of goat for the oracle, got 3 of 4$"):
        list(datasets.follow(Copy(), video, oracle=True))


def test_a_frame_without_the_object_is_not_stored(tmp_path: Path) -> None:
    names = [f"{i:05d}" for i in range(5)]
    for i, name in enumerate(names):
        labels = np.zeros((48, 64), np.uint8)
        labels[8:30, 8:40] = i < 2
        picture = tmp_path / "JPEGImages" / "a" / f"{name}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(picture)
        write_labels(tmp_path / "Annotations" / "a" / f"{name}.png", labels)
    network = Copy()
    areas = [int((f.labels > 0).sum()) for f in datasets.follow(network, open_layout(tmp_path).videos[0], oracle=True)]
    assert areas == [22 * 32] * 5


@given(masks=arrays.arrays(np.bool_, (2, 12, 15)), near=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_error_areas_count_pixels_by_their_distance_from_the_outline(masks: np.ndarray, near: int) -> None:
    mask, wanted = masks
    rows, columns = np.indices(wanted.shape)

    def is_near(y: int, x: int) -> bool:
        """Whether the window of `near` pixels to each side has pixels of both the object and the background."""
        window = wanted[(abs(rows - y) <= near) & (abs(columns - x) <= near)]
        return bool(window.any() and not window.all())

    counts = dict.fromkeys(drift.ERRORS, 0)
    for y, x in np.ndindex(wanted.shape):
        if mask[y, x] != wanted[y, x]:
            counts[f"{'missing' if wanted[y, x] else 'false'}_{'near' if is_near(y, x) else 'far'}"] += 1
    assert drift.error_areas(mask, wanted, near) == tuple(counts.values())


def test_the_figure_and_its_data_are_written(layout: Layout, tmp_path: Path) -> None:
    drift.draw(drift.find(Copy(), layout), tmp_path / "drift.png")
    assert Image.open(tmp_path / "drift.png").size[0] > 1000
    data = json.loads((tmp_path / "drift.json").read_text())
    assert {"network", "data", "sequences", "mean"} == set(data)
