"""Paths and small fixtures shared by the tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that share the cores wait for each other's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def small_models() -> Iterator[None]:
    """The networks of `training`, by name, and its one thread (rounding depends on their number), until the module is done."""
    import torch
    import training

    from hodor.models.backbones import BACKBONES
    from hodor.models.finders import FINDERS
    from hodor.models.weights import MODELS

    tables: tuple[dict[str, Any], ...] = (MODELS, BACKBONES, FINDERS)
    before = [dict(table) for table in tables]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    training.add_models()
    yield
    torch.set_num_threads(threads)
    for now, old in zip(tables, before, strict=True):
        now.clear()
        now.update(old)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small videos to train on: goat, cow, and held for scores."""
    import training

    return training.write_videos(tmp_path_factory.mktemp("data") / "videos", ["goat", "cow", "held"])
