"""Train and score the rows of an ablation table on data of the user's; what is finished is not done again."""

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
    from hodor.train import Recipe

log = logging.getLogger(__name__)
T = TypeVar("T")


def changed(value: T, changes: Mapping[str, Any]) -> T:
    """A copy of a frozen dataclass with these fields changed; "data.max_objects" reaches into its field `data`.

    Raises ValueError: "Recipe has no field 'mode': want model, data, ...".
    """
    here: dict[str, Any] = {}
    for name, new in changes.items():
        outer, _, inner = name.partition(".")
        known = [f.name for f in fields(value)]  # type: ignore[arg-type]
        if outer not in known:
            raise ValueError(f"{type(value).__name__} has no field {outer!r}: want {', '.join(known)}")
        here[outer] = changed(here.get(outer, getattr(value, outer)), {inner: new}) if inner else new
    return replace(value, **here)  # type: ignore[type-var]


@dataclass(frozen=True)
class Setup:
    """How a table is run. base: the recipe that rows change. stills, video: roots to train on; without stills, single frames
    of the video serve. test: the videos that are scored; they are left out of training. out: folder of the runs. after_steps,
    after_lr: of rows that start from another, instead of the table's share of the base's."""

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
        """Frames remembered while a row is scored."""
        from hodor.models import weights

        return row.history or self.history or weights.MODELS[model_of(row, self.base.model)].history

    def folder(self, table: Table, row: Row, seed: int) -> Path:
        return self.out / table.name / row.key / f"seed-{seed}"

    def recipe(self, table: Table, row: Row, seed: int) -> Recipe:
        """The recipe of one run. Raises ValueError for changes that the recipe does not have."""
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
    """The row's arguments of this network, shares worked out: 0.6 of 5 encoder layers is 3."""
    from hodor.models import weights

    preset = weights.MODELS[model]
    out = dict(row.settings)
    for name, share in row.shares.items():
        out[name] = round(share * own(preset, name))
    return out


def own(preset: Any, name: str) -> Any:
    import inspect

    default = inspect.signature(preset.network).parameters[name].default
    return preset.settings.get(name, default)


def needed(table: Table, keys: Iterable[str] = (), model: str = "hodor-t") -> tuple[list[Row], dict[str, str]]:
    """Rows to run for the rows asked for (none: all), in an order that has every row after the one it starts from; and
    {key: what it needs} of those that cannot be run. model: the one asked for.

    Raises ValueError where a row that was named cannot be run, or none can: "row stcn of table one-shot-3 needs stcn, not in
    this version".
    """
    asked = list(keys)
    chosen = [table.row(key) for key in asked] or list(table.rows)
    cannot = {row.key: what for row in chosen if (what := table.missing(row, model))}
    if (asked and cannot) or len(cannot) == len(chosen):
        key, what = next(iter(cannot.items()))
        who = (
            f"row {key} of table {table.name} needs {what}" if asked else f"no row of table {table.name} can be run: they need "
        )
        raise ValueError(f"{who}{'' if asked else ', '.join(sorted(set(cannot.values())))}, not in this version")
    ordered: list[Row] = []

    def take(row: Row) -> None:
        if row.after:
            take(table.row(row.after))
        if row not in ordered:
            ordered.append(row)

    for row in chosen:
        if row.key not in cannot:
            take(row)
    return ordered, cannot


def run(table: Table, setup: Setup, rows: Sequence[Row]) -> None:
    """Train and score the rows with every seed, the first seed's first; what is finished is not done again.

    A run lies in OUT/TABLE/ROW/seed-N: ablation.json, what training writes there, and scores.json once it is scored. Raises
    ValueError before anything is trained if a run of another recipe lies there: "out/hodor-3/0/seed-0 was begun with another
    recipe (steps 100 there, 200 now): give another --out, or remove it".
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
        write(folder / "ablation.json", _told(setup, row, recipe))
        made = train.run(recipe, folder, device=device) if recipe.steps else recipe.init
        assert made is not None  # a row without steps has one that it starts from
        write(folder / "scores.json", _score(setup, row, made, str(device)))


def state(setup: Setup, table: Table, row: Row, seed: int) -> str:
    """ "done", "begun" or "to do"."""
    folder = setup.folder(table, row, seed)
    if (folder / "scores.json").is_file():
        return "done"
    return "begun" if (folder / "ablation.json").is_file() else "to do"


def _score(setup: Setup, row: Row, made: Path, device: str) -> dict[str, Any]:
    from hodor.analysis import runs
    from hodor.models import weights

    network = weights.ready(made, device=device, dtype="float32")
    history = setup.remembered(row)
    scored = [runs.scored(network, video, history=history, size=setup.size).to_json() for video in setup.test.videos]
    return {"format": "hodor-ablation/1", "history": history, **runs.means(scored), "sequences": scored}


def _told(setup: Setup, row: Row, recipe: Recipe) -> dict[str, Any]:
    """All that a run's numbers depend on, as plain values; files by their names alone."""
    told: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=_short))
    test = {"sequences": list(setup.test.names), "history": setup.remembered(row), "size": setup.size}
    return {**told, "test": test}


def _short(value: Any) -> Any:
    return value.name if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else str(value)


def _check_same(setup: Setup, table: Table, row: Row, seed: int, recipe: Recipe) -> None:
    from hodor.train import FREE, Recipe
    from hodor.training.checkpoints import completed, differences

    file = setup.folder(table, row, seed) / "ablation.json"
    if not file.is_file():
        return
    free = [name for name in FREE if name not in ("backbone", "init")]
    there = completed(json.loads(file.read_text()), json.loads(json.dumps(asdict(Recipe()), default=_short)))
    differ = differences(there, _told(setup, row, recipe), free)
    if differ:
        raise ValueError(
            f"{file.parent} was begun with another recipe ({'; '.join(differ[:3])}): give another --out, or remove it"
        )


def write(path: Path, data: Mapping[str, Any]) -> None:
    with written_whole(path) as out:
        out.write((json.dumps(data, indent=1) + "\n").encode())
