"""What every model has, whether it follows given objects (`base.Network`) or finds objects by itself (`finder.Finder`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from hodor.models.layers import Backbone, fold, recompute
from hodor.models.prediction import Features


class Model(nn.Module):
    """Base class of all models: a backbone, the features of a frame, and what a weights file has to state.

    A subclass implements `encode`.

    Attributes:
        name: name of the preset; set by `weights.build` and `weights.load`.
        size: short side of the frame inside the network, in pixels; from the preset or the file.
        settings: the arguments that the network was made with; a file rebuilds the network from them.
        renamed_settings: old name -> new name, for settings that were renamed since a file was written.
        backbone: the image encoder.
        folded: whether batch norms are merged into their convolutions; see `weights.load`.
        calibration: slope and offset of the confidence, see `expected`; from the file. Default: (1, 0), none.
    """

    name: str = ""
    size: int = 480
    settings: Mapping[str, Any] = {}
    renamed_settings: ClassVar[Mapping[str, str]] = {}
    calibration: tuple[float, float] = (1.0, 0.0)
    backbone: Backbone
    folded: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set `settings` to the arguments of the constructor, defaults included, before its first line runs."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        make, signature = cls.__init__, inspect.signature(cls.__init__)

        @functools.wraps(make)
        def recorded(self: Model, *args: Any, **arguments: Any) -> None:
            if type(self).__init__ is recorded:
                bound = signature.bind(self, *args, **arguments)
                bound.apply_defaults()
                self.settings = dict(list(bound.arguments.items())[1:])
            make(self, *args, **arguments)

        cls.__init__ = recorded  # type: ignore[assignment]

    @classmethod
    def current_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings read from a file under their present names."""
        return {cls.renamed_settings.get(name, name): value for name, value in settings.items()}

    def about(self) -> dict[str, Any]:
        """Return what a weights file states about the network: model, size, settings and others."""
        about: dict[str, Any] = {"model": self.name, "size": self.size, "settings": self.settings}
        return about | ({} if self.calibration == Model.calibration else {"calibration": self.calibration})

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the features of frames.

        Args:
            frames_BCHW: RGB in [0, 1], float32 [B, 3, H, W] of any size.
        """
        raise NotImplementedError

    def expected(self, confidence_N: Tensor) -> Tensor:
        """Return the J to expect for means of soft masks over the pixels won, as calibrated for these weights.

        sigmoid(slope * logit(confidence) + offset), Platt scaling (1999); `hodor analyse failures` measures the two.

        Args:
            confidence_N: means in [0, 1].
        """
        slope, offset = self.calibration
        return confidence_N if self.calibration == (1.0, 0.0) else (slope * confidence_N.logit(1e-4) + offset).sigmoid()

    def fold(self) -> None:
        """Merge batch norms into the convolutions before them: the same function, faster, no longer trainable."""
        for name, child in list(self.named_children()):
            setattr(self, name, fold(child))
        self.folded = True

    def checkpoint_activations(self) -> None:
        """Keep only the input of each block from now on, and recompute the rest in the backward pass.

        The gradients are the same, for less memory and about a third more time.
        """
        for block in self.backbone.heavy():
            recompute(block)
