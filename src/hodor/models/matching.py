"""Pixel memories of STCN, XMem and Cutie: similarity of keys, reading of values, aggregation. Functions without parameters.

Shapes as in `base`, and M: tokens of the memory, one for each cell of each remembered frame.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.base import Memory
from hodor.models.layers import exactly, linear

CHUNK = 2**22
"""Similarities computed at a time, few enough to stay in a cache; more query cells are split into chunks."""
STEP = 512
"""Without gradients on a CPU, the number of tokens is padded to a multiple of this. The library of `Linear` caches a program of
about a megabyte for each size of a product, and a long-term memory has hundreds of sizes until it is full."""


class Tokens(NamedTuple):
    """The tokens of a memory, frame after frame.

    Attributes:
        keys_BDM: keys.
        values_BNCM: values; the channels of a token are adjacent in storage, which `read` is fast with.
        valid_BNM: bool, whether the token is valid for the object.
        shrinkage_BM: shrinkage, at least 1; None stands for 1.
    """

    keys_BDM: Tensor
    values_BNCM: Tensor
    valid_BNM: Tensor
    shrinkage_BM: Tensor | None = None


def tokens(memory: Memory) -> Tokens:
    """Concatenate the tokens of all entries of a memory, in their order.

    Args:
        memory: entries with `per_object` B N C ..., `shared` "key" B D ... and, in all or none, "shrinkage" B 1 ...

    Raises:
        ValueError: "the memory is empty: give a mask before segmenting".
    """
    entries = list(memory.frames.values())
    if not entries:
        raise ValueError("the memory is empty: give a mask before segmenting")
    keys = [e.shared["key"].flatten(2) for e in entries]
    values = [e.per_object.flatten(3).transpose(2, 3) for e in entries]
    valid = [e.valid_BN[..., None].expand(-1, -1, k.shape[-1]) for e, k in zip(entries, keys, strict=True)]
    shrinkage = None
    if "shrinkage" in entries[0].shared:
        shrinkage = torch.cat([e.shared["shrinkage"].flatten(1) for e in entries], 1)
    return Tokens(torch.cat(keys, 2), torch.cat(values, 2).transpose(2, 3), torch.cat(valid, 2), shrinkage)


def similarity(
    keys_BDM: Tensor, query_BDP: Tensor, shrinkage_BM: Tensor | None = None, selection_BDP: Tensor | None = None
) -> Tensor:
    """Compute the similarity of each token and each query cell.

        -s_m sum_d e_dp (k_dm - q_dp)^2 / sqrt(D)

    It is one product in float32, with the square multiplied out: [2 s k, -s k^2, -s] with [e q, e, e q^2]. Without shrinkage
    the last term is left out, because it is the same for every token and softmax ignores it.

    Args:
        keys_BDM: keys of the tokens (k).
        query_BDP: keys of the query cells (q).
        shrinkage_BM: shrinkage of the tokens (s), at least 1. Default: 1.
        selection_BDP: selection of the query cells (e), in [0, 1]. Default: 1.

    Returns:
        Tensor [B, M, P], float32; the tokens of a query cell are adjacent in storage.

    Source: XMem, Eq. 2; in STCN s = e = 1.
    """
    keys_BMD, query_BPD = keys_BDM.float().transpose(1, 2), query_BDP.float().transpose(1, 2)
    query_BPD = query_BPD / math.sqrt(keys_BDM.shape[1])
    if selection_BDP is None:
        weight_BMX, query_BPX = 2 * keys_BMD, query_BPD
        bias_BM = -keys_BMD.square().sum(2) / math.sqrt(keys_BDM.shape[1])
    else:
        selection_BPD = selection_BDP.float().transpose(1, 2)
        weight_BMX = torch.cat([2 * keys_BMD, -keys_BMD.square()], 2)
        query_BPX = torch.cat([query_BPD * selection_BPD, selection_BPD / math.sqrt(keys_BDM.shape[1])], 2)
        bias_BM = None
    if shrinkage_BM is not None:
        common_BPD = query_BPD * query_BDP.float().transpose(1, 2)
        common_BP1 = (common_BPD if selection_BDP is None else common_BPD * selection_BPD).sum(2, keepdim=True)
        weight_BMX = torch.cat([weight_BMX, -torch.ones_like(weight_BMX[..., :1])], 2) * shrinkage_BM[..., None]
        query_BPX = torch.cat([query_BPX, common_BP1], 2)
        bias_BM = None if bias_BM is None else bias_BM * shrinkage_BM
    with exactly(weight_BMX):
        out = [
            linear(query, weight, None if bias_BM is None else bias_BM[b])
            for b, (query, weight) in enumerate(zip(query_BPX, weight_BMX, strict=True))
        ]
    return (torch.stack(out) if len(out) > 1 else out[0][None]).transpose(1, 2)


def read(
    similarity_BMP: Tensor, values_BNCM: Tensor, valid_BNM: Tensor | None = None, top_k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Read the values of an object for each query cell: their mean, weighted by a softmax of the similarity over the tokens.

    Objects for which the same tokens are valid share their weights.

    Args:
        similarity_BMP: from `similarity`.
        values_BNCM: values of the tokens.
        valid_BNM: bool, whether a token is valid for an object. Default: all for all.
        top_k: number of most similar tokens that are read; all if there are fewer. Default: all.

    Returns:
        Readout [B, N, C, P]; zeros for an object for which no token is valid. And use [B, M]: the weight of each token, summed
        over the query cells and averaged over the objects for which some token is valid; its sum is P, or 0 without any.
    """
    if valid_BNM is None or not valid_BNM.shape[1] or bool(valid_BNM.all()):
        return _read(similarity_BMP, values_BNCM, None, top_k)
    rows, group_N = torch.unique(valid_BNM.transpose(0, 1).flatten(1), dim=0, return_inverse=True)
    if len(rows) == 1:
        readout, use = _read(similarity_BMP, values_BNCM, valid_BNM[:, 0], top_k)
    else:
        batch, objects, width, _ = values_BNCM.shape
        readout = values_BNCM.new_zeros(batch, objects, width, similarity_BMP.shape[2])
        use = similarity_BMP.new_zeros(similarity_BMP.shape[:2])
        for group in range(len(rows)):
            planes = (group_N == group).nonzero()[:, 0]
            valid_BM = valid_BNM[:, planes[0]]
            if not bool(valid_BM.any()):
                continue
            part, used = _read(similarity_BMP, values_BNCM[:, planes], valid_BM, top_k)
            readout = readout.index_copy(1, planes, part)
            use = use + used * len(planes)
        valid_B1 = valid_BNM.any(2).sum(1, keepdim=True)
        use = use / valid_B1.clamp(min=1)
    return readout, use


def recall(
    memory: Tokens,
    query_BDP: Tensor,
    *,
    selection_BDP: Tensor | None = None,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `similarity` and `read` for a chunk of query cells at a time.

    The memory that this needs does not grow with the product of tokens and cells.

    Args:
        memory: tokens, from `tokens`.
        query_BDP: keys of the query cells.
        selection_BDP: selection of the query cells, in [0, 1]. Default: 1.
        top_k: see `read`.

    Returns:
        Readout [B, N, C, P] and use [B, M], as `read`.
    """
    count, cells = memory.keys_BDM.shape[2], query_BDP.shape[2]
    extra = 0 if torch.is_grad_enabled() or query_BDP.device.type != "cpu" else -count % STEP
    keys_BDM, shrinkage_BM = memory.keys_BDM, memory.shrinkage_BM
    if extra:
        keys_BDM = F.pad(keys_BDM, (0, extra))
        shrinkage_BM = None if shrinkage_BM is None else F.pad(shrinkage_BM, (0, extra))
    parts, step = [], max(1, CHUNK // max(count + extra, 1))
    for start in range(0, cells, step):
        chunk = slice(start, start + step)
        selection = None if selection_BDP is None else selection_BDP[..., chunk]
        similarity_BMP = similarity(keys_BDM, query_BDP[..., chunk], shrinkage_BM, selection)[:, :count]
        parts.append(read(similarity_BMP, memory.values_BNCM, memory.valid_BNM, top_k))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([readout for readout, _ in parts], 3), torch.stack([use for _, use in parts]).sum(0)


def aggregate(soft_BNHW: Tensor) -> Tensor:
    """Aggregate the masks of objects that were segmented independently.

    The background is prod(1 - p) over the objects. Each logit is log(p / (1 - p)), with p at least 1e-7 away from 0 and 1. The
    softmax of the logits gives soft masks that share each pixel.

    Args:
        soft_BNHW: soft masks p in [0, 1]; 0 for an object for which no frame is valid.

    Returns:
        Logits [B, 1+N, H, W], float32, the background first.
    """
    soft = soft_BNHW.float()
    rest = (1 - soft).prod(1, keepdim=True)
    p = torch.cat([rest, soft], 1).clamp(1e-7, 1 - 1e-7)
    return torch.log(p / (1 - p))


def settle(masks_BNHW: Tensor) -> Tensor:
    """Return soft masks that share each pixel, for masks that can overlap; masks of 0 and 1 change by at most 1e-6."""
    return aggregate(masks_BNHW).softmax(1)[:, 1:].to(masks_BNHW.dtype)


def others(masks_BNHW: Tensor) -> Tensor:
    """Return for each object the sum of the other objects' masks, not clamped; zeros if there is one object."""
    return masks_BNHW.sum(1, keepdim=True) - masks_BNHW


def _read(similarity_BMP: Tensor, values_BNCM: Tensor, valid_BM: Tensor | None, top_k: int | None) -> tuple[Tensor, Tensor]:
    """`read` for objects for which the same tokens are valid."""
    similarity_BPM = similarity_BMP.transpose(1, 2)
    if valid_BM is not None:
        # far below all others and yet finite: without any valid token the weights are equal, and `_valid_only` removes them
        similarity_BPM = similarity_BPM.masked_fill(~valid_BM[:, None], torch.finfo(similarity_BPM.dtype).min)
    batch, objects, width, count = values_BNCM.shape
    values_BNMC = values_BNCM.transpose(2, 3)
    if top_k is None or (top_k >= count and valid_BM is None):
        weights_BPM = _valid_only(similarity_BPM.softmax(2), valid_BM)
        mixed_BPX = weights_BPM.to(values_BNMC.dtype) @ values_BNMC.transpose(1, 2).reshape(batch, count, objects * width)
        return mixed_BPX.unflatten(2, (objects, width)).permute(0, 2, 3, 1), weights_BPM.sum(1)
    best_BPK, index_BPK = similarity_BPM.topk(min(top_k, count), 2, sorted=False)
    weights_BPK = _valid_only(best_BPK.softmax(2), valid_BM)
    use_BM = torch.zeros_like(similarity_BPM[:, 0]).scatter_add(1, index_BPK.flatten(1), weights_BPK.flatten(1))
    start_BN11 = torch.arange(batch * objects, device=index_BPK.device).view(batch, objects, 1, 1) * count
    bags = (index_BPK[:, None] + start_BN11).flatten(0, 2)
    bag_weights = weights_BPK.to(values_BNMC.dtype)[:, None].expand(-1, objects, -1, -1).reshape(bags.shape)
    mixed = F.embedding_bag(bags, values_BNMC.reshape(-1, width), per_sample_weights=bag_weights, mode="sum")
    return mixed.view(batch, objects, -1, width).transpose(2, 3), use_BM


def _valid_only(weights_BPX: Tensor, valid_BM: Tensor | None) -> Tensor:
    """The weights, zero in a clip in which no token is valid for the object."""
    return weights_BPX if valid_BM is None else weights_BPX * valid_BM.any(1)[:, None, None]
