"""One-shot training and the fully supervised schemes of STCN, XMem and Cutie: plans, rollouts and runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import training
from recurrent import Recurrent
from test_plans import Watcher, orders
from training import lines, small, state

from hodor.data.stream import Stream
from hodor.models.base import Memory, Network
from hodor.models.finders import FINDERS
from hodor.models.prediction import Features, Prediction
from hodor.models.weights import MODELS
from hodor.train import Recipe, plan_of, run
from hodor.training.journal import return_path
from hodor.training.losses import compute_loss
from hodor.training.optimisation import optimiser_of
from hodor.training.plans import Plan, Step, Supervised, check_recurrent, dense, empty_reference, one_shot, propagate, rollout
from hodor.training.recipe import Back, References
from hodor.training.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("small_models")

BACKS: tuple[Back, ...] = ("two", "all", "one")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of which only the first mask can be read: the other mask files are empty."""
    made = training.write_videos(tmp_path_factory.mktemp("one") / "videos", ["goat", "cow"])
    for path in made.rglob("Annotations/480p/*/*.png"):
        if path.stem != "00000":
            path.write_bytes(b"")
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recurrent(seed: int = 0) -> Recurrent:
    torch.manual_seed(seed)
    return Recurrent()


# Plans ----------------------------------------------------------------------------------------------------------------


def test_stcn_reads_the_first_frame_and_the_one_before() -> None:
    assert orders(propagate(4, "previous")) == [((0,), 1), ((0, 1), 2), ((0, 2), 3)]


@pytest.mark.parametrize("references", ["first-random", "random"])
def test_xmem_and_cutie_read_up_to_three_random_frames_of_the_past(references: References) -> None:
    seen: set[tuple[int, ...]] = set()
    for seed in range(60):
        plan = propagate(8, references, 3, rng(seed))
        assert orders(plan)[:3] == [((0,), 1), ((0, 1), 2), ((0, 1, 2), 3)], "all of the past, while it is short"
        for step in plan[3:]:
            assert len(set(step.sources)) == 3
            assert list(step.sources) == sorted(step.sources)
            assert max(step.sources) < step.target
        seen.add(plan[-1].sources)
    firsts = {sources[0] for sources in seen}
    assert firsts == {0} if references == "first-random" else firsts > {0}
    assert {s for sources in seen for s in sources} == set(range(7))


def test_every_prediction_of_propagate_is_supervised_and_fed_back_with_gradients() -> None:
    assert all(s.supervised and s.grad and s.mask_feedback == "soft" and not s.restart for s in propagate(5))


def test_out_without_gradient_or_loss_then_back_from_the_last_frame_alone() -> None:
    expected = {
        "all": [((3,), 2), ((2, 3), 1), ((1, 3), 0)],  # the last frame in the role of the first
        "one": [((3,), 0)],
    }
    for back, steps in expected.items():
        plan = one_shot(4, back, "previous")  # type: ignore[arg-type]
        out, way = plan[:3], plan[3:]
        assert orders(out) == orders(propagate(4, "previous"))
        assert all(not s.supervised and not s.grad and s.mask_feedback == "detached" and not s.restart for s in out)
        assert [(tuple(sorted(s)), t) for s, t in orders(way)] == steps
        assert [s.restart for s in way] == [True] + [False] * (len(way) - 1)
        assert [s.supervised for s in way] == [s.target == 0 for s in way]
        assert all(s.grad and s.mask_feedback == "soft" for s in way)


def test_two_steps_back_meet_any_frame_between_and_read_it_with_the_last() -> None:
    between = set()
    for seed in range(40):
        way = one_shot(6, "two", rng=rng(seed))[5:]
        (middle,) = {s.target for s in way} - {0}
        assert orders(way) == [((5,), middle), ((5, middle), 0)]
        between.add(middle)
    assert between == {1, 2, 3, 4}


def test_with_three_frames_two_steps_are_all_of_them() -> None:
    """STCN's n, and why the paper's Table 4 has no STCN by T steps."""
    two, all_of_them = one_shot(3, "two", "previous"), one_shot(3, "all", "previous")
    assert [(set(s.sources), s.target) for s in two] == [(set(s.sources), s.target) for s in all_of_them]


def test_readings_of_the_paper_are_arguments() -> None:
    hard = one_shot(5, "two", begin="hard", mask_feedback="detached", present=True)
    assert [s.mask_feedback for s in hard] == ["detached"] * 3 + ["hard"] + ["detached"] * 2
    assert [s.present for s in hard] == [False] * 4 + [True, False]


def test_a_plan_depends_on_seed_and_step_alone() -> None:
    recipe = Recipe(scheme="one-shot", frames=8)
    drawn = [plan_of(recipe, step) for step in range(20)]
    assert [plan_of(recipe, step) for step in reversed(range(20))] == drawn[::-1]
    assert len(set(drawn)) > 10
    assert [plan_of(replace(recipe, seed=1), step) for step in range(20)] != drawn


def test_what_cannot_be_planned_is_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^expected a clip of at least 3 frames for back two, got 2: use longer clips, or back one$"
    ):
        one_shot(2, "two")
    with pytest.raises(ValueError, match=r"^expected a clip of at least 2 frames, got 1$"):
        propagate(1)


def test_back_one_is_refused_for_a_recurrent_network() -> None:
    network = recurrent()
    network.name = "state"
    words = (
        r"^expected --back two or all for the recurrent network state, got one: it would never train the update of the state"
    )
    for scheme in ("one-shot", "empty-reference"):
        with pytest.raises(ValueError, match=words):
            check_recurrent(Recipe(scheme=scheme, back="one"), network)  # type: ignore[arg-type]
    check_recurrent(Recipe(scheme="one-shot", back="two"), network)
    check_recurrent(Recipe(scheme="one-shot", back="one"), tiny.network())
    total = compute_loss(rollout(network, tiny.clip(length=4), one_shot(4, "one"))).total
    total.backward()
    idle = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert "move" in idle
    assert "read" not in idle


# Rollouts -------------------------------------------------------------------------------------------------------------


class Counter(Watcher):
    """Notes as well which frames are encoded, and whether with gradients."""

    def __init__(self, network: Network, frames: torch.Tensor) -> None:
        super().__init__(network)
        self.frames, self.encoded, self.states = frames, [], []

    def encode(self, frames: torch.Tensor) -> Features:
        found = [t for f in frames for t in range(self.frames.shape[1]) if torch.equal(f, self.frames[0, t])]
        self.encoded.append((found, torch.is_grad_enabled()))
        return super().encode(frames)

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        self.states.append(memory.state.get("state"))
        return super().segment(memory, features, remembered=remembered)


def counted(network: Network, plan: Plan, length: int = 5) -> tuple[Counter, list[Supervised]]:
    clip = tiny.clip(batch=1, length=length)
    counter = Counter(network, clip.frames_BTCHW)
    return counter, rollout(counter, clip, plan)  # type: ignore[arg-type]


def test_each_frame_is_encoded_once_and_without_a_graph_where_no_gradient_goes() -> None:
    plan = one_shot(5, "two", rng=rng(1))
    middle = plan[4].target
    counter, _ = counted(recurrent(), plan)
    assert counter.encoded == [(sorted({0, middle, 4}), True), (sorted({1, 2, 3} - {middle}), False)]
    counter, _ = counted(recurrent(), one_shot(5, "all"))
    assert counter.encoded == [([0, 1, 2, 3, 4], True)]
    plan = empty_reference(5, "two", rng=rng(1))
    counter, _ = counted(recurrent(), plan)
    assert counter.encoded == [([0, plan[0].target, 4], True)], "there is no outward path, so the other frames are not encoded"
    with torch.no_grad():
        counter, _ = counted(recurrent(), one_shot(5))
    assert len(counter.encoded) == 1


def test_frames_encoded_apart_give_the_numbers_of_frames_encoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    network, clip, plan = recurrent(), tiny.clip(length=5), one_shot(5, "two", rng=rng(1))
    (apart,) = rollout(network, clip, plan)
    together = network.encode(clip.frames_BTCHW.transpose(0, 1).flatten(0, 1)).split(5)
    monkeypatch.setattr("hodor.training.plans._encode", lambda *_: dict(enumerate(together)))
    (whole,) = rollout(network, clip, plan)
    torch.testing.assert_close(apart.prediction.logits_BKHW, whole.prediction.logits_BKHW, rtol=1e-5, atol=1e-6)


def test_the_return_path_begins_with_the_last_frame_its_soft_mask_and_a_new_state() -> None:
    counter, (supervised,) = counted(recurrent(), one_shot(5, "two", rng=rng(1)))
    out, way = counter.predictions[:4], counter.remembered[-2:]
    assert [index for index, _, _ in way] == [4, counter.asked[-1][1]]
    assert torch.equal(way[0][1], out[-1].soft())
    assert not way[0][1].requires_grad
    assert way[1][1].requires_grad
    assert way[0][2].all()
    assert not way[1][2].any()
    assert counter.asked[-2:] == [(4,), (4, way[1][0])]
    assert supervised.target == 0
    assert supervised.began_BNHW is not None
    assert torch.equal(supervised.began_BNHW, frame_size(out[-1]))
    # the state of the first step back comes from the given mask alone, not from the outward path
    alone = recurrent().remember(Memory((1, 2)), 4, images(5, 4), way[0][1], *[torch.ones(1, 2, dtype=torch.bool)] * 2)
    torch.testing.assert_close(counter.states[4], alone.state["state"])


def frame_size(prediction: Prediction) -> torch.Tensor:
    features = Features({}, prediction.size, prediction.padded, prediction.offset)
    return features.full(prediction.soft())


def images(length: int, at: int) -> Features:
    return recurrent().encode(tiny.clip(batch=1, length=length).frames_BTCHW[:, at])


def test_a_recurrent_network_remembers_every_frame_as_that_moves_its_state() -> None:
    plan = (Step((0,), 1), Step((0,), 2), Step((0,), 3))
    counter, _ = counted(recurrent(), plan)
    assert [index for index, _, _ in counter.remembered] == [0, 1, 2]
    counter, _ = counted(tiny.network(), plan)
    assert [index for index, _, _ in counter.remembered] == [0]


def test_what_only_a_restart_reads_is_not_remembered_twice() -> None:
    counter, _ = counted(tiny.network(), one_shot(3, "one", "previous"), length=3)
    assert [index for index, _, _ in counter.remembered] == [0, 1, 2]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("back", ["two", "all"])
@pytest.mark.parametrize("make", [recurrent, tiny.network])
def test_every_weight_is_trained_from_the_first_frame_alone(make: Any, back: Back, precision: str) -> None:
    """Also where weights were cast for steps without gradient before."""
    network = make()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        supervised = rollout(network, tiny.clip(length=4), one_shot(4, back, rng=rng()))
    assert [j.target for j in supervised] == [0]
    compute_loss(supervised, "points").total.backward()
    assert not [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def test_the_outward_path_has_no_gradient() -> None:
    network, clip = recurrent(), tiny.clip(length=4)
    gradients = []
    for outward in (None, 1):
        network.zero_grad()
        plan = one_shot(4, "two", rng=rng())
        if outward:  # the same return path, from a constant
            (first,) = rollout(network, clip, plan)
            began, plan = first.began_BNHW, plan[3:]
            assert began is not None
            shown = clip.masks_BTNHW.clone()
            shown[:, 3] = began
            clip = replace(clip, masks_BTNHW=shown)
            swapped = {0: 3, 3: 0}
            order = [swapped.get(t, t) for t in range(4)]
            clip = replace(clip, frames_BTCHW=clip.frames_BTCHW[:, order], masks_BTNHW=clip.masks_BTNHW[:, order])
            plan = tuple(
                replace(s, sources=tuple(swapped.get(t, t) for t in s.sources), target=swapped.get(s.target, s.target))
                for s in plan
            )
        (supervised,) = rollout(network, clip, plan)
        torch.nn.functional.mse_loss(supervised.prediction.soft(), torch.zeros_like(supervised.prediction.soft())).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-4)  # the constant came down from full size once more


@pytest.mark.parametrize("back", BACKS)
def test_the_labels_of_other_frames_make_no_difference_even_where_there_are_some(back: Back) -> None:
    network, clip = tiny.network(), tiny.clip(length=4)
    totals = []
    for fill in (0.0, 1.0, None):
        masks = clip.masks_BTNHW.clone()
        masks[:, 1:] = torch.rand_like(masks[:, 1:]) if fill is None else fill
        supervised = rollout(network, replace(clip, masks_BTNHW=masks), one_shot(4, back, "random", rng=rng()))
        totals.append(compute_loss(supervised).total.detach())
        assert torch.equal(supervised[0].masks_BNHW, clip.masks_BTNHW[:, 0])
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(totals[0], totals[2])


def test_objects_lost_on_the_outward_path_are_kept_unless_present_is_set() -> None:
    """No prediction shows object 1 of clip 0."""

    class Loses(Watcher):
        def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
            made, memory = super().segment(memory, features, remembered=remembered)
            logits = made.logits_BKHW.clone()
            logits[0, made.backgrounds] = -50
            logits[1, made.backgrounds, :, :12] = 50
            logits[:, made.backgrounds + 1, :, 12:] = 50
            return replace(made, logits_BKHW=logits), memory

    clip = tiny.clip(length=4)
    (kept,) = rollout(Loses(tiny.network()), clip, one_shot(4))  # type: ignore[arg-type]
    assert kept.objects_BN is not None
    assert kept.objects_BN.all()
    assert torch.equal(kept.masks_BNHW, clip.masks_BTNHW[:, 0])
    watcher = Loses(tiny.network())
    (gated,) = rollout(watcher, clip, one_shot(4, present=True))  # type: ignore[arg-type]
    assert gated.objects_BN is not None
    assert gated.objects_BN.tolist() == [[False, True], [True, True]]
    lost = clip.masks_BTNHW[0, 0, 0] > 0
    assert not gated.masks_BNHW[0, 0].any()
    assert torch.equal(gated.valid_BHW[0], ~lost)
    assert gated.valid_BHW[1].all()
    measured = dict(zip(("copied", "empty", "rebuilt"), return_path(gated, clip).tolist(), strict=True))
    assert measured["empty"] == pytest.approx(0.25)


def test_an_empty_reference_contains_nothing_about_the_objects() -> None:
    network, clip = tiny.network(), tiny.clip(length=4)
    plan = empty_reference(4, "two", rng=rng())
    assert [(s.restart, s.blank, s.supervised) for s in plan] == [(True, True, False), (False, False, True)]
    (one,) = rollout(network, clip, plan)
    (two,) = rollout(network, replace(clip, masks_BTNHW=1 - clip.masks_BTNHW), plan)
    assert torch.equal(one.prediction.logits_BKHW, two.prediction.logits_BKHW)
    assert one.began_BNHW is not None
    assert not one.began_BNHW.any()
    assert torch.equal(one.masks_BNHW, clip.masks_BTNHW[:, 0])


def test_copied_empty_and_rebuilt_by_hand() -> None:
    clip = tiny.clip(batch=1, length=2, size=(64, 96))
    ground_truth = clip.masks_BTNHW[:, 0]
    began = torch.zeros_like(ground_truth)
    began[0, 0] = ground_truth[0, 0]
    began[0, 0, :, :24] = 0
    logits = torch.cat([torch.zeros(1, 1, 64, 96), ground_truth * 20 - 10], 1)
    supervised = Supervised(
        0, Prediction(logits, 1, (64, 96), (64, 96)), ground_truth, clip.valid_BTHW[:, 0], clip.objects_BN, began
    )
    share = float(began[0, 0].sum() / ground_truth[0, 0].sum())
    assert 0 < share < 1
    assert return_path(supervised, clip).tolist() == pytest.approx([share / 2, 0.5, 1.0])
    assert return_path(replace(supervised, began_BNHW=None), clip).tolist() == [0, 0, 0]


# Runs -----------------------------------------------------------------------------------------------------------------


def one(root: Path, **changes: Any) -> Recipe:
    base = small(root, model="state", scheme="one-shot", frames=4, loss="points", frozen=0, **changes)
    data = replace(
        base.data, labels="first", annotated="first", frame_order="forward", jump=(1, 2), jump_at=(0.0, 0.5), gap=(), without=()
    )
    return replace(base, data=data)


def test_a_run_reads_one_mask_a_video_and_logs_the_return_path(root: Path, tmp_path: Path) -> None:
    run(one(root, steps=3), tmp_path)
    for line in lines(tmp_path):
        assert line.keys() == {"step", "loss", "ce", "dice", "aux", "norm", "lr", "scales", "copied", "empty", "rebuilt"}
        assert line["loss"] == pytest.approx(line["ce"] + line["dice"] + line["aux"])
        assert line["aux"] > 0
        assert all(0 <= line[name] <= 1 for name in ("copied", "empty", "rebuilt"))


@pytest.mark.parametrize("model", ["state", "tiny"])
def test_a_broken_run_ends_with_the_weights_of_an_unbroken_one(root: Path, tmp_path: Path, model: str) -> None:
    base = one(root, steps=4, save_every=1, schedule="steps")
    recipe = replace(base, model=model, data=replace(base.data, jump=(), jump_at=()))
    run(recipe, tmp_path / "whole")
    run(replace(recipe, steps=2), tmp_path / "broken")
    run(recipe, tmp_path / "broken")
    assert training.same(state(tmp_path / "whole"), state(tmp_path / "broken"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")


def test_the_number_of_steps_cannot_change_where_jumps_depend_on_it(root: Path, tmp_path: Path) -> None:
    run(one(root, steps=1, schedule="steps"), tmp_path)
    with pytest.raises(ValueError, match=r"another recipe: steps was 1, now 2"):
        run(one(root, steps=2, schedule="steps"), tmp_path)


@pytest.mark.parametrize("loss", ["points", "bootstrapped-dice"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(root: Path, tmp_path: Path, loss: Any) -> None:
    """What two processes with half a batch each rely on; points are sampled for each clip, whichever part it is in."""
    recipe = replace(one(root, steps=1, batch=4, clip_norm=0), loss=loss)
    found = []
    for parts in (1, 4):
        run(replace(recipe, accumulate=parts), tmp_path / str(parts))
        moments = torch.load(tmp_path / str(parts) / "last.pt", weights_only=True)["optimiser"]["state"]
        found.append(torch.cat([each["exp_avg"].flatten() for _, each in sorted(moments.items())]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5 * float(found[0].abs().max()))


def test_the_stages_of_the_clips_are_shares_of_the_recipes_steps(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = []
    real = Stream.jump
    monkeypatch.setattr(Stream, "jump", lambda self, step, root: jumps.append((step, real(self, step, root))) or jumps[-1][1])
    run(one(root, steps=2, workers=0), tmp_path)
    assert set(jumps) == {(0, 1), (1, 2)}


def test_one_step_back_stops_before_it_starts(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected --back two or all for the recurrent network state, got one"):
        run(one(root, back="one"), tmp_path)


def test_embeddings_keep_their_length_where_they_do_not_decay() -> None:
    network = recurrent()
    recipe = Recipe(weight_decay=0.1, decay_embeddings=False, optimiser="adam", eps=1e-6, backbone_lr=0.5)
    made = optimiser_of(recipe, network, torch.device("cpu"))
    assert type(made) is torch.optim.Adam
    assert [(len(g["params"]) > 0, g["share"], g["weight_decay"], g["eps"]) for g in made.param_groups] == [
        (True, 1.0, 0.1, 1e-6),
        (True, 0.5, 0.1, 1e-6),
        (True, 1.0, 0.0, 1e-6),
    ]
    assert made.param_groups[2]["params"] == [network.nothing]
    every = optimiser_of(replace(recipe, decay_embeddings=True, optimiser="adamw"), network, torch.device("cpu"))
    assert type(every) is torch.optim.AdamW
    assert len(every.param_groups) == 2
    assert sum(len(g["params"]) for g in made.param_groups) == sum(len(g["params"]) for g in every.param_groups)


def test_a_run_of_an_earlier_version_resumes_with_default_values_of_new_fields(root: Path, tmp_path: Path) -> None:
    recipe = replace(one(root, steps=2, schedule="steps"), scheme="cyclic", loss="released", model="tiny")
    recipe = replace(recipe, data=replace(recipe.data, frame_order="window", jump=(), jump_at=(), gap=(4,)))
    run(recipe, tmp_path)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    for name in ("back", "begin", "points", "bootstrap", "eps"):
        del last["recipe"][name]
    del last["recipe"]["data"]["frame_order"]
    torch.save(last, tmp_path / "last.pt")
    run(replace(recipe, steps=3), tmp_path)
    assert len(lines(tmp_path)) == 3


# Recipes --------------------------------------------------------------------------------------------------------------


def test_every_recipe_names_a_network_and_a_plan_that_suit_each_other() -> None:
    for name, recipe in RECIPES.items():
        if recipe.scheme == "find":
            assert recipe.model in FINDERS, name
            continue
        assert recipe.model in MODELS, name
        assert not (MODELS[recipe.model].network.recurrent and recipe.back == "one"), name
        assert plan_of(recipe, 0), name


def test_the_one_shot_recipes_have_the_papers_numbers() -> None:
    """Section 4.1: n, D of STCN, batch (STCN's is of each of two GPUs), optimiser, rate and decay."""
    named = {n: RECIPES[f"{n}-one-shot"] for n in ("stcn", "xmem", "cutie")}
    assert {n: r.frames for n, r in named.items()} == {"stcn": 3, "xmem": 8, "cutie": 8}
    assert {n: r.batch for n, r in named.items()} == {"stcn": 8, "xmem": 8, "cutie": 16}
    assert {n: r.lr for n, r in named.items()} == {"stcn": 1e-5, "xmem": 1e-5, "cutie": 1e-4}
    assert {n: (r.optimiser, r.weight_decay) for n, r in named.items()} == {
        "stcn": ("adam", 1e-7),
        "xmem": ("adamw", 0.05),
        "cutie": ("adamw", 1e-3),
    }
    assert (named["stcn"].data.jump, named["stcn"].data.jump_at) == ((5, 10, 15, 20, 25, 5), (0, 0.1, 0.2, 0.3, 0.4, 0.8))
    for recipe in named.values():
        assert (recipe.data.labels, recipe.data.annotated, recipe.back, recipe.drop) == ("first", "first", "two", 0.1)


def test_dense_and_previous_agree_while_there_are_three_frames() -> None:
    assert orders(dense(3)) == orders(propagate(3, "previous"))
