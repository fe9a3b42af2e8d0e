"""STCN (Cheng, Tai and Tang, 2021): matches pixels with those of remembered frames by the similarity of their keys.

    network = weights.build("stcn")                             # or "stcn-lite"
    features = network.encode(frames)                           # keys, from the frame alone
    memory = network.remember(Memory((7,)), 0, features, ...)   # a value for each object and cell
    prediction, memory = network.segment(memory, features)      # values read by key, decoded for each object, aggregated

The key of a cell is computed from the frame alone, so similarity is computed once for all objects. Its value is computed from
the frame, the object's mask and the sum of the other objects' masks. The name of a tensor ends in its axes; see `base`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.base import Entry, Memory
from hodor.models.layers import recompute
from hodor.models.matching import aggregate, recall, tokens
from hodor.models.memory_blocks import KeyProjection, PixelMemory, ResBlock, Up, ValueEncoder, pad_around, rows, some
from hodor.models.prediction import Features, Prediction

FUSER_RULES: tuple[tuple[str, str | None], ...] = (
    (r"value_encoder\.fuser\.block([12])\.downsample\.(.*)", r"values.fuser.block\1.skip.\2"),
    (r"value_encoder\.fuser\.attention\.ChannelGate\.mlp\.1\.(.*)", r"values.fuser.gates.channel.0.\1"),
    (r"value_encoder\.fuser\.attention\.ChannelGate\.mlp\.3\.(.*)", r"values.fuser.gates.channel.2.\1"),
    (r"value_encoder\.fuser\.attention\.SpatialGate\.spatial\.conv\.(.*)", r"values.fuser.gates.cell.\1"),
    (r"value_encoder\.fuser\.(.*)", r"values.fuser.\1"),
)

RELEASED: tuple[tuple[str, str | None], ...] = (
    (r"key_encoder\.res2\.(.*)", r"backbone.layer1.\1"),
    (r"key_encoder\.(.*)", r"backbone.\1"),
    *FUSER_RULES,
    (r"value_encoder\.(.*)", r"values.trunk.\1"),
    (r"key_proj\.key_proj\.(.*)", r"keys.key.\1"),
    (r"key_comp\.(.*)", r"thin.\1"),
    (r"decoder\.compress\.downsample\.(.*)", r"decoder.compress.skip.\1"),
    (r"decoder\.up_16_8\.skip_conv\.(.*)", r"decoder.up8.side.\1"),
    (r"decoder\.up_8_4\.skip_conv\.(.*)", r"decoder.up4.side.\1"),
    (r"decoder\.up_16_8\.out_conv\.downsample\.(.*)", r"decoder.up8.block.skip.\1"),
    (r"decoder\.up_16_8\.out_conv\.(.*)", r"decoder.up8.block.\1"),
    (r"decoder\.up_8_4\.out_conv\.(.*)", r"decoder.up4.block.\1"),
    (r"decoder\.pred\.(.*)", r"decoder.head.\1"),
)
"""The authors' name -> name in this package, the first match is used."""


class STCN(PixelMemory):
    """STCN.

    The released network remembers without bound while it follows a video. Here the last 20 remembered frames are kept, and for
    each object the first and the latest given one (`Tracker(history=...)`).

    Args:
        backbone: name in `BACKBONES`, a ResNet or an EfficientNet-Lite; it ends at stride 16. Default: "resnet50".
        key_width: channels of keys. Default: 64.
        value_width: channels of values, and of the decoder at stride 16; half of it from stride 8 on. Default: 512.
        mask_encoder: "resnet18" or "light"; computes values from a frame and its masks. Default: "resnet18".
        mask_bias: whether the convolutions of the "resnet18" mask encoder have biases, as released. Default: True.
        mem_every: number of frames from one remembered prediction to the next, at least 1. Default: 5.
        top_k: number of most similar tokens that each cell attends to outside training, at least 1; in training it attends to
            all. Default: 20.

    Raises:
        ValueError: "expected mem_every of at least 1, got 0", the same for `top_k`.
        ValueError: "expected a backbone (swin-t, ...), got 'x'"; "expected a mask encoder (resnet18, light), got 'x'".
    """

    history = 20
    renamed_settings: ClassVar[dict[str, str]] = {"top": "top_k", "masks": "mask_encoder"}

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        key_width: int = 64,
        value_width: int = 512,
        mask_encoder: str = "resnet18",
        mask_bias: bool = True,
        mem_every: int = 5,
        top_k: int = 20,
    ) -> None:
        super().__init__(backbone, mem_every)
        for name in ("mem_every", "top_k"):
            if self.settings[name] < 1:
                raise ValueError(f"expected {name} of at least 1, got {self.settings[name]}")
        self.top_k = top_k
        fine, middle, coarse = self.backbone.channels
        self.keys = KeyProjection(coarse, key_width)
        self.thin = nn.Conv2d(coarse, value_width, 3, padding=1)
        self.values = ValueEncoder(mask_encoder, coarse, value_width, bias=mask_bias)
        self.decoder = Decoder(value_width, middle, fine)

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the maps of a frame.

        Args:
            frames_BCHW: RGB in [0, 1] of any size.

        Returns:
            Features with the maps "image" (normalised, then padded on all sides with zeros to multiples of 16), "fine",
            "middle" and "coarse" (of the backbone, strides 4, 8 and 16), "key" and "thin" (fewer channels, for the decoder),
            both at stride 16.
        """
        image = self.normalised(frames_BCHW)
        padded, offset = pad_around(image.to(self.thin.weight.dtype), 16)
        fine, middle, coarse = self.backbone(padded)
        size, whole = tuple(frames_BCHW.shape[-2:]), tuple(padded.shape[-2:])
        maps = {
            "image": padded,
            "fine": fine,
            "middle": middle,
            "coarse": coarse,
            "key": self.keys(coarse).key,
            "thin": self.thin(coarse),
        }
        return Features(maps, size, whole, offset)  # type: ignore[arg-type]

    def remember(
        self,
        memory: Memory,
        index: int,
        features: Features,
        masks_BNHW: Tensor,
        valid_BN: Tensor,
        given_BN: Tensor,
        *,
        complete: bool = False,
    ) -> Memory:
        """Return the memory with this frame's key and the value of each object."""
        image, key = features.maps["image"], features.maps["key"]
        masks_BNHW = features.fit(masks_BNHW.to(image.dtype), features.padded)
        value_BNCHW = self.values(image, masks_BNHW, features.maps["coarse"])
        complete_B = torch.ones(len(key), dtype=torch.bool, device=key.device)
        return memory.add(index, Entry(value_BNCHW, {"key": key}, valid_BN, given_BN, complete_B))

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """Segment the memory's objects in a frame.

        Returns:
            Logits of background and objects at the padded frame's size; an object for which no frame is valid wins no pixel.
            The memory is returned as it is.

        Raises:
            ValueError: "the memory is empty: give a mask before segmenting".
        """
        maps, key = features.maps, features.maps["key"]
        kept = tokens(memory)
        readout_BNCP, _ = recall(kept, key.flatten(2), top_k=None if self.training else self.top_k)
        readout_BNCHW = readout_BNCP.unflatten(3, key.shape[-2:])
        logits_BNHW = self.decoder(readout_BNCHW, maps["thin"], maps["middle"], maps["fine"]).float()
        soft_BNHW = F.interpolate(logits_BNHW, scale_factor=4.0, mode="bilinear", align_corners=False).sigmoid()
        logits_BKHW = aggregate(soft_BNHW * kept.valid_BNM.any(2)[..., None, None])
        return Prediction(logits_BKHW, 1, features.size, features.padded, features.offset), memory

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        recompute(self.values)
        recompute(self.decoder)


class Decoder(nn.Module):
    """Computes an object's logits at stride 4 from its readout and the frame's maps.

    Args:
        width: channels of the readout.
        middle: channels of the backbone's map at stride 8.
        fine: channels of the backbone's map at stride 4.
    """

    def __init__(self, width: int, middle: int, fine: int) -> None:
        super().__init__()
        self.compress = ResBlock(2 * width, width)
        self.up8 = Up(middle, width, width // 2)
        self.up4 = Up(fine, width // 2, width // 2)
        self.head = nn.Conv2d(width // 2, 1, 3, padding=1)

    def forward(self, readout_BNCHW: Tensor, thin_BCHW: Tensor, middle_BCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
        """Logits [B, N, h, w]."""
        side8, side4 = self.up8.side(middle_BCHW), self.up4.side(fine_BCHW)
        x_BNCHW = self.compress.joined(readout_BNCHW, thin_BCHW)
        logits = []
        for part in some(x_BNCHW):
            finer = self.up4(self.up8(part, side8), side4)
            logits.append(rows(self.head(F.relu(finer.flatten(0, 1))), finer)[:, :, 0])
        return torch.cat(logits, 1)
