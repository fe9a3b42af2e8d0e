"""Damaged files end in a result or one line: a short run of the campaign of tests/campaigns/fuzz.py, and its damage."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from campaigns import fuzz
from campaigns.damage import STRUCTURED, damage
from campaigns.readers import READERS
from PIL import Image


def test_damage_depends_on_the_seed_alone() -> None:
    data = json.dumps({"a": [1, 2, {"b": "text"}], "c": None}).encode()
    for kind in ("json", "bytes"):
        first, second = ([damage(data, kind, Random(f"{seed}")) for seed in range(50)] for _ in range(2))
        assert first == second
        assert len(set(first)) > 25


def test_damaged_containers_have_right_checksums() -> None:
    """Half of the damage has to reach the code behind the checksums."""
    out = io.BytesIO()
    Image.fromarray(np.eye(30, dtype=np.uint8)).save(out, "PNG")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", out.getvalue())
    for n in range(20):
        with zipfile.ZipFile(io.BytesIO(STRUCTURED["zip"](packed.getvalue(), Random(n)))) as archive:
            assert archive.testzip() is None
        assert STRUCTURED["png"](out.getvalue(), Random(n))[:8] == out.getvalue()[:8]


def test_findings_are_recognised() -> None:
    def reader(error: BaseException) -> Any:
        def read(path: Path) -> None:
            raise error

        return type("Fake", (), {"read": staticmethod(read)})

    path = Path("folder/mask.png")
    assert fuzz._read(reader(ValueError("mask.png is empty")), path)[0] == "refused"
    assert fuzz._read(reader(ValueError("is empty")), path)[0] == "message without the file"
    assert fuzz._read(reader(ValueError("mask.png\nis empty")), path)[0] == "several lines"
    assert fuzz._read(reader(ValueError("mask.png" * 1000)), path)[0] == "long message"
    assert fuzz._read(reader(MemoryError()), path)[0] == "memory"
    assert fuzz._read(reader(KeyError("x")), path)[0] == "traceback"


def test_a_few_damaged_files_of_every_reader() -> None:
    found = fuzz.campaign(200, seed=11)
    assert list(found) == [reader.name for reader in READERS]
    assert sum(result.inputs for result in found.values()) >= 200
    assert {name: result.findings for name, result in found.items() if result.findings} == {}


@pytest.mark.slow
def test_the_whole_campaign() -> None:
    found = fuzz.campaign(10_000, seed=0)
    assert {name: result.findings for name, result in found.items() if result.findings} == {}
