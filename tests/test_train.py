"""The training loop on files on disk: it runs, is reproducible, and stops where it must."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import torch
import training
from torch import Tensor
from training import lines, same, small, state

import hodor
from hodor import train
from hodor.commands import train as command
from hodor.data.stream import Stream
from hodor.models import weights
from hodor.models.attention import DeformableConv
from hodor.train import Data, Recipe, Scheme, Validation, plan_of, rate_of, run
from hodor.training import checkpoints, plans
from hodor.training.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("small_models")


@pytest.fixture
def recipe(root: Path) -> Recipe:
    return small(root)


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a run saves them."""
    return {k: v.half() if v.is_floating_point() else v.clone() for k, v in state.items()}


def test_a_run_leaves_a_log_a_checkpoint_and_weights_that_track(recipe: Recipe, tmp_path: Path) -> None:
    path = run(replace(recipe, pictures_every=3), tmp_path / "run")
    assert path == tmp_path / "run" / "weights.safetensors"
    left = ["last.pt", "log.jsonl", "pictures", "recipe.json", "tensorboard", "weights.safetensors"]
    assert sorted(p.name for p in path.parent.iterdir()) == left
    assert sorted(p.name for p in (path.parent / "pictures").iterdir()) == ["0000000.png", "0000003.png", "0000004.png"]
    log = lines(path.parent)
    assert [line["step"] for line in log] == [0, 1, 2, 3, 4]
    for line in log:
        assert line.keys() == {"step", "loss", "ce", "dice", "norm", "lr", "scales"}
        assert 0 < line["ce"] < 20
        assert 0 <= line["dice"] <= 1
        assert line["loss"] == pytest.approx(line["ce"] + line["dice"])
        assert line["norm"] > 0
    assert log[0]["scales"] == [[32, 16, 8, 4]]
    network = hodor.load(path)
    assert (network.name, network.size) == ("tiny", 48)
    labels = hodor.Tracker(network).track(tiny.pictures(1, (48, 64))[0], tiny.planes((48, 64))[0].byte().numpy())
    assert labels.max() == 1


def test_no_published_file_contains_a_path(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    path = run(replace(recipe, steps=1), tmp_path / "run")
    about, _ = weights.read(path)
    assert about["step"] == 1
    assert about["recipe"]["data"]["root"] == ["videos"]
    assert about["recipe"]["seed"] == 0
    for name in ("weights.safetensors", "last.pt"):
        assert str(root.parent).encode() not in (path.parent / name).read_bytes()


def test_the_resolved_recipe_is_in_the_folder_whole(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    run(replace(recipe, steps=1, lr=7e-5), tmp_path)
    written = json.loads((tmp_path / "recipe.json").read_text())["recipe"]
    assert written["lr"] == 7e-5
    assert written["data"]["root"] == [str(root)]
    assert written.keys() == {f.name for f in fields(Recipe)}


def test_the_same_seed_trains_the_same_bit_for_bit_and_another_another(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, steps=3)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(seed + 5)  # the state of the global generator does not matter
        run(replace(short, seed=seed), tmp_path / name)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    one, two = (torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("one", "two"))
    assert same(one["network"], two["network"])
    assert same(one["average"], two["average"])
    assert lines(tmp_path / "one") != lines(tmp_path / "three")


def test_dropout_differs_from_step_to_step_and_process_to_process() -> None:
    seeds = {
        train._dropout_seed(seed, step, rank, part) for seed in (0, 1) for step in (0, 1) for rank in (0, 1) for part in (0, 1)
    }
    assert len(seeds) == 16


def test_threads_do_not_change_the_clips(recipe: Recipe, tmp_path: Path) -> None:
    for workers in (0, 3):
        run(replace(recipe, steps=3, workers=workers), tmp_path / str(workers))
    assert lines(tmp_path / "0") == lines(tmp_path / "3")


def gradients(out: Path) -> list[Tensor]:
    """Of a run's only step: AdamW's first average holds a tenth of it."""
    moments = torch.load(out / "last.pt", weights_only=True)["optimiser"]["state"]
    return [each["exp_avg"] * 10 for _, each in sorted(moments.items())]


def test_a_batch_in_parts_has_the_gradient_of_the_whole(recipe: Recipe, tmp_path: Path) -> None:
    one = replace(recipe, model="calm", batch=4, steps=1, clip_norm=0, data=replace(recipe.data, count="equal", max_objects=3))
    for parts in (1, 2, 4):
        run(replace(one, accumulate=parts), tmp_path / str(parts))
    whole = gradients(tmp_path / "1")
    largest = max(float(g.abs().max()) for g in whole)
    for parts in ("2", "4"):
        for mine, theirs in zip(gradients(tmp_path / parts), whole, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * largest)
    assert lines(tmp_path / "4")[0]["loss"] == pytest.approx(lines(tmp_path / "1")[0]["loss"], abs=1e-6)


def test_a_finished_run_is_not_run_again(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, steps=2)
    path = run(short, tmp_path)
    before = path.read_bytes(), (tmp_path / "log.jsonl").read_bytes()
    assert run(short, tmp_path) == path
    assert (path.read_bytes(), (tmp_path / "log.jsonl").read_bytes()) == before


@pytest.mark.parametrize("scheme", [scheme for scheme in get_args(Scheme) if scheme != "find"])  # tests/test_finding.py
def test_every_scheme_takes_a_step(recipe: Recipe, tmp_path: Path, scheme: Scheme) -> None:
    labels: Any = "first" if scheme == "cyclic" else "all"
    run(replace(recipe, scheme=scheme, data=replace(recipe.data, labels=labels), steps=1), tmp_path)
    assert len(lines(tmp_path)) == 1
    assert all(torch.isfinite(v).all() for v in state(tmp_path).values())


def test_schemes_play_their_plans(recipe: Recipe) -> None:
    longer = replace(recipe, frames=4, mask_feedback="hard")
    expected = {
        "still": plans.still(),
        "chain": plans.chain(4, "hard"),
        "dense": plans.dense(4, "hard"),
        "cyclic": plans.cyclic(4, "hard"),
        "released": plans.released(3, "hard"),
    }
    for scheme, plan in expected.items():
        assert plan_of(replace(longer, scheme=scheme), 3) == plan
    back = {"back": "all", "references": "previous", "begin": "hard", "present": True}
    drawn = {
        "propagate": plans.propagate(4, "previous", mask_feedback="hard"),
        "one-shot": plans.one_shot(4, "all", "previous", mask_feedback="hard", begin="hard", present=True),
        "empty-reference": plans.empty_reference(4, "all", "previous", mask_feedback="hard"),
    }
    assert set(expected) | set(drawn) == set(get_args(Scheme)) - {"find"}  # it has no plan
    for scheme, plan in drawn.items():
        assert plan_of(replace(longer, scheme=scheme, **back), 3) == plan
    even, odd = (plan_of(replace(recipe, scheme="released"), step) for step in (0, 1))
    assert even != odd


PLAYED = ("paste", "distractor", "cut")


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_named_recipe_supervises_frames_whose_masks_it_has(root: Path, name: str) -> None:
    named = RECIPES[name]
    limits = {"size": (48, 64), "min_area": 20, "min_side": 4, "gap": (3,), "count": "any"} | dict.fromkeys(PLAYED, 0)
    frames = min(named.frames, 8)  # as many as the videos have
    clip = Stream(replace(named.data, root=(root,), **limits), frames, 2, 0).batch(0)
    if named.scheme == "find":
        assert clip.labelled_BT.all()
        return
    for step in (0, 1):
        plan = plan_of(named, step)
        plans.check_labels(plan, clip)
        for target in {s.target for s in plan if s.supervised}:
            assert clip.labelled_BT[:, target].all()
            assert clip.masks_BTNHW[:, target].flatten(1).any(1).all()


def documented(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables whose first cell is one name, by that name."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("| `")]
    return {name: rest for first, *rest in rows for name in re.findall("`([a-z_]+)`", first)}


def test_the_page_on_training_has_every_field_with_its_default_and_meaning() -> None:
    rows = documented("training.md")
    tree = ast.parse(Path(inspect.getfile(Recipe)).read_text())
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Recipe")
    documented_as = {a.target.id: ast.literal_eval(b.value) for a, b in pairwise(body) if isinstance(a, ast.AnnAssign)}  # type: ignore[attr-defined]
    assert documented_as.keys() == {f.name for f in fields(Recipe)}
    for field in fields(Recipe):
        default, meaning = rows[field.name]
        assert meaning == " ".join(documented_as[field.name].split()), field.name
        if field.name not in ("data", "validation", "bootstrap", "points", "replay"):
            assert default == f"`{field.default!r}`", field.name


def test_the_page_on_data_has_every_field() -> None:
    assert {f.name for f in fields(Data)} <= documented("data.md").keys()


def test_clips_without_a_supervised_label_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    blind = replace(recipe, scheme="chain", data=replace(recipe.data, labels="first"))
    words = (
        r"^expected labels on a supervised frame \(1, 2\), got labels on frame 0: use a plan that supervises frame 0 \(cyclic\)"
    )
    with pytest.raises(ValueError, match=words):
        run(blind, tmp_path)


def test_the_cosine_rises_over_the_warm_up_and_ends_at_final_lr() -> None:
    recipe = Recipe(steps=100, warmup=10, final_lr=0.1)
    rates = [rate_of(recipe, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.55)
    assert 0.1 < rates[99] < 0.101


def test_steps_rise_from_nothing_and_drop_at_the_milestones_as_in_the_paper() -> None:
    paper = Recipe(schedule="steps", steps=250_000, warmup=10_000, milestones=(100_000,), lr=1e-4)
    at = {step: rate_of(paper, step) for step in (0, 5_000, 10_000, 99_999, 100_000, 249_999)}
    assert at == pytest.approx({0: 0, 5_000: 0.5, 10_000: 1, 99_999: 1, 100_000: 0.1, 249_999: 0.1})
    assert rate_of(Recipe(schedule="steps", warmup=0, milestones=(5, 9), drop=0.5), 9) == 0.25


def test_the_rate_reaches_the_optimiser_and_the_backbone_takes_its_share(recipe: Recipe, tmp_path: Path) -> None:
    run(replace(recipe, steps=3, warmup=1, schedule="steps", milestones=(2,), lr=1e-3, backbone_lr=0.2), tmp_path)
    assert [line["lr"] for line in lines(tmp_path)] == pytest.approx([0, 1e-3, 1e-4])
    groups = torch.load(tmp_path / "last.pt", weights_only=True)["optimiser"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 2e-5])


def test_a_frozen_backbone_does_not_change_and_the_rest_does(recipe: Recipe, tmp_path: Path) -> None:
    network = weights.build("tiny")
    weights.save(network, tmp_path / "start.safetensors")
    before = halved(network.state_dict())
    frozen = replace(recipe, steps=2, init=tmp_path / "start.safetensors", frozen=32)
    run(frozen, tmp_path / "run")
    moved = {k for k, v in state(tmp_path / "run").items() if not torch.equal(v, before[k])}
    assert not {k for k in moved if k.startswith("backbone.")}
    assert {"pyramid.lateral_convs.0.conv.weight", "encoder.object_embed"} <= moved
    run(replace(frozen, frozen=4), tmp_path / "more")
    moved = {k for k, v in state(tmp_path / "more").items() if not torch.equal(v, before[k])}
    assert {k for k in moved if k.startswith("backbone.blocks.7")}
    assert not {k for k in moved if k.startswith("backbone.stem")}


def test_the_backbone_can_begin_from_a_public_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(5)
    backbone = weights.build("tiny").backbone
    torch.save({"state_dict": backbone.state_dict()}, tmp_path / "backbone.pth")
    run(replace(recipe, steps=1, backbone=tmp_path / "backbone.pth", frozen=32), tmp_path / "run")
    mine = state(tmp_path / "run")
    assert all(torch.equal(mine[f"backbone.{k}"], v) for k, v in halved(backbone.state_dict()).items())


def test_the_backbone_can_begin_from_that_of_another_network_of_ours(recipe: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = weights.build("tiny", decoder_layers=2)
    weights.save(other, tmp_path / "other.safetensors")
    run(replace(recipe, steps=1, backbone=tmp_path / "other.safetensors", frozen=32), tmp_path / "run")
    mine = state(tmp_path / "run")
    assert all(torch.equal(mine[f"backbone.{k}"], v) for k, v in halved(other.backbone.state_dict()).items())
    nothing = replace(recipe, steps=1, backbone=tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"^no file .*none.pth: give the authors' .pth file$"):
        run(nothing, tmp_path / "none")


def test_settings_change_the_network_and_weights_that_nothing_reaches_do_not_decay(recipe: Recipe, tmp_path: Path) -> None:
    path = run(replace(recipe, steps=2, settings=(("conditioning", "none"),), lr=1e-2, weight_decay=0.5), tmp_path)
    assert hodor.load(path).settings["conditioning"] == "none"
    found = state(tmp_path)["encoder.layers.0.cross_attn.scaling_factors"]
    assert found.tolist() == [32, 16, 8, 4]


@pytest.mark.parametrize("loss", ["released", "object-dice", "cross-entropy"])
def test_the_choice_of_loss_is_what_is_minimised(recipe: Recipe, tmp_path: Path, loss: Any) -> None:
    run(replace(recipe, steps=1, loss=loss), tmp_path)
    (line,) = lines(tmp_path)
    assert line["loss"] == pytest.approx(line["ce"] + (0 if loss == "cross-entropy" else line["dice"]))


def test_a_run_in_evaluation_mode_never_trains_in_training_mode(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = set()
    call = train.Play.forward
    monkeypatch.setattr(train.Play, "forward", lambda self, *args: modes.add(self.network.training) or call(self, *args))
    run(replace(recipe, evaluation_mode=True), tmp_path / "a")
    assert modes == {False}
    run(recipe, tmp_path / "b")
    assert modes == {False, True}


def test_a_run_in_bfloat16_is_finite_and_differs(recipe: Recipe, tmp_path: Path) -> None:
    for precision in get_args(Recipe.__annotations__["precision"]) or ("float32", "bfloat16"):
        run(replace(recipe, steps=2, precision=precision), tmp_path / precision)
    full, half = lines(tmp_path / "float32"), lines(tmp_path / "bfloat16")
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.1)
    assert half[0]["loss"] != full[0]["loss"]


@pytest.mark.slow
def test_a_compiled_run_computes_the_same(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, model="calm", steps=2)
    run(short, tmp_path / "plain")
    run(replace(short, compile="eager"), tmp_path / "compiled")
    one, two = lines(tmp_path / "plain"), lines(tmp_path / "compiled")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)


def test_compiling_and_checkpointing_exclude_each_other(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected either --compile or --checkpoint, got both$"):
        run(replace(recipe, compile="eager", checkpoint=True), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_batch(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(supervised: Any, name: Any, options: Any) -> Any:
        nonlocal calls
        calls += 1  # the first is the estimate of the memory
        losses = real(supervised, name, options)
        return losses._replace(dice=losses.dice * float("nan")) if calls == 5 else losses

    calls, real = 0, train.compute_loss
    monkeypatch.setattr(train, "compute_loss", spoil)
    with pytest.raises(FloatingPointError) as stop:
        run(recipe, tmp_path)
    message = f"expected a finite loss and gradient, got nan and nan at step 3: the batch is in {tmp_path / 'nan.pt'}"
    assert str(stop.value) == f"{message}; lower --lr, or train in float32"
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["step"] == 2
    assert all(torch.isfinite(v).all() for v in [*last["network"].values(), *state(tmp_path).values()])
    left = torch.load(tmp_path / "nan.pt", weights_only=True)
    assert (left["step"], left["recipe"]["batch"]) == (3, 2)
    expected = train.Stream(recipe.data, recipe.frames, recipe.batch, recipe.seed).batch(3)
    assert torch.equal(left["clips"][0]["frames_BTCHW"], expected.frames_BTCHW)
    monkeypatch.undo()
    training.add_models()
    run(recipe, tmp_path)  # it can resume
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]


def test_weights_that_diverge_within_the_forward_pass_stop_the_run_and_leave_the_batch(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(network: Any, clip: Any, plan: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            deformable = next(module for module in network.modules() if isinstance(module, DeformableConv))
            torch.nn.init.constant_(deformable.conv_offsets.weight, float("nan"))
        return real(network, clip, plan)

    calls, real = 0, train.plans.rollout
    monkeypatch.setattr(train.plans, "rollout", spoil)
    with pytest.raises(FloatingPointError) as stop:
        run(recipe, tmp_path)
    message = f"expected a finite loss and gradient, got nan and nan at step 2: the batch is in {tmp_path / 'nan.pt'}"
    assert str(stop.value) == f"{message}; lower --lr, or train in float32"
    left = torch.load(tmp_path / "nan.pt", weights_only=True)
    expected = train.Stream(recipe.data, recipe.frames, recipe.batch, recipe.seed).batch(2)
    assert torch.equal(left["clips"][0]["frames_BTCHW"], expected.frames_BTCHW)


def test_an_index_error_of_a_network_is_not_taken_for_divergence(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(*arguments: Any) -> Any:
        raise IndexError("index 7 is out of range")

    monkeypatch.setattr(train.plans, "rollout", spoil)
    monkeypatch.setattr(train.budget, "estimate", lambda *_: train.budget.Budget(0, 0, 1))
    with pytest.raises(IndexError, match="index 7 is out of range"):
        run(recipe, tmp_path)
    assert not (tmp_path / "nan.pt").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(), "DefaultCPUAllocator"]
)
def test_memory_that_runs_out_is_answered_with_what_to_lower(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | str
) -> None:
    def burst(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            return rollout(*arguments)
        if isinstance(error, str):
            torch.empty(2**55, dtype=torch.uint8)  # the CPU's own refusal
        raise error  # type: ignore[misc]

    calls, rollout = 0, plans.rollout
    monkeypatch.setattr(plans, "rollout", burst)
    with pytest.raises(
        ValueError, match=r"^out of memory on cpu \(free before .* GiB, a step was estimated at \d+ MiB\): lower it"
    ) as stop:
        run(recipe, tmp_path)
    assert "--accumulate 2 (1 at once, about" in str(stop.value)
    assert "--checkpoint" in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_step_that_cannot_fit_is_refused_before_it_starts(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.budget, "available", lambda device: 8 * 2**20)
    with pytest.raises(
        ValueError,
        match=r"^expected about \d+ MiB \(.*\) free on cpu for a step, got 8 MiB: lower it with --accumulate 2 \(1 at once",
    ):
        run(recipe, tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": Data()}, r"no data: give --data\.root, .*"),
        ({"batch": 3, "accumulate": 2}, r"expected a batch that is a multiple of 2 \(1 processes x 2 parts\), got 3"),
        ({"validation": Validation(every=5)}, r"validation\.every is 5, but validation\.root is not given: .*"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(recipe: Recipe, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        run(replace(recipe, **changes), tmp_path)


def test_training_on_image_folders_needs_neither_pyav_nor_tyro(root: Path, tmp_path: Path) -> None:
    block = "import sys; sys.modules['av'] = sys.modules['tyro'] = None; import hodor.training.recipes, training; "
    work = "sys.argv[1:] = sys.argv[2:]; training.main()"
    changes = {"steps": 1, "validation": {"every": 1, "root": str(root), "sequences": ["held"]}}
    arguments = [sys.executable, "-c", block + work, *training.command(root, tmp_path / "run", **changes)]
    done = subprocess.run(arguments, env=training.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "best.safetensors").is_file()


def output_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert command.main(list(argv)) == 0
    return capsys.readouterr().out


def test_the_command_lists_recipes_and_prints_one_as_changed(capsys: pytest.CaptureFixture[str]) -> None:
    from hodor.training.recipes import RECIPES

    listed = output_of(capsys, "--list")
    assert [line.split()[0] for line in listed.splitlines()] == list(RECIPES)
    name = next(iter(RECIPES))
    printed = json.loads(output_of(capsys, name, "--print", "--lr", "1e-4", "--data.root", "A", "B", "--validation.every", "7"))
    assert (printed["lr"], printed["data"]["root"], printed["validation"]["every"]) == (1e-4, ["A", "B"], 7)
    changed = replace(
        RECIPES[name],
        lr=1e-4,
        data=replace(RECIPES[name].data, root=(Path("A"), Path("B"))),
        validation=replace(RECIPES[name].validation, every=7),
    )
    assert printed == checkpoints.plain(changed)


def test_recipes_are_values_that_import_no_network() -> None:
    names = "[m for m in sys.modules if m.startswith('hodor')]"
    done = subprocess.run(
        [sys.executable, "-c", f"import hodor.training.recipes, sys; print(*{names})"],
        env=training.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert len(loaded) <= 28, loaded
    heavy = (
        "tracking",
        "evaluation",
        "video.ffmpeg",
        "video.render",
        "models",
        "train",
        "training.validation",
        "training.plans",
        "training.losses",
    )
    assert not loaded & {f"hodor.{name}" for name in heavy}


def test_a_start_from_random_weights_is_reported_once(recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def warned() -> int:
        found = sum(message.startswith("warning: training starts from random weights: ") for message in caplog.messages)
        caplog.clear()
        return found

    longer = replace(recipe, steps=1, schedule="steps")
    path = run(longer, tmp_path / "run")
    assert warned() == 1
    run(replace(longer, steps=2), tmp_path / "run")  # resumed
    assert warned() == 0
    run(replace(longer, init=path), tmp_path / "more")
    assert warned() == 0


def test_a_run_logs_to_trackers_beside_tensorboard(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = training.fake_tracker(monkeypatch, "wandb")
    run(replace(recipe, steps=2), tmp_path / "run", log_to=("wandb", "tensorboard"))
    (tracker,) = found
    assert tracker.arguments == (("hodor",), {"name": "run"})
    assert tracker.config["scheme"] == "dense"
    assert tracker.config["data/size/0"] == 48
    assert [step for step, _ in tracker.logged] == [0, 1]
    assert tracker.logged[0][1]["loss"] == lines(tmp_path / "run")[0]["loss"]
    assert tracker.finished
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_a_tracker_that_is_not_installed_is_refused_before_the_first_step(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"^expected package wandb for --log-to wandb: pip install wandb$"):
        run(recipe, tmp_path / "run", log_to=("wandb",))
    assert not (tmp_path / "run").exists()


def test_options_without_a_recipe_are_answered_with_recipes_for_own_videos(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data.root", "videos"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("hodor: expected a recipe before the options, got --data.root.")
    examples = re.findall(r"hodor train (.*) --data.root VIDEOS --out runs/own", printed.err)
    assert len(examples) == 3
    for example in examples:
        name, *options = example.split()
        chosen = json.loads(output_of(capsys, name, *options, "--print"))
        weights.fill(weights.build(chosen["model"]), weights.read(chosen["init"])[1], name)


def test_the_old_name_of_an_option_and_a_misspelt_recipe_are_answered_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^expected --init FILE for the weights to begin from, got --start"):
        command.main(["dense-small", "--start", "x.safetensors"])
    words = (
        r"^expected the name of a recipe, got 'dense-smal': did you mean dense-small or .*\? `hodor train --list` lists them$"
    )
    with pytest.raises(ValueError, match=words):
        command.main(["dense-smal"])


def test_no_option_is_an_ambiguous_abbreviation_of_an_option_of_torchrun(capsys: pytest.CaptureFixture[str]) -> None:
    """torchrun looks at the options after its script too, and refuses one that could be the start of several of its own."""
    from torch.distributed.run import get_args_parser, parse_args

    with pytest.raises(SystemExit):
        command.main(["dense-small", "--help"])
    options = set(re.findall(r"--[a-z][a-z0-9.-]+", capsys.readouterr().out))
    assert {"--init", "--log-to", "--data.root", "--out"} <= options
    theirs = {text for action in get_args_parser()._actions for text in action.option_strings}
    assert not {mine for mine in options if mine not in theirs and sum(their.startswith(mine) for their in theirs)}
    words = ["dense-small", "--init", "x.safetensors", "--log-to", "wandb"]
    assert parse_args(["--nproc-per-node", "2", "hodor", "train", *words]).training_script_args == ["train", *words]


def test_the_command_reports_a_nan_in_one_line_and_fails(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(recipe: Recipe, out: Path, **_: Any) -> Path:
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(train, "run", stop)
    assert command.main(["hodor-lite", "--data.root", str(root), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert capsys.readouterr().err == "hodor: the loss is nan\n"
    monkeypatch.setenv("RANK", "1")
    assert command.main(["hodor-lite", "--data.root", str(root), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert capsys.readouterr().err == ""
