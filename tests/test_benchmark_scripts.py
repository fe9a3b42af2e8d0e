"""The scripts in benchmarks/ that measure networks and baselines: small runs of each, checked by their output."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import clips
import numpy as np
import pytest
import torch
from job import mask, picture
from PIL import Image

import benchmarks
from hodor.masks import read_labels, write_labels
from hodor.models.backbones import BACKBONES

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_network_is_timed_with_its_memory_full() -> None:
    networks = script("networks")
    threads = torch.get_num_threads()
    row = networks.measure("stcn-lite", objects=2, height=64, width=96, size=64, threads=threads, dtype="float32")
    assert row["network"] == pytest.approx(row["encode"] + row["segment"] + row["remember"], abs=0.2)
    assert 0 < row["network"] <= row["whole"] + 0.2
    history = networks.weights.build("stcn-lite").history
    assert row["frames"] in (history, history + 1)
    cells = 64 // 16 * 96 // 16
    assert row["memory_mb"] > row["frames"] * cells * (64 + 2 * 128) * 4 / 2**20 * 0.9


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    """A square that moves ten pixels a frame, so that the first mask soon misses it."""
    rng = np.random.default_rng(0)
    texture, ground = rng.integers(0, 255, (32, 32, 3), np.uint8), rng.integers(90, 110, (64, 128, 3), np.uint8)
    pictures = tmp_path / "JPEGImages" / "square"
    pictures.mkdir(parents=True)
    for t in range(6):
        square = slice(16, 48), slice(8 + 10 * t, 40 + 10 * t)
        labels, picture = np.zeros((64, 128), np.uint8), ground.copy()
        labels[square], picture[square] = 3, texture
        write_labels(tmp_path / "Annotations" / "square" / f"{t:05d}.png", labels)
        Image.fromarray(picture).save(pictures / f"{t:05d}.jpg", quality=95)
    return tmp_path


def overlap(folder: Path, ground_truth: Path) -> float:
    found, true = (read_labels(f / "00005.png") == 3 for f in (folder / "square", ground_truth / "Annotations" / "square"))
    return float((found & true).sum() / (found | true).sum())


def test_label_propagation_follows_a_moving_object(moving: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(BACKBONES["efficientnet-lite0"]().state_dict(), tmp_path / "features.pth")
    common = ["--data", str(moving), "--sequences", "square"]
    spread = ["--network", "efficientnet-lite0", "--backbone", str(tmp_path / "features.pth"), "--size", "128", "--top-k", "3"]
    for name, options in (("copy", []), ("spread", spread)):
        command = [sys.executable, str(SCRIPTS / "baselines.py"), name, *common, "--out", str(tmp_path / name), *options]
        subprocess.run(command, check=True, capture_output=True)
    assert overlap(tmp_path / "copy", moving) == 0
    assert overlap(tmp_path / "spread", moving) > 0.5


def test_spread_without_weights_is_an_error(moving: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "baselines.py"), "spread", "--data", str(moving), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert done.stderr.strip() == "baselines.py: spread needs ImageNet weights of --network: give --backbone FILE"
    assert not (tmp_path / "out").exists()


def test_an_object_is_mistaken_if_another_overlaps_more() -> None:
    ground_truth = np.array([[1, 1, 2, 2, 3, 3, 0, 0]])
    found = np.array([[0, 0, 1, 1, 0, 3, 3, 3]])
    mistaken = script("objects").mistaken_for
    assert mistaken(found, ground_truth, (1, 2, 3), (1, 2, 3)) == {1: 2, 3: 3}
    assert mistaken(found, ground_truth, (1,), (1, 3)) == {1: 1}


class Swapping:
    """A tracker that swaps objects 1 and 2 on frames 2 and 3 and is correct on the other frames."""

    def __init__(self, network: list[np.ndarray], size: int | None) -> None:
        self.ground_truths, self.index = network, -1

    def track(self, picture: np.ndarray, given: np.ndarray | None) -> np.ndarray:
        self.index += 1
        assert (given is None) == (self.index > 0)
        ground_truth = self.ground_truths[self.index]
        return np.array([0, 2, 1])[ground_truth] if self.index in (2, 3) else ground_truth


def test_switches_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = script("objects")
    monkeypatch.setattr(objects, "Tracker", Swapping)
    ground_truths = [benchmarks.labels(t, (1, 2)) for t in range(6)]
    row = objects.measure([benchmarks.picture(0)] * 6, ground_truths, 2, ground_truths, None)
    assert (row["switches"], row["mistaken"], row["objects"]) == (2, 4 / 12, 2)
    assert row["J"] == pytest.approx(0.5, abs=0.02)


def test_a_fold_is_trained_without_what_it_is_scored_on(tmp_path: Path) -> None:
    for i in range(4):
        for name in ("a", "b", "c", "d"):
            write_labels(tmp_path / "Annotations" / name / f"{i:05d}.png", np.minimum(mask(i), 1))
            (tmp_path / "JPEGImages" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(i)).save(tmp_path / "JPEGImages" / name / f"{i:05d}.jpg")
    small = ["--data.root", str(tmp_path), "--data.size", "64", "96", "--data.min-area", "20", "--data.min-side", "2"]
    few = ["--steps", "1", "--batch", "1", "--frames", "2", "--warmup", "1", "--precision", "float32", "--device", "cpu"]
    command = [sys.executable, str(SCRIPTS / "folds.py"), str(tmp_path), "--out", str(tmp_path / "out"), "--folds", "2"]

    def run(*fold: str) -> list[str]:
        done = subprocess.run([*command, *fold, "--", "dense-small", *small, *few], capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith(("fold ", "2 folds"))]

    printed = run()
    trained = [(tmp_path / "out" / k / "run" / "weights.safetensors").stat().st_mtime_ns for k in "12"]
    assert run("--fold", "2") == printed[1:2]
    assert [(tmp_path / "out" / k / "run" / "weights.safetensors").stat().st_mtime_ns for k in "12"] == trained
    means = []
    for fold, held_out in (("1", ["a", "c"]), ("2", ["b", "d"])):
        recipe = json.loads((tmp_path / "out" / fold / "run" / "recipe.json").read_text())["recipe"]
        assert recipe["data"]["without"] == held_out
        results = json.loads((tmp_path / "out" / fold / "scores" / "results.json").read_text())
        assert [sequence["name"] for sequence in results["sequences"]] == held_out
        assert results["run"]["settings"]["history"] == 7
        means.append(100 * np.mean([sequence["summary"]["J&F"] for sequence in results["sequences"]]))
        assert printed[int(fold) - 1].startswith(f"fold {fold}: {means[-1]:.1f}  {held_out[0]} ")
    assert printed[2] == f"2 folds: {np.mean(means):.1f}, standard deviation {np.std(means, ddof=1):.1f}"


def test_the_demo_follows_the_cup_to_its_last_frame(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "demos.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    found = [float(line.split("J ")[1]) for line in done.stdout.splitlines() if "frame 89, object" in line]
    assert len(found) == 2
    assert min(found) > 0.93
    with Image.open(tmp_path / "out" / "cup.jpg") as sheet:
        assert sheet.size == (960, 480)


def test_every_frame_of_a_video_is_written_as_decoded(tmp_path: Path) -> None:
    video = clips.make(tmp_path / "clip.avi", 6, "mjpeg", "yuvj420p")
    folder = script("demos").decoded(video, tmp_path / "frames")
    assert [clips.number(np.asarray(Image.open(path))) for path in sorted(folder.glob("*.jpg"))] == list(range(6))


def test_j_is_reported_by_size_and_by_motion(tmp_path: Path) -> None:
    """A square of 1 % of the picture moves by half its length, and half is found; a strip of 40 % stands still and is found."""
    for t in range(4):
        small, large = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
        small[10:20, 5 * t : 5 * t + 10] = 255
        large[:40] = 255
        for name, ground_truth in (("small", small), ("large", large)):
            write_labels(tmp_path / "ground_truth" / name / f"{t:05d}.png", ground_truth)
            found = np.minimum(ground_truth, 1)
            if name == "small":
                found[15:] = 0
            write_labels(tmp_path / "found" / name / f"{t:05d}.png", found)
    command = [sys.executable, str(SCRIPTS / "failure_modes.py"), str(tmp_path / "ground_truth"), str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert [line for line in done.stdout.splitlines() if "%" in line] == [
        "| 1 to 3 % | 2 | 50.0 | 0.0 % |",
        "| 10 to 100 % | 2 | 100.0 | 0.0 % |",
        "| 0 to 50 % | 2 | 50.0 | 0.0 % |",
        "| 90 to 100 % | 2 | 100.0 | 0.0 % |",
    ]
    done = subprocess.run([*command[:-1], str(tmp_path)], capture_output=True, text=True)
    assert done.returncode
    assert "has the name of one in" in done.stderr


def test_drift_is_reported_pass_by_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A square moves by its own width in each of three frames, and the tracker always returns the first mask."""
    for t in range(3):
        mask = np.zeros((30, 40), np.uint8)
        mask[:10, 10 * t : 10 * t + 10] = 255
        write_labels(tmp_path / "Annotations" / "a" / f"{t:05d}.png", mask)
        (tmp_path / "JPEGImages" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 80 * t, np.uint8)).save(tmp_path / "JPEGImages" / "a" / f"{t:05d}.jpg")
    seen, drift = [], script("drift")

    class Still:
        def __init__(self, network: object, **settings: object) -> None:
            assert settings == {"history": 3, "size": None}

        def track(self, frame: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
            seen.append((round(frame.mean() / 80), labels is not None))
            self.labels = self.labels if labels is None else labels
            return self.labels

    monkeypatch.setattr(drift, "Tracker", Still)
    monkeypatch.setattr(sys, "argv", ["drift", str(tmp_path), "--passes", "3", "--history", "3"])
    drift.main()
    assert capsys.readouterr().out.splitlines()[2:] == ["| a | 7 | 33.3 | 50.0 | 0.0 |", "| mean | | 33.3 | 50.0 | 0.0 |"]
    assert seen == [(0, True), (1, False), (2, False), (1, False), (0, False), (1, False), (2, False)]
    monkeypatch.setattr(sys, "argv", ["drift", str(tmp_path), "--passes", "0"])
    with pytest.raises(SystemExit, match="expected --passes of at least 1, got 0"):
        drift.main()
