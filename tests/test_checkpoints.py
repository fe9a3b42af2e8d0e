"""The files of a run are complete at every moment, and suffice to resume as if it had not been interrupted."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import tiny
import torch
import training
from training import lines, same, small, state

from hodor.data.settings import Data
from hodor.models import weights
from hodor.train import Recipe, Validation, run
from hodor.training import checkpoints, journal
from hodor.training.checkpoints import Average, clear, differences, plain, read, save

pytestmark = pytest.mark.usefixtures("small_models")


def killed(arguments: list[str], when: Callable[[], bool], slow: bool) -> bool:
    """Start a run and kill it outright at this moment; -> whether it was still alive then."""
    slowness = {"SLOW_DISK": "1"} if slow else {}
    process = subprocess.Popen([sys.executable, *arguments], env=training.environment() | slowness, stderr=subprocess.PIPE)
    while process.poll() is None and not when():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode == -signal.SIGKILL


def test_a_run_killed_while_stepping_and_while_saving_ends_as_an_unbroken_one(root: Path, tmp_path: Path) -> None:
    """Real processes, real SIGKILL; dropout, clips, optimiser, average, best score and log included."""
    steps = 6
    recipe = small(root, steps=steps, validation=Validation(every=3, root=root, sequences=("held",)))
    run(recipe, tmp_path / "whole")
    out = tmp_path / "broken"
    changes = {"steps": steps, "validation": {"every": 3, "root": str(root), "sequences": ["held"]}}
    arguments = training.command(root, out, **changes)

    def done() -> int:
        found = read(out / "last.pt")
        return 0 if found is None else int(found["step"])

    def at_work_on_the_second_file() -> bool:
        return (out / "last.pt").exists() and any(out.glob(".last.pt.*.part"))

    assert killed(arguments, lambda: any(out.glob(".last.pt.*.part")), slow=True)
    assert not (out / "last.pt").exists()  # killed in its first save: nothing, rather than half
    assert killed(arguments, lambda: (out / "last.pt").exists(), slow=True)  # killed before the weights were written
    assert done() == 2
    assert killed(arguments, at_work_on_the_second_file, slow=True)
    assert done() == 2
    steps_before = len(lines(out))
    run(recipe, out, resume=True)
    assert done() == steps
    assert steps_before >= 3
    assert lines(out) == lines(tmp_path / "whole")
    one, two = (read(folder / "last.pt") for folder in (tmp_path / "whole", out))
    assert one is not None
    assert two is not None
    assert same(one["network"], two["network"])
    assert same(one["average"], two["average"])
    for mine, theirs in zip(one["optimiser"]["state"].values(), two["optimiser"]["state"].values(), strict=True):
        assert same(mine, theirs)
    assert one["best"] == two["best"] > 0
    for name in ("weights.safetensors", "best.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list(out.glob(".*.part"))


def test_resuming_with_another_number_of_threads_prints_a_note(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small(root, model="calm", steps=1, schedule="steps")
    caplog.set_level(logging.INFO)
    run(recipe, tmp_path)
    run(replace(recipe, steps=2), tmp_path)
    assert "resuming from step 1" in caplog.messages
    torch.set_num_threads(2)
    try:
        run(replace(recipe, steps=3), tmp_path)
    finally:
        torch.set_num_threads(1)
    assert "resuming from step 2 (threads was 1, now 2: the last bits may differ)" in caplog.messages


def test_weights_missing_at_the_end_are_written_again(root: Path, tmp_path: Path) -> None:
    """Killed between the last checkpoint and the weights."""
    recipe = small(root, steps=2)
    path = run(recipe, tmp_path)
    before = path.read_bytes()
    path.unlink()
    assert run(recipe, tmp_path).read_bytes() == before


def test_another_recipe_is_refused_with_its_differences(root: Path, tmp_path: Path) -> None:
    recipe = small(root, steps=2)
    run(recipe, tmp_path)
    other = replace(recipe, lr=1e-4, batch=4)
    words = f"{tmp_path} holds a run of another recipe: batch was 2, now 4; lr was 0.0003, now 0.0001: "
    with pytest.raises(ValueError, match="holds a run") as refused:
        run(other, tmp_path)
    assert str(refused.value) == words + "choose another --out, or --fresh to start again"
    with pytest.raises(ValueError, match="steps was 2, now 3"):  # a cosine depends on its end
        run(replace(recipe, steps=3), tmp_path)


def test_what_changes_no_number_may_change_and_a_stepped_run_may_grow_longer(root: Path, tmp_path: Path) -> None:
    recipe = small(root, model="calm", steps=2, schedule="steps")
    run(recipe, tmp_path / "grown")
    moved = root.parent / "elsewhere" / "videos"
    moved.parent.mkdir(exist_ok=True)
    if not moved.exists():
        moved.symlink_to(root)
    longer = replace(recipe, steps=4, save_every=3, workers=0, pictures_every=1, checkpoint=True)
    run(replace(longer, data=replace(longer.data, root=(moved,))), tmp_path / "grown")
    run(replace(recipe, steps=4), tmp_path / "whole")
    assert lines(tmp_path / "grown") == lines(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"expected at least 4 steps, as many as the run in .* has, got 3"):
        run(replace(recipe, steps=3), tmp_path / "whole")


def test_fresh_begins_again_and_removes_no_file_of_others(root: Path, tmp_path: Path) -> None:
    run(small(root, steps=2, pictures_every=1), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run(small(root, steps=1, lr=1e-4), tmp_path, fresh=True)
    assert [line["step"] for line in lines(tmp_path)] == [0]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list((tmp_path / "pictures").iterdir())
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_a_folder_is_used_by_one_run_at_a_time(root: Path, tmp_path: Path) -> None:
    """Two runs in one folder would overwrite each other's checkpoints; one that was killed must not be in the way."""
    run(small(root, steps=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    words = "import sys, time, pathlib; from hodor.training.checkpoints import alone\nwith alone(pathlib.Path(sys.argv[1])):\n"
    other = subprocess.Popen(
        [sys.executable, "-c", words + " print('held', flush=True); time.sleep(60)", str(tmp_path)], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    for fresh in (False, True):
        with pytest.raises(ValueError, match=r"^another run is writing to .*: wait for its end, or choose another --out$"):
            run(small(root, steps=1), tmp_path, fresh=fresh)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    other.kill()
    other.communicate()
    run(small(root, steps=1, lr=1e-4), tmp_path, fresh=True)


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_a_new_folder_is_held_from_the_first_file_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoints.write_recipe

    def written(out: Path, recipe: Recipe, **more: Any) -> None:
        with pytest.raises(ValueError, match="another run is writing"), checkpoints.alone(out):
            pass
        real(out, recipe, **more)

    monkeypatch.setattr(checkpoints, "write_recipe", written)
    run(small(root, steps=1), tmp_path / "new")
    with checkpoints.alone(tmp_path / "new"):
        assert (tmp_path / "new" / checkpoints.RECIPE).is_file()


def test_resume_insists_on_a_run(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds no run to resume: leave out --resume, or name the folder of a run with --out$"
    ):
        run(small(root), tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"^expected either --resume or --fresh, got both$"):
        run(small(root), tmp_path, resume=True, fresh=True)


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    run(small(root, steps=1), tmp_path)
    whole = (tmp_path / "last.pt").read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"last\.pt cannot be read as a checkpoint \(.*\): start again with --fresh"
        ) as refused:
            run(small(root, steps=1), tmp_path)
        assert "\n" not in str(refused.value)


def test_save_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    state = {"network": {"a": torch.arange(3.0)}, "step": 1, "recipe": {}}
    save(path, state)
    monkeypatch.setattr(torch, "save", lambda state, out: (out.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save(path, {**state, "step": 2})
    found = read(path)
    assert found is not None
    assert found["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert read(tmp_path / "none.pt") is None


def test_clear_removes_the_unfinished_files_of_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in (
        ".last.pt.12ab.part",
        ".weights.safetensors.00ff.part",
        "pictures/.0000002.png.12ab.part",
        "last.pt",
        ".mine.part",
    ):
        (tmp_path / name).touch()
    clear(tmp_path, all_of_it=False)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".mine.part", "last.pt"]


def test_the_average_is_the_sum_it_should_be() -> None:
    network = tiny.network()
    network.backbone.freeze(32)
    average = Average(network, 0.9)
    name, still = "encoder.object_embed", "backbone.stem.conv.weight"
    expected = network.get_parameter(name).detach().clone()
    before = network.get_parameter(still).detach().clone()
    for step in range(5):
        with torch.no_grad():
            network.get_parameter(name).add_(0.1)
            network.get_parameter(still).add_(1)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.get_parameter(name).detach()
    torch.testing.assert_close(average.network.get_parameter(name), expected)
    assert torch.equal(average.network.get_parameter(still), before)
    assert not any(p.requires_grad for p in average.network.parameters())


def test_without_decay_the_average_is_the_network(root: Path, tmp_path: Path) -> None:
    run(small(root, steps=2, ema=0), tmp_path)
    last = read(tmp_path / "last.pt")
    assert last is not None
    assert same(last["network"], last["average"])
    mine = state(tmp_path)
    assert all(torch.equal(mine[k], v.half() if v.is_floating_point() else v) for k, v in last["network"].items())


def test_differences_name_nested_fields_and_compare_paths_by_their_names() -> None:
    one = Recipe(data=Data(root=(Path("/here/davis"),)), milestones=(1, 2))
    two = Recipe(data=Data(root=(Path("/there/davis"),), max_objects=3), milestones=(1, 3))
    found = differences(plain(one, names_only=True), plain(two, names_only=True))
    assert found == ["data.max_objects was 4, now 3", "milestones was [1, 2], now [1, 3]"]
    assert differences(plain(one), plain(two), ("data", "milestones")) == []
    assert "data.root was" in differences(plain(one), plain(two))[0]


def test_a_commit_is_a_hash_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(checkpoints.commit()) in (0, 40)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkpoints.commit() == ""


def test_a_full_disk_is_an_error_of_the_system_not_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch alone raises RuntimeError: "unexpected pos 64 vs 0"."""

    @contextmanager
    def full(path: Path, new_folder: bool = True) -> Iterator[IO[bytes]]:
        with open("/dev/full", "wb", buffering=0) as file:
            yield file

    monkeypatch.setattr(checkpoints, "written_whole", full)
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path / "last.pt", {"network": {"a": torch.zeros(1000)}})


def test_a_folder_that_is_removed_during_training_ends_it_and_is_not_created_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = journal.Journal.step

    def remove(self: journal.Journal, line: Mapping[str, Any]) -> None:
        step(self, line)
        if line["step"] == 2:
            (tmp_path / "out").rename(tmp_path / "moved")

    monkeypatch.setattr(journal.Journal, "step", remove)
    with pytest.raises(FileNotFoundError, match="the folder was removed or emptied during the run"):
        run(small(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "moved").rename(tmp_path / "out")
    monkeypatch.setattr(journal.Journal, "step", step)
    run(small(root), tmp_path / "out", resume=True)
    run(small(root), tmp_path / "whole")
    assert same(state(tmp_path / "out"), state(tmp_path / "whole"))


def test_the_files_of_a_run_are_not_written_into_a_folder_that_was_removed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoints.save(tmp_path / "gone" / "last.pt", {"step": 1})
    with pytest.raises(FileNotFoundError):
        checkpoints.write_weights(tmp_path / "gone" / "weights.safetensors", weights.build("hodor-lite"), {})
    assert not (tmp_path / "gone").exists()
