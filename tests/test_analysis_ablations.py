"""Ablations: the papers' tables as data, runs that resume, and the table of results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import training
from recurrent import Recurrent

from hodor import train
from hodor.ablations import results, runs
from hodor.ablations.tables import TABLES, Row, Table
from hodor.analysis import runs as scoring
from hodor.commands import analyse
from hodor.data.layouts import open_layout
from hodor.models import weights
from hodor.models.backbones import BACKBONES, EfficientNetLite
from hodor.models.hodor import HODOR
from hodor.models.weights import MODELS, Preset

SMALL = Table(
    "small",
    "A small table",
    "a paper, Table 9",
    "its data",
    (
        Row("a", "as it is", (70.0, 68.0, 72.0), {"scheme": "chain", "data.motion": "warp"}),
        Row("b", "barebones", (60.0,), {"scheme": "chain", "data.motion": "warp"}, {"barebones": True}),
        Row("c", "tuned on video", (80.0,), {"scheme": "dense"}, data="video", after="a", length=0.5, rate=0.1),
        Row("d", "of the same weights", (65.0,), after="a", history=1, length=0),
        Row("e", "another network", (90.0,), model="stm"),
    ),
    against="a",
)


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", lambda: EfficientNetLite(width=0.25, depth=0.3))
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, {**tiny.SETTINGS, "start_pooled": True, "encoder_layers": 2}, 48))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_videos(tmp_path_factory.mktemp("videos"), ["one", "two", "held"], frames=5)


@pytest.fixture
def setup(small_models: None, root: Path, tmp_path: Path) -> runs.Setup:
    base = training.small(root, model="tiny", steps=2, workers=0, frames=2)
    test = open_layout(root, only=["held"])
    return runs.Setup(base, (root,), test, tmp_path / "out", seeds=(5,), device="cpu", size=48)


# The tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_row_is_a_recipe_and_starts_from_a_row_that_is_there(table: Table, setup: runs.Setup) -> None:
    keys = [row.key for row in table.rows]
    assert len(set(keys)) == len(keys)
    assert table.against in keys
    for row in table.rows:
        if row.model is None:
            recipe = setup.recipe(table, row, 3)
            assert recipe.seed == 3
            assert recipe.data.without == ("held",)
            assert recipe.data.root
        if row.after:
            assert table.row(row.after).model == row.model
            assert keys.index(row.after) < keys.index(row.key)
        assert row.paper is None or all(50 < number < 95 for number in row.paper)


@pytest.mark.parametrize("row", TABLES["hodor-3"].rows, ids=lambda row: row.name)
def test_every_architecture_of_table_3_can_be_built_from_both_presets(row: Row, small_models: None) -> None:
    """Over a small backbone."""
    for model in ("hodor-t", "hodor-lite"):
        network = weights.build(model, backbone="tiny", **runs.settings_of(row, model))
        for name, value in runs.settings_of(row, model).items():
            assert network.settings[name] == value


def test_shares_of_layers_are_the_papers_three_of_five() -> None:
    rows = {row.key: row for row in TABLES["hodor-3"].rows}
    assert runs.settings_of(rows["5"], "hodor-t") == {"encoder_layers": 3}
    assert runs.settings_of(rows["7"], "hodor-t") == {"decoder_layers": 3}
    assert runs.settings_of(rows["5"], "hodor-lite") == {"encoder_layers": 1}
    assert runs.settings_of(rows["7"], "hodor-lite") == {"decoder_layers": 2}


def test_the_numbers_of_the_paper_are_its_differences_too() -> None:
    """The text of the paper: 6.9 lost without encoder and decoder, 3.1 gained by cyclic consistency over row 3."""
    three, one = TABLES["hodor-3"], TABLES["hodor-1"]

    def paper(table: Table, key: str) -> float:
        numbers = table.row(key).paper
        assert numbers is not None
        return numbers[0]

    assert paper(three, "0") - paper(three, "8") == pytest.approx(6.9)
    assert paper(one, "5") - paper(one, "3") == pytest.approx(3.1)
    for table in TABLES.values():
        for row in table.rows:
            if row.paper and len(row.paper) == 3:
                assert row.paper[0] == pytest.approx((row.paper[1] + row.paper[2]) / 2, abs=0.11)


def test_a_row_that_needs_a_missing_network_is_named_and_skipped(small_models: None) -> None:
    rows, cannot = runs.needed(SMALL)
    assert [row.key for row in rows] == ["a", "b", "c", "d"]
    assert cannot == {"e": "stm"}
    with pytest.raises(ValueError, match=r"^row e of table small needs stm, which this version does not have$"):
        runs.needed(SMALL, ["e"])
    with pytest.raises(
        ValueError, match=r"^no row of table small can be run: they need stm, which this version does not have$"
    ):
        runs.needed(replace(SMALL, rows=SMALL.rows[4:], against="e"))
    with pytest.raises(ValueError, match=r"^expected a row of table small \(a, b, c, d, e\), got 'f'$"):
        runs.needed(SMALL, ["f"])


def test_a_row_brings_the_row_it_starts_from(small_models: None) -> None:
    assert [row.key for row in runs.needed(SMALL, ["c"])[0]] == ["a", "c"]


# Recipes --------------------------------------------------------------------------------------------------------------


def test_changes_reach_into_fields_of_fields() -> None:
    recipe = runs.changed(train.Recipe(), {"data.max_objects": 1, "steps": 7, "data.motion": "none"})
    assert (recipe.data.max_objects, recipe.data.motion, recipe.steps) == (1, "none", 7)
    with pytest.raises(ValueError, match=r"^expected a field of Recipe \(model, .*\), got 'mode'$"):
        runs.changed(train.Recipe(), {"mode": 1})
    with pytest.raises(ValueError, match=r"^expected a field of Data \(.*\), got 'many'"):
        runs.changed(train.Recipe(), {"data.many": 1})


def test_a_row_that_starts_from_another_takes_its_weights_and_its_share_of_steps(setup: runs.Setup) -> None:
    setup = replace(setup, base=replace(setup.base, steps=100, lr=1e-3), stills=(Path("stills"),))
    first, tuned = setup.recipe(SMALL, SMALL.row("a"), 1), setup.recipe(SMALL, SMALL.row("c"), 1)
    assert tuned.init == setup.folder(SMALL, SMALL.row("a"), 1) / "weights.safetensors"
    assert (tuned.steps, tuned.lr) == (50, pytest.approx(1e-4))
    assert (first.data.root, tuned.data.root) == ((Path("stills"),), setup.video)
    own = replace(setup, after_steps=9, after_lr=0.5).recipe(SMALL, SMALL.row("c"), 1)
    assert (own.steps, own.lr) == (9, 0.5)
    assert replace(setup, after_steps=9).recipe(SMALL, SMALL.row("d"), 1).steps == 0


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_table_is_trained_and_scored_once_and_resumes(setup: runs.Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = runs.needed(SMALL)
    trained: list[str] = []
    real = train.run

    def stops(limit: int) -> Callable[..., Path]:
        def run(recipe: train.Recipe, out: Path, **options: Any) -> Path:
            if len(trained) == limit:
                raise KeyboardInterrupt
            trained.append(f"{out.parent.name} {recipe.seed}")
            return real(recipe, out, **options)

        return run

    monkeypatch.setattr(train, "run", stops(1))
    with pytest.raises(KeyboardInterrupt):
        runs.run(SMALL, setup, rows)
    assert trained == ["a 5"]
    assert [r.state for r in results.results(SMALL, setup)] == ["done", "to do", "to do", "to do", "needs stm"]
    trained.clear()
    monkeypatch.setattr(train, "run", stops(9))
    runs.run(SMALL, setup, rows)
    assert trained == ["b 5", "c 5"]
    trained.clear()
    runs.run(SMALL, setup, rows)
    assert trained == []

    assert [r.state for r in results.results(SMALL, setup)] == ["done"] * 4 + ["needs stm"]
    barebones = weights.load(setup.folder(SMALL, SMALL.row("b"), 5) / "weights.safetensors")
    assert barebones.settings["barebones"] is True
    # row d scores row a's weights with one frame remembered
    network = weights.ready(setup.folder(SMALL, SMALL.row("a"), 5) / "weights.safetensors", device="cpu", dtype="float32")
    again = scoring.scored(network, setup.test.videos[0], history=1, size=48).to_json()
    stored = json.loads((setup.folder(SMALL, SMALL.row("d"), 5) / "scores.json").read_text())
    assert stored["J&F"] == pytest.approx(again["J&F"])

    other = replace(setup, base=replace(setup.base, steps=4))
    with pytest.raises(ValueError, match=r"was begun with another recipe \(steps was 2, now 4\): give another --out"):
        runs.run(SMALL, other, rows)


def fill(setup: runs.Setup, scores: dict[tuple[str, int], float]) -> None:
    for (key, seed), jf in scores.items():
        runs.write(
            setup.folder(SMALL, SMALL.row(key), seed) / "scores.json", {"J&F": jf, "J": jf - 0.01, "F": jf + 0.01}
        )  # fmt: skip


def test_the_table_compares_each_row_with_its_base_seed_by_seed(setup: runs.Setup) -> None:
    setup = replace(setup, seeds=(0, 1))
    fill(setup, {("a", 0): 0.5, ("a", 1): 0.6, ("b", 0): 0.4, ("b", 1): 0.52, ("c", 1): 0.7})
    a, b, c, *_ = results.results(SMALL, setup)
    assert (a.state, c.state) == ("done", "1 of 2 seeds")
    assert c.ours_against == (pytest.approx(10.0), None)
    assert a.ours["J&F"] == pytest.approx((55.0, 7.0711), abs=1e-3)
    assert a.ours_against is None
    assert b.ours_against == pytest.approx((-9.0, 1.4142), abs=1e-3)
    assert b.paper_against == -10
    words = dict(zip(results.HEADS[6:10], results.cells(b)[6:10], strict=True))
    assert words["here J&F"] == "46.0 ± 8.5"
    assert results.cells(b)[9] == "-9.0 ± 1.4"
    assert results.cells(a)[2:6] == ("70.0", "68.0", "72.0", "")


def test_the_saved_table_states_where_its_numbers_come_from(setup: runs.Setup) -> None:
    fill(setup, {("a", 5): 0.5})
    rows = results.results(SMALL, setup)
    text = results.save(SMALL, setup, rows).read_text()
    assert "| a | as it is | *70.0* | *68.0* | *72.0* |  | 50.0 | 49.0 | 51.0 |  | done |" in text
    assert "paper: as printed in a paper, Table 9, measured on its data with the authors' training; not measured here" in text
    assert "scored on held; 1 seed." in text
    data = json.loads((setup.out / "small" / "table.json").read_text())
    assert data["rows"][0]["ours"]["J&F"] == {"mean": 50.0, "spread": None}
    assert data["rows"][1]["settings"] == "barebones False -> True"
    assert data["rows"][4]["state"] == "needs stm"


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_lists_trains_nothing_and_prints_what_is_finished(
    small_models: None, root: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["ablations", "hodor-3", "--root", str(root), "--held-out", "held", "--model", "tiny", "-o", str(tmp_path)]
    assert analyse.main([*words, "--rows", "5", "12", "--list"]) == 0
    printed = capsys.readouterr()
    assert re.search(
        r"row 5, seed 0: to do; 3 of 5 encoder layers; tiny, chain on stills of videos\d+, 2000 steps", printed.err
    )
    assert "row 12, seed 0: to do; one frame remembered" in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_scores_and_prints_the_table(small_models: None, root: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["ablations", "hodor-3", "--root", str(root), "--held-out", "held", "--model", "tiny", "-o", str(tmp_path)]
    words += [
        "--rows",
        "10",
        "--steps",
        "2",
        "--batch",
        "2",
        "--set",
        "data.size=[64,96]",
        "data.min_area=20",
        "data.min_side=4",
        "data.gap=[2]",
        "--size",
        "48",
        "--device",
        "cpu",
    ]
    assert analyse.main(words) == 0
    printed = capsys.readouterr()
    assert "one background descriptor" in printed.out
    assert "76.2" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    assert (tmp_path / "hodor-3" / "table.md").is_file()
    assert (tmp_path / "hodor-3" / "10" / "seed-0" / "scores.json").is_file()


def test_the_command_reports_what_is_missing(
    small_models: None, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^nothing to score: give --held-out NAME \.\.\. of --root, or --test FOLDER$"):
        analyse.main(["ablations", "hodor-1", "--root", str(root)])
    monkeypatch.setitem(MODELS, "tiny-state", Preset(Recurrent, {}, 48))
    words = ["one-shot-4", "--root", str(root), "--held-out", "held", "--rows", "own-1", "--model", "tiny-state", "--list"]
    needs = "a network without a recurrent state"
    with pytest.raises(ValueError, match=f"^row own-1 of table one-shot-4 needs {needs}, which this version does not have$"):
        analyse.main(["ablations", *words])
