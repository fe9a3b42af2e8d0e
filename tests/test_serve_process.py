"""`hodor serve` as a process: the whole story over a real connection, through a kill, and the example client."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import SIZE, mask, mask_file, video
from serving import Process, checkpoint, ended, picture, plane, png

from hodor.commands.serve import Serve

ROOT = Path(__file__).parents[1]
COUNT = 6


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = tmp_path_factory.mktemp("root")
    video(root / "a.mp4", COUNT)
    mask_file(root / "first.png")
    network = [
        "--checkpoint",
        checkpoint(tmp_path_factory.mktemp("network")),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--size",
        64,
    ]
    return ["--root", root, "--port", 0, *network]


class Api:
    """A process with the methods that `serving.ended` calls."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def get(self, path: str) -> Any:
        found = self.process("GET", path)
        return type("Answer", (), {"json": lambda self: found})()


@pytest.fixture(scope="module")
def started(options: list[object]) -> Iterator[list[Process]]:
    """A list with the process that runs; tests can replace it."""
    processes = [Process(options[1].joinpath("a.mp4"), *options)]  # type: ignore[attr-defined]
    yield processes
    if processes[-1].process.poll() is None:
        processes[-1].end(signal.SIGKILL)


def test_the_whole_story_survives_a_kill(started: list[Process], options: list[object]) -> None:
    from websockets.sync.client import connect

    (server,) = started
    assert server.link.startswith("http://127.0.0.1:")
    (listed,) = server("GET", "/api/v1/sessions")
    assert (listed["source"], listed["frames"]) == ("a.mp4", COUNT)
    session = f"/api/v1/sessions/{listed['id']}"
    server("POST", f"{session}/frames/0/objects/1/prompts", {"points": [[22, 20]]})
    server("PUT", f"{session}/frames/0/objects/2/mask", png((mask(0) == 2).astype(np.uint8)), "image/png")
    address = server.address.replace("http", "ws")
    protocols: Any = ["hodor.v1", f"token.{server.token}"]
    with connect(f"{address}{session}/events", subprotocols=protocols) as socket:
        server("POST", f"{session}/propagation", {"direction": "forward"})
        received = [json.loads(socket.recv(60))]
        while received[-1]["type"] != "propagation" or received[-1]["propagation"]["state"] == "running":
            received.append(json.loads(socket.recv(60)))
    assert [event["frame"] for event in received if event["type"] == "frame"] == [*range(COUNT)]
    server("POST", f"{session}/frames/3/objects/1/prompts", {"points": [[30, 20]], "replace": True})
    corrected = server("GET", f"{session}/frames/3/objects/1/mask.png")
    server("POST", f"{session}/undo")
    redone = server("POST", f"{session}/redo")
    assert redone["undo"] == 3
    server("POST", f"{session}/propagation", {})
    code, _ = server.end(signal.SIGKILL)
    assert code == -signal.SIGKILL

    server = Process(options[1].joinpath("a.mp4"), *options)  # type: ignore[attr-defined]
    started.append(server)
    (listed,) = server("GET", "/api/v1/sessions")
    state = server("GET", session)
    assert f"/api/v1/sessions/{listed['id']}" == session
    assert (state["undo"], state["redo"]) == (3, 0)
    assert [(o["id"], o["given"]) for o in state["objects"]] == [(1, [0, 3]), (2, [0])]
    assert server("GET", f"{session}/frames/3/objects/1/mask.png") == corrected
    (clicked, drawn) = server("GET", f"{session}/frames/0/masks")["objects"]
    assert clicked["points"] == [[22.0, 20.0]]
    np.testing.assert_array_equal(plane(drawn["rle"]), mask(0) == 2)
    number = server("POST", f"{session}/exports", {"outputs": {"coco": True}})["id"]
    found = ended(Api(server), f"{session}/exports/{number}")
    assert found["state"] == "done", found
    with zipfile.ZipFile(io.BytesIO(server("GET", f"{session}/exports/{number}/zip"))) as archive:
        assert len(archive.namelist()) == COUNT + 1
        labels = picture(archive.read("masks/00003.png"))
    np.testing.assert_array_equal(labels == 1, picture(corrected) > 0)
    while server("GET", session)["undo"]:
        server("POST", f"{session}/undo")
    assert server("GET", session)["objects"] == []


def test_the_example_client_segments_a_clip(started: list[Process], options: list[object], tmp_path: Path) -> None:
    root: Any = options[1]
    out = tmp_path / "masks.zip"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "client.py", started[-1].link, root / "a.mp4", root / "first.png", out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"frame {COUNT - 1}, confidence 1: " in done.stdout
    with zipfile.ZipFile(out) as archive:
        assert {"objects.csv", "masks/00000.png", f"masks/{COUNT - 1:05d}.png"} <= set(archive.namelist())
        np.testing.assert_array_equal(picture(archive.read("masks/00000.png")), mask(0))
    assert picture(zipfile.ZipFile(out).read("masks/00005.png")).shape == SIZE
    assert len(started[-1]("GET", "/api/v1/sessions")) == 1


def blocks(kind: str) -> list[str]:
    """The blocks of docs/serve.md that are examples of the interface."""
    return re.findall(rf"^```{kind} api\n(.*?)^```", (ROOT / "docs" / "serve.md").read_text(), re.M | re.S)


def test_the_examples_of_the_documentation_run(started: list[Process], options: list[object], tmp_path: Path) -> None:
    root: Any = options[1]
    shutil.copy(root / "a.mp4", root / "cup.mp4")
    shutil.copy(root / "first.png", root / "cup.png")
    server = started[-1]
    variables = os.environ | {"API": f"{server.address}/api/v1", "TOKEN": server.token}
    (script,) = blocks("sh")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-xc", script], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert picture((tmp_path / "frame.webp").read_bytes()).shape == (*SIZE, 3)
    assert '"upload":"' in done.stdout
    code = "import sys; link = sys.argv[1]\n" + "".join(blocks("python"))
    path = os.environ | {"PYTHONPATH": str(ROOT / "examples")}
    done = subprocess.run([sys.executable, "-c", code, server.link], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 [(1, " in done.stdout
    assert "coco.json" in zipfile.ZipFile(tmp_path / "masks.zip").namelist()


def test_a_second_server_on_the_same_folder_is_refused(started: list[Process], options: list[object]) -> None:
    from hodor.serve.limits import Limits
    from hodor.serve.storage import Folder

    root: Any = options[1]
    with pytest.raises(ValueError, match="no other server"):
        Folder(root / ".hodor-serve", Limits())


def test_a_signal_ends_the_server_with_the_code_of_other_commands(started: list[Process]) -> None:
    code, errors = started[-1].end(signal.SIGTERM)
    assert (code, errors) == (143, "hodor: stopped\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"token": "short"}, "expected a token of 16"),
        ({"root": Path("/nowhere")}, "expected a folder as root"),
        ({"videos": ("none.mp4",)}, "none.mp4 does not exist"),
        ({"host": "name.invalid"}, "expected an address of this machine"),
    ],
)
def test_wrong_options_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Serve(**arguments).run()


def test_a_port_in_use_is_refused() -> None:
    from hodor.serve.app import listen

    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="expected a free port"):
        listen("127.0.0.1", taken.getsockname()[1])
