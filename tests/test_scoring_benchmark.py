"""The set that scoring is timed on: its shape, and that the same seed gives the same set."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hodor import masks
from hodor.scoring.stores.open import open_store


@pytest.fixture(scope="module")
def scoring() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scoring", Path(__file__).parents[1] / "benchmarks" / "scoring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_set_has_the_shape_of_davis_2017_val(scoring: ModuleType) -> None:
    assert (len(scoring.OBJECTS), sum(scoring.OBJECTS), len(scoring.WIDTHS), scoring.FRAMES) == (30, 61, 30, 1999)


def test_the_same_seed_makes_the_same_set_and_it_is_timed(
    scoring: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        scoring.main(["make", str(tmp_path / name), "--frames", "9", "--sequences", "2"])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 18
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    ground_truth = open_store(tmp_path / "a" / "ground_truth")
    first = ground_truth.read("sequence-00", "00000")
    assert first.shape[0] == 480
    assert masks.objects_in(first) == (1, 2)
    capsys.readouterr()
    scoring.main(["time", str(tmp_path / "a"), "--workers", "1", "--repeat", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    lengths = [len(ground_truth.frames(name)) - 2 for name in ground_truth.names()]
    assert result["frame_objects"] == int(np.dot(lengths, scoring.OBJECTS[:2]))
    assert 0.5 < result["J&F"] < 1
    assert result["peak_MB_per_worker"] > 10
    with pytest.raises(ValueError, match="is not empty: give a new folder"):
        scoring.main(["make", str(tmp_path / "a")])


def test_the_outlines_of_real_masks_are_used_where_given(scoring: ModuleType, tmp_path: Path) -> None:
    square = np.zeros((48, 85), np.uint8)
    square[10:30, 30:60] = 255
    for frame in range(3):
        masks.write_labels(tmp_path / "real" / "bear" / f"{frame:05d}.png", square // 255)
    scoring.main(["make", str(tmp_path / "set"), "--frames", "3", "--sequences", "1", "--masks", str(tmp_path / "real")])
    made = open_store(tmp_path / "set" / "ground_truth").read("sequence-00", "00000")
    rows = np.flatnonzero(made.any(axis=1))
    assert (rows[0], rows[-1]) == (100, 299)
