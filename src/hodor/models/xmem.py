"""XMem (Cheng and Schwing, 2022): three memories, as people have: what was just seen, what was seen lately, what was seen once.

    frame --backbone--> maps at strides 4, 8, 16; key, shrinkage, selection                    encode
    frame, masks --> a value for each object and cell; the state, deeply updated               remember
    keys, values, state --> logits of each object, brought together; the state, moved on       segment
    old frames --> prototypes                                                                  keep (see `long_term`)

Sensory memory is `Memory.state["hidden"]`, B N D h w, at stride 16. Working memory is frames; the long-term memory stands
beside them under negative indices. Reads beside section 3 of the paper; the preset `xmem` shares every number with the
authors' released code. The name of a tensor ends in its axes; see `base`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.base import Entry, Features, Memory, Prediction
from hodor.models.layers import recompute
from hodor.models.long_term import MOST, PROTOTYPES, count, keep, parts
from hodor.models.matching import aggregate, recall, tokens
from hodor.models.memory_blocks import (
    DecoderState,
    Fuser,
    GatedState,
    KeyProjection,
    Levels,
    PixelMemory,
    Up,
    ValueEncoder,
    pad_around,
    rows,
    some,
)
from hodor.models.stcn import FUSER_RULES

RELEASED: tuple[tuple[str, str | None], ...] = (
    (r"key_encoder\.res2\.(.*)", r"backbone.layer1.\1"),
    (r"key_encoder\.(.*)", r"backbone.\1"),
    *FUSER_RULES,
    (r"value_encoder\.hidden_reinforce\.(.*)", r"deep.\1"),
    (r"value_encoder\.(.*)", r"values.trunk.\1"),
    (r"key_proj\.key_proj\.(.*)", r"keys.key.\1"),
    (r"key_proj\.d_proj\.(.*)", r"keys.shrinkage.\1"),
    (r"key_proj\.e_proj\.(.*)", r"keys.selection.\1"),
    *((old.replace("value_encoder", "decoder"), (new or "").replace("values", "decoder")) for old, new in FUSER_RULES),
    (r"decoder\.hidden_update\.g(4|8|16)_conv\.(.*)", r"decoder.state.from\1.\2"),
    (r"decoder\.hidden_update\.(.*)", r"decoder.state.gated.\1"),
    (r"decoder\.up_16_8\.skip_conv\.(.*)", r"decoder.up8.side.\1"),
    (r"decoder\.up_8_4\.skip_conv\.(.*)", r"decoder.up4.side.\1"),
    (r"decoder\.up_16_8\.out_conv\.downsample\.(.*)", r"decoder.up8.block.skip.\1"),
    (r"decoder\.up_16_8\.out_conv\.(.*)", r"decoder.up8.block.\1"),
    (r"decoder\.up_8_4\.out_conv\.(.*)", r"decoder.up4.block.\1"),
    (r"decoder\.pred\.(.*)", r"decoder.head.\1"),
)
"""The authors' name -> ours, first match wins."""


class XMem(PixelMemory):
    """backbone: a ResNet or an EfficientNet-Lite, ended at stride 16. context: not ended there, its map at stride 32 is added
    to that of stride 16. key_width, value_width, sensory_width: channels of keys, values and sensory memory. decoder_width: of
    the decoder at stride 16; half of it from stride 8 on. mask_encoder: "resnet18" or "light", what turns a picture and its masks
    into values. normed: normalise the backbone's maps (for EfficientNet-Lite).

    mem_every: while a video is followed, predicted masks are remembered every so many frames. top_k: how many tokens speak for
    a cell, outside training; in training all do. deep_update: in training, the share of remembered predictions that update
    the state deeply; given masks always do, and outside training all do. prototypes, max_prototypes: what one consolidation leaves
    at most, and the bound of all (P and LT_max); max_prototypes 0 forgets old frames instead.

    On a frame that a `Tracker` remembers the deep update takes the place of the decoder's, as released; in training, where
    it is drawn by chance, both happen, one after the other.

    Raises ValueError: "mem_every is 0, want at least 1", the same for `top_k`; "prototypes is -1, want at least 0", the same for
    `max_prototypes`; "deep_update is 2, want a share in [0, 1]"; "no backbone 'x': want swin-t, ..."; "mask encoder 'x' is not one
    of resnet18, light".
    """

    history = 10
    recurrent = True
    renamed_settings: ClassVar[dict[str, str]] = {
        "top": "top_k",
        "masks": "mask_encoder",
        "hidden_width": "sensory_width",
        "long_term": "max_prototypes",
    }

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        key_width: int = 64,
        value_width: int = 512,
        sensory_width: int = 64,
        decoder_width: int = 512,
        mask_encoder: str = "resnet18",
        normed: bool = False,
        context: bool = False,
        mem_every: int = 5,
        top_k: int = 30,
        deep_update: float = 0.2,
        prototypes: int = PROTOTYPES,
        max_prototypes: int = MOST,
    ) -> None:
        super().__init__(backbone, mem_every, last=32 if context else 16)
        for name, least in (("mem_every", 1), ("top_k", 1), ("prototypes", 0), ("max_prototypes", 0)):
            if self.settings[name] < least:
                raise ValueError(f"{name} is {self.settings[name]}, want at least {least}")
        if not 0 <= deep_update <= 1:
            raise ValueError(f"deep_update is {deep_update}, want a share in [0, 1]")
        self.top_k, self.deep_update = top_k, deep_update
        self.prototypes, self.max_prototypes, self.sensory_width = prototypes, max_prototypes, sensory_width
        fine, middle, coarse = self.backbone.channels[:3]
        self.levels = Levels(self.backbone.channels, normed)
        self.keys = KeyProjection(coarse, key_width, shrinkage=True, selection=True)
        self.values = ValueEncoder(mask_encoder, coarse, value_width, frame_first=True)
        self.deep = GatedState(value_width, sensory_width)
        self.decoder = Decoder(value_width + sensory_width, sensory_width, decoder_width, (fine, middle, coarse))

    def encode(self, frames_BCHW: Tensor) -> Features:
        """RGB in [0, 1], any size -> the normalised picture, padded with zeros around to multiples of 16; the backbone's maps
        at strides 4, 8, 16; at stride 16 key, shrinkage and selection, one after the other along the channels."""
        picture = self.normalised(frames_BCHW)
        padded, offset = pad_around(picture.to(self.decoder.head.weight.dtype), 16)
        fine, middle, coarse = self.levels(self.backbone(padded))
        keys = self.keys(coarse)
        size, whole = tuple(frames_BCHW.shape[-2:]), tuple(padded.shape[-2:])
        maps = (padded, fine, middle, coarse, torch.cat([keys.key, keys.shrinkage, keys.selection], 1))
        return Features(maps, size, whole, offset)  # type: ignore[arg-type]

    def remember(
        self, memory: Memory, index: int, features: Features, masks_BNHW: Tensor, valid_BN: Tensor, given_BN: Tensor
    ) -> Memory:
        """The memory with this frame's key and, for each object, its value, and the state of the known objects updated deeply
        (in training of predicted masks: by chance)."""
        picture, _, _, coarse, keys = features.maps
        masks_BNHW = features.fit(masks_BNHW.to(picture.dtype), features.padded) * valid_BN[..., None, None]
        value_BNCHW = self.values(picture, masks_BNHW, coarse)
        whole_B = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        memory = memory.add(index, Entry(value_BNCHW, keys, valid_BN, given_BN & valid_BN, whole_B))
        given = bool((given_BN | ~valid_BN).all())
        if self.training and not given and float(torch.rand(())) >= self.deep_update:
            return memory
        state_BNCHW = self._state(memory, value_BNCHW)
        moved_BNCHW = torch.where(valid_BN[..., None, None, None], self.deep(value_BNCHW, state_BNCHW), state_BNCHW)
        return replace(memory, state={**memory.state, "hidden": moved_BNCHW})

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """-> logits of background and objects at the padded frame's size; an object that no frame knows wins nowhere. The
        memory comes back with the state moved on, unless `remembered`, and with the use of its tokens counted.

        Raises ValueError: "the memory holds no frame".
        """
        _, fine, middle, coarse, keys = features.maps
        kept = tokens(memory)
        key_BDM, shrinkage_BM, _ = parts(kept.keys_BDM.float())
        query_BDP, _, selection_BDP = parts(keys.float())
        readout_BNCP, use_BM = recall(
            kept._replace(keys_BDM=key_BDM),
            query_BDP,
            shrinkage_BM=shrinkage_BM,
            selection_BDP=selection_BDP,
            top_k=None if self.training else self.top_k,
        )
        if not self.training:
            memory = count(memory, use_BM)
        readout_BNCHW = readout_BNCP.unflatten(3, keys.shape[-2:])
        state_BNCHW = self._state(memory, readout_BNCHW)
        logits_BNHW, moved_BNCHW = self.decoder(readout_BNCHW, state_BNCHW, coarse, middle, fine, not remembered)
        soft_BNHW = F.interpolate(logits_BNHW.float(), scale_factor=4.0, mode="bilinear", align_corners=False).sigmoid()
        logits_BKHW = aggregate(soft_BNHW * kept.valid_BNM.any(2)[..., None, None])
        memory = replace(memory, state={**memory.state, "hidden": moved_BNCHW})
        return Prediction(logits_BKHW, 1, features.size, features.padded, features.offset), memory

    def keep(self, memory: Memory, history: int, pin_first: bool) -> Memory:
        """history: T_max, with the first frame; half of it is T_min. See `long_term.keep`."""
        return keep(memory, history, pin_first, prototypes=self.prototypes, most=self.max_prototypes)

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        for module in (self.values, self.deep, self.decoder):
            recompute(module)

    def _state(self, memory: Memory, like_BNCHW: Tensor) -> Tensor:
        """The sensory memory, resized where a frame is of another size than the last; nothing yet is zeros."""
        batch, count, _, *size = like_BNCHW.shape
        state = memory.state.get("hidden")
        if state is None:
            return like_BNCHW.new_zeros(batch, count, self.sensory_width, *size)
        if list(state.shape[3:]) == size:
            return state
        return rows(F.interpolate(state.flatten(0, 1), size=size, mode="bilinear", align_corners=False), state)


class Decoder(nn.Module):
    """What an object read, its state, and the frame's maps -> its logits at stride 4, and the state moved on."""

    def __init__(self, own: int, hidden: int, width: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        half = width // 2
        self.fuser = Fuser(own, coarse, width, frame_first=True)
        self.up8 = Up(middle, width, half)
        self.up4 = Up(fine, half, half)
        self.head = nn.Conv2d(half, 1, 3, padding=1)
        self.state = DecoderState((width, half, half + 1), half, hidden)

    def forward(
        self,
        readout_BNCHW: Tensor,
        state_BNCHW: Tensor,
        coarse_BCHW: Tensor,
        middle_BCHW: Tensor,
        fine_BCHW: Tensor,
        move: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """-> logits B N h w; the next state, B N D h w, or without `move` the one that came."""
        side8, side4 = self.up8.side(middle_BCHW), self.up4.side(fine_BCHW)
        x_BNCHW = self.fuser(torch.cat([readout_BNCHW, state_BNCHW], 2), coarse_BCHW)
        logits, moved = [], []
        for at16, before in zip(some(x_BNCHW), some(state_BNCHW), strict=True):
            at8 = self.up8(at16, side8)
            at4 = self.up4(at8, side4)
            logits.append(rows(self.head(F.relu(at4.flatten(0, 1))), at4))
            if move:
                moved.append(self.state(at16, at8, torch.cat([at4, logits[-1]], 2), before))
        return torch.cat(logits, 1)[:, :, 0], torch.cat(moved, 1) if move else state_BNCHW
