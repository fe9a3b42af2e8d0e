"""Cutie's object-level half (Cheng et al., CVPR 2024, sections 3.2 and 3.3): summaries of objects, and the transformer.

    PixelFuser           what each object's cells read, its sensory memory and last mask --> pixel readout
    Summarizer           value, mask --> Q weighted sums and their weights, the object's memory
    ObjectTransformer    pixel readout, summaries --> pixel readout that knows which object it is

Half of the Q queries look at an object's foreground, half at its background. The queries are few, Q h rows against P pixels,
so every projection of pixels to keys, values or queries is moved over to their side: q . (W k) = (W^T q) . k. The numbers
are the same and the work on pixels is halved.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.layers import Linear


class GatedBlock(nn.Module):
    """x + g(y) y with y = conv(relu(conv(relu(x)))) and a gate for each channel, from its mean and its four neighbours'."""

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
    """What belongs to the frame, once, and to each object -> one map an object."""

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.frame = nn.Conv2d(width, width, 1)
        self.object = nn.Conv2d(inputs, width, 1)
        self.block1 = GatedBlock(width)
        self.block2 = GatedBlock(width)

    def forward(self, frame_BDHW: Tensor, objects_XDHW: Tensor) -> Tensor:
        """-> XDHW, X = B N."""
        return self.block2(self.block1(add_frame(self.object(objects_XDHW), self.frame(frame_BDHW))))  # type: ignore[no-any-return]


class PixelFuser(nn.Module):
    """What was read for each object, its sensory memory, and where it and the others were last -> one map an object."""

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
    """-> P D, sines and cosines in turn, the first half of the column and the second of the row, whatever the size from 0
    to 32 along each axis; frequencies fall from 1 to 1 / 128."""
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
    """-> X P D; a view where the map lies channels last."""
    return maps_XDHW.flatten(2).transpose(1, 2)


class Summarizer(nn.Module):
    """A value and a soft mask -> Q summaries: half of them weighted sums over the mask, half over what is not the mask.

        s_q = sum_p w_qp f(v_p),   a_q = sum_p w_qp,   w_qp = sigmoid(g_q(v_p)) m_qp         Cutie, section 3.3

    Sums and areas of several frames add up, so that the memory of an object is as large after one frame as after many.
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.input = Linear(width, width)
        self.feature = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, width))
        self.weight = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, queries))

    def forward(self, mask_BNHW: Tensor, value_BNDHW: Tensor) -> Tensor:
        """-> B N Q D+1, float32: sums and, last, areas in cells. mask in [0, 1], at the value's resolution."""
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
    """Attention of h heads between Q queries and P pixels, either way, and among the queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _parts(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight h d D and bias h d of the projections to queries, keys and values."""
        weights, biases = self.project.weight.chunk(3), self.project.bias.chunk(3)
        return tuple(
            (w.unflatten(0, (self.heads, -1)), b.unflatten(0, (self.heads, -1))) for w, b in zip(weights, biases, strict=True)
        )

    def among(self, queries_XQD: Tensor, values_XQD: Tensor) -> Tensor:
        """The queries read each other: keys are the queries."""
        width = queries_XQD.shape[-1]
        weight, bias = self.project.weight, self.project.bias
        both = F.linear(queries_XQD, weight[: 2 * width], bias[: 2 * width]).unflatten(-1, (2, self.heads, -1))
        q, k = both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)
        v = F.linear(values_XQD, weight[2 * width :], bias[2 * width :]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        alike = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        return self.out((alike.softmax(-1) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def from_pixels(self, queries_XQD: Tensor, keys_XPD: Tensor, values_XPD: Tensor, blocked_XRP: Tensor) -> Tensor:
        """Queries read pixels. blocked: for each of R equal runs of queries, the pixels it does not see."""
        (wq, bq), (wk, _), (wv, bv) = self._parts()
        q = torch.einsum("xqc,hdc->xqhd", queries_XQD, wq) + bq
        q = torch.einsum("xqhd,hdc->xqhc", q / q.shape[-1] ** 0.5, wk)  # the keys' bias is the same for all pixels
        alike = (q.flatten(1, 2) @ keys_XPD.transpose(1, 2)).unflatten(1, (blocked_XRP.shape[1], -1))
        weight = alike.masked_fill(blocked_XRP[:, :, None], float("-inf")).softmax(-1).flatten(1, 2)
        read = (weight @ values_XPD).unflatten(1, (-1, self.heads))
        return self.out((torch.einsum("xqhc,hdc->xqhd", read, wv) + bv).flatten(2))  # type: ignore[no-any-return]

    def from_queries(self, pixels_XPD: Tensor, keys_XQD: Tensor, values_XQD: Tensor) -> Tensor:
        """Pixels read queries."""
        (wq, bq), (wk, bk), (wv, bv) = self._parts()
        k = (torch.einsum("xqc,hdc->xhqd", keys_XQD, wk) + bk[:, None]) / wk.shape[1] ** 0.5
        k_XKD = torch.einsum("xhqd,hdc->xhqc", k, wq).flatten(1, 2)
        bias_XK = torch.einsum("xhqd,hd->xhq", k, bq).flatten(1)
        alike_XPK = torch.baddbmm(bias_XK[:, None], pixels_XPD, k_XKD.transpose(1, 2))
        weight_XPK = alike_XPK.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        v = torch.einsum("xqc,hdc->xhqd", values_XQD, wv) + bv[:, None]
        back = self.out.weight.unflatten(1, (self.heads, -1))
        v_XKD = torch.einsum("xhqd,chd->xhqc", v, back).flatten(1, 2)
        return torch.baddbmm(self.out.bias.expand(1, 1, -1), weight_XPK, v_XKD)


class Block(nn.Module):
    """Queries read pixels, then each other; pixels read queries.

    In the attentions of queries the sum is with the normed input, as released, not with the input.
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
        """-> queries and pixels. Places are added where similarity is measured, not to what is read."""
        pixels_XPD = tokens(pixels_XDHW)
        placed_XPD = pixels_XPD + pixel_place_XPD
        query = self.norm1(query_XQD)
        query = query + self.read_pixels.from_pixels(query + query_place_XQD, placed_XPD, pixels_XPD, blocked_XRP)
        query = self.norm2(query)
        query = query + self.self_read.among(query + query_place_XQD, query)
        query = query + self.ffn(query)
        pixels_XPD = pixels_XPD + self.read_queries.from_queries(placed_XPD, query + query_place_XQD, query)
        return query, self.pixel_ffn(pixels_XPD.transpose(1, 2).unflatten(2, pixels_XDHW.shape[-2:]))


class ObjectTransformer(nn.Module):
    """Pixel readouts of objects, made aware of what the object is as a whole (Cutie, section 3.2)."""

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
        """-> BNDHW and the mask logits BNHW before the first block and after each, `every` False: but the last.

        summaries: running sums and areas, as `Summarizer` gives them. same: the objects among which each one competes for
        the pixels that its foreground queries see, itself among them. known: the others compete for nothing.
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
            seen = foreground(logits[-1].flatten(2), same_BNN, valid_BN).flatten(0, 1)
            blocked_XRP = torch.stack([~seen, seen], 1)
            blocked_XRP = blocked_XRP & ~blocked_XRP.all(-1, keepdim=True)  # who would see nothing sees all
            query, pixels = block(query, pixels, query_place, place_XPD, blocked_XRP)
            if every or block is not self.blocks[-1]:
                logits.append(mask(F.relu(pixels)).squeeze(1).unflatten(0, shape))
        return pixels.unflatten(0, shape), logits


@torch.no_grad()
def foreground(logits_BNP: Tensor, same_BNN: Tensor, valid_BN: Tensor) -> Tensor:
    """-> bool BNP, where no object of the same group, nor the background that they leave, is likelier than the object."""
    soft_BNP = logits_BNP.float().sigmoid() * valid_BN[..., None]
    pairs_BNNP = soft_BNP[:, None] * same_BNN[..., None]
    rest_BNP = (1 - pairs_BNNP).prod(2).clamp(1e-7, 1 - 1e-7)
    soft_BNP = soft_BNP.clamp(1e-7, 1 - 1e-7)
    best_BNP = pairs_BNNP.amax(2).clamp(1e-7, 1 - 1e-7)
    return (soft_BNP >= rest_BNP) & (soft_BNP >= best_BNP)


def others(masks_BNHW: Tensor, same_BNN: Tensor | None = None) -> Tensor:
    """-> BNHW in [0, 1], for each object the sum of the other masks, of its own group alone if `same` is given."""
    if same_BNN is None:
        return (masks_BNHW.sum(1, keepdim=True) - masks_BNHW).clamp(0, 1)
    return ((same_BNN.to(masks_BNHW.dtype) @ masks_BNHW.flatten(2)).view_as(masks_BNHW) - masks_BNHW).clamp(0, 1)


def add_frame(objects_XDHW: Tensor, frame_BDHW: Tensor) -> Tensor:
    """Each frame's map to those of its own objects, X = B N."""
    if len(frame_BDHW) > 1:
        frame_BDHW = frame_BDHW.repeat_interleave(len(objects_XDHW) // len(frame_BDHW), 0)
    return objects_XDHW + frame_BDHW
