"""What README.md and docs/ tell people to type: every `hodor` line parses, and blocks marked `sh run` are run."""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hodor.commands
from hodor import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENDS = re.compile(r"[|;&<>]+")


class Block(NamedTuple):
    """A fenced block of shell: where it stands, its lines joined at backslashes, and whether it is to be run."""

    where: str
    text: str
    run: bool


def blocks(page: Path) -> Iterator[Block]:
    for found in re.finditer(r"^( *)```sh( run)?[^\n]*\n(.*?)^ *```", page.read_text(), re.M | re.S):
        line = page.read_text()[: found.start()].count("\n") + 1
        yield Block(f"{page.relative_to(ROOT)}:{line}", found[3].replace("\\\n", " "), bool(found[2]))


def commands(text: str) -> Iterator[list[str]]:
    """The words after each `hodor`, also `.venv/bin/hodor`, up to a pipe, a redirection or the next command."""
    for line in text.splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        for end, words in itertools.groupby(lexer, lambda word: bool(ENDS.fullmatch(word))):
            given = list(words)
            if not end and Path(given[0]).name == "hodor":
                yield given[1:]


BLOCKS = [block for page in PAGES for block in blocks(page)]
LINES = [pytest.param(words, id=f"{block.where} {' '.join(words[:3])}") for block in BLOCKS for words in commands(block.text)]


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the words to the command with all the work taken out; -> its exit code."""
    from hodor import train

    for module in pkgutil.iter_modules(hodor.commands.__path__, "hodor.commands."):
        for command in vars(importlib.import_module(module.name)).values():
            if isinstance(command, type) and command.__module__ == module.name and hasattr(command, "run"):
                monkeypatch.setattr(command, "run", lambda self: 0)
    monkeypatch.setattr(train, "run", lambda recipe, out, **_: out)
    monkeypatch.setattr("hodor.data.stream.Stream", lambda *_: None)
    monkeypatch.setattr("hodor.data.check.preview", lambda *_: None)
    monkeypatch.setattr("hodor.commands.data._save", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return int(stop.value.code or 0)


def test_the_readme_has_commands() -> None:
    assert any(block.where.startswith("README.md") and list(commands(block.text)) for block in BLOCKS)


@pytest.mark.parametrize("words", LINES)
def test_every_command_in_the_readme_and_the_docs_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(words, monkeypatch) == 0


@pytest.mark.parametrize("block", [pytest.param(b, id=b.where) for b in BLOCKS if b.run])
def test_blocks_marked_run_do_what_they_say(block: Block, tmp_path: Path) -> None:
    """In a copy of examples/, which can be named with or without that folder."""
    place = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", place)
    (place / "examples").symlink_to(".")
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text], cwd=place, env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("hodor segment clip.mp4 --mask first.png --mask late.png@40 -o out --overlay", 0),
        ("hodor train hodor-lite --data.root DAVIS --lr 1e-4 --data.augment.affine.rotate 20", 0),
        ("hodor segment clip.mp4 --mask first.png --overlayed", 2),
        ("hodor segment", 2),
        ("hodor train hodor-lite --learning-rate 3", 2),
        ("hodor train large", 2),
        ("hodor see clip.mp4", 2),
    ],
)
def test_the_check_itself_tells_right_from_wrong(line: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = commands(line)
    assert parse(words, monkeypatch) == code


def test_commands_are_found_in_blocks_as_people_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n```sh\n# a comment\n$ hodor doctor 'my mask.png' | head -1   # why\n"
        "hodor segment a.mp4 \\\n  --mask b.png > log\n"
        "pip install hodor-vos\n```\n```python\nhodor = 1\n```\n\n- list\n\n"
        "  ```sh run\n  ls && .venv/bin/hodor --version; ls\n  ```\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = list(blocks(page))
    assert [block.run for block in found] == [False, True]
    assert [block.where for block in found] == ["page.md:2", "page.md:15"]
    assert [words for block in found for words in commands(block.text)] == [
        ["doctor", "my mask.png"],
        ["segment", "a.mp4", "--mask", "b.png"],
        ["--version"],
    ]
