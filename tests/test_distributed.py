"""Several processes train like one: torchrun on the CPU, with gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from training import lines

from hodor.training.loader import shares

CALM = {"model": "calm", "batch": 4, "clip_norm": 0, "steps": 1}
FIND = {**CALM, "model": "finder", "scheme": "find", "frames": 2}
BACK = {**CALM, "model": "state", "scheme": "one-shot", "loss": "points"}


def launch(root: Path, *runs: tuple[Path, dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """`small` with these changes in two processes, one run after another."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [word for out, changes in runs for word in training.command(root, out, **changes)[2:]]
    arguments = [*torchrun, *training.command(root, Path())[:2], *words]
    return subprocess.run(arguments, env=training.environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_videos(tmp_path_factory.mktemp("data") / "videos", ["goat", "cow", "held"])


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in two processes: one step without dropout ("calm"), one of one-shot training ("back"), one of a finder
    ("find"), two steps with weights that no gradient reaches ("idle"), and two with dropout, in parts, with validation,
    uninterrupted ("whole") and resumed once ("broken")."""
    out = tmp_path_factory.mktemp("runs")
    held = {"every": 1, "root": str(root), "sequences": ["held", "goat", "cow"]}
    parts = {"batch": 4, "accumulate": 2, "schedule": "steps", "save_every": 1, "pictures_every": 1, "validation": held}
    done = launch(
        root,
        (out / "calm", CALM),
        (out / "back", BACK),
        (out / "find", FIND),
        (out / "idle", {**CALM, "steps": 2, "settings": [["conditioning", "none"]]}),
        (out / "whole", {**parts, "steps": 2}),
        (out / "broken", {**parts, "steps": 1}),
        (out / "broken", {**parts, "steps": 2}),
    )
    assert done.returncode == 0, done.stderr
    return out


def gradients(out: Path) -> dict[int, torch.Tensor]:
    """Of a run's only step: AdamW's first average holds a tenth of it."""
    found = torch.load(out / "last.pt", weights_only=True)
    assert found["step"] == 1
    return {i: each["exp_avg"] * 10 for i, each in found["optimiser"]["state"].items()}


@pytest.mark.parametrize(("name", "changes"), [("calm", CALM), ("back", BACK), ("find", FIND)])
def test_two_processes_with_half_the_batch_each_have_the_gradients_of_one(
    root: Path, trained: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    alone = subprocess.run([sys.executable, *training.command(root, tmp_path, **changes)], env=training.environment())
    assert alone.returncode == 0
    one, two = gradients(tmp_path), gradients(trained / name)
    assert one.keys() == two.keys()
    largest = max(float(g.abs().max()) for g in one.values())
    for i, gradient in one.items():
        torch.testing.assert_close(two[i], gradient, rtol=0, atol=1e-5 * largest)
    first, second = lines(tmp_path)[0], lines(trained / name)[0]
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert second["norm"] == pytest.approx(first["norm"], rel=1e-5)


def test_weights_that_no_gradient_reaches_keep_no_process_waiting(trained: Path) -> None:
    assert len(lines(trained / "idle")) == 2


def test_two_processes_resume_as_uninterrupted_ones(trained: Path) -> None:
    """With dropout: the random numbers of a process depend on seed, step and its number."""
    assert len(lines(trained / "whole")) == 2
    assert lines(trained / "whole") == lines(trained / "broken")
    one, two = (torch.load(trained / out / "last.pt", weights_only=True) for out in ("whole", "broken"))
    assert training.same(one["average"], two["average"])
    assert training.same(one["network"], two["network"])


def test_two_processes_write_once_and_validate_together(trained: Path) -> None:
    log = [json.loads(line) for line in (trained / "whole" / "log.jsonl").read_text().splitlines()]
    assert ["loss" in line for line in log] == [True, False, True, False]
    assert list(log[1]["validation"]["sequences"]) == ["cow", "goat", "held"]
    assert len(list((trained / "whole" / "tensorboard").iterdir())) == 1
    assert json.loads((trained / "whole" / "recipe.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_what_is_wrong_with_the_folder_stops_every_process(root: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"nonsense")
    done = launch(root, (tmp_path, CALM))
    assert done.returncode != 0
    assert done.stderr.count("cannot be read as a checkpoint") >= 2  # neither process waits for the other forever


@pytest.mark.parametrize(("batch", "parts", "processes"), [(8, 1, 1), (8, 2, 2), (12, 3, 2), (4, 4, 1)])
def test_shares_are_the_whole_batch_each_clip_once(batch: int, parts: int, processes: int) -> None:
    each = [shares(batch, parts, rank, processes) for rank in range(processes)]
    assert [i for mine in each for part in mine for i in part] == list(range(batch))
    assert {len(part) for mine in each for part in mine} == {batch // parts // processes}
    assert {len(mine) for mine in each} == {parts}


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected a batch that is a multiple of 4 \(2 processes x 2 parts\), got 6$"):
        shares(6, 2, 0, 2)
