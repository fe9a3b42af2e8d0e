"""The page of `hodor serve`: the built files belong to the sources, masks are coded as pycocotools does, the whole story."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

import hodor

ROOT = Path(__file__).parents[1]
WEB, PAGE = ROOT / "web", Path(hodor.__file__).parent / "serve" / "page"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
NEEDS_BROWSER = pytest.mark.skipif(
    not Path(CHROMIUM).exists() or not (WEB / "node_modules" / "playwright-core").is_dir() or not shutil.which("node"),
    reason="needs Node, Chromium and `npm --prefix web ci`",
)


def test_the_built_page_is_that_of_the_sources() -> None:
    digest = hashlib.sha256()
    for name in [
        "index.html",
        "package-lock.json",
        "vite.config.ts",
        *sorted(f"src/{p.name}" for p in (WEB / "src").iterdir()),
    ]:
        digest.update(f"{name}\n".encode() + (WEB / name).read_bytes())
    stored = (PAGE / "sources.sha256").read_text().strip()
    assert stored == digest.hexdigest(), "the sources have changed: run npm --prefix web ci && npm --prefix web run build"


def test_the_page_names_no_other_server_and_has_no_inline_script() -> None:
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<script[^>]*>([^<]*)</script>", html) == [""]
    assert "style=" not in html
    for file in PAGE.iterdir():
        addresses = set(re.findall(r"https?://[\w.-]+", file.read_text()))
        assert addresses <= {"http://www.w3.org", "https://svelte.dev"}, file.name  # name spaces and links in messages


def test_the_page_is_small() -> None:
    import gzip

    assert sum(len(gzip.compress(file.read_bytes())) for file in PAGE.iterdir()) < 150_000


def test_the_masks_of_the_tests_in_javascript_are_those_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    cases = json.loads((WEB / "test" / "rle-cases.json").read_text())
    for case in cases:
        pixels = np.array([[int(digit) for digit in row] for row in case["rows"]], np.uint8)
        assert mask.encode(np.asfortranarray(pixels)) == {"size": case["size"], "counts": case["counts"].encode()}


@pytest.mark.slow
@pytest.mark.skipif(not (WEB / "node_modules" / "vite").is_dir(), reason="needs Node and `npm --prefix web ci`")
def test_building_the_sources_again_gives_the_same_files(tmp_path: Path) -> None:
    run = ["npx", "vite", "build", "--outDir", str(tmp_path / "page"), "--logLevel", "error"]
    subprocess.run(run, cwd=WEB, check=True, timeout=300)
    assert {p.name: p.read_bytes() for p in (tmp_path / "page").iterdir()} == {p.name: p.read_bytes() for p in PAGE.iterdir()}
    subprocess.run(["npx", "vitest", "run"], cwd=WEB, check=True, timeout=300)
    subprocess.run(
        ["npx", "svelte-check", "--tsconfig", "tsconfig.json", "--fail-on-warnings"], cwd=WEB, check=True, timeout=300
    )


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_person_clicks_follows_corrects_exports_and_undoes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with av.open(str(ROOT / "examples" / "cup.mp4")) as source, av.open(str(root / "clip.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame, _ in zip(source.decode(video=0), range(12), strict=False):
            out.mux(stream.encode(av.VideoFrame.from_image(frame.to_image().resize((320, 240)))))
        out.mux(stream.encode())
    command = [sys.executable, "-m", "hodor.cli", "serve", "--root", str(root), "--port", "0", "--size", "160"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        link = server.stdout.readline().strip()
        shots = tmp_path / "shots"
        play = ["node", "e2e/story.mjs", link, "clip.mp4", str(shots), "0.57,0.35", "0.8,0.55"]
        played = subprocess.run(play, cwd=WEB, capture_output=True, text=True, timeout=600)
        assert played.returncode == 0, played.stdout + played.stderr
        print(played.stdout)  # figures, with pytest -s
        names = zipfile.ZipFile(shots / "export.zip").namelist()
        assert sum(name.endswith(".png") and "masks/" in name for name in names) == 12
        assert any(name.endswith("overlay.mp4") for name in names)
    finally:
        server.terminate()
        server.wait(30)
