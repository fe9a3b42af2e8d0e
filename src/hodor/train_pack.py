"""Train on a pack where only torch, numpy, Pillow, OpenCV and safetensors are installed.

    python -m hodor.train_pack PACK --out RUN --recipe xmem-lite --init FILE --device cuda lr=3e-4 data.size=320,576

The pack (`hodor data pack`) is extracted once. `data.root` is its roots in their order, unless it is given; folders of
`data.root` and `data.cutouts` can be named by their names in the pack. Every field of a recipe can be set as NAME=VALUE
(docs/training.md lists them), tuples with commas. A run that was stopped continues when the same command is given again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import types
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hodor.data.pack import unpack
from hodor.training.recipe import Recipe
from hodor.training.recipes import RECIPES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 complete, 2 wrong input or a loss that is not finite.

    Args:
        arguments: the arguments of the command. Default: those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m hodor.train_pack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pack", type=Path, help="folder of the pack")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--recipe", default="xmem-lite", help="name of a recipe (default: xmem-lite)")
    parser.add_argument("--init", type=Path, help="weights to begin from: a .safetensors file of this package")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument("--unpacked", type=Path, help="folder to extract the pack to (default: PACK/data)")
    parser.add_argument("--fresh", action="store_true", help="remove the run in the folder and start again")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="fields of the recipe: lr=3e-4, data.size=320,576")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        from hodor.train import run

        if options.recipe not in RECIPES:
            raise ValueError(f"expected a recipe ({', '.join(sorted(RECIPES))}), got {options.recipe!r}")
        folder = options.unpacked or options.pack / "data"
        roots = tuple(unpack(options.pack, folder))
        recipe = changed(RECIPES[options.recipe], options.settings)
        data = replace(recipe.data, root=_in(folder, recipe.data.root) or roots, cutouts=_in(folder, recipe.data.cutouts))
        recipe = replace(recipe, data=data, init=options.init or recipe.init)
        print(run(recipe, options.out, device=options.device, fresh=options.fresh))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"hodor: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with fields set by text.

    Args:
        recipe: the recipe.
        settings: "NAME=VALUE" each; names of inner fields have dots ("data.augment.flip=0.5"), tuples have commas.

    Raises:
        ValueError: "expected NAME=VALUE, got 'lr'"; "expected a field of Recipe (model, settings, ...), got 'lrr'"; "expected
            a float for lr, got 'high'".
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"expected NAME=VALUE, got {setting!r}")
        recipe = _assigned(recipe, name.split("."), text, name)
    return recipe


def _assigned(value: Any, path: Sequence[str], text: str, name: str) -> Any:
    hints = get_type_hints(type(value))
    if path[0] not in hints:
        raise ValueError(f"expected a field of {type(value).__name__} ({', '.join(hints)}), got {path[0]!r} in {name}")
    if len(path) > 1:
        inner = getattr(value, path[0])
        if not is_dataclass(inner):
            raise ValueError(f"expected a field without parts, got {name!r}: {path[0]} is a single value")
        return replace(value, **{path[0]: _assigned(inner, path[1:], text, name)})
    return replace(value, **{path[0]: _parsed(hints[path[0]], text, name)})


def _parsed(kind: Any, text: str, name: str) -> Any:
    """The value of a text for a field of this type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if text == "none" and type(None) in inner:
            return None
        return _parsed(next(k for k in inner if k is not type(None)), text, name)
    if origin is tuple:
        parts = [part for part in text.split(",") if part]
        kinds = [inner[0]] * len(parts) if inner[1:] == (...,) else inner
        if len(kinds) != len(parts):
            raise ValueError(f"expected {len(kinds)} values with commas for {name}, got {text!r}")
        if get_origin(kinds[0] if kinds else None) is tuple:  # settings: key:value pairs
            return tuple(_setting(part, name) for part in parts)
        return tuple(_parsed(k, part, name) for k, part in zip(kinds, parts, strict=True))
    if origin is Literal:
        if text not in map(str, inner):
            raise ValueError(f"expected {name} to be one of {', '.join(map(str, inner))}, got {text!r}")
        return next(choice for choice in inner if str(choice) == text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false for {name}, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except (TypeError, ValueError):
        raise ValueError(f"expected a value of type {getattr(kind, '__name__', kind)} for {name}, got {text!r}") from None


def _setting(text: str, name: str) -> tuple[str, bool | int | float | str]:
    """A changed setting of the network, "context:true"."""
    key, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"expected KEY:VALUE in {name}, got {text!r}")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value


def _in(folder: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    """Replace names of roots of the pack by their folders."""
    return tuple(folder / path if (folder / path).is_dir() else path for path in paths)


if __name__ == "__main__":
    sys.exit(main())
