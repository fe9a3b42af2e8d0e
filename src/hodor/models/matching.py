"""Pixel memories of STCN, XMem and Cutie: what matches what, and what is read there. Pure functions without parameters.

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
"""Similarities worked out at a time, few enough to stay in a cache; query cells beyond that are taken in several goes."""
STEP = 512
"""Without gradients on a CPU, tokens are filled up to a multiple of this: the library of `Linear` keeps a program, about a
megabyte, for each size of a product that it has met, and a long-term memory has hundreds of sizes until it is full."""


class Tokens(NamedTuple):
    """A memory's frames, one after another: keys_BDM (all channels of `Entry.shared`), values_BNCM (each token's channels
    side by side in storage, as `read` likes them), valid_BNM (whether the token speaks for the object)."""

    keys_BDM: Tensor
    values_BNCM: Tensor
    valid_BNM: Tensor


def tokens(memory: Memory) -> Tokens:
    """All tokens of `memory.frames`, in their order. An entry's `shared` is B D ..., its `per_object` B N C ...

    Raises ValueError: "the memory holds no frame".
    """
    entries = list(memory.frames.values())
    if not entries:
        raise ValueError("the memory holds no frame")
    keys = [e.shared.flatten(2) for e in entries]
    values = [e.per_object.flatten(3).transpose(2, 3) for e in entries]
    known = [e.valid_BN[..., None].expand(-1, -1, k.shape[-1]) for e, k in zip(entries, keys, strict=True)]
    return Tokens(torch.cat(keys, 2), torch.cat(values, 2).transpose(2, 3), torch.cat(known, 2))


def similarity(
    keys_BDM: Tensor, query_BDP: Tensor, shrinkage_BM: Tensor | None = None, selection_BDP: Tensor | None = None
) -> Tensor:
    """-> B M P: -s_m sum_d e_dp (k_dm - q_dp)^2 / sqrt(D)                          XMem, Eq. 2; STCN has s = e = 1

    shrinkage s >= 1, selection e in [0, 1]; both 1 where None. One product in float32, the square multiplied out:
    [2 s k, -s k^2, -s] with [e q, e, e q^2]. With no shrinkage the last term is left out: it is the same for every token,
    which softmax ignores. In storage the tokens of a query cell lie side by side.
    """
    keys_BMD, query_BPD = keys_BDM.float().transpose(1, 2), query_BDP.float().transpose(1, 2)
    query_BPD = query_BPD / math.sqrt(keys_BDM.shape[1])
    if selection_BDP is None:
        weight_BMX, sought_BPX = 2 * keys_BMD, query_BPD
        alone_BM = -keys_BMD.square().sum(2) / math.sqrt(keys_BDM.shape[1])
    else:
        chosen_BPD = selection_BDP.float().transpose(1, 2)
        weight_BMX = torch.cat([2 * keys_BMD, -keys_BMD.square()], 2)
        sought_BPX = torch.cat([query_BPD * chosen_BPD, chosen_BPD / math.sqrt(keys_BDM.shape[1])], 2)
        alone_BM = None
    if shrinkage_BM is not None:
        common_BPD = query_BPD * query_BDP.float().transpose(1, 2)
        common_BP1 = (common_BPD if selection_BDP is None else common_BPD * chosen_BPD).sum(2, keepdim=True)
        weight_BMX = torch.cat([weight_BMX, -torch.ones_like(weight_BMX[..., :1])], 2) * shrinkage_BM[..., None]
        sought_BPX = torch.cat([sought_BPX, common_BP1], 2)
        alone_BM = None if alone_BM is None else alone_BM * shrinkage_BM
    with exactly(weight_BMX):
        out = [
            linear(sought, weight, None if alone_BM is None else alone_BM[b])
            for b, (sought, weight) in enumerate(zip(sought_BPX, weight_BMX, strict=True))
        ]
    return (torch.stack(out) if len(out) > 1 else out[0][None]).transpose(1, 2)


def read(
    similarity_BMP: Tensor, values_BNCM: Tensor, valid_BNM: Tensor | None = None, top_k: int | None = None
) -> tuple[Tensor, Tensor]:
    """-> readout B N C P, what each query cell reads for each object; use B M, what weight each token had, over all cells.

    A softmax over M weighs the tokens; with `top_k` only that many largest speak (all, where there are fewer). valid_BNM:
    which tokens speak for which object, None: all for all. Objects that the same tokens know share their weights; an object
    that none knows reads zeros. use is the mean over the objects that some token knows, so it sums to P, or to 0.
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
    shrinkage_BM: Tensor | None = None,
    selection_BDP: Tensor | None = None,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`similarity` and `read` in one, a chunk of query cells at a time, so that its memory does not grow with both sides.

    memory.keys_BDM must be keys alone: whatever else `Entry.shared` stacks on them is cut off by the caller.
    """
    count, cells = memory.keys_BDM.shape[2], query_BDP.shape[2]
    extra = 0 if torch.is_grad_enabled() or query_BDP.device.type != "cpu" else -count % STEP
    keys_BDM = memory.keys_BDM
    if extra:
        keys_BDM = F.pad(keys_BDM, (0, extra))
        shrinkage_BM = None if shrinkage_BM is None else F.pad(shrinkage_BM, (0, extra))
    parts, step = [], max(1, CHUNK // max(count + extra, 1))
    for start in range(0, cells, step):
        here = slice(start, start + step)
        chosen = None if selection_BDP is None else selection_BDP[..., here]
        alike_BMP = similarity(keys_BDM, query_BDP[..., here], shrinkage_BM, chosen)[:, :count]
        parts.append(read(alike_BMP, memory.values_BNCM, memory.valid_BNM, top_k))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([readout for readout, _ in parts], 3), torch.stack([use for _, use in parts]).sum(0)


def aggregate(soft_BNHW: Tensor) -> Tensor:
    """-> logits B 1+N H W, float32: objects that were segmented each for itself, brought together.

    Background is where no object is, prod(1 - p); then each logit is log(p / (1 - p)), p kept within 1e-7 of 0 and 1. Their
    softmax is a soft mask of all. An object that no frame knows comes with p = 0.
    """
    soft = soft_BNHW.float()
    rest = (1 - soft).prod(1, keepdim=True)
    p = torch.cat([rest, soft], 1).clamp(1e-7, 1 - 1e-7)
    return torch.log(p / (1 - p))


def settle(masks_BNHW: Tensor) -> Tensor:
    """Masks that may overlap -> soft masks that share each pixel; leaves masks of 0 and 1 as they are, but for 1e-6."""
    return aggregate(masks_BNHW).softmax(1)[:, 1:].to(masks_BNHW.dtype)


def others(masks_BNHW: Tensor) -> Tensor:
    """For each object the sum of the other objects' masks, not clamped; zeros for one alone."""
    return masks_BNHW.sum(1, keepdim=True) - masks_BNHW


def _read(similarity_BMP: Tensor, values_BNCM: Tensor, valid_BM: Tensor | None, top_k: int | None) -> tuple[Tensor, Tensor]:
    """`read` for objects that the same tokens know."""
    alike_BPM = similarity_BMP.transpose(1, 2)
    if valid_BM is not None:
        # far below all others and yet finite: what nobody knows gets equal weights, and then none
        alike_BPM = alike_BPM.masked_fill(~valid_BM[:, None], torch.finfo(alike_BPM.dtype).min)
    batch, objects, width, count = values_BNCM.shape
    values_BNMC = values_BNCM.transpose(2, 3)
    if top_k is None or (top_k >= count and valid_BM is None):
        weights_BPM = _speaking(alike_BPM.softmax(2), valid_BM)
        mixed_BPX = weights_BPM.to(values_BNMC.dtype) @ values_BNMC.transpose(1, 2).reshape(batch, count, objects * width)
        return mixed_BPX.unflatten(2, (objects, width)).permute(0, 2, 3, 1), weights_BPM.sum(1)
    best_BPK, index_BPK = alike_BPM.topk(min(top_k, count), 2, sorted=False)
    weights_BPK = _speaking(best_BPK.softmax(2), valid_BM)
    use_BM = torch.zeros_like(alike_BPM[:, 0]).scatter_add(1, index_BPK.flatten(1), weights_BPK.flatten(1))
    start_BN11 = torch.arange(batch * objects, device=index_BPK.device).view(batch, objects, 1, 1) * count
    bags = (index_BPK[:, None] + start_BN11).flatten(0, 2)
    speaking = weights_BPK.to(values_BNMC.dtype)[:, None].expand(-1, objects, -1, -1).reshape(bags.shape)
    mixed = F.embedding_bag(bags, values_BNMC.reshape(-1, width), per_sample_weights=speaking, mode="sum")
    return mixed.view(batch, objects, -1, width).transpose(2, 3), use_BM


def _speaking(weights_BPX: Tensor, valid_BM: Tensor | None) -> Tensor:
    """No weight at all in a clip where no token knows the object."""
    return weights_BPX if valid_BM is None else weights_BPX * valid_BM.any(1)[:, None, None]
