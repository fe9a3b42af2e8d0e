"""For tests of the server: an application with a small network, clicks that need no weights, and the command as a process."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hodor.mask_files.annotations import decode_runs

TOKEN = "a-token-for-the-tests"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


class Discs:
    """Clicks and boxes without a network: a disc around each click on the object, minus those around clicks beside it."""

    def __init__(self, frame: np.ndarray) -> None:
        self.size = frame.shape[:2]

    def predict(self, points: Any = None, labels: Any = None, box: Any = None, mask: Any = None) -> tuple[np.ndarray, float]:
        found = np.zeros(self.size, bool) if mask is None else mask.copy()
        if box is not None:
            x0, y0, x1, y1 = (int(v) for v in box)
            found[y0:y1, x0:x1] = True
        y, x = np.mgrid[: self.size[0], : self.size[1]]
        for (px, py), label in zip([] if points is None else points, [] if labels is None else labels, strict=True):
            found[(x - px) ** 2 + (y - py) ** 2 <= 64] = bool(label)
        return found, 0.75


@functools.cache
def network() -> Any:
    """An untrained network."""
    import tiny

    return tiny.network().eval().requires_grad_(False)


@contextlib.contextmanager
def client(root: Path, *, work: Path | None = None, videos: tuple[Path, ...] = (), **limits: Any) -> Iterator[Any]:
    """A client of an application in this process; limits are those of `Limits`."""
    from fastapi.testclient import TestClient

    from hodor.serve.app import build
    from hodor.serve.host import Host
    from hodor.serve.limits import Limits

    host = Host(root, work or root / ".hodor-serve", network(), Limits(**limits), prompter=Discs)
    app = build(host, TOKEN, {"testserver"}, videos)
    with TestClient(app, headers=HEADERS) as made:  # type: ignore[arg-type]
        made.host = host  # type: ignore[attr-defined]
        made.guard = app  # type: ignore[attr-defined]
        yield made


def create(client: Any, path: str = "a.mp4") -> str:
    """Create a session; -> its path."""
    answer = client.post("/api/v1/sessions", json={"path": path})
    assert answer.status_code == 201, answer.text
    return f"/api/v1/sessions/{answer.json()['id']}"


def ended(client: Any, path: str) -> Any:
    """Wait until a propagation or an export is not running."""
    end = time.monotonic() + 60
    while (found := client.get(path).json())["state"] == "running":
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def plane(rle: Any) -> np.ndarray:
    """The mask of compressed run lengths."""
    return decode_runs(rle["counts"], tuple(rle["size"]))


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def checkpoint(folder: Path) -> Path:
    """A weights file of a small network, which `main` can load."""
    import tiny

    from hodor.models import weights

    path = folder / "tiny.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        weights.save(weights.build("hodor-lite", **tiny.SETTINGS), path)
    return path


def main() -> None:
    """Run the command with `Discs` for clicks, and with the backbone of `checkpoint`."""
    import tiny

    from hodor import cli, prompts

    prompts.make_prompter = Discs  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        cli.main()


class Process:
    """`hodor serve` as a process, with `Discs` for clicks."""

    def __init__(self, *arguments: object) -> None:
        code = "import serving; serving.main()"
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()
        assert self.link, self.process.communicate()[1]
        self.address, self.token = self.link.split("/#token=")

    def __call__(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Send a request; -> its JSON, or its bytes."""
        data = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body
        request = urllib.request.Request(f"{self.address}{path}", data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content = answer.read()
                return json.loads(content) if answer.headers.get_content_type() == "application/json" else content
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from None

    def end(self, how: int) -> tuple[int, str]:
        """Send a signal; -> exit code and standard error."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors
