"""STEm-Seg (Athar et al., ECCV 2020): finds the objects of a clip by embeddings that lie together for the pixels of an object.

    finder = finders.build("stemseg-davis")                       # or "stemseg-ytvis", "stemseg-kitti"
    features = finder.encode(frames)                              # of each frame once
    maps = finder.read(features.split(8))                         # embeddings, bandwidths, seediness of a clip of 8 frames
    found = clustering.find(maps, maps.seediness_BTHW[0] > 0.25)  # hodor.discovery.clustering: its objects

The frames of a clip are one volume. No box is proposed and no object is given. The name of a tensor ends in its axes; see
`base` and `finder`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hodor.models.backbones import BACKBONES
from hodor.models.base import pad_to_multiple
from hodor.models.finder import Finder, Maps
from hodor.models.layers import fold, recompute
from hodor.models.mixing import FREE, check_mode, coordinates
from hodor.models.prediction import Features
from hodor.models.pyramid import FPN
from hodor.models.resnet import DetectronResNet
from hodor.models.stemseg_decoders import SLOTS, UNITS, Decoder, Unit, check_length

LEVELS = ("stride4", "stride8", "stride16", "stride32")
"""Names of the feature maps, finest first."""

RELEASED: tuple[tuple[str, str | None], ...] = (
    # constants that the released code stores: see `released.STORED_CONSTANTS`
    (r"embedding_head\.time_scale", None),
    (r"embedding_loss_criterion\.free_dim_bandwidths", None),
    (r"backbone\.body\.(?:stem\.)?(.*)", r"backbone.\1"),
    *((rf"backbone\.fpn\.fpn_inner{i}\.(.*)", rf"pyramid.lateral_convs.{i - 1}.conv.\1") for i in range(1, 5)),
    *((rf"backbone\.fpn\.fpn_layer{i}\.(.*)", rf"pyramid.fpn_convs.{i - 1}.conv.\1") for i in range(1, 5)),
    *(
        (rf"(embedding|seediness|semseg)_head\.block_{s}x\.{4 * i + j}\.(.*)", rf"\1.levels.{level}.{i}.{part}.\2")
        for level, s in enumerate((32, 16, 8, 4))
        for i in range(UNITS[level])
        for j, part in enumerate(("conv", "norm"))
    ),
    *((rf"(embedding|seediness|semseg)_head\.conv_{s}\.(.*)", rf"\1.merges.{i}.\2") for i, s in enumerate((16, 8, 4))),
    (r"embedding_head\.conv_embedding\.(.*)", r"to_embedding.\1"),
    (r"embedding_head\.conv_variance\.(.*)", r"to_spread.\1"),
    (r"embedding_head\.conv_seediness\.(.*)", r"to_seediness.\1"),
    (r"seediness_head\.conv_out\.(.*)", r"to_seediness.\1"),
    (r"semseg_head\.conv_out\.(.*)", r"to_semantics.\1"),
)
"""The authors' name -> name in this package, the first match is used."""


class STEmSeg(Finder):
    """STEm-Seg.

    Args:
        backbone: name in `BACKBONES`, with outputs at strides 4, 8, 16 and 32. The layers of Detectron's ResNets up to stride 4
            do not train. Default: "detectron-resnet101".
        mode: the mixing function, see `mixing.FREE`. Default: "xyff".
        classes: number of classes, without background; 0 for a network without a semantic head. Default: 0.
        seediness_decoder: whether the seediness has a decoder of its own rather than that of the embeddings. Default: True.
        width: channels of the pyramid. Default: 256.
        decoder_widths: channels of a decoder at strides 32, 16, 8 and 4. Default: 256, 256, 128, 128.
        semantic_widths: the same for the semantic decoder. Default: 256, 256, 128, 128.
        groups: groups of the decoders' norms; every width divides by it. Default: 32.
        length: number of frames of a clip when a video is read: 2, 4, 8, 16, 24 or 32. No weight depends on it. Default: 8.

    Raises:
        ValueError: "expected a mode of xy, ff, ..., got 'x'"; "expected clips of 2, 4, ... frames, got 5: ...".
        ValueError: "expected a backbone (swin-t, ...), got 'x'"; "expected classes of 0 or more, got -1".
        ValueError: "expected 4 widths that divide by 32, got ...".
    """

    lengths = tuple(SLOTS)

    def __init__(
        self,
        *,
        backbone: str = "detectron-resnet101",
        mode: str = "xyff",
        classes: int = 0,
        seediness_decoder: bool = True,
        width: int = 256,
        decoder_widths: Sequence[int] = (256, 256, 128, 128),
        semantic_widths: Sequence[int] = (256, 256, 128, 128),
        groups: int = 32,
        length: int = 8,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"expected a backbone ({', '.join(BACKBONES)}), got {backbone!r}")
        if classes < 0:
            raise ValueError(f"expected classes of 0 or more, got {classes}")
        self.mode, self.classes, self.length = check_mode(mode), classes, check_length(length)
        dimensions = len(mode)
        self.backbone = BACKBONES[backbone]()
        if isinstance(self.backbone, DetectronResNet):
            self.backbone.freeze(4)
        self.pyramid = FPN(self.backbone.channels, width, (True,) * 4, "bilinear")
        self.embedding = Decoder(width, decoder_widths, groups)
        self.to_embedding = nn.Conv3d(decoder_widths[3], dimensions, 1, bias=False)
        self.to_spread = nn.Conv3d(decoder_widths[3], dimensions - FREE[mode], 1)
        self.seediness = Decoder(width, decoder_widths, groups) if seediness_decoder else None
        self.to_seediness = nn.Conv3d(decoder_widths[3], 1, 1, bias=False)
        self.semseg = Decoder(width, semantic_widths, groups) if classes else None
        self.to_semantics = nn.Conv3d(semantic_widths[3], classes + 2, 1, bias=False) if classes else None

    def fold(self) -> None:
        # the decoders have no batch norm, and weights of 3D convolutions have no channels-last format of images
        self.backbone, self.pyramid = fold(self.backbone), fold(self.pyramid)
        self.folded = True

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        for unit in [module for module in self.modules() if isinstance(module, Unit)]:
            recompute(unit)

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the pyramid's maps of frames.

        Args:
            frames_BCHW: RGB in [0, 1], float32 [B, 3, H, W] of any size.

        Returns:
            Features with the maps of `LEVELS`; the frames are normalised and then padded with zeros, the mean colour, at the
            right and the bottom to multiples of 32.
        """
        mean, std = (frames_BCHW.new_tensor(value)[:, None, None] for value in (self.backbone.mean, self.backbone.std))
        image = pad_to_multiple((frames_BCHW - mean) / std, 32)
        maps = self.pyramid(self.backbone(image.to(self.to_embedding.weight.dtype)))
        size, padded = tuple(frames_BCHW.shape[-2:]), tuple(image.shape[-2:])
        return Features(dict(zip(LEVELS, maps, strict=True)), size, padded)  # type: ignore[arg-type]

    def read(self, features: Sequence[Features]) -> Maps:
        """Compute the maps of clips, at stride 4 of the padded frame; see `Finder.read`."""
        check_length(len(features))
        maps = [torch.stack([each.maps[name] for each in features], 2) for name in LEVELS]
        common = self.embedding(maps)
        embeddings = (self.to_embedding(common).float() / 4).tanh()
        offsets = coordinates(self.mode, *embeddings.shape[2:]).to(embeddings)
        seeds = common if self.seediness is None else self.seediness(maps)
        semantics = None
        if self.semseg is not None and self.to_semantics is not None:
            semantics = self.to_semantics(self.semseg(maps)).float()
        return Maps(
            embeddings + offsets,
            self.to_spread(common).float(),
            self.to_seediness(seeds).float().sigmoid()[:, 0],
            semantics,
        )
