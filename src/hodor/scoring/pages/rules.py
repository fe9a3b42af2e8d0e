"""A profile in sentences, for readers of a page who do not have its table at hand."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hodor.scoring.profiles import PROFILES

_SAID: Mapping[str, Mapping[Any, str]] = {
    "objects": {
        "one": "All that is not 0 is one object.",
        "first": "The objects are those of the first true frame.",
        "evaluated": "The objects are those of any evaluated true frame.",
        "any": "The objects are those of any true frame.",
        "listed": "The objects are those that the meta file lists.",
    },
    "span": {
        "video": "An object is followed over all of the video's true frames.",
        "sighted": "An object counts from the first evaluated frame in which the ground truth or the prediction shows it.",
        "object": "An object counts from the first true frame that shows it.",
        "listed": "An object counts on the frames that the meta file lists for it.",
    },
    "first": {True: "The first of these frames is evaluated.", False: "The first of these frames is given, and not evaluated."},
    "last": {True: "The last one is evaluated.", False: "The last one is not evaluated."},
    "void": {
        "background": "255 in the ground truth is background.",
        "ignored": "255 in the ground truth counts for nobody.",
        "object": "255 in the ground truth is an object like others.",
    },
    "match": {"proposals": "Predicted objects are assigned to the true ones, the best way there is."},
    "formulae": {"mose": "J and F are those of MOSE v2: J with one pixel added, F with a tolerance by the object's area."},
    "groups": {
        "category": "Means are taken apart for seen and for unseen categories; G is the mean of the four.",
        "video": "Means are taken apart for seen and for unseen videos; G is the mean of the four.",
    },
}


def sentences(profile: str, options: Mapping[str, Any]) -> list[str]:
    """What the profile of that name judges, an option of the same name put in its place; [] for an unknown profile."""
    if profile not in PROFILES:
        return []
    rules = asdict(PROFILES[profile]) | {k: v for k, v in options.items() if k in _SAID or k == "every"}
    said = [text for key, texts in _SAID.items() for value, text in texts.items() if rules.get(key) == value]
    if rules.get("every", 1) != 1:
        said.append(f"Only true frames whose number is a multiple of {rules['every']} are evaluated.")
    return said
