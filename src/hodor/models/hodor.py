"""HODOR: high-level object descriptors for object re-segmentation in video (CVPR 2022).

    frame --backbone, FPN--> F4, F8                                                      encode
    F8, masks --HOD encoder--> one descriptor an object, nine for the background         remember
    F4, F8, descriptors of the last frames --OR decoder--> logits                        segment

The code follows section 3 of the paper. The defaults are those of the authors' released code, and with the authors' weights
the preset `hodor-t` gives the same numbers. Where the paper differs, an argument selects the paper's version. `hodor-lite` is
the same class with smaller settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.attention import (
    DeformableConv,
    SoftMaskedAttention,
    join_heads,
    sine_positions,
    split_heads,
)
from hodor.models.backbones import BACKBONES
from hodor.models.base import Entry, Memory, Network, pad_to_multiple
from hodor.models.layers import GroupNorm, Linear, double, recompute
from hodor.models.prediction import UNKNOWN, Features, Prediction
from hodor.models.pyramid import FPN
from hodor.models.readout import background_cells, dot_max, pool_hard, pool_soft
from hodor.tensors import is_exported

WORDS = {
    "conditioning": ("soft", "hard", "none"),
    "convolution": ("deformable", "regular"),
    "attention_scale": ("released", "paper"),
    "pooling": ("hard", "soft"),
}
"""The settings that are strings, and their values."""


class HODOR(Network):
    """HODOR with every row of the paper's Table 3 and of section IV of its supplement as an argument.

    Args:
        backbone: name in `BACKBONES`. Default: "swin-t".
        width: channels of features and descriptors (D). Default: 256.
        heads: number of heads of every attention. Default: 8.
        encoder_layers: number of encoder layers. 0 replaces the encoder by an MLP of three layers, as in the paper (rows 4 to
            7 of Table 3). Default: 5.
        decoder_layers: number of decoder layers. 0 replaces them by two 3 x 3 convolutions (rows 4 to 7). Default: 5.
        grid: the background is split into grid x grid cells, each with a descriptor (1 is row 10). Default: 3.
        catch_all: whether the decoder computes one more background channel from the pixels alone (supplement, section IV).
            Default: True.
        conditioning: how masks condition the encoder: "soft", "hard" or "none" (rows 2 and 3). Default: "soft".
        convolution: "deformable" or "regular" in the decoder (row 9). Default: "deformable".
        barebones: whether descriptors are pooled features and logits their product with the features of another frame,
            without encoder, decoder or head (row 8). Default: False.
        joint: whether all objects are segmented in one pass. False segments one object at a time and merges by argmax (row
            1). Default: True.
        attention_scale: "released" or "paper", see `SoftMaskedAttention`. Default: "released".
        pooling: how descriptors are pooled. "hard" is the mean over pixels whose mask exceeds 0.5, without gradient, as
            released. "soft" is the mean weighted by the mask, with gradients to features and mask, as in the paper.
            Default: "hard".
        encoder_positions: whether sine positions are added to the encoder's keys (released: no; not in the paper).
            Default: False.
        decoder_positions: whether sine positions are added to the decoder's queries (released: yes; not in the paper).
            Default: True.
        feature_positions: whether learned multiples of the sine positions are added to F8 itself, so that descriptors contain
            positions. Not in the release; for small training budgets. Default: False.
        start_pooled: whether every residual branch begins at zero and every projection of descriptors at the identity, so
            that the untrained network is the barebones one. Not in the release; for small training budgets. Default: False.
        fine_conv: whether the pyramid has its 3 x 3 convolution at stride 4, whose output is only read by a narrow 1 x 1
            convolution. Released: yes; False is for small training budgets. Default: True.
        dropout: rate of dropout in training. Default: 0.1.

    Whether gradients flow through masks from frame to frame is a choice of the training plan (`plans.Step.mask_feedback`),
    not of the network.

    Raises:
        ValueError: "expected a backbone (swin-t, ...), got 'x'"; "expected pooling of "hard" or "soft", got 'x'", the same
            for `conditioning`, `convolution` and `attention_scale`.
        ValueError: "start_pooled needs encoder_layers of at least 1: ...", the same for `decoder_layers`.
    """

    stride = 4

    def __init__(
        self,
        *,
        backbone: str = "swin-t",
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 5,
        decoder_layers: int = 5,
        grid: int = 3,
        catch_all: bool = True,
        conditioning: str = "soft",
        convolution: str = "deformable",
        barebones: bool = False,
        joint: bool = True,
        attention_scale: str = "released",
        pooling: str = "hard",
        encoder_positions: bool = False,
        decoder_positions: bool = True,
        feature_positions: bool = False,
        start_pooled: bool = False,
        fine_conv: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"expected a backbone ({', '.join(BACKBONES)}), got {backbone!r}")
        for name, words in WORDS.items():
            if self.settings[name] not in words:
                *others, last = (f'"{word}"' for word in words)
                raise ValueError(f"expected {name} of {', '.join(others)} or {last}, got {self.settings[name]!r}")
        self.width, self.grid, self.joint, self.pooling, self.barebones = width, grid, joint, pooling, barebones
        self.backbone = BACKBONES[backbone]()
        self.pyramid = FPN(self.backbone.channels, width, smooth=(fine_conv, True))
        self.norms = nn.ModuleList([GroupNorm(16, width) for _ in range(2)])
        self.positions = nn.Parameter(torch.full((width,), 0.3)) if feature_positions else None
        if not barebones:
            self.encoder = Encoder(
                width, heads, encoder_layers, grid, conditioning, attention_scale, encoder_positions, dropout
            )
            self.decoder = Decoder(width, heads, decoder_layers, convolution, catch_all, decoder_positions, dropout)
        self.catch_all = catch_all and not barebones
        if start_pooled and not barebones:
            self.encoder.start_at_identity()
            self.decoder.start_at_identity()
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), persistent=False)

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the maps "fine" (F4) and "coarse" (F8), D channels each.

        After normalisation the frame is padded with zeros to multiples of 32, at the right and the bottom.

        Args:
            frames_BCHW: RGB in [0, 1] of any size.
        """
        x = pad_to_multiple((frames_BCHW - self.get_buffer("mean")) / self.get_buffer("std"), 32)
        fine, coarse = self.levels(x)
        return Features({"fine": fine, "coarse": coarse}, tuple(frames_BCHW.shape[-2:]), tuple(x.shape[-2:]))  # type: ignore[arg-type]

    def levels(self, x_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the maps "fine" and "coarse" of normalised frames whose sides divide by 32."""
        weight = self.norms[0].weight
        maps = self.pyramid(self.backbone(x_B3HW.to(weight.dtype)))  # type: ignore[arg-type]
        fine, coarse = (norm(level) for norm, level in zip(self.norms, maps, strict=True))
        if self.positions is not None:
            height, columns = coarse.shape[-2:]
            positions = sine_positions(height, columns, self.width, coarse.device).to(coarse.dtype)
            coarse = coarse + positions * self.positions.view(-1, 1, 1)
        return fine, coarse

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        recompute(self.pyramid)
        if not self.barebones:
            for layer in (*self.encoder.layers, *self.decoder.layers):
                recompute(layer)
            recompute(self.decoder, "refine")
            if self.decoder.catch_all is not None:
                recompute(self.decoder.catch_all)

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
        """Return the memory with the descriptors of frame `index`: of its valid objects, and of the rest as background.

        A frame that is not valid for all objects describes the others as background. If another remembered frame is valid for
        such an object, that background contains it and is therefore not attended to (`Entry.complete_B`), unless the masks
        are `complete`. Planes for which no frame is valid, such as those that pad a batch, do not count. The background is
        split into cells at the resolution of the masks if all are given, else at stride 8, as released.
        """
        coarse = features.maps["coarse"]
        masks_BNHW = masks_BNHW * valid_BN[..., None, None]
        exact = bool((given_BN | ~valid_BN).all())
        if self.joint:
            objects, background = self._describe(features, masks_BNHW, valid_BN, exact)
        else:
            batch, count = valid_BN.shape
            one = replace(features, maps={"coarse": coarse.repeat_interleave(count, 0)})
            alone, rest = self._describe(one, masks_BNHW.flatten(0, 1)[:, None], valid_BN.flatten()[:, None], exact)
            objects = torch.cat([alone, rest], 1).unflatten(0, (batch, count))
            background = objects.new_zeros(batch, 0, self.width)
        elsewhere_BN = torch.zeros_like(valid_BN)
        if not complete:
            for i, other in memory.frames.items():
                if i != index:
                    elsewhere_BN = elsewhere_BN | other.valid_BN
        complete_B = (valid_BN | ~elsewhere_BN).all(1)
        entry = Entry(objects, {"background": background}, valid_BN, given_BN & valid_BN, complete_B)
        return memory.add(index, entry)

    def _describe(self, features: Features, masks_BNHW: Tensor, valid_BN: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
        """Descriptors of objects [B, N, D] and of background cells [B, K, D]."""
        coarse = features.maps["coarse"]
        inner = int(coarse.shape[2]), int(coarse.shape[3])
        if not exact:
            masks_BNHW = fit_objects(features, masks_BNHW, inner)
        elif masks_BNHW.shape[-2:] == features.size:
            masks_BNHW = features.fit(masks_BNHW, features.padded)
        cells_BKHW = features.fit(background_cells(masks_BNHW, self.grid), inner)
        masks_BNHW = fit_objects(features, masks_BNHW, inner)
        masks_BMP = torch.cat([cells_BKHW, masks_BNHW], 1).flatten(2).to(coarse.dtype)
        pixels_BPD = coarse.flatten(2).transpose(1, 2)
        cells = cells_BKHW.shape[1]
        pool = pool_hard if self.pooling == "hard" else pool_soft
        tokens_BMD = pool(pixels_BPD, masks_BMP, cells)
        if not self.barebones:
            valid_BM = torch.cat([valid_BN.new_ones(len(valid_BN), cells), valid_BN], 1)
            tokens_BMD = self.encoder(tokens_BMD, coarse, masks_BMP, valid_BM)
        return tokens_BMD[:, cells:], tokens_BMD[:, :cells]

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """Segment the memory's objects in a frame, from all remembered frames at once (maximum over them, section 3.3).

        Returns:
            Logits at stride 4, with the channels catch-all (if there is one), background cells, objects in plane order. An
            object for which no remembered frame is valid has the logit `UNKNOWN`. The memory is returned as it is.

        Raises:
            ValueError: "the memory is empty: give a mask before segmenting".
        """
        if not memory.frames:
            raise ValueError("the memory is empty: give a mask before segmenting")
        entries = list(memory.frames.values())
        objects = torch.stack([e.per_object for e in entries], 1)
        shared = torch.stack([e.shared["background"] for e in entries], 1)
        valid_BTN = torch.stack([e.valid_BN for e in entries], 1)
        complete_BT = torch.stack([e.complete_B for e in entries], 1)
        if self.joint:
            logits = self._find(features, objects, shared, valid_BTN, complete_BT)
            return self._prediction(logits, features, logits.shape[1] - valid_BTN.shape[-1]), memory
        # one object at a time, each against its own background, whose largest logit becomes the common zero
        batch, _, count = valid_BTN.shape
        alone = replace(features, maps={name: m.repeat_interleave(count, 0) for name, m in features.maps.items()})
        own = objects.transpose(1, 2).flatten(0, 1)
        valid_XT = valid_BTN.transpose(1, 2).flatten(0, 1)
        logits = self._find(alone, own[:, :, :1], own[:, :, 1:], valid_XT[..., None], valid_XT)
        relative = (logits[:, -1] - logits[:, :-1].amax(1)).unflatten(0, (batch, count))
        relative = relative.masked_fill(~valid_BTN.any(1)[..., None, None], UNKNOWN)
        return self._prediction(torch.cat([torch.zeros_like(relative[:, :1]), relative], 1), features, 1), memory

    def _find(
        self, features: Features, objects_BTND: Tensor, cells_BTKD: Tensor, valid_BTN: Tensor, complete_BT: Tensor
    ) -> Tensor:
        fine, coarse = features.maps["fine"], features.maps["coarse"]
        valid_BTK = complete_BT[..., None].expand(-1, -1, cells_BTKD.shape[2])
        if not self.barebones:
            embed = self.encoder.object_embed, self.encoder.cell_embed
            return self.decoder(fine, coarse, objects_BTND, cells_BTKD, valid_BTN, valid_BTK, *embed)  # type: ignore[no-any-return]
        map_BDHW = double(coarse)
        cells, objects = dot_max(map_BDHW, cells_BTKD, valid_BTK), dot_max(map_BDHW, objects_BTND, valid_BTN)
        return torch.cat([cells, objects], 1)

    def _prediction(self, logits_BKHW: Tensor, features: Features, backgrounds: int) -> Prediction:
        return Prediction(logits_BKHW.float(), backgrounds, features.size, features.padded)


def fit_objects(features: Features, masks_BNHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks as `Features.fit`, but keep an object that falls between the sampled pixels in every cell that it touches.

    Args:
        features: features of the frame.
        masks_BNHW: masks, float [B, N, H, W].
        size: (H, W) of the result.
    """
    fitted_BNHW = features.fit(masks_BNHW, size)
    vanished_BN = ~fitted_BNHW.flatten(2).any(-1)
    if not bool(vanished_BN.any()):
        return fitted_BNHW
    touched_BNHW = F.adaptive_max_pool2d(features.fit(masks_BNHW, features.padded), size)
    return torch.where(vanished_BN[..., None, None], touched_BNHW, fitted_BNHW)


def silence(modules: Sequence[nn.Module]) -> None:
    """Set weights and biases to zero: a branch that ends in such a module adds nothing until it is trained."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


class Encoder(nn.Module):
    """HOD encoder (section 3.1): refines descriptors together, from pooled features.

    Tokens are the background cells, then the objects. The arguments are those of `HODOR`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        grid: int,
        conditioning: str,
        scale: str,
        positions: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.object_embed = nn.Parameter(torch.randn(width))
        self.cell_embed = nn.Parameter(torch.randn(grid * grid, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, conditioning, scale, dropout) for _ in range(layers))
        if not layers:
            self.mlp = nn.Sequential(
                Linear(width, width), nn.ReLU(), Linear(width, width), nn.ReLU(), Linear(width, width)
            )  # fmt: skip

    def forward(self, tokens_BMD: Tensor, coarse_BDHW: Tensor, masks_BMP: Tensor, valid_BM: Tensor) -> Tensor:
        if not self.layers:
            mlp: Tensor = self.mlp(tokens_BMD)
            return mlp
        values_BPD = coarse_BDHW.flatten(2).transpose(1, 2)
        keys_BPD = values_BPD
        if self.positions:
            height, width = coarse_BDHW.shape[-2:]
            positions = sine_positions(height, width, coarse_BDHW.shape[1], coarse_BDHW.device).to(coarse_BDHW.dtype)
            keys_BPD = (coarse_BDHW + positions).flatten(2).transpose(1, 2)
        objects = tokens_BMD.shape[1] - len(self.cell_embed)
        embed_MD = torch.cat([self.cell_embed, self.object_embed.expand(objects, -1)])
        for layer in self.layers:
            tokens_BMD = layer(tokens_BMD, embed_MD, keys_BPD, values_BPD, masks_BMP, valid_BM)
        return tokens_BMD

    def start_at_identity(self) -> None:
        """Set the residual branches to zero, so that the encoder only normalises the pooled features."""
        if not self.layers:
            raise ValueError("start_pooled needs encoder_layers of at least 1: use barebones for pooled descriptors alone")
        silence([m for layer in self.layers for m in cast(EncoderLayer, layer).lasts()])


class EncoderLayer(nn.Module):
    """Self-attention among descriptors, soft-masked attention to pixels, FFN of two layers; a norm after each (Eq. 1)."""

    def __init__(self, width: int, heads: int, conditioning: str, scale: str, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.cross_attn = SoftMaskedAttention(
            width, heads, conditioning=conditioning, scale=scale, dropout=dropout
        )  # fmt: skip
        self.ffn = nn.Sequential(
            Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BMD: Tensor, embed_MD: Tensor, keys_BPD: Tensor, values_BPD: Tensor, masks_BMP: Tensor, valid_BM: Tensor
    ) -> Tensor:
        embedded = x_BMD + embed_MD
        # a mask only where it is needed, since attention is faster without one
        invalid = None if not is_exported() and bool(valid_BM.all()) else ~valid_BM
        attended, _ = self.self_attn(embedded, embedded, x_BMD, key_padding_mask=invalid, need_weights=False)
        x_BMD = self.norm1(x_BMD + self.dropout(attended))
        x_BMD = self.norm2(x_BMD + self.dropout(self.cross_attn(x_BMD, keys_BPD, values_BPD, masks_BMP)))
        out: Tensor = self.norm3(x_BMD + self.ffn(x_BMD))
        return out

    def lasts(self) -> list[nn.Module]:
        """The last linear layer of each residual branch."""
        return [self.self_attn.out_proj, self.cross_attn.out_proj, self.ffn[-2]]


class Decoder(nn.Module):
    """OR decoder (section 3.2): convolution, attention to the descriptors, and products with them at stride 4.

    The arguments are those of `HODOR`.
    """

    def __init__(
        self, width: int, heads: int, layers: int, convolution: str, catch_all: bool, positions: bool, dropout: float
    ) -> None:
        super().__init__()
        self.width, self.positions, self.residual = width, positions, False
        self.layers = nn.ModuleList(DecoderLayer(width, heads, convolution, dropout) for _ in range(layers))
        if not layers:
            self.convs = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )  # fmt: skip
        self.reduce_fine = nn.Sequential(nn.Conv2d(width, width // 4, 1, bias=False), nn.ReLU(), GroupNorm(8, width // 4))
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(), GroupNorm(8, width)
        )  # fmt: skip
        self.object_proj, self.cell_proj = Linear(width, width), Linear(width, width)
        self.catch_all = (
            nn.Sequential(
                nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
                GroupNorm(8, width // 2),
                nn.ReLU(),
                nn.Conv2d(width // 2, 1, 1, bias=False),
            )
            if catch_all
            else None
        )

    def forward(
        self,
        fine_BDHW: Tensor,
        coarse_BDHW: Tensor,
        objects_BTND: Tensor,
        cells_BTKD: Tensor,
        valid_BTN: Tensor,
        valid_BTK: Tensor,
        object_embed_D: Tensor,
        cell_embed_KD: Tensor,
    ) -> Tensor:
        """Logits at stride 4, [B, (1)+K+N, H, W]: catch-all (if there is one), background cells, objects."""
        x_BDHW = coarse_BDHW
        if self.layers:
            positions = None
            if self.positions:
                height, columns = x_BDHW.shape[-2:]
                positions = sine_positions(height, columns, self.width, x_BDHW.device).to(x_BDHW.dtype)
                positions = positions.flatten(1).t()
            valid_BS = torch.cat([valid_BTN.flatten(1), valid_BTK.flatten(1)], 1)
            mask_BS = None if not is_exported() and bool(valid_BS.all()) else valid_BS
            objects, cells = objects_BTND.flatten(1, 2), cells_BTKD.flatten(1, 2)
            embedded_objects = (objects_BTND + object_embed_D).flatten(1, 2)
            embedded_cells = (cells_BTKD + cell_embed_KD).flatten(1, 2)
            for layer in self.layers:
                x_BDHW = layer(x_BDHW, positions, objects, cells, embedded_objects, embedded_cells, mask_BS)
        else:
            x_BDHW = self.convs(x_BDHW)
        map_BDHW = self.refine(x_BDHW, fine_BDHW)
        channels = [
            dot_max(map_BDHW, self.cell_proj(cells_BTKD), valid_BTK),
            dot_max(map_BDHW, self.object_proj(objects_BTND), valid_BTN),
        ]
        if self.catch_all is not None:
            channels.insert(0, self.catch_all(map_BDHW))
        return torch.cat(channels, 1)

    def refine(self, x_BDHW: Tensor, fine_BDHW: Tensor) -> Tensor:
        """From stride 8 to 4: add the fine features to a quarter of the channels, then convolve (Eq. 4, as released)."""
        x_BDHW = double(x_BDHW)
        narrow = self.reduce_fine(fine_BDHW)
        # `double` made x and no other name refers to it, so a copy is needed only where x is read again
        mixed = x_BDHW.clone() if self.residual or torch.is_grad_enabled() else x_BDHW
        mixed[:, : narrow.shape[1]] += narrow
        out: Tensor = self.head(mixed)
        return x_BDHW + out if self.residual else out

    def start_at_identity(self) -> None:
        """Set the residual branches to zero and the projections to the identity.

        The decoder then multiplies normalised features with descriptors.
        """
        if not self.layers:
            raise ValueError("start_pooled needs decoder_layers of at least 1: use barebones for a dot product alone")
        self.residual = True
        silence([self.head[2], *(m for layer in self.layers for m in cast(DecoderLayer, layer).lasts())])
        for projection in (self.object_proj, self.cell_proj):
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
        if self.catch_all is not None:
            silence([self.catch_all[3]])


class DecoderLayer(nn.Module):
    """Convolution (in place of self-attention), attention to the descriptors, FFN of the same width (Eq. 3).

    As released: the branch of the convolution is convolution, ReLU, GroupNorm, and no projection follows the attention.
    """

    def __init__(self, width: int, heads: int, convolution: str, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.conv = DeformableConv(width) if convolution == "deformable" else nn.Conv2d(width, width, 3, padding=1)
        self.conv_norm = GroupNorm(16, width)
        self.q_proj = Linear(width, width)
        self.k_objects, self.v_objects = Linear(width, width), Linear(width, width)
        self.k_cells, self.v_cells = Linear(width, width), Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(Linear(width, width), nn.ReLU(), nn.Dropout(dropout), Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BDHW: Tensor,
        positions_PD: Tensor | None,
        objects_BSD: Tensor,
        cells_BSD: Tensor,
        embedded_objects_BSD: Tensor,
        embedded_cells_BSD: Tensor,
        valid_BS: Tensor | None,
    ) -> Tensor:
        x_BDHW = x_BDHW + self.conv_norm(F.relu(self.conv(x_BDHW)))
        x_BPD = x_BDHW.flatten(2).transpose(1, 2)
        q = split_heads(self.q_proj(x_BPD if positions_PD is None else x_BPD + positions_PD), self.heads)
        k = split_heads(torch.cat([self.k_objects(embedded_objects_BSD), self.k_cells(embedded_cells_BSD)], 1), self.heads)
        v = split_heads(torch.cat([self.v_objects(objects_BSD), self.v_cells(cells_BSD)], 1), self.heads)
        mask = None if valid_BS is None else valid_BS[:, None, None]
        attended = join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        x_BPD = self.norm1(x_BPD + self.dropout(attended))
        x_BPD = self.norm2(x_BPD + self.dropout(self.ffn(x_BPD)))
        out: Tensor = x_BPD.transpose(1, 2).reshape(*x_BDHW.shape)  # traced with sizes that stay free, unlike `unflatten`
        return out

    def lasts(self) -> list[nn.Module]:
        """The last module of each residual branch."""
        return [self.conv_norm, self.v_objects, self.v_cells, self.ffn[-1]]
