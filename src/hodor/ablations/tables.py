"""The papers' ablation tables as data: each row lists its changes to a recipe and the numbers printed in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hodor.data import augment


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        key: short name, the number of the row where the paper numbers its rows.
        name: description.
        paper: J&F, J and F as printed in the paper, in per cent, or J&F alone. None: the paper has no such row.
        changes: changed fields of the recipe by name; "data.max_objects" is a field of its data. Applied after `own_changes`.
        settings: changed settings of the network.
        shares: settings that become this share of the network's own value, rounded (3 of 5 layers: 0.6).
        data: training data, "stills" or "video".
        after: key of the row whose weights it begins from. Default: None.
        model: network of the row, see `model_of`. Default: None, the requested network.
        history: frames kept in memory while scoring. Default: None, the requested number.
        length: share of the steps; 0 scores the weights of the row `after` without training.
        rate: share of the learning rate.
    """

    key: str
    name: str
    paper: tuple[float, ...] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    data: Literal["stills", "video"] = "stills"
    after: str | None = None
    model: str | None = None
    history: int | None = None
    length: float = 1.0
    rate: float = 1.0


@dataclass(frozen=True)
class Table:
    """A table of ablations.

    Attributes:
        name: name for the command.
        caption: title.
        source: the paper and its table.
        measured: data set on which the paper measured.
        rows: the rows.
        against: key of the row with which the others are compared.
    """

    name: str
    caption: str
    source: str
    measured: str
    rows: tuple[Row, ...]
    against: str

    def row(self, key: str) -> Row:
        """Return the row with this key.

        Raises:
            ValueError: "expected a row of table hodor-3 (0, 1, ...), got '12'".
        """
        for row in self.rows:
            if row.key == key:
                return row
        raise ValueError(f"expected a row of table {self.name} ({', '.join(row.key for row in self.rows)}), got {key!r}")

    def missing(self, row: Row, asked: str = "hodor-t") -> str | None:
        """Return what a row needs that is missing, or None if it can be run.

        Args:
            row: the row.
            asked: name of the requested model.

        Returns:
            Such as "stcn", "scheme one-shot-2", "a network without a recurrent state".
        """
        from hodor.models import weights
        from hodor.training.recipe import Scheme

        model = model_of(row, asked)
        if model not in weights.MODELS:
            return model
        scheme = row.changes.get("scheme")
        if scheme and scheme not in get_args(Scheme):
            return f"scheme {scheme}"
        if row.changes.get("back") == "one" and weights.MODELS[model].network.recurrent:
            return "a network without a recurrent state"
        return self.missing(self.row(row.after), asked) if row.after else None


def model_of(row: Row, asked: str) -> str:
    """Return the model that a row trains: the requested model, or the row's own network, as its lite preset if the requested
    model is one."""
    from hodor.models import weights

    if row.model is None:
        return asked
    lite = f"{row.model}-lite"
    return lite if asked.endswith("-lite") and lite in weights.MODELS else row.model


def own_changes(model: str, steps: int) -> dict[str, Any]:
    """Return the fields of the recipe with which a network's authors train it, in every row; {} for HODOR.

    Args:
        model: name of the model.
        steps: steps of the run, to which the schedule of the loss is scaled.
    """
    from hodor.models import weights
    from hodor.training.recipe import Bootstrap

    authors: dict[str, tuple[str, str]] = {
        "STCN": ("previous", "bootstrapped"),
        "XMem": ("first-random", "bootstrapped-dice"),
        "Cutie": ("random", "points"),
    }
    network = weights.MODELS[model].network.__name__
    if network not in authors:
        return {}
    references, loss = authors[network]
    # the authors train for 150k steps: all pixels up to 20k, the smallest share from 70k
    bootstrap = Bootstrap(steps * 20 // 150, max(steps * 70 // 150, 1))
    return {"references": references, "loss": loss, "bootstrap": bootstrap, "decay_embeddings": network != "Cutie"}


def length_of(model: str) -> int:
    """Return the frames of a video clip: 3, for recurrent networks 8, for their lite presets 5 (small budgets).

    Source: one-shot training, Sec. 4.1 (n).
    """
    from hodor.models import weights

    if not weights.MODELS[model].network.recurrent:
        return 3
    return 5 if model.endswith("-lite") else 8


WARPED: Mapping[str, Any] = {"scheme": "chain", "frames": 3, "data.motion": "warp"}
"""Three warped copies of one image, each segmented from the one before. Source: HODOR, Table 1, row 3."""

TUNED: Mapping[str, Any] = {"data": "video", "length": 0.08, "rate": 0.1}
"""Fine-tuning: 20k steps after 250k, at a tenth of the learning rate. Source: HODOR, Sec. S4."""

STILLS_TUNED: Mapping[str, Any] = {**TUNED, "data": "stills"}

COPIED: Mapping[str, Any] = {"data.motion": "none", "data.augment": augment.PLAIN}
ONE_LABEL: Mapping[str, Any] = {"data.labels": "first", "data.annotated": "middle"}
"""Only the mask of the middle frame of each video."""

CYCLIC: Mapping[str, Any] = {"scheme": "cyclic", "frames": 3, "data.motion": "video", **ONE_LABEL}
DENSE: Mapping[str, Any] = {"scheme": "dense", "frames": 3, "data.motion": "video", "data.labels": "all"}

HODOR_1 = Table(
    "hodor-1",
    "Training data",
    "HODOR, Table 1",
    "DAVIS 2017 val",
    (
        Row("1", "single image", (61.6,), {"scheme": "still", "frames": 1, **COPIED}),
        Row("2", "duplicated image, not augmented", (69.4,), {**WARPED, **COPIED}),
        Row("3", "duplicated image, augmented", (77.5,), WARPED),
        Row("3+", "row 3, trained on as long as rows 4 to 6", None, WARPED, after="3", **STILLS_TUNED),
        Row("4", "duplicated video frame, augmented", (79.0,), {**WARPED, **ONE_LABEL}, after="3", **TUNED),
        Row("5", "three frames, one annotated, cyclic", (80.6,), CYCLIC, after="3", **TUNED),
        Row("6", "densely annotated video", (81.3,), DENSE, after="3", **TUNED),
        Row("3-stcn", "STCN: duplicated image, augmented", (75.8,), WARPED, model="stcn"),
        Row("4-stcn", "STCN: duplicated video frame, augmented", (72.8,), WARPED, after="3-stcn", model="stcn", **TUNED),
        Row("6-stcn", "STCN: densely annotated video", (85.4,), DENSE, after="3-stcn", model="stcn", **TUNED),
    ),
    against="3",
)

PLAIN: Mapping[str, Any] = {"start_pooled": False}
"""A network without layers cannot be initialised as the barebones one (`start_pooled`)."""

HODOR_3 = Table(
    "hodor-3",
    "Parts of the network",
    "HODOR, Table 3 (row 0: Table 2; rows 11 and 12: the text of the supplement)",
    "DAVIS 2017 val",
    (
        Row("0", "as published", (77.5, 74.7, 80.2), WARPED),
        Row("1", "single foreground instance", (71.5, 69.2, 73.9), {**WARPED, "data.max_objects": 1}, {"joint": False}),
        Row("2", "no masking in encoder", (74.4, 71.5, 77.2), WARPED, {"conditioning": "none"}),
        Row("3", "hard masking in encoder", (74.5, 71.8, 77.1), WARPED, {"conditioning": "hard"}),
        Row("4", "no encoder layer, an MLP", (72.8, 70.5, 75.2), WARPED, {"encoder_layers": 0, **PLAIN}),
        Row("5", "3 of 5 encoder layers", (76.6, 73.9, 79.4), WARPED, shares={"encoder_layers": 0.6}),
        Row("6", "no decoder layer, convolutions", (74.4, 71.7, 77.1), WARPED, {"decoder_layers": 0, **PLAIN}),
        Row("7", "3 of 5 decoder layers", (76.4, 73.6, 79.3), WARPED, shares={"decoder_layers": 0.6}),
        Row("8", "barebones network", (70.6, 68.2, 72.9), WARPED, {"barebones": True}),
        Row("9", "regular convolution in decoder", (75.1, 72.0, 78.2), WARPED, {"convolution": "regular"}),
        Row("10", "one background descriptor", (76.2, 73.7, 78.7), WARPED, {"grid": 1}),
        Row("11", "no catch-all background", (76.2,), WARPED, {"catch_all": False}),
        Row("12", "one frame remembered", (74.3,), after="0", history=1, length=0),
    ),
    against="0",
)

STEPS = {"T": "all", "2": "two", "1": "one"}
"""Steps of the return path, as the paper names them -> the recipe's field `back`."""

JUMP = {"data.frame_order": "forward", "data.jump": (5, 10, 15, 20, 25, 5), "data.jump_at": (0.0, 0.1, 0.2, 0.3, 0.4, 0.8)}
"""D of one-shot training, Sec. 4.1, for STCN; the paper does not give those of XMem and Cutie."""


def _one_shot(key: str, model: str | None, steps: str, paper: tuple[float, ...] | None, after: str | None = None) -> Row:
    """One-shot training of a network (None: the requested one) on clips with one annotated frame."""
    changes: dict[str, Any] = {
        "scheme": "one-shot",
        "back": STEPS[steps],
        "references": "previous",
        "data.motion": "video",
        "data.labels": "first",
        "data.annotated": "first",
        **JUMP,
    }
    if model:
        del changes["references"]
    shown = {None: "the requested network", "stcn": "STCN", "xmem": "XMem", "cutie": "Cutie"}[model]
    start = ", pretrained" if after else ""
    return Row(key, f"1-shot {shown}, {steps}-step backward{start}", paper, changes, data="video", after=after, model=model)


def _pretraining(key: str, model: str | None) -> Row:
    warped = {**WARPED, "scheme": "propagate"}
    return Row(key, f"pretraining of {model or 'the requested network'} on warped stills", None, warped, model=model)


def _every_label(key: str, model: str | None, paper: tuple[float, ...] | None, after: str) -> Row:
    changes = {"scheme": "propagate", "data.motion": "video", **JUMP}
    name = {None: "the requested network", "stcn": "STCN", "xmem": "XMem", "cutie": "Cutie"}[model]
    return Row(key, f"{name}, every label", paper, changes, data="video", after=after, model=model)


ONE_SHOT_1 = Table(
    "one-shot-1",
    "One label a video compared with every label",
    "One-shot training, Table 1",
    "DAVIS 2017 val",
    (
        _pretraining("stcn-0", "stcn"),
        _every_label("stcn-all", "stcn", (85.4, 82.2, 88.6), "stcn-0"),
        _one_shot("stcn-2", "stcn", "2", (81.7, 78.6, 84.8), "stcn-0"),
        _pretraining("xmem-0", "xmem"),
        _every_label("xmem-all", "xmem", (86.2, 82.9, 89.5), "xmem-0"),
        _one_shot("xmem-2", "xmem", "2", (82.6, 79.8, 85.4), "xmem-0"),
        _one_shot("xmem-T", "xmem", "T", None, "xmem-0"),
        _one_shot("xmem-T-scratch", "xmem", "T", None),
        _pretraining("cutie-0", "cutie"),
        _every_label("cutie-all", "cutie", (88.8, 85.4, 92.3), "cutie-0"),
        _one_shot("cutie-2", "cutie", "2", (84.1, 80.8, 87.3), "cutie-0"),
        _pretraining("own-0", None),
        _every_label("own-all", None, None, "own-0"),
        Row(
            "own-cyclic",
            "the requested network, one label, cycles",
            None,
            {"scheme": "cyclic", "data.motion": "video", "data.labels": "first", "data.annotated": "first"},
            data="video",
            after="own-0",
        ),
        _one_shot("own-2", None, "2", None, "own-0"),
    ),
    against="own-all",
)

ONE_SHOT_3 = Table(
    "one-shot-3",
    "One-shot training with and without pretraining",
    "One-shot training, Table 3",
    "DAVIS 2017 val",
    (
        _pretraining("stcn-0", "stcn"),
        _pretraining("xmem-0", "xmem"),
        _pretraining("cutie-0", "cutie"),
        _pretraining("own-0", None),
        _one_shot("stcn-pre", "stcn", "2", (81.7, 78.6, 84.8), "stcn-0"),
        _one_shot("xmem-pre", "xmem", "2", (82.4, 79.2, 85.5), "xmem-0"),
        _one_shot("cutie-pre", "cutie", "2", (84.2, 81.2, 87.2), "cutie-0"),
        _one_shot("own-pre", None, "2", None, "own-0"),
        _one_shot("stcn", "stcn", "2", (78.0, 75.2, 80.9)),
        _one_shot("xmem", "xmem", "2", (82.7, 79.4, 86.1)),
        _one_shot("cutie", "cutie", "2", (83.8, 80.5, 87.0)),
        _one_shot("own", None, "2", None),
    ),
    against="own",
)

ONE_SHOT_4 = Table(
    "one-shot-4",
    "Return paths of one-shot training, from scratch",
    "One-shot training, Table 4",
    "DAVIS 2017 val",
    (
        _one_shot("xmem-T", "xmem", "T", (79.2, 75.9, 82.5)),
        _one_shot("cutie-T", "cutie", "T", (72.4, 69.4, 75.4)),
        _one_shot("own-T", None, "T", None),
        _one_shot("stcn-2", "stcn", "2", (78.0, 75.2, 80.9)),
        _one_shot("xmem-2", "xmem", "2", (82.7, 79.4, 86.1)),
        _one_shot("cutie-2", "cutie", "2", (83.8, 80.5, 87.0)),
        _one_shot("own-2", None, "2", None),
        _one_shot("stcn-1", "stcn", "1", (77.5, 74.8, 80.2)),
        _one_shot("own-1", None, "1", None),
    ),
    against="own-2",
)

TABLES = {table.name: table for table in (HODOR_1, HODOR_3, ONE_SHOT_1, ONE_SHOT_3, ONE_SHOT_4)}
