"""Imports point downwards only and form no circle (docs/engineers.md, "Layers")."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "hodor"
LAYERS = {
    **dict.fromkeys(
        ["masks", "names", "tensors", "files", "mask_files", "frames", "video", "outputs", "metrics", "scoring"], 0
    ),
    **dict.fromkeys(["onnx_memory", "onnx_runtime"], 0),
    **dict.fromkeys(["data", "models"], 1),
    **dict.fromkeys(
        [
            "tracking",
            "prompter",
            "discovery",
            "training.plans",
            "training.losses",
            "training.instance_losses",
            "training.recipe",
        ],
        2,
    ),
    **dict.fromkeys(
        ["segment", "prompts", "evaluate", "evaluation", "analysis", "benchmark", "onnx_export", "train", "training"], 3
    ),
    **dict.fromkeys(["session", "sessions"], 3),
    "library": 3,
    **dict.fromkeys(["training.recipes", "ablations", "serve"], 4),
    **dict.fromkeys(["cli", "commands", "train_clicks", "train_pack"], 5),
}
"""Module or package -> layer; the longest name that fits counts."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules that a module imports: at the top, inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name.removeprefix("hodor.") in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name.removeprefix("hodor").removeprefix(".") for name in found if name and name.split(".")[0] == "hodor")


def layer_of(module: str) -> int:
    parts = module.split(".")
    return next(LAYERS[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in LAYERS)


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_no_module_imports_upwards(module: str) -> None:
    upward = {name for name in imports_of(module) - {""} if layer_of(name) > layer_of(module)}
    assert not upward, f"{module} (layer {layer_of(module)}) imports {upward} from above"


def test_every_layer_entry_names_a_module() -> None:
    assert set(LAYERS) <= set(MODULES), "the table of layers names modules that do not exist"


def test_imports_form_no_circle() -> None:
    left = {module: set(imports_of(module)) for module in MODULES}
    while free := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these modules import each other in a circle, or import one: {sorted(left)}"
