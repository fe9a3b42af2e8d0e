"""XMem (Cheng and Schwing, 2022): sensory memory, working memory and long-term memory.

    frame --backbone--> maps at strides 4, 8, 16; key, shrinkage, selection                    encode
    frame, masks --> a value for each object and cell; the sensory memory, deeply updated      remember
    keys, values, sensory memory --> logits of each object, aggregated; the memory, updated    segment
    old frames --> prototypes                                                                  keep (see `long_term`)

The sensory memory is `Memory.state["hidden"]`, B N D h w, at stride 16. The working memory is the entries of frames; the
long-term memory is the entries with negative indices. The code follows section 3 of the paper, and with the authors' weights
the preset `xmem` gives the numbers of the released code. The name of a tensor ends in its axes; see `base`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.base import Entry, Memory
from hodor.models.layers import recompute
from hodor.models.long_term import KEYS, MAX_PROTOTYPES, PROTOTYPES, count, keep
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
from hodor.models.prediction import Features, Prediction
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
"""The authors' name -> name in this package, the first match is used."""


class XMem(PixelMemory):
    """XMem.

    On a frame that a `Tracker` remembers, the deep update of the sensory memory replaces the decoder's update, as released. In
    training, where the deep update is random, both happen, the decoder's first.

    Args:
        backbone: name in `BACKBONES`, a ResNet or an EfficientNet-Lite; it ends at stride 16. Default: "resnet50".
        key_width: channels of keys. Default: 64.
        value_width: channels of values. Default: 512.
        sensory_width: channels of the sensory memory. Default: 64.
        decoder_width: channels of the decoder at stride 16; half of it from stride 8 on. Default: 512.
        mask_encoder: "resnet18" or "light"; computes values from a frame and its masks. Default: "resnet18".
        normed: whether the backbone's maps are normalised, for EfficientNet-Lite. Default: False.
        context: whether the backbone continues to stride 32, and that map is added to the one of stride 16. Default: False.
        mem_every: number of frames from one remembered prediction to the next, at least 1. Default: 5.
        top_k: number of most similar tokens that each cell attends to outside training, at least 1; in training it attends to
            all. Default: 30.
        deep_update: share in [0, 1] of the remembered predictions that update the sensory memory deeply in training. Given
            masks always do, and outside training all do. Default: 0.2.
        prototypes: maximum number of prototypes from one consolidation (P), at least 0. Default: 128.
        max_prototypes: maximum number of all prototypes (LT_max); 0 forgets old frames instead. Default: 10,000.

    Raises:
        ValueError: "expected mem_every of at least 1, got 0", the same for `top_k`.
        ValueError: "expected prototypes of at least 0, got -1", the same for `max_prototypes`.
        ValueError: "expected a deep_update in [0, 1], got 2".
        ValueError: "expected a backbone (swin-t, ...), got 'x'"; "expected a mask encoder (resnet18, light), got 'x'".
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
        max_prototypes: int = MAX_PROTOTYPES,
    ) -> None:
        super().__init__(backbone, mem_every, last=32 if context else 16)
        for name, minimum in (("mem_every", 1), ("top_k", 1), ("prototypes", 0), ("max_prototypes", 0)):
            if self.settings[name] < minimum:
                raise ValueError(f"expected {name} of at least {minimum}, got {self.settings[name]}")
        if not 0 <= deep_update <= 1:
            raise ValueError(f"expected a deep_update in [0, 1], got {deep_update}")
        self.top_k, self.deep_update = top_k, deep_update
        self.prototypes, self.max_prototypes, self.sensory_width = prototypes, max_prototypes, sensory_width
        fine, middle, coarse = self.backbone.channels[:3]
        self.levels = Levels(self.backbone.channels, normed)
        self.keys = KeyProjection(coarse, key_width, shrinkage=True, selection=True)
        self.values = ValueEncoder(mask_encoder, coarse, value_width, frame_first=True)
        self.deep = GatedState(value_width, sensory_width)
        self.decoder = Decoder(value_width + sensory_width, sensory_width, decoder_width, (fine, middle, coarse))

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the maps of a frame.

        Args:
            frames_BCHW: RGB in [0, 1] of any size.

        Returns:
            Features with the maps "image" (normalised, then padded on all sides with zeros to multiples of 16), "fine",
            "middle" and "coarse" (of the backbone, strides 4, 8 and 16), and "key", "shrinkage" and "selection" at stride 16.
        """
        image = self.normalised(frames_BCHW)
        padded, offset = pad_around(image.to(self.decoder.head.weight.dtype), 16)
        fine, middle, coarse = self.levels(self.backbone(padded))
        size, whole = tuple(frames_BCHW.shape[-2:]), tuple(padded.shape[-2:])
        maps = {"image": padded, "fine": fine, "middle": middle, "coarse": coarse, **self.keys(coarse).by_name()}
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
        """Return the memory with this frame's keys and the value of each object.

        The sensory memory of the valid objects is updated deeply (in training, of predicted masks, at random).
        """
        image = features.maps["image"]
        masks_BNHW = features.fit(masks_BNHW.to(image.dtype), features.padded) * valid_BN[..., None, None]
        value_BNCHW = self.values(image, masks_BNHW, features.maps["coarse"])
        complete_B = torch.ones(len(image), dtype=torch.bool, device=image.device)
        keys = {name: features.maps[name] for name in KEYS}
        memory = memory.add(index, Entry(value_BNCHW, keys, valid_BN, given_BN & valid_BN, complete_B))
        given = bool((given_BN | ~valid_BN).all())
        if self.training and not given and float(torch.rand(())) >= self.deep_update:
            return memory
        state_BNCHW = self._state(memory, value_BNCHW)
        moved_BNCHW = torch.where(valid_BN[..., None, None, None], self.deep(value_BNCHW, state_BNCHW), state_BNCHW)
        return replace(memory, state={**memory.state, "hidden": moved_BNCHW})

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """Segment the memory's objects in a frame.

        Returns:
            Logits of background and objects at the padded frame's size; an object for which no frame is valid wins no pixel.
            The memory is returned with the use of its tokens counted and, unless `remembered`, the sensory memory updated.

        Raises:
            ValueError: "the memory is empty: give a mask before segmenting".
        """
        maps = features.maps
        kept = tokens(memory)
        readout_BNCP, use_BM = recall(
            kept,
            maps["key"].flatten(2),
            selection_BDP=maps["selection"].flatten(2),
            top_k=None if self.training else self.top_k,
        )
        if not self.training:
            memory = count(memory, use_BM)
        readout_BNCHW = readout_BNCP.unflatten(3, maps["key"].shape[-2:])
        state_BNCHW = self._state(memory, readout_BNCHW)
        logits_BNHW, moved_BNCHW = self.decoder(
            readout_BNCHW, state_BNCHW, maps["coarse"], maps["middle"], maps["fine"], not remembered
        )
        soft_BNHW = F.interpolate(logits_BNHW.float(), scale_factor=4.0, mode="bilinear", align_corners=False).sigmoid()
        logits_BKHW = aggregate(soft_BNHW * kept.valid_BNM.any(2)[..., None, None])
        memory = replace(memory, state={**memory.state, "hidden": moved_BNCHW})
        return Prediction(logits_BKHW, 1, features.size, features.padded, features.offset), memory

    def keep(self, memory: Memory, history: int, pin_first: bool) -> Memory:
        """Return the memory within its bounds; see `long_term.keep`.

        Args:
            memory: the memory after a frame.
            history: T_max, the first frame included; half of it is T_min.
            pin_first: whether frames with given masks are never consolidated.
        """
        return keep(memory, history, pin_first, prototypes=self.prototypes, max_prototypes=self.max_prototypes)

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        for module in (self.values, self.deep, self.decoder):
            recompute(module)

    def _state(self, memory: Memory, like_BNCHW: Tensor) -> Tensor:
        """The sensory memory, resized if the frame has another size than the last; zeros before the first frame."""
        batch, count, _, *size = like_BNCHW.shape
        state = memory.state.get("hidden")
        if state is None:
            return like_BNCHW.new_zeros(batch, count, self.sensory_width, *size)
        if list(state.shape[3:]) == size:
            return state
        return rows(F.interpolate(state.flatten(0, 1), size=size, mode="bilinear", align_corners=False), state)


class Decoder(nn.Module):
    """Computes an object's logits at stride 4 and its next state from its readout, its state and the frame's maps.

    Args:
        own: channels of readout and state together.
        hidden: channels of the state.
        width: channels at stride 16; half of it from stride 8 on.
        channels: of the backbone's maps at strides 4, 8 and 16.
    """

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
        """Logits [B, N, h, w], and the next state [B, N, D, h, w]; without `move` the state as it was."""
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
