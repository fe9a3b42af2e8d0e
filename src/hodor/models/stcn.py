"""STCN (Cheng, Tai and Tang, 2021): pixels of remembered frames, found again by the similarity of their keys.

    network = weights.build("stcn")                             # or "stcn-lite"
    features = network.encode(frames)                           # keys, from the picture alone
    memory = network.remember(Memory((7,)), 0, features, ...)   # a value for each object and cell
    prediction, memory = network.segment(memory, features)      # read by key, decoded object by object, brought together

The key of a cell comes from the picture alone, so that similarity is worked out once for all objects; its value from the
picture, the object's mask and the sum of the other objects' masks. The name of a tensor ends in its axes; see `base`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.base import Entry, Features, Memory, Prediction
from hodor.models.layers import recompute
from hodor.models.matching import aggregate, recall, tokens
from hodor.models.memory_blocks import KeyProjection, PixelMemory, ResBlock, Up, ValueEncoder, pad_around, rows, some

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
"""The authors' name -> ours, first match wins."""


class STCN(PixelMemory):
    """backbone: a ResNet or an EfficientNet-Lite, ended at stride 16. key_width, value_width: channels of keys and values; the
    decoder works at value_width at stride 16, at half of it from stride 8 on. mask_encoder: "resnet18" or "light", what turns a
    picture and its masks into values; mask_bias gives the former's convolutions biases, as in the release. mem_every: while a
    video is followed, predicted masks are remembered every so many frames. top_k: how many tokens speak for a cell, outside
    training; in training all do.

    Followed through a video the released network remembers without bound; here the last 20 remembered frames stay, and for
    each object the first and the latest given one (`Tracker(history=...)`).

    Raises ValueError: "mem_every is 0, want at least 1", the same for `top_k`; "no backbone 'x': want swin-t, ..."; "mask encoder
    'x' is not one of resnet18, light".
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
                raise ValueError(f"{name} is {self.settings[name]}, want at least 1")
        self.top_k = top_k
        fine, middle, coarse = self.backbone.channels
        self.keys = KeyProjection(coarse, key_width)
        self.thin = nn.Conv2d(coarse, value_width, 3, padding=1)
        self.values = ValueEncoder(mask_encoder, coarse, value_width, bias=mask_bias)
        self.decoder = Decoder(value_width, middle, fine)

    def encode(self, frames_BCHW: Tensor) -> Features:
        """RGB in [0, 1], any size -> the picture, normalised, then padded around with zeros to multiples of 16; the backbone's
        maps at strides 4, 8, 16; at stride 16 the key, and a thinner map for the decoder."""
        picture = self.normalised(frames_BCHW)
        padded, offset = pad_around(picture.to(self.thin.weight.dtype), 16)
        fine, middle, coarse = self.backbone(padded)
        size, whole = tuple(frames_BCHW.shape[-2:]), tuple(padded.shape[-2:])
        maps = (padded, fine, middle, coarse, self.keys(coarse).key, self.thin(coarse))
        return Features(maps, size, whole, offset)  # type: ignore[arg-type]

    def remember(
        self, memory: Memory, index: int, features: Features, masks_BNHW: Tensor, valid_BN: Tensor, given_BN: Tensor
    ) -> Memory:
        """The memory with this frame's key and, for each object, its value."""
        picture, _, _, coarse, key, _ = features.maps
        masks_BNHW = features.fit(masks_BNHW.to(picture.dtype), features.padded)
        value_BNCHW = self.values(picture, masks_BNHW, coarse)
        whole_B = torch.ones(len(key), dtype=torch.bool, device=key.device)
        return memory.add(index, Entry(value_BNCHW, key, valid_BN, given_BN, whole_B))

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """-> logits of background and objects at the padded frame's size; an object that no frame knows wins nowhere."""
        _, fine, middle, _, key, thin = features.maps
        kept = tokens(memory)
        readout_BNCP, _ = recall(kept, key.flatten(2), top_k=None if self.training else self.top_k)
        readout_BNCHW = readout_BNCP.unflatten(3, key.shape[-2:])
        logits_BNHW = self.decoder(readout_BNCHW, thin, middle, fine).float()
        soft_BNHW = F.interpolate(logits_BNHW, scale_factor=4.0, mode="bilinear", align_corners=False).sigmoid()
        logits_BKHW = aggregate(soft_BNHW * kept.valid_BNM.any(2)[..., None, None])
        return Prediction(logits_BKHW, 1, features.size, features.padded, features.offset), memory

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        recompute(self.values)
        recompute(self.decoder)


class Decoder(nn.Module):
    """What an object read, and the frame's maps -> its logits at stride 4."""

    def __init__(self, width: int, middle: int, fine: int) -> None:
        super().__init__()
        self.compress = ResBlock(2 * width, width)
        self.up8 = Up(middle, width, width // 2)
        self.up4 = Up(fine, width // 2, width // 2)
        self.head = nn.Conv2d(width // 2, 1, 3, padding=1)

    def forward(self, readout_BNCHW: Tensor, thin_BCHW: Tensor, middle_BCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
        """-> B N h w."""
        side8, side4 = self.up8.side(middle_BCHW), self.up4.side(fine_BCHW)
        x_BNCHW = self.compress.joined(readout_BNCHW, thin_BCHW)
        logits = []
        for part in some(x_BNCHW):
            finer = self.up4(self.up8(part, side8), side4)
            logits.append(rows(self.head(F.relu(finer.flatten(0, 1))), finer)[:, :, 0])
        return torch.cat(logits, 1)
