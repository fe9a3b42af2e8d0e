"""The code of docs/own-network.md: its network learns from one mask a video and tracks unseen videos. Also the statements of
docs/researchers.md on networks."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hodor import cli
from hodor.models import weights
from hodor.models.base import Memory, Network
from hodor.models.prediction import Features
from hodor.tracking import Tracker

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own-network.md"


def blocks(language: str) -> list[str]:
    """The page's fenced blocks, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that are left after the page's samples ran in order, the first as a file, in a folder with examples/."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "examples").symlink_to(ROOT / "examples")
    file, *samples = blocks("python")
    (folder / "pixels.py").write_text(file)
    before, threads, names = dict(weights.MODELS), torch.get_num_threads(), {"PLACE": folder}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        try:
            for number, sample in enumerate(samples, 1):
                exec(compile(sample, f"{PAGE.name}, sample {number}", "exec"), names)
            yield names
        finally:
            sys.modules.pop("pixels", None)
            weights.MODELS.clear()
            weights.MODELS.update(before)
            torch.set_num_threads(threads)


def losses(page: dict[str, Any]) -> list[float]:
    return [json.loads(line)["loss"] for line in (page["PLACE"] / "runs/pixels/log.jsonl").read_text().splitlines()]


def test_the_page_holds_a_network_of_its_own_and_does_not_edit_the_package(page: dict[str, Any]) -> None:
    made = weights.build("pixels")
    assert type(made).__module__ == "pixels"
    assert len(blocks("python")[0].split("class Pixels")[1].splitlines()) <= 48


def test_its_loss_falls_by_more_than_half(page: dict[str, Any]) -> None:
    logged = losses(page)
    assert len(logged) == page["recipe"].steps
    assert np.mean(logged[-10:]) < 0.5 * np.mean(logged[:4]), logged


def test_one_mask_a_film_was_all_there_was(page: dict[str, Any]) -> None:
    assert {path.name for path in (page["PLACE"] / "films/Annotations").rglob("*.png")} == {"00000.png"}
    assert (page["recipe"].scheme, page["recipe"].data.labels) == ("one-shot", "first")


def test_it_tracks_unseen_films_better_than_untrained_and_than_a_mask_that_stays(page: dict[str, Any]) -> None:
    scores = page["scores"]
    assert scores["trained"] > scores["untrained"] + 0.25, scores
    assert scores["trained"] > scores["copied"] + 0.1, scores


def test_saved_and_loaded_it_is_the_same_network(page: dict[str, Any], tmp_path: Path) -> None:
    one = page["again"]
    weights.save(one, tmp_path / "pixels.safetensors")
    two = weights.load(tmp_path / "pixels.safetensors", folded=False)
    assert (two.name, two.size, two.settings) == ("pixels", 64, {"width": 32})
    assert one.state_dict().keys() == two.state_dict().keys()
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert page["score"](two, range(100, 102)) == page["score"](page["trained"], range(100, 102))


def test_without_the_file_its_weights_are_refused_in_one_line(page: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(weights.MODELS, "pixels")
    words = (
        r"^runs/pixels/weights\.safetensors contains a network that this version cannot build: "
        r"expected a model name \([^\n]+\), got 'pixels'$"
    )
    with pytest.raises(ValueError, match=words):
        weights.load("runs/pixels/weights.safetensors")


def test_the_commands_of_the_page_take_it(page: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 2
    for line in lines:
        python, option, code, *words = shlex.split(line)
        assert (python, option, code) == ("python", "-c", "import pixels, hodor.cli; hodor.cli.main()")
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0
    assert len(list((page["PLACE"] / "cup-pixels/masks").glob("*.png"))) == 90
    assert '"model": "pixels"' in capsys.readouterr().out


# Statements of the page on the interface that no other test checks ------------------------------------------------------


def followed(network: Network, page: dict[str, Any], frames: int = 4) -> Tracker:
    pictures, labels = page["film"](200)
    tracker = Tracker(network)
    for t in range(frames):
        tracker.track(pictures[t], labels[0] if t == 0 else None)
    return tracker


def test_an_object_without_a_valid_frame_wins_nowhere(page: dict[str, Any]) -> None:
    tracker = followed(page["trained"], page, 2)
    memory = tracker.memory.with_objects((*tracker.objects, 9))
    (features,) = seen(page)
    prediction, _ = page["trained"].segment(memory, features)
    assert set(prediction.labels((64, 96)).unique().tolist()) == {0, 1, 2}
    assert float(prediction.soft()[:, 2].max()) < 1e-5


def seen(page: dict[str, Any]) -> tuple[Features]:
    picture = torch.from_numpy(page["film"](200)[0][1]).permute(2, 0, 1)[None].float() / 255
    return (page["trained"].encode(picture),)


def test_the_tracker_remembers_all_frames_with_given_masks_and_asks_of_the_others(page: dict[str, Any]) -> None:
    asked: list[int] = []

    class Seldom(type(page["trained"])):  # type: ignore[misc]
        def due(self, memory: Memory, index: int) -> bool:
            asked.append(index)
            return False

    network = Seldom().eval()
    network.size = 64
    pictures, labels = page["film"](200)
    tracker = Tracker(network)
    tracker.track(pictures[0], labels[0])
    assert asked == []
    tracker.track(pictures[1])
    tracker.track(pictures[2], labels[2])
    assert sorted(tracker.memory.frames) == [0, 2]
    assert asked == [1, 1]


def test_memory_is_bounded_by_history_and_the_pinned_frame(page: dict[str, Any]) -> None:
    assert sorted(followed(page["trained"], page, 8).memory.frames) == [0, 4, 5, 6, 7]


# Statements of the page for researchers -----------------------------------------------------------------------


def test_the_table_of_presets_is_counted() -> None:
    text = (ROOT / "docs" / "researchers.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([\d,]+) \| (\d+) \| (\d+)", text, re.M)
    documented = {name: (int(count.replace(",", "")), int(size), int(history)) for name, count, size, history in rows}
    made = {name: weights.build(name) for name in weights.MODELS if name != "pixels"}
    counts = {name: (sum(p.numel() for p in each.parameters()), each.size, each.history) for name, each in made.items()}
    assert documented == counts


def test_the_network_that_copies_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The sample is the last one of the page; every frame has as many pixels of object 1 as the first mask."""
    text = (ROOT / "docs" / "researchers.md").read_text()
    *_, sample = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    monkeypatch.chdir(ROOT)
    exec(compile(sample, "researchers.md, the last sample", "exec"), {})
    areas = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(areas) == 3
    assert max(areas) - min(areas) < 0.05 * areas[0]
