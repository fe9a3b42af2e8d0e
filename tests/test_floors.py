"""The house has floors; imports point down only (docs/engineers.md, "Floors")."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "hodor"
FLOORS = {
    **dict.fromkeys(["masks", "doctor", "annotations", "pictures", "phantoms"], 0),
    **dict.fromkeys(["frames", "video", "render", "metrics", "png", "stores", "stored_files", "stored_json", "bits"], 0),
    **dict.fromkeys(["data", "models"], 1),
    **dict.fromkeys(["losses", "plans", "tracking"], 2),
    **dict.fromkeys(["evaluate", "scoring", "scores", "datasets", "submit", "analysis"], 3),
    **dict.fromkeys(["train", "training"], 3),
    **dict.fromkeys(["export", "records", "deploy", "segment", "benchmark"], 3),
    **dict.fromkeys(["recipes", "ablations", "server"], 4),
    **dict.fromkeys(["cli", "commands", "console", "__main__"], 5),
}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "hodor":
            below = (node.module or "").split(".")[1:2] or [alias.name for alias in node.names]
            names.update(below)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("relative import")
        elif isinstance(node, ast.Import):
            names.update(a.name.split(".")[1] for a in node.names if a.name.startswith("hodor."))
    return names & FLOORS.keys() | names & {"relative import"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_upwards(path: Path) -> None:
    floor = FLOORS[room(path)]
    upward = {name for name in imported_rooms(path.read_text()) if FLOORS.get(name, 99) > floor}
    assert not upward, f"{path.relative_to(PACKAGE)} (floor {floor}) imports {upward} from above"
