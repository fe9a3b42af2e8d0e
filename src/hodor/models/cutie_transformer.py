"""Object-level modules of Cutie (Cheng et al., CVPR 2024, sections 3.2 and 3.3): summaries and the object transformer.

    PixelFuser           each object's readout, its sensory memory and last mask --> pixel readout
    Summarizer           value, mask --> Q weighted sums and their weights, the object's memory
    ObjectTransformer    pixel readout, summaries --> pixel readout with object-level information

Half of the Q queries attend to an object's foreground, half to its background. There are few queries, Q h rows for P pixels, so
each projection of pixels to keys, values or queries is applied to the queries instead: q . (W k) = (W^T q) . k. The numbers are
the same, and the work on pixels is halved.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.layers import Linear


class GatedBlock(nn.Module):
    """x + g(y) y with y = conv(relu(conv(relu(x)))) and a gate g for each channel, from its mean and four neighbours'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, x_XDHW: Tensor) -> Tensor:
        y_XDHW = self.conv2(F.relu(self.conv1(F.relu(x_XDHW)), inplace=True))
        gate_XD = self.gate(y_XDHW.mean((2, 3))[:, None])[:, 0].sigmoid()
        return torch.addcmul(x_XDHW, y_XDHW, gate_XD[..., None, None])


class Fuser(nn.Module):
    """Fuses the frame's map, computed once, with each object's map.

    Args:
        width: channels of the frame's map and of the result.
        inputs: channels of the objects' maps.
    """

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.frame = nn.Conv2d(width, width, 1)
        self.object = nn.Conv2d(inputs, width, 1)
        self.block1 = GatedBlock(width)
        self.block2 = GatedBlock(width)

    def forward(self, frame_BDHW: Tensor, objects_XDHW: Tensor) -> Tensor:
        """The fused maps, [X, D, H, W] with X = B N."""
        return self.block2(self.block1(add_frame(self.object(objects_XDHW), self.frame(frame_BDHW))))  # type: ignore[no-any-return]


class PixelFuser(nn.Module):
    """Fuses each object's readout, its sensory memory, its last mask and the last masks of the others into one map.

    Args:
        width: channels of all maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state = nn.Conv2d(width + 2, width, 1)
        self.fuser = Fuser(width, width)

    def forward(
        self, pixel_BDHW: Tensor, read_BNDHW: Tensor, sensory_BNDHW: Tensor, last_BNHW: Tensor, same_BNN: Tensor
    ) -> Tensor:
        state = torch.cat([sensory_BNDHW, last_BNHW[:, :, None], others(last_BNHW, same_BNN)[:, :, None]], 2)
        x = self.state(state.flatten(0, 1)) + read_BNDHW.flatten(0, 1)
        return self.fuser(pixel_BDHW, x).unflatten(0, read_BNDHW.shape[:2])  # type: ignore[no-any-return]


def positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Compute the position encoding: alternating sines and cosines, [P, D].

    The first half of the channels encodes the column, the second the row. Whatever the size, positions run from 0 to 32 along
    each axis; frequencies fall from 1 to 1 / 128.

    Args:
        height: rows.
        width: columns.
        channels: number of channels (D).
        like: a tensor of the device and type of the result.
    """
    half = channels // 2
    frequency_D = 128.0 ** (-torch.arange(0, half, 2, device=like.device, dtype=torch.float32) / half)

    def axis(cells: int) -> Tensor:
        place = torch.arange(cells, device=like.device, dtype=torch.float32)
        angle = (place / (max(cells - 1, 0) + 1e-6) * 32)[:, None] * frequency_D
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    columns_WD, rows_HD = axis(width), axis(height)
    grid = torch.cat([columns_WD[None].expand(height, -1, -1), rows_HD[:, None].expand(-1, width, -1)], -1)
    return grid.flatten(0, 1).to(like.dtype)


def tokens(maps_XDHW: Tensor) -> Tensor:
    """Reshape maps to X P D; a view if the maps are in channels-last memory."""
    return maps_XDHW.flatten(2).transpose(1, 2)


class Summarizer(nn.Module):
    """Computes Q summaries from a value and a soft mask: half are weighted sums over the mask, half over its complement.

        s_q = sum_p w_qp f(v_p),   a_q = sum_p w_qp,   w_qp = sigmoid(g_q(v_p)) m_qp         Cutie, section 3.3

    The sums and areas of several frames are added, so the memory of an object has the same size after one frame and after many.

    Args:
        width: channels of values.
        queries: number of summaries (Q).
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.input = Linear(width, width)
        self.feature = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, width))
        self.weight = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, queries))

    def forward(self, mask_BNHW: Tensor, value_BNDHW: Tensor) -> Tensor:
        """Compute the summaries.

        Args:
            mask_BNHW: soft masks in [0, 1], at the value's resolution.
            value_BNDHW: values.

        Returns:
            Tensor [B, N, Q, D+1], float32: sums and, in the last channel, areas in cells.
        """
        batch, objects, width, height, columns = value_BNDHW.shape
        x_XPD = self.input(tokens(value_BNDHW.flatten(0, 1))) + positions(height, columns, width, value_BNDHW)
        weight_XPQ = self.weight(x_XPD).sigmoid()
        mask_XP1 = mask_BNHW.flatten(0, 1).flatten(1)[..., None]
        half = weight_XPQ.shape[-1] // 2
        weight_XPQ = weight_XPQ * torch.cat([mask_XP1.expand(-1, -1, half), (1 - mask_XP1).expand(-1, -1, half)], -1)
        weight_XPQ, feature_XPD = weight_XPQ.float(), self.feature(x_XPD).float()
        sums_XQE = torch.cat([weight_XPQ.transpose(1, 2) @ feature_XPD, weight_XPQ.sum(1)[..., None]], -1)
        return sums_XQE.view(batch, objects, *sums_XQE.shape[1:])


class Attention(nn.Module):
    """Multi-head attention from queries to pixels, from pixels to queries, and among queries.

    Args:
        width: channels.
        heads: number of heads (h).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _parts(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight [h, d, D] and bias [h, d] of the projections to queries, keys and values."""
        weights, biases = self.project.weight.chunk(3), self.project.bias.chunk(3)
        return tuple(
            (w.unflatten(0, (self.heads, -1)), b.unflatten(0, (self.heads, -1))) for w, b in zip(weights, biases, strict=True)
        )

    def among(self, queries_XQD: Tensor, values_XQD: Tensor) -> Tensor:
        """Attend from queries to queries; the keys are the queries."""
        width = queries_XQD.shape[-1]
        weight, bias = self.project.weight, self.project.bias
        both = F.linear(queries_XQD, weight[: 2 * width], bias[: 2 * width]).unflatten(-1, (2, self.heads, -1))
        q, k = both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)
        v = F.linear(values_XQD, weight[2 * width :], bias[2 * width :]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        logits = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def from_pixels(self, queries_XQD: Tensor, keys_XPD: Tensor, values_XPD: Tensor, blocked_XRP: Tensor) -> Tensor:
        """Attend from queries to pixels; `blocked_XRP` masks pixels for each of R equal runs of queries."""
        (wq, bq), (wk, _), (wv, bv) = self._parts()
        q = torch.einsum("xqc,hdc->xqhd", queries_XQD, wq) + bq
        q = torch.einsum("xqhd,hdc->xqhc", q / q.shape[-1] ** 0.5, wk)  # the keys' bias is the same for all pixels
        logits = (q.flatten(1, 2) @ keys_XPD.transpose(1, 2)).unflatten(1, (blocked_XRP.shape[1], -1))
        weight = logits.masked_fill(blocked_XRP[:, :, None], float("-inf")).softmax(-1).flatten(1, 2)
        read = (weight @ values_XPD).unflatten(1, (-1, self.heads))
        return self.out((torch.einsum("xqhc,hdc->xqhd", read, wv) + bv).flatten(2))  # type: ignore[no-any-return]

    def from_queries(self, pixels_XPD: Tensor, keys_XQD: Tensor, values_XQD: Tensor) -> Tensor:
        """Attend from pixels to queries."""
        (wq, bq), (wk, bk), (wv, bv) = self._parts()
        k = (torch.einsum("xqc,hdc->xhqd", keys_XQD, wk) + bk[:, None]) / wk.shape[1] ** 0.5
        k_XKD = torch.einsum("xhqd,hdc->xhqc", k, wq).flatten(1, 2)
        bias_XK = torch.einsum("xhqd,hd->xhq", k, bq).flatten(1)
        logits_XPK = torch.baddbmm(bias_XK[:, None], pixels_XPD, k_XKD.transpose(1, 2))
        weight_XPK = logits_XPK.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        v = torch.einsum("xqc,hdc->xhqd", values_XQD, wv) + bv[:, None]
        back = self.out.weight.unflatten(1, (self.heads, -1))
        v_XKD = torch.einsum("xhqd,chd->xhqc", v, back).flatten(1, 2)
        return torch.baddbmm(self.out.bias.expand(1, 1, -1), weight_XPK, v_XKD)


class Block(nn.Module):
    """Queries attend to pixels, then to each other; then pixels attend to queries.

    As released, the residual of the queries' attentions is the normalised input, not the input.

    Args:
        width: channels.
        heads: number of heads.
        hidden: hidden channels of the FFN.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.read_pixels = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.self_read = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.LayerNorm(width), Linear(width, hidden), nn.ReLU(), Linear(hidden, width))
        self.read_queries = Attention(width, heads)
        self.pixel_ffn = GatedBlock(width)

    def forward(
        self,
        query_XQD: Tensor,
        pixels_XDHW: Tensor,
        query_place_XQD: Tensor,
        pixel_place_XPD: Tensor,
        blocked_XRP: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The new queries and pixels. Positions are added to queries and keys, not to values."""
        pixels_XPD = tokens(pixels_XDHW)
        placed_XPD = pixels_XPD + pixel_place_XPD
        query = self.norm1(query_XQD)
        query = query + self.read_pixels.from_pixels(query + query_place_XQD, placed_XPD, pixels_XPD, blocked_XRP)
        query = self.norm2(query)
        query = query + self.self_read.among(query + query_place_XQD, query)
        query = query + self.ffn(query)
        pixels_XPD = pixels_XPD + self.read_queries.from_queries(placed_XPD, query + query_place_XQD, query)
        # traced with sizes that stay free, unlike `unflatten`
        return query, self.pixel_ffn(pixels_XPD.transpose(1, 2).reshape(*pixels_XDHW.shape))


class ObjectTransformer(nn.Module):
    """Adds object-level information to the pixel readouts of objects (Cutie, section 3.2).

    Args:
        width: channels.
        heads: number of heads.
        hidden: hidden channels of the FFN.
        queries: number of queries (Q).
        blocks: number of blocks.
    """

    def __init__(self, width: int, heads: int, hidden: int, queries: int, blocks: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.query_place = nn.Parameter(torch.randn(queries, width))
        self.summary = nn.Linear(width, width)
        self.summary_place = nn.Linear(width, width)
        self.pixel = nn.Conv2d(width, width, 1)
        self.pixel_place = nn.Conv2d(width, width, 1)
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(blocks)])
        self.masks = nn.ModuleList([nn.Conv2d(width, 1, 1) for _ in range(blocks + 1)])

    def forward(
        self, pixels_BNDHW: Tensor, summaries_BNQE: Tensor, same_BNN: Tensor, valid_BN: Tensor, every: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Apply the blocks.

        Args:
            pixels_BNDHW: pixel readouts.
            summaries_BNQE: running sums and areas, as `Summarizer` returns them.
            same_BNN: bool, for each object those (itself included) with which it competes for the pixels that its foreground
                queries attend to.
            valid_BN: bool, the objects that compete at all.
            every: whether to compute the mask logits after the last block too. Default: True.

        Returns:
            Tensor [B, N, D, H, W], and the mask logits [B, N, H, W] before the first block and after each.
        """
        shape = pixels_BNDHW.shape[:2]
        read_XDHW = pixels_BNDHW.flatten(0, 1)
        mean_XQD = (summaries_BNQE[..., :-1] / (summaries_BNQE[..., -1:] + 1e-4)).flatten(0, 1).to(read_XDHW.dtype)
        query, query_place = self.query + self.summary(mean_XQD), self.query_place + self.summary_place(mean_XQD)
        pixels = self.pixel(read_XDHW)
        _, width, height, columns = read_XDHW.shape
        place_PD = positions(height, columns, width, read_XDHW)
        place_XPD = tokens(self.pixel_place(read_XDHW)) + place_PD
        logits = [self.masks[0](F.relu(pixels)).squeeze(1).unflatten(0, shape)]
        for block, mask in zip(self.blocks, self.masks[1:], strict=True):
            foreground_XP = foreground(logits[-1].flatten(2), same_BNN, valid_BN).flatten(0, 1)
            blocked_XRP = torch.stack([~foreground_XP, foreground_XP], 1)
            blocked_XRP = blocked_XRP & ~blocked_XRP.all(-1, keepdim=True)  # a query without any pixel attends to all
            query, pixels = block(query, pixels, query_place, place_XPD, blocked_XRP)
            if every or block is not self.blocks[-1]:
                logits.append(mask(F.relu(pixels)).squeeze(1).unflatten(0, shape))
        return pixels.unflatten(0, shape), logits


@torch.no_grad()
def foreground(logits_BNP: Tensor, same_BNN: Tensor, valid_BN: Tensor) -> Tensor:
    """Return where no object of the same group, nor their background, is more probable than the object, bool [B, N, P]."""
    soft_BNP = logits_BNP.float().sigmoid() * valid_BN[..., None]
    pairs_BNNP = soft_BNP[:, None] * same_BNN[..., None]
    rest_BNP = (1 - pairs_BNNP).prod(2).clamp(1e-7, 1 - 1e-7)
    soft_BNP = soft_BNP.clamp(1e-7, 1 - 1e-7)
    best_BNP = pairs_BNNP.amax(2).clamp(1e-7, 1 - 1e-7)
    return (soft_BNP >= rest_BNP) & (soft_BNP >= best_BNP)


def others(masks_BNHW: Tensor, same_BNN: Tensor | None = None) -> Tensor:
    """Return for each object the sum of the other masks in [0, 1], [B, N, H, W]; with `same_BNN`, of its own group only."""
    if same_BNN is None:
        return (masks_BNHW.sum(1, keepdim=True) - masks_BNHW).clamp(0, 1)
    return ((same_BNN.to(masks_BNHW.dtype) @ masks_BNHW.flatten(2)).view_as(masks_BNHW) - masks_BNHW).clamp(0, 1)


def add_frame(objects_XDHW: Tensor, frame_BDHW: Tensor) -> Tensor:
    """Add each frame's map to those of its own objects, X = B N."""
    if len(frame_BDHW) > 1:
        frame_BDHW = frame_BDHW.repeat_interleave(len(objects_XDHW) // len(frame_BDHW), 0)
    return objects_XDHW + frame_BDHW
