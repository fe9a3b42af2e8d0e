"""Campaigns that try to break runs: short ones always, whole ones with `pytest -m slow tests/campaigns`.

Each campaign is also a command (kill.py, disk.py, long_videos.py, threads.py, determinism.py); docs/reliability.md has their
figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from job import mask, network, picture
from PIL import Image

from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.models import weights
from hodor.models.base import Network
from hodor.segment import Outputs, segment
from hodor.tracking import Tracker

HERE = Path(__file__).parent


def campaign(script: str, *options: object, minutes: float = 10) -> str:
    """Run a campaign as a command; return what it printed."""
    paths = os.pathsep.join(filter(None, [str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    words = [sys.executable, str(HERE / script), *map(str, options)]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60 * minutes, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


# Kill

SHORT = {"segment": 44, "evaluate": 6, "train": 4, "session": 12}


@pytest.mark.parametrize("command", SHORT)
def test_a_killed_command_that_is_resumed_ends_as_an_unbroken_one(command: str) -> None:
    assert f"{command}: 2 kills" in campaign("kill.py", command, "--kills", 2, "--length", SHORT[command])


@pytest.mark.slow
@pytest.mark.parametrize("command", SHORT)
def test_a_hundred_kills(command: str) -> None:
    assert f"{command}: 100 kills" in campaign("kill.py", command, "--kills", 100, minutes=60)


# Disk, permissions and signals

CHOSEN = [
    ["segment: removed folder", "segment: SIGTERM", "segment: closed standard error"],
    ["evaluate: removed folder", "evaluate: standard output without a reader"],
    ["train: full disk"],
]


@pytest.mark.parametrize("cases", CHOSEN, ids=lambda cases: cases[0].split(":")[0])
def test_a_run_from_which_something_is_taken_away_ends_with_one_line_and_can_be_resumed(cases: list[str]) -> None:
    printed = campaign("disk.py", *cases).splitlines()
    assert [line for line in printed if not line.endswith((": ok", "mounting needs root"))] == []
    assert len(printed) == len(cases)


@pytest.mark.slow
def test_all_cases_of_disks_permissions_and_signals() -> None:
    campaign("disk.py", minutes=60)


# Long, large and small


def test_memory_is_flat_from_frame_200_on(tmp_path: Path) -> None:
    campaign("long_videos.py", "tiny", "--frames", 400, "--size", 48, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == 4
    assert found["growth after 200"] < 0.02


@pytest.mark.slow
def test_memory_is_flat_over_10_000_frames(tmp_path: Path) -> None:
    for model, first in (("hodor-lite", 200), ("xmem-lite", 2000)):  # xmem-lite: until its prototypes are complete
        file = tmp_path / f"{model}.json"
        campaign("long_videos.py", model, "--size", 64, "--json", file, minutes=60)
        found = json.loads(file.read_text())
        assert found[f"growth after {first}"] < 0.02
        times = [row["ms"] for row in found["rows"] if row["frame"] > first]
        assert np.median(times[-10:]) < 1.3 * np.median(times[:10])


def test_the_memory_of_xmem_grows_only_until_its_prototypes_are_complete() -> None:
    """Its long-term memory is what made xmem-lite grow over 2,000 frames."""
    made = weights.build("xmem-lite", max_prototypes=60, prototypes=20).eval().requires_grad_(False)
    tracker, sizes = Tracker(made, size=32), []
    for i in range(100):
        tracker.track(picture(i), mask() if i == 0 else None)
        entries = tracker.memory.frames.items()
        sizes.append(sum(e.shared["key"][0, 0].numel() for i, e in entries if i < 0))
    assert sizes == sorted(sizes)
    assert sizes[-1] == 60
    assert sizes[sizes.index(60) :] == [60] * (100 - sizes.index(60))


@pytest.fixture(scope="module", params=["hodor", "xmem-lite"])
def made(request: pytest.FixtureRequest) -> Network:
    return network() if request.param == "hodor" else weights.build(request.param).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (1536, 8), (8, 1536), (2, 3)])
def test_very_small_and_very_long_frames_give_masks_of_their_size(size: tuple[int, int], made: Network) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 2 + 1, : size[1] // 2 + 1] = 3
    tracker = Tracker(made, size=64)
    assert np.array_equal(tracker.track(image, labels), labels)
    tracked = tracker.step(image)
    assert tracked.labels.shape == size
    assert tracked.soft().shape == (1, *size)
    assert set(np.unique(tracked.labels)) <= {0, 3}


@pytest.mark.parametrize("size", [(1, 1), (1, 512), (192, 4)])
def test_every_output_of_very_small_and_very_long_frames(size: tuple[int, int], tmp_path: Path) -> None:
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / f"{i}.png")
    outputs = Outputs(
        tmp_path, overlay=True, sheet=True, soft=True, coco=True, ytvis=True, table=True, cutout=(1,), prores=(1,)
    )
    with open_source(tmp_path / "in") as source:
        summary = segment(source, {0: np.ones(size, np.uint8)}, network(), outputs)
    assert summary.frames == 3
    assert all(read_labels(tmp_path / "masks" / f"{i}.png").shape == size for i in range(3))
    with open_source(tmp_path / "overlay.mp4") as film:
        assert film.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert len(list(film)) == 3


def test_64_objects_keep_their_ids_up_to_65535(made: Network) -> None:
    labels = np.zeros((64, 96), np.uint16)
    ids = [65535 - 1000 * i for i in range(64)]
    for place, i in enumerate(ids):
        labels[place // 8 * 8 : place // 8 * 8 + 7, place % 8 * 12 : place % 8 * 12 + 10] = i
    tracker = Tracker(made, size=64)
    assert np.array_equal(tracker.track(picture(0), labels), labels)
    tracked = tracker.step(picture(0))
    assert set(tracked.objects) == set(ids)
    assert tracked.soft().shape == (64, 64, 96)
    assert set(np.unique(tracked.labels)) <= {0, *ids}
    assert set(tracked.lost) == set(ids) - set(map(int, np.unique(tracked.labels)))


def test_the_id_65535_in_every_output(tmp_path: Path) -> None:
    given = mask().astype(np.uint16)
    given[given == 1] = 65535
    outputs = Outputs(tmp_path, overlay=True, sheet=True, coco=True, ytvis=True, table=True, cutout=(65535,))
    with open_source(iter([picture(i) for i in range(4)])) as source:
        summary = segment(source, {0: given}, network(), outputs)
    assert summary.objects == (2, 65535)
    assert np.array_equal(read_labels(tmp_path / "masks" / "00000.png"), given)
    assert {a["track_id"] for a in json.loads((tmp_path / "coco.json").read_text())["annotations"]} <= {2, 65535}
    assert {a["id"] for a in json.loads((tmp_path / "ytvis.json").read_text())["annotations"]} == {2, 65535}
    assert ",65535," in (tmp_path / "objects.csv").read_text()
    with Image.open(tmp_path / "cutout_65535" / "00000.png") as cut:
        assert np.array_equal(np.asarray(cut)[..., 3] > 127, given == 65535)


@pytest.mark.slow
def test_frames_of_8k(tmp_path: Path) -> None:
    size = (4320, 7680)
    small = picture(0, (432, 768))
    image, labels = small.repeat(10, 0).repeat(10, 1), np.zeros(size, np.uint8)
    labels[100:300, 100:340] = 1
    with open_source(iter([image] * 3)) as source:
        summary = segment(source, {0: labels}, network(), Outputs(tmp_path, overlay=True, coco=True, table=True))
    assert summary.frames == 3
    assert all(read_labels(path).shape == size for path in (tmp_path / "masks").glob("*.png"))


# Threads, processes, determinism


@pytest.mark.usefixtures("small_models")
def test_two_trackers_on_one_network_in_two_threads_give_the_masks_of_one_thread() -> None:
    import threads

    assert threads.in_threads("tiny", size=48)


@pytest.mark.slow
def test_threads_and_processes() -> None:
    printed = campaign("threads.py", "threads", "processes", "start")
    assert printed.count(": equal masks") == 8
    assert "2 threads, a process with 2 by fork: hangs" in printed  # a limitation of GNU's OpenMP; docs/engineers.md names it


@pytest.mark.slow
def test_which_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    campaign("determinism.py", "--frames", 6, "--size", 96, "--json", tmp_path / "rows.json")
    for rows in json.loads((tmp_path / "rows.json").read_text()).values():
        assert len(rows) == 9
        for row in rows:
            if any(word in row["run"] for word in ("again", "another process", "half-way", "backwards")):
                assert (row["worst"], row["soft"]) == (0, 0), row
