"""Video object segmentation: given the mask of an object on one frame, segment the object in the whole video.

    network = hodor.load()                         # bundled weights, by name; or the path of a .safetensors file
    tracker = hodor.Tracker(network)
    labels = tracker.track(first_frame, labels)    # ids per pixel, [H, W]
    for frame in frames:
        labels = tracker.track(frame)

`load`, `Tracker` and `Prompter` are imported when they are first used, so that `import hodor` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hodor.models.weights import load as load
    from hodor.prompter import Prompter as Prompter
    from hodor.session import Session as Session
    from hodor.tracking import Tracker as Tracker

__version__ = "0.1.0"
__all__ = ["Prompter", "Session", "Tracker", "__version__", "load", "metrics"]

_LAZY = {
    "Prompter": "hodor.prompter",
    "Session": "hodor.session",
    "Tracker": "hodor.tracking",
    "load": "hodor.models.weights",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "metrics":
        return importlib.import_module("hodor.metrics")
    raise AttributeError(f"module 'hodor' has no attribute {name!r}")
