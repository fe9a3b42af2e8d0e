"""A profile in sentences, for a page."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hodor.scoring.profiles import PROFILES

_SENTENCES: Mapping[str, Mapping[Any, str]] = {
    "objects": {
        "one": "All that is not 0 is one object.",
        "first": "The objects are those of the first ground-truth frame.",
        "evaluated": "The objects are those of any scored ground-truth frame.",
        "any": "The objects are those of any ground-truth frame.",
        "listed": "The objects are those that the meta file lists.",
    },
    "span": {
        "video": "An object counts on all ground-truth frames of the video.",
        "sighted": "An object counts from the first scored frame in which the ground truth or the prediction shows it.",
        "object": "An object counts from the first ground-truth frame that shows it.",
        "listed": "An object counts on the frames that the meta file lists for it.",
    },
    "first": {True: "The first of these frames is scored.", False: "The first of these frames is given, and not scored."},
    "last": {True: "The last one is scored.", False: "The last one is not scored."},
    "void": {
        "background": "255 in the ground truth is background.",
        "ignored": "Pixels of 255 in the ground truth are ignored.",
        "object": "255 in the ground truth is an object like others.",
    },
    "match": {"proposals": "Predicted objects are assigned to those of the ground truth so that J&F is largest."},
    "formulae": {"mose": "J and F are those of MOSE v2: J with one pixel added, F with a tolerance by the object's area."},
    "groups": {
        "category": "There are separate means for seen and for unseen categories; G is the mean of the four.",
        "video": "There are separate means for seen and for unseen videos; G is the mean of the four.",
    },
}


def sentences(profile: str, options: Mapping[str, Any]) -> list[str]:
    """Return a profile as sentences, with `options` in place of its settings; [] for an unknown profile."""
    if profile not in PROFILES:
        return []
    rules = asdict(PROFILES[profile]) | {k: v for k, v in options.items() if k in _SENTENCES or k == "every"}
    lines = [text for key, texts in _SENTENCES.items() for value, text in texts.items() if rules.get(key) == value]
    if rules.get("every", 1) != 1:
        lines.append(f"Only ground-truth frames whose number is a multiple of {rules['every']} are scored.")
    return lines
