"""Cutie: putting the object back into video object segmentation (Cheng et al., CVPR 2024).

    frame --backbone--> pixel feature, key, shrinkage, selection, maps for the decoder              encode
    frame, masks --mask encoder--> a value for each cell, and 16 summaries of the object            remember
    key --similarity--> values of similar cells --fuser, object transformer, decoder--> logits      segment

The memory of an object is the values of a few frames (a FIFO that keeps its first frame, or `long_term`), the sum of its
summaries over all frames that were ever remembered, and a state that is updated on every frame: the sensory memory and the last
mask. The code follows section 3 of the paper. With the authors' weights all numbers are those of the released code (commit
ec5cdd4); deviations from it are documented where they occur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models import long_term as lasting
from hodor.models import matching
from hodor.models.base import Entry, Memory
from hodor.models.cutie_transformer import Fuser, ObjectTransformer, PixelFuser, Summarizer, add_frame, others
from hodor.models.layers import double, recompute
from hodor.models.memory_blocks import (
    DecoderState,
    GatedState,
    KeyProjection,
    Levels,
    PixelMemory,
    joined,
    mask_encoder,
    pad_around,
    rows,
)
from hodor.models.prediction import UNKNOWN, Features, Prediction
from hodor.models.resnet import ResNet

RELEASED: tuple[tuple[str, str | None], ...] = (
    (r".*inv_freq$", None),
    (r"pixel_encoder\.res2\.(.*)", r"backbone.layer1.\1"),
    (r"pixel_encoder\.(.*)", r"backbone.\1"),
    (r"pix_feat_proj\.(.*)", r"pixel.\1"),
    (r"key_proj\.pix_feat_proj\.(.*)", r"key_reduce.\1"),
    (r"key_proj\.key_proj\.(.*)", r"keys.key.\1"),
    (r"key_proj\.d_proj\.(.*)", r"keys.shrinkage.\1"),
    (r"key_proj\.e_proj\.(.*)", r"keys.selection.\1"),
    (r"(mask_encoder|pixel_fuser)\.fuser\.distributor\.x_transform\.(.*)", r"\1.fuser.frame.\2"),
    (r"(mask_encoder|pixel_fuser)\.fuser\.distributor\.g_transform\.(.*)", r"\1.fuser.object.\2"),
    (r"(mask_encoder|pixel_fuser)\.fuser\.(block\d)\.conv\.(.*)", r"\1.fuser.\2.gate.\3"),
    (r"mask_encoder\.sensory_update\.(.*)", r"mask_encoder.state.\1"),
    (r"mask_encoder\.((?:conv1|bn1|layer\d)\..*)", r"mask_encoder.net.\1"),
    (r"pixel_fuser\.sensory_compress\.(.*)", r"pixel_fuser.state.\1"),
    (r"object_summarizer\.input_proj\.(.*)", r"summarizer.input.\1"),
    (r"object_summarizer\.feature_pred\.(.*)", r"summarizer.feature.\1"),
    (r"object_summarizer\.weights_pred\.(.*)", r"summarizer.weight.\1"),
    (r"object_transformer\.query_init\.weight", r"transformer.query"),
    (r"object_transformer\.query_emb\.weight", r"transformer.query_place"),
    (r"object_transformer\.summary_to_query_init\.(.*)", r"transformer.summary.\1"),
    (r"object_transformer\.summary_to_query_emb\.(.*)", r"transformer.summary_place.\1"),
    (r"object_transformer\.pixel_init_proj\.(.*)", r"transformer.pixel.\1"),
    (r"object_transformer\.pixel_emb_proj\.(.*)", r"transformer.pixel_place.\1"),
    (r"object_transformer\.mask_pred\.(\d)\.1\.(.*)", r"transformer.masks.\1.\2"),
    (r"object_transformer\.(.*)\.read_from_pixel\.norm\.(.*)", r"transformer.\1.norm1.\2"),
    (r"object_transformer\.(.*)\.self_attn\.norm\.(.*)", r"transformer.\1.norm2.\2"),
    (r"object_transformer\.(.*)\.read_from_pixel\.cross_attn\.in_proj_(.*)", r"transformer.\1.read_pixels.project.\2"),
    (r"object_transformer\.(.*)\.read_from_pixel\.cross_attn\.out_proj\.(.*)", r"transformer.\1.read_pixels.out.\2"),
    (r"object_transformer\.(.*)\.self_attn\.self_attn\.in_proj_(.*)", r"transformer.\1.self_read.project.\2"),
    (r"object_transformer\.(.*)\.self_attn\.self_attn\.out_proj\.(.*)", r"transformer.\1.self_read.out.\2"),
    (r"object_transformer\.(.*)\.read_from_query\.cross_attn\.in_proj_(.*)", r"transformer.\1.read_queries.project.\2"),
    (r"object_transformer\.(.*)\.read_from_query\.cross_attn\.out_proj\.(.*)", r"transformer.\1.read_queries.out.\2"),
    (r"object_transformer\.(.*)\.ffn\.norm\.(.*)", r"transformer.\1.ffn.0.\2"),
    (r"object_transformer\.(.*)\.ffn\.linear1\.(.*)", r"transformer.\1.ffn.1.\2"),
    (r"object_transformer\.(.*)\.ffn\.linear2\.(.*)", r"transformer.\1.ffn.3.\2"),
    (r"object_transformer\.(.*)\.pixel_ffn\.conv\.conv\.(.*)", r"transformer.\1.pixel_ffn.gate.\2"),
    (r"object_transformer\.(.*)\.pixel_ffn\.conv\.(.*)", r"transformer.\1.pixel_ffn.\2"),
    (r"mask_decoder\.sensory_update\.g(16|8|4)_conv\.(.*)", r"decoder.state.from\1.\2"),
    (r"mask_decoder\.sensory_update\.(.*)", r"decoder.state.gated.\1"),
    (r"mask_decoder\.decoder_feat_proc\.transforms\.0\.(.*)", r"decoder.middle.\1"),
    (r"mask_decoder\.decoder_feat_proc\.transforms\.1\.(.*)", r"decoder.fine.\1"),
    (r"mask_decoder\.up_16_8\.out_conv\.downsample\.(.*)", r"decoder.up8.shortcut.\1"),
    (r"mask_decoder\.up_16_8\.out_conv\.(.*)", r"decoder.up8.\1"),
    (r"mask_decoder\.up_8_4\.out_conv\.(.*)", r"decoder.up4.\1"),
    (r"mask_decoder\.pred\.(.*)", r"decoder.head.\1"),
    (r"aux_computer\.sensory_aux\.projection\.(.*)", r"sensory_head.\1"),
)
"""The authors' name -> name in this package, the first match is used. None: left out, a table that is computed again."""


@dataclass(frozen=True, repr=False)
class Sharp(Prediction):
    """Logits at stride 4 whose soft masks have the padded frame's full size, since softmax follows the enlargement."""

    @cached_property
    def _soft(self) -> Tensor:
        full = F.interpolate(self.logits_BKHW, size=self.padded, mode="bilinear", align_corners=False)
        return full.softmax(1)[:, self.backgrounds :]

    def soft(self) -> Tensor:
        """Compute the objects' soft masks.

        Returns:
            Tensor [B, N, H, W] in [0, 1] at the padded frame's size.
        """
        return self._soft


class Cutie(PixelMemory):
    """Cutie.

    `history` is the released max_mem_frames, 5, each object's first frame included (10 with max_prototypes). The latest frame
    on which an object was given is kept as well; the released engine drops it. That engine can also update the sensory memory
    on some frames only (stagger_updates); with its default setting it does so on every frame, and here always.

    Args:
        backbone: name in `BACKBONES`, used up to stride 16. Default: "resnet50".
        width: channels of values, sensory memory and transformer. Default: 256.
        key_width: channels of keys. Default: 64.
        heads: number of heads of the object transformer. Default: 8.
        queries: number of queries of the object transformer, and of summaries of an object. Default: 16.
        blocks: number of blocks of the object transformer. Default: 3.
        feedforward_width: hidden channels of the object transformer's FFN. Default: 2048.
        mask_encoder: "resnet18", or "light" for four strided convolutions; computes values from a frame and its masks.
            Default: "resnet18".
        normed: whether the backbone's maps are normalised, for EfficientNet-Lite. Default: False.
        mem_every: number of frames from one remembered prediction to the next. Default: 5.
        top_k: number of most similar tokens that each cell attends to outside training; in training it attends to all.
            Default: 30.
        deep_update: share in [0, 1] of the remembered predictions that update the sensory memory in training; outside training
            all do. Default: 0.2.
        prototypes: maximum number of prototypes from one consolidation. Default: 128.
        max_prototypes: maximum number of all prototypes (see `hodor.models.long_term`); 0 forgets old frames instead.
            Default: 0.

    Attributes:
        auxiliary: whether `Prediction.aux` is also filled outside training: "sensory", B 1+N h w, and "queries", B levels 1+N
            h w, the aggregated logits of the sensory memory and of the transformer's queries at stride 16. Default: False.

    Raises:
        ValueError: "expected a backbone (swin-t, ...), got 'x'"; "expected a mask encoder (resnet18, light), got 'x'".
    """

    history = 5
    recurrent = True
    renamed_settings: ClassVar[dict[str, str]] = {
        "key": "key_width",
        "hidden": "feedforward_width",
        "long_term": "max_prototypes",
    }
    auxiliary: bool = False

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        width: int = 256,
        key_width: int = 64,
        heads: int = 8,
        queries: int = 16,
        blocks: int = 3,
        feedforward_width: int = 2048,
        mask_encoder: str = "resnet18",
        normed: bool = False,
        mem_every: int = 5,
        top_k: int = 30,
        deep_update: float = 0.2,
        prototypes: int = lasting.PROTOTYPES,
        max_prototypes: int = 0,
    ) -> None:
        super().__init__(backbone, mem_every)
        self.width, self.queries = width, queries
        self.top_k, self.deep_update = top_k, deep_update
        self.prototypes, self.max_prototypes = prototypes, max_prototypes
        if max_prototypes:
            self.history = 10
        fine, middle, coarse = self.backbone.channels
        self.levels = Levels(self.backbone.channels, normed)
        self.pixel = nn.Conv2d(coarse, width, 1)
        self.key_reduce = nn.Conv2d(coarse, width, 1)
        self.keys = KeyProjection(width, key_width, shrinkage=True, selection=True)
        self.mask_encoder = MaskEncoder(width, mask_encoder)
        self.summarizer = Summarizer(width, queries)
        self.pixel_fuser = PixelFuser(width)
        self.transformer = ObjectTransformer(width, heads, feedforward_width, queries, blocks)
        self.decoder = Decoder(width, fine, middle)
        self.sensory_head = nn.Conv2d(width, width + 1, 1)

    @classmethod
    def current_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        current = super().current_settings(settings)
        if isinstance(current.get("max_prototypes"), bool):  # in old files, whether there is a long-term memory
            current["max_prototypes"] = lasting.MAX_PROTOTYPES if current["max_prototypes"] else 0
        return current

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the maps of a frame.

        Args:
            frames_BCHW: RGB in [0, 1] of any size.

        Returns:
            Features with the maps "image" (padded on all sides with black to multiples of 16, then normalised), "fine" and
            "middle" (strides 4 and 8, for the decoder), and at stride 16 "pixel" (the pixel feature), "key", "shrinkage" and
            "selection".
        """
        frames, offset = pad_around(frames_BCHW, 16)
        image = self.normalised(frames).to(self.pixel.weight.dtype)
        fine, middle, coarse = self.levels(self.backbone(image))
        maps = {
            "image": image,
            "fine": self.decoder.fine(fine),
            "middle": self.decoder.middle(middle),
            "pixel": self.pixel(coarse),
            **self.keys(self.key_reduce(coarse)).by_name(),
        }
        return Features(maps, _size(frames_BCHW), _size(frames), offset)

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
        """Return the memory with the frame's keys and values, with the summaries added and the sensory memory updated.

        In training the sensory memory is not always updated, see `deep_update`. A mask that is given again replaces the
        summaries of all that was predicted of its object; the released code keeps them.
        """
        image, pixel = features.maps["image"], features.maps["pixel"]
        masks = features.fit(masks_BNHW, features.padded).to(pixel.dtype)
        state = self._state(memory, pixel)
        deep = not self.training or bool(given_BN.any()) or float(torch.rand(())) < self.deep_update
        value, sensory = self.mask_encoder(image, pixel, masks, state["sensory"], deep)
        last = F.avg_pool2d(masks, 16)
        summary = self.summarizer(last, value) * valid_BN[..., None, None]
        given = state["given"] + summary * given_BN[..., None, None]
        summaries = torch.where(given_BN[..., None, None], given, state["summaries"] + summary)
        sensory = torch.where(valid_BN[..., None, None, None], sensory, state["sensory"])
        state = {"sensory": sensory, "last_mask": last, "summaries": summaries, "given": given}
        keys = {name: features.maps[name] for name in lasting.KEYS}
        entry = Entry(value, keys, valid_BN, given_BN & valid_BN, torch.ones_like(valid_BN[:, :1].any(1)))
        return replace(memory.add(index, entry), state=state)

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """Segment the memory's objects in a frame.

        Returns:
            Logits, aggregated at stride 4, and the memory with the sensory memory and the last mask updated, whether
            `remember` follows or not.
        """
        fine, middle, pixel = (features.maps[name] for name in ("fine", "middle", "pixel"))
        valid_BN = _valid(list(memory.frames.values()), pixel, len(memory.objects)).any(0)
        planes = valid_BN.any(0).nonzero().flatten().tolist()
        if not planes:
            logits = fine.new_full((len(fine), 1 + len(memory.objects), *fine.shape[2:]), UNKNOWN)
            logits[:, 0] = 0
            return Sharp(logits, 1, features.size, features.padded, features.offset), memory
        same_BNN = _together(memory, pixel)[:, planes][:, :, planes]
        memory, read_BNDP = self._read(memory, planes, features)
        whole = self._state(memory, pixel)
        sensory, last, summaries = (whole[name][:, planes] for name in ("sensory", "last_mask", "summaries"))
        some_BN = valid_BN[:, planes]
        fused = self.pixel_fuser(pixel, read_BNDP.unflatten(3, pixel.shape[-2:]), sensory, last, same_BNN)
        auxiliary = self.training or self.auxiliary
        objects_BNDHW, levels = self.transformer(fused, summaries, same_BNN, some_BN, auxiliary)
        raw, moved = self.decoder(objects_BNDHW, middle, fine, sensory)

        def aggregated(raw_BNHW: Tensor) -> Tensor:
            soft = raw_BNHW.float().sigmoid() * some_BN[..., None, None]
            return _spread(matching.aggregate(soft), planes, valid_BN)

        aux = {}
        if auxiliary:
            aux["sensory"] = aggregated(self._from_sensory(sensory, pixel))
            aux["queries"] = torch.stack([aggregated(level) for level in levels], 1)
        prediction = Sharp(aggregated(raw), 1, features.size, features.padded, features.offset, aux)
        last = F.avg_pool2d(prediction.soft(), 16).to(pixel.dtype)
        moved = whole["sensory"].index_copy(1, torch.tensor(planes, device=moved.device), moved)
        moved = torch.where(valid_BN[..., None, None, None], moved, whole["sensory"])
        return prediction, replace(memory, state={**whole, "sensory": moved, "last_mask": last})

    def keep(self, memory: Memory, history: int, pin_first: bool) -> Memory:
        """Return the memory with the frames that are still used.

        Args:
            memory: the memory after a frame.
            history: number of frames to keep: without pin_first the latest `history`, with it the latest `history` - 1.
            pin_first: whether to keep also each object's first given frame and its latest. A frame that is only kept for some
                objects is valid for those alone.
        """
        if self.max_prototypes:
            bounds = {"prototypes": self.prototypes, "max_prototypes": self.max_prototypes}
            return lasting.keep(memory, history, pin_first, **bounds)
        indices = list(memory.frames)
        if not pin_first:
            return memory.only(indices[-history:])
        latest = set(indices[max(0, len(indices) - max(1, history - 1)) :])
        pinned: dict[int, list[int]] = {}
        for plane in range(len(memory.objects)):
            given = [i for i in indices if bool(memory.frames[i].given_BN[:, plane].any())]
            for index in {*given[:1], *given[-1:]} - latest:
                pinned.setdefault(index, []).append(plane)
        frames = {}
        for index in indices:
            entry = memory.frames[index]
            if index in pinned:
                kept = torch.zeros_like(entry.valid_BN)
                kept[:, pinned[index]] = True
                frames[index] = replace(entry, valid_BN=entry.valid_BN & kept, given_BN=entry.given_BN & kept)
            elif index in latest:
                frames[index] = entry
        return replace(memory, frames=frames)

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        for module in (self.mask_encoder, self.pixel_fuser, self.decoder, *self.transformer.blocks):
            recompute(module)

    def _read(self, memory: Memory, planes: Sequence[int], features: Features) -> tuple[Memory, Tensor]:
        """The memory with its tokens' use counted, and the readout of the frame's cells for these planes, [B, N, D, P]."""
        kept = matching.tokens(memory)
        if len(planes) < len(memory.objects):
            kept = kept._replace(values_BNCM=kept.values_BNCM[:, planes], valid_BNM=kept.valid_BNM[:, planes])
        top_k = None if self.training else self.top_k
        query, selection = (features.maps[name].flatten(2) for name in ("key", "selection"))
        readout, use = matching.recall(kept, query, selection_BDP=selection, top_k=top_k)
        return (lasting.count(memory, use) if self.max_prototypes else memory), readout

    def _state(self, memory: Memory, pixel_BDHW: Tensor) -> dict[str, Tensor]:
        """The memory's state, or zeros before the first frame."""
        if memory.state:
            return dict(memory.state)
        batch, width, height, columns = pixel_BDHW.shape
        objects = len(memory.objects)
        summaries = pixel_BDHW.new_zeros(batch, objects, self.queries, width + 1, dtype=torch.float32)
        return {
            "sensory": pixel_BDHW.new_zeros(batch, objects, width, height, columns),
            "last_mask": pixel_BDHW.new_zeros(batch, objects, height, columns),
            "summaries": summaries,
            "given": summaries,
        }

    def _from_sensory(self, sensory_BNDHW: Tensor, pixel_BDHW: Tensor) -> Tensor:
        """The masks' logits from the sensory memory alone, [B, N, H, W], for its own loss."""
        head_BNEHW = rows(self.sensory_head(sensory_BNDHW.flatten(0, 1)), sensory_BNDHW)
        return (pixel_BDHW[:, None] * head_BNEHW[:, :, :-1]).sum(2) + head_BNEHW[:, :, -1]


def _valid(entries: Sequence[Entry], like: Tensor, objects: int) -> Tensor:
    """Which entry is valid for which object, bool [E, B, N]; without an entry one that is valid for none."""
    none_BN = torch.zeros(len(like), objects, dtype=torch.bool, device=like.device)
    return torch.stack([e.valid_BN for e in entries] or [none_BN])


def _together(memory: Memory, like: Tensor) -> Tensor:
    """The pairs of objects whose memory begins with the same frame, bool [B, N, N].

    As in the released engine, they are processed separately from all others up to the decoder.
    """
    valid_EBN = _valid([e for i, e in memory.frames.items() if i >= 0], like, len(memory.objects))
    first_BN = torch.where(valid_EBN.any(0), valid_EBN.int().argmax(0), -1)
    return first_BN[:, :, None] == first_BN[:, None]


def _spread(logits_BKHW: Tensor, planes: Sequence[int], valid_BN: Tensor) -> Tensor:
    """Logits of all planes from those of the background and of some planes; UNKNOWN for objects without a valid frame."""
    if len(planes) < valid_BN.shape[1]:
        shape = (len(logits_BKHW), 1 + valid_BN.shape[1], *logits_BKHW.shape[2:])
        where = torch.tensor([0, *(1 + p for p in planes)], device=logits_BKHW.device)
        logits_BKHW = logits_BKHW.new_zeros(shape).index_copy(1, where, logits_BKHW)
    return torch.cat([logits_BKHW[:, :1], logits_BKHW[:, 1:].masked_fill(~valid_BN[..., None, None], UNKNOWN)], 1)


class MaskEncoder(nn.Module):
    """Computes an object's value at stride 16, and its next sensory memory, from image, mask and the sum of the other masks.

    Args:
        width: channels of values and sensory memory.
        kind: "resnet18" or "light", see `memory_blocks.mask_encoder`.
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.net = mask_encoder(kind, width=width)
        self.fuser = Fuser(width, self.net.channels[-1])
        self.state = GatedState(width, width)
        if isinstance(self.net, ResNet):
            nn.init.orthogonal_(self.net.conv1.weight.detach()[:, 3:])

    def forward(
        self, image_BCHW: Tensor, pixel_BDHW: Tensor, masks_BNHW: Tensor, sensory_BNDHW: Tensor, deep: bool
    ) -> tuple[Tensor, Tensor]:
        """Value and sensory memory, [B, N, D, H, W] each; the latter is only updated if `deep`."""
        pairs_BN2HW = torch.stack([masks_BNHW, others(masks_BNHW)], 2)
        net = self.net
        if isinstance(net, ResNet):
            x = joined(net.conv1, pairs_BN2HW, image_BCHW, frame_first=True).flatten(0, 1)
            x = F.max_pool2d(F.relu(net.bn1(x)), 3, 2, 1)
            x = net.get_submodule("layer3")(net.get_submodule("layer2")(net.get_submodule("layer1")(x)))
        else:
            image_BNCHW = image_BCHW[:, None].expand(-1, masks_BNHW.shape[1], -1, -1, -1)
            x = net(torch.cat([image_BNCHW, pairs_BN2HW], 2).flatten(0, 1))[-1]
        value_BNDHW = rows(self.fuser(pixel_BDHW, x), masks_BNHW)
        return value_BNDHW, self.state(value_BNDHW, sensory_BNDHW) if deep else sensory_BNDHW


class Up(nn.Module):
    """Doubles the size, adds the frame's own map of that size, and applies a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x_XDHW: Tensor, skip_BDHW: Tensor) -> Tensor:
        x = add_frame(double(x_XDHW), skip_BDHW)
        return self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True)) + self.shortcut(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Computes a logit at stride 4 for each object from the transformer's map, and the sensory memory after the frame.

    The layers `middle` and `fine` project the backbone's maps to its widths, once a frame, in `Cutie.encode`.

    Args:
        width: channels at stride 16 and of the sensory memory.
        fine: channels of the backbone's map at stride 4.
        middle: channels of the backbone's map at stride 8.
    """

    def __init__(self, width: int, fine: int, middle: int) -> None:
        super().__init__()
        half = width // 2
        self.middle = nn.Conv2d(middle, width, 1)
        self.fine = nn.Conv2d(fine, half, 1)
        self.up8 = Up(width, half)
        self.up4 = Up(half, half)
        self.head = nn.Conv2d(half, 1, 3, padding=1)
        self.state = DecoderState((width, half, half + 1), width, width)

    def forward(
        self, objects_BNDHW: Tensor, middle_BDHW: Tensor, fine_BDHW: Tensor, sensory_BNDHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        shape = objects_BNDHW.shape[:2]
        p16 = objects_BNDHW.flatten(0, 1)
        p8 = self.up8(p16, middle_BDHW)
        p4 = self.up4(p8, fine_BDHW)
        logits = self.head(F.relu(p4))
        p8, p4 = p8.unflatten(0, shape), torch.cat([p4, logits], 1).unflatten(0, shape)
        return logits.squeeze(1).unflatten(0, shape), self.state(objects_BNDHW, p8, p4, sensory_BNDHW)


def _size(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])
