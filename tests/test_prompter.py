"""Prompter: masks from clicks, boxes and a previous mask, with the bundled weights; its checks of arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_benchmark_scripts import script

import hodor
from hodor.masks import write_labels
from hodor.metrics import jaccard
from hodor.models.clicks import load_clicks
from hodor.prompter import KEPT, Prompter, view_size, window_around

NETWORK = load_clicks()
HEIGHT, WIDTH = 240, 320


def scene(centre: tuple[int, int] = (200, 110), radius: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on grey noise, and its mask."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    picture = np.random.default_rng(0).integers(100, 130, (HEIGHT, WIDTH, 3), np.uint8)
    picture[disc] = (200, 40, 30)
    return picture, disc


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(scene()[0], NETWORK)


def test_one_click_finds_a_disc(prompter: Prompter) -> None:
    mask, score = prompter.predict([(200, 110)], [1])
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.dtype == np.bool_
    assert jaccard(mask, scene()[1]) > 0.8
    assert 0.5 < score <= 1


def test_the_bundled_weights_are_the_default_and_labels_default_to_the_object(prompter: Prompter) -> None:
    own = hodor.Prompter(scene()[0])
    assert np.array_equal(own.predict([(200, 110)])[0], prompter.predict([(200, 110)], [1])[0])


def test_a_box_finds_a_disc(prompter: Prompter) -> None:
    mask, _ = prompter.predict(box=(150, 60, 250, 160))
    assert jaccard(mask, scene()[1]) > 0.8


def test_a_click_on_the_background_removes_what_is_there(prompter: Prompter) -> None:
    disc = scene()[1]
    start = disc.copy()
    start[90:130, 20:120] = True
    mask, _ = prompter.predict([(70, 110)], [0], mask=start)
    assert mask[110, 70] == 0
    assert jaccard(mask, disc) > jaccard(start, disc) + 0.1


def test_a_previous_mask_is_completed_by_a_click(prompter: Prompter) -> None:
    disc = scene()[1]
    start = disc.copy()
    start[:, 205:] = False
    mask, _ = prompter.predict([(225, 110)], [1], mask=start)
    assert jaccard(mask, disc) > 0.8


def test_a_small_object_in_a_large_frame_is_seen_in_a_window() -> None:
    y, x = np.mgrid[:720, :1280]
    disc = (x - 900) ** 2 + (y - 500) ** 2 < 18**2
    picture = np.full((720, 1280, 3), 120, np.uint8)
    picture[disc] = (30, 60, 200)
    prompter = Prompter(picture, NETWORK)
    mask, _ = prompter.predict([(900, 500)])
    assert jaccard(mask, disc) > 0.8
    assert len(prompter._views) == 2


def test_features_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    view = NETWORK.view

    def counted(pictures: Any) -> Any:
        computed.append(tuple(pictures.shape))
        return view(pictures)

    monkeypatch.setattr(NETWORK, "view", counted)
    prompter = Prompter(scene()[0], NETWORK)
    assert len(computed) == 1, "the whole frame, before the first click"
    first = prompter.predict([(200, 110)])
    seen = len(computed)
    assert seen <= 2
    again = prompter.predict([(200, 110)])
    assert len(computed) == seen
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    for n in range(2 * KEPT):
        prompter.predict(box=(10 * n, 5 * n, 10 * n + 40, 5 * n + 40))
    assert len(prompter._views) <= KEPT
    assert np.array_equal(prompter.predict([(200, 110)])[0], first[0]), "whatever was asked in between"


def test_a_pil_image_is_the_same_as_its_array(prompter: Prompter) -> None:
    mask, score = Prompter(Image.fromarray(scene()[0]), NETWORK).predict([(200, 110)])
    expected = prompter.predict([(200, 110)])
    assert np.array_equal(mask, expected[0])
    assert score == expected[1]


@pytest.mark.parametrize("size", [(1, 1), (7, 900), (33, 20)])
def test_frames_of_any_size_are_accepted(size: tuple[int, int]) -> None:
    mask, score = Prompter(np.full((*size, 3), 90, np.uint8), NETWORK).predict([(0, 0)])
    assert mask.shape == size
    assert 0 <= score <= 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "expected a prompt, got none: give a point on the object, a box or a mask"),
        ({"points": [(5, 5)], "labels": [0]}, "expected a prompt, got none"),
        ({"mask": np.zeros((HEIGHT, WIDTH), bool)}, "expected a prompt, got none"),
        ({"points": [(320, 5)]}, r"expected points inside the frame of 320x240, got \(320, 5\)"),
        ({"points": [(5, -1)]}, r"expected points inside the frame of 320x240, got \(5, -1\)"),
        ({"points": [(5, float("nan"))]}, "expected points of finite numbers"),
        ({"points": [(5, 5, 5)]}, r"expected points \[K, 2\] as \(x, y\), got \[1, 3\]"),
        ({"points": (5, 5)}, r"expected points \[K, 2\] as \(x, y\), got \[2\]"),
        ({"points": [("a", "b")]}, "expected points of numbers"),
        ({"points": [(5, 5)], "labels": [2]}, "expected labels of 0 and 1, got 2"),
        ({"points": [(5, 5)], "labels": [1, 0]}, r"expected 1 labels, got \[2\]"),
        ({"labels": [1]}, "expected points for 1 labels, got none"),
        ({"box": (10, 10, 10, 40)}, r"expected a box with pixels of the frame of 320x240, got \(10, 10, 10, 40\)"),
        ({"box": (40, 40, 10, 10)}, "expected a box with pixels of the frame"),
        ({"box": (400, 10, 500, 40)}, "expected a box with pixels of the frame"),
        ({"box": (1, 2, 3)}, r"expected a box \(x0, y0, x1, y1\), got \[3\]"),
        ({"mask": np.zeros((HEIGHT, WIDTH + 1), bool)}, r"expected a mask of 240x320 \(height x width\), .* got 240x321"),
        ({"mask": np.full((HEIGHT, WIDTH), 7)}, "expected a mask of bool, got int64 with other values than 0 and 1"),
    ],
)
def test_wrong_prompts_are_refused_in_one_line(prompter: Prompter, prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        prompter.predict(**prompts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32 \[4, 5, 3\]"),
        (np.zeros((4, 5), np.uint8), r"uint8 \[4, 5\]"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \[0, 5, 3\]"),
        ("frame.png", "str"),
    ],
)
def test_wrong_frames_are_refused(frame: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a frame uint8 \[H, W, 3\], got {got}"):
        Prompter(frame, NETWORK)


@pytest.mark.parametrize("box", [(300, 200, 340, 260), (0, 0, 20, 12), (600, 400, 854, 480), (100, 100, 101, 101)])
def test_windows_contain_their_box_and_are_inside_the_frame(box: Sequence[int]) -> None:
    left, top, right, bottom = window_around(box, 480, 854)
    assert 0 <= left <= box[0]
    assert box[2] <= right <= 854
    assert 0 <= top <= box[1]
    assert box[3] <= bottom <= 480
    assert window_around((0, 0, 854, 480), 480, 854) == (0, 0, 854, 480)


def test_similar_boxes_have_the_same_window() -> None:
    windows = {window_around((300 + n, 200, 360, 270 - n), 480, 854) for n in range(4)}
    assert len(windows) <= 2


def test_views_have_about_the_given_area() -> None:
    assert view_size(480, 854, 320 * 448) == (288, 512)
    height, width = view_size(1, 1000, 320 * 320)
    assert height % 32 == width % 32 == 0
    assert max(height, width) <= 1280


def test_the_benchmark_measures_clicks_boxes_and_tracking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "JPEGImages" / "disc"
    folder.mkdir(parents=True)
    for t in range(4):
        picture, disc = scene((100 + 5 * t, 110))
        Image.fromarray(picture).save(folder / f"{t:05d}.jpg", quality=95)
        write_labels(tmp_path / "Annotations" / "disc" / f"{t:05d}.png", disc.astype(np.uint8))
    benchmark = script("clicks")

    def rows(*arguments: str) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", ["clicks.py", *arguments])
        benchmark.main()
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    head, _, mean = rows("frames", str(tmp_path), "--clicks", "2", "--overlays", str(tmp_path / "overlays"))
    assert head[1:] == ["1 click", "2 clicks", "box", "box + 1 click"]
    assert mean[0] == "mean of 1"
    assert all(80 < float(cell) <= 100 for cell in mean[1:])
    assert (tmp_path / "overlays" / "disc.png").exists()
    head, _, disc_row, mean = rows("tracking", str(tmp_path), "--size", "96")
    assert head[-1] == "ground truth"
    assert disc_row[0] == "disc"
    assert len(disc_row) == 7
    assert disc_row[1:] == mean[1:]
    assert float(disc_row[-1]) > 60
