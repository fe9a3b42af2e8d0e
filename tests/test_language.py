"""The retired words of docs/glossary.md occur neither in the code nor in the documents nor in the help of the command."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from hodor import cli

ROOT = Path(__file__).parents[1]
RETIRED = {
    "weights in the box": r"(weights?|files?|networks?|default) in the box",
    "truth": r"(?<!ground )(?<!ground-)(?<!ground_)(?<!ground\n)truths?",
    "true mask": r"true (masks?|labels|frames?)",
    "judge": r"judg(e[sd]?|ing)",
    "likeness": r"like(ness(es)?|st)",
    "alike": r"alike",
    "speak for": r"sp(eaks?|oke|oken) for|speaking",
    "stranger": r"strangers?",
    "visitor": r"visitors?",
    "told": r"told",
    "door": r"doors?",
    "room": r"rooms?",
    "house": r"houses?",
    "floor": r"(?<!\.)floors?(?!\()",
    "handoff": r"hand(offs?|ed over|s over|ed on| on)",
    "shelf": r"(?<!of the )shel(f|ves)",
    "phantom": r"phantoms?",
    "nobody": r"nobody",
    "mend": r"mend(s|ed|ing)?",
    "passed over": r"passed over",
    "let go": r"lets? go",
    "give out": r"g(ives?|iven|ave) out",
    "anew": r"anew",
    "the way back, the way out": r"way (back|out)",
    "work out": r"work(s|ed|ing)? out",
    "peer": r"peers?",
    "onward": r"onward",
    "goes on": r"goes on|go on|going on",
    "taken for": r"taken for",
    "as it stands": r"as (it|they) stands?",
    "say so": r"sa(ys?|id) so",
}
"""The name of a retired expression -> the regular expression that finds it, between word boundaries."""
PATTERNS = {name: re.compile(rf"(?<![\w.]){pattern}(?!\w)", re.IGNORECASE) for name, pattern in RETIRED.items()}
MESSAGE = re.compile(r"(?<!\w)want(s|ed)?(?!\w)")
"""Messages say `expected ..., got ...`."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def found(text: str) -> list[str]:
    return [
        f"{name}: ...{text[max(0, m.start() - 30) : m.end() + 20]!r}" for name, p in PATTERNS.items() for m in p.finditer(text)
    ]


def words_of(path: Path) -> Iterator[tuple[int, str, int]]:
    """Line, text and token type of every comment, string and name; a name's words are separated by spaces."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string, token.type
        elif token.type == tokenize.NAME:
            yield token.start[0], token.string.replace("_", " ").strip(), token.type


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_page_uses_a_retired_word(path: Path) -> None:
    text = re.sub(r"<!-- retired words -->.*?<!-- /retired words -->", "", path.read_text(), flags=re.DOTALL)
    assert not found(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src" / "hodor")))
def test_no_module_uses_a_retired_word(path: Path) -> None:
    wrong = []
    for line, text, kind in words_of(path):
        wrong += [f"line {line}: {each}" for each in found(text) if (kind, text) != (tokenize.NAME, "floor")]
        if kind == tokenize.STRING and MESSAGE.search(text):
            wrong.append(f"line {line}: want: {text[:80]!r}")
    assert not wrong


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.COMMANDS)], ids=" ".join)
def test_no_help_uses_a_retired_word(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--help"])
    shown = capsys.readouterr().out
    assert len(shown) > 100
    assert not found(shown)


def test_the_table_of_retired_words_is_in_the_glossary() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    table = glossary.partition("<!-- retired words -->")[2].partition("<!-- /retired words -->")[0]
    assert table.count("\n|") >= 35
