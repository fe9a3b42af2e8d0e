"""Train and score the rows of an ablation table on your own data; finished runs are not repeated."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hodor.ablations.tables import Row, Table, length_of, model_of, own_changes
from hodor.masks import written_whole

if TYPE_CHECKING:
    from hodor.data.layouts import Layout
    from hodor.training.recipe import Recipe

log = logging.getLogger(__name__)
T = TypeVar("T")


def changed(value: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a frozen dataclass with some fields changed.

    Args:
        value: the dataclass.
        changes: new values by field; "data.max_objects" is a field of its field `data`.

    Raises:
        ValueError: "expected a field of Recipe (model, data, ...), got 'mode'".
    """
    new_values: dict[str, Any] = {}
    for name, new in changes.items():
        outer, _, inner = name.partition(".")
        names = [f.name for f in fields(value)]  # type: ignore[arg-type]
        if outer not in names:
            raise ValueError(f"expected a field of {type(value).__name__} ({', '.join(names)}), got {outer!r}")
        new_values[outer] = changed(new_values.get(outer, getattr(value, outer)), {inner: new}) if inner else new
    return replace(value, **new_values)  # type: ignore[type-var]


@dataclass(frozen=True)
class Setup:
    """How a table is run.

    Attributes:
        base: the recipe that the rows change.
        video: folders of videos to train on.
        test: the videos to score; they are left out of training.
        out: folder of the runs.
        stills: roots of images to train on. Default: (), single frames of the videos.
        seeds: seeds of the runs of each row.
        history: frames kept in memory while scoring. Default: None, the network's own.
        size: short side at which the network is scored, in pixels. Default: None, the network's own.
        device: device to train and score on.
        after_steps: steps of the rows that begin from another row. Default: None, the table's share of the base's steps.
        after_lr: learning rate of these rows. Default: None, the table's share of the base's.
    """

    base: Recipe
    video: tuple[Path, ...]
    test: Layout
    out: Path
    stills: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = (0,)
    history: int | None = None
    size: int | None = None
    device: str = "auto"
    after_steps: int | None = None
    after_lr: float | None = None

    def remembered(self, row: Row) -> int:
        """Return the frames kept in memory while a row is scored."""
        from hodor.models import weights

        return row.history or self.history or weights.MODELS[model_of(row, self.base.model)].history

    def folder(self, table: Table, row: Row, seed: int) -> Path:
        """Return the folder of a run."""
        return self.out / table.name / row.key / f"seed-{seed}"

    def recipe(self, table: Table, row: Row, seed: int) -> Recipe:
        """Return the recipe of one run. Raises ValueError for fields that the recipe does not have."""
        root = (self.stills or self.video) if row.data == "stills" else self.video
        model = model_of(row, self.base.model)
        steps, lr = math.ceil(row.length * self.base.steps), row.rate * self.base.lr
        changes: dict[str, Any] = {
            "model": model,
            "settings": tuple({**dict(self.base.settings), **settings_of(row, model)}.items()),
            "seed": seed,
            "data.root": root,
            "data.share": (),
            "data.gap": (),
            "data.without": self.test.names,
        }
        if row.after:
            changes["init"] = self.folder(table, table.row(row.after), seed) / "weights.safetensors"
            changes["backbone"] = None
            steps, lr = steps and (self.after_steps or steps), self.after_lr or lr
        changes |= own_changes(model, steps)
        if row.changes.get("scheme") in ("one-shot", "propagate") and row.data == "video":
            changes["frames"] = length_of(model)
        warmup = min(self.base.warmup, max(steps // 10, 1))
        return changed(self.base, {**changes, "steps": steps, "lr": lr, "warmup": warmup, **row.changes})


def settings_of(row: Row, model: str) -> dict[str, Any]:
    """Return the row's settings for a model, with the shares computed: 0.6 of 5 encoder layers is 3."""
    from hodor.models import weights

    preset = weights.MODELS[model]
    out = dict(row.settings)
    for name, share in row.shares.items():
        out[name] = round(share * own(preset, name))
    return out


def own(preset: Any, name: str) -> Any:
    """Return the value of a setting in a preset of `weights.MODELS`."""
    import inspect

    default = inspect.signature(preset.network).parameters[name].default
    return preset.settings.get(name, default)


def needed(table: Table, keys: Iterable[str] = (), model: str = "hodor-t") -> tuple[list[Row], dict[str, str]]:
    """Return the rows to run, each after the row that it begins from, and the rows that cannot be run.

    Args:
        table: the table.
        keys: keys of the requested rows. Default: all rows.
        model: name of the requested model.

    Returns:
        The rows in order, and {key: what it needs} of the rows that cannot be run.

    Raises:
        ValueError: if a requested row, or every row, cannot be run: "row stcn of table one-shot-3 needs stcn, which this
            version does not have".
    """
    asked = list(keys)
    chosen = [table.row(key) for key in asked] or list(table.rows)
    cannot = {row.key: what for row in chosen if (what := table.missing(row, model))}
    if (asked and cannot) or len(cannot) == len(chosen):
        key, what = next(iter(cannot.items()))
        if asked:
            raise ValueError(f"row {key} of table {table.name} needs {what}, which this version does not have")
        needs = ", ".join(sorted(set(cannot.values())))
        raise ValueError(f"no row of table {table.name} can be run: they need {needs}, which this version does not have")
    ordered: list[Row] = []

    def add(row: Row) -> None:
        if row.after:
            add(table.row(row.after))
        if row not in ordered:
            ordered.append(row)

    for row in chosen:
        if row.key not in cannot:
            add(row)
    return ordered, cannot


def run(table: Table, setup: Setup, rows: Sequence[Row]) -> None:
    """Train and score the rows with every seed, all rows of the first seed first; finished runs are not repeated.

    A run is in OUT/TABLE/ROW/seed-N: ablation.json, the files of `train.run`, and scores.json when it is scored.

    Args:
        table: the table.
        setup: how it is run.
        rows: the rows, from `needed`.

    Raises:
        ValueError: before any training, if the folder has a run of another recipe: "out/hodor-3/0/seed-0 was begun with another
            recipe (steps was 100, now 200): give another --out, or remove it".
    """
    from hodor import train
    from hodor.models import weights

    jobs = [(row, seed, setup.recipe(table, row, seed)) for seed in setup.seeds for row in rows]
    for row, seed, recipe in jobs:
        _check_same(setup, table, row, seed, recipe)
    device = weights.pick_device(setup.device)
    for number, (row, seed, recipe) in enumerate(jobs, 1):
        folder = setup.folder(table, row, seed)
        if state(setup, table, row, seed) == "done":
            log.info("%d of %d: row %s, seed %d is done", number, len(jobs), row.key, seed)
            continue
        log.info("%d of %d: row %s (%s), seed %d, %d steps", number, len(jobs), row.key, row.name, seed, recipe.steps)
        write(folder / "ablation.json", _facts(setup, row, recipe))
        trained = train.run(recipe, folder, device=device) if recipe.steps else recipe.init
        assert trained is not None  # a row without steps begins from another row
        write(folder / "scores.json", _score(setup, row, trained, str(device)))


def state(setup: Setup, table: Table, row: Row, seed: int) -> str:
    """Return the state of a run: "done", "begun" or "to do"."""
    folder = setup.folder(table, row, seed)
    if (folder / "scores.json").is_file():
        return "done"
    return "begun" if (folder / "ablation.json").is_file() else "to do"


def _score(setup: Setup, row: Row, checkpoint: Path, device: str) -> dict[str, Any]:
    from hodor.analysis import runs
    from hodor.models import weights

    network = weights.ready(checkpoint, device=device, dtype="float32")
    history = setup.remembered(row)
    scored = [runs.scored(network, video, history=history, size=setup.size).to_json() for video in setup.test.videos]
    return {"format": "hodor-ablation/1", "history": history, **runs.means(scored), "sequences": scored}


def _facts(setup: Setup, row: Row, recipe: Recipe) -> dict[str, Any]:
    """Everything that the numbers of a run depend on, as plain values; files by their names alone."""
    facts: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=_short))
    test = {"sequences": list(setup.test.names), "history": setup.remembered(row), "size": setup.size}
    return {**facts, "test": test}


def _short(value: Any) -> Any:
    return value.name if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else str(value)


def _check_same(setup: Setup, table: Table, row: Row, seed: int, recipe: Recipe) -> None:
    from hodor.training.checkpoints import completed, differences
    from hodor.training.recipe import FREE, Recipe

    file = setup.folder(table, row, seed) / "ablation.json"
    if not file.is_file():
        return
    free = [name for name in FREE if name not in ("backbone", "init")]
    before = completed(json.loads(file.read_text()), json.loads(json.dumps(asdict(Recipe()), default=_short)))
    differ = differences(before, _facts(setup, row, recipe), free)
    if differ:
        raise ValueError(
            f"{file.parent} was begun with another recipe ({'; '.join(differ[:3])}): give another --out, or remove it"
        )


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with written_whole(path) as out:
        out.write((json.dumps(data, indent=1) + "\n").encode())
