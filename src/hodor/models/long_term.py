"""Long-term memory: old frames become a few prototypes, chosen by how often they were read (XMem, section 3.3).

    count         after each read: the weight that each token had
    keep          the working memory within its bounds; frames beyond them are consolidated
    consolidate   the most used tokens of old frames, each with the mean value of the tokens similar to it

`Entry.shared` has "key", "shrinkage" and "selection". `Entry.per_object` has values, B N C and then h w (a frame) or P
(prototypes). Prototypes have negative indices, one entry for every set of objects for which they are valid. `Memory.tally` has,
under "used.INDEX", for each token of an entry the sum of its weights and the number of its reads, B 2 M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hodor.models.base import Entry, Memory
from hodor.models.matching import similarity

PROTOTYPES, MAX_PROTOTYPES = 128, 10_000
"""The paper's values: prototypes of one consolidation, and of the long-term memory."""

KEYS = ("key", "shrinkage", "selection")
"""The maps of a frame that its entry keeps: B D ..., B 1 ... (at least 1) and B D ... (in [0, 1])."""


def count(memory: Memory, use_BM: Tensor) -> Memory:
    """Return the memory after a read, with the use of its tokens counted.

    Args:
        memory: the memory that was read.
        use_BM: the sum of the weights of each token, entry after entry.
    """
    tally = dict(memory.tally)
    sizes = [_tokens(entry) for entry in memory.frames.values()]
    for index, use_BK in zip(memory.frames, use_BM.detach().float().split(sizes, 1), strict=True):
        new_B2K = torch.stack([use_BK, torch.ones_like(use_BK)], 1)
        old_B2K = tally.get(_name(index))
        tally[_name(index)] = new_B2K if old_B2K is None else old_B2K + new_B2K
    return replace(memory, tally=tally)


def keep(
    memory: Memory,
    history: int,
    pin_first: bool,
    *,
    prototypes: int = PROTOTYPES,
    max_prototypes: int = MAX_PROTOTYPES,
) -> Memory:
    """Return the memory within its bounds.

    Frames are kept until there are too many. Then the latest few are kept (history / 2 with the first one, T_min), and the
    older ones become prototypes. Entries that are valid for no object any more are dropped.

    Args:
        memory: the memory after a frame.
        history: bound on the number of frames (T_max): fewer than this are kept.
        pin_first: whether, for each object, the first and the latest frame with a given mask are never consolidated. The
            original pins the first frame of the video only, which is the same where all objects begin there.
        prototypes: maximum number of prototypes from one consolidation. Default: 128.
        max_prototypes: maximum number of all prototypes. Default: 10,000.

    Raises:
        ValueError: "expected a memory of 1 clip to consolidate, got 2".
    """
    memory = _tidy(memory)
    frames = [i for i in memory.frames if i >= 0]
    pinned = _given(memory, frames) if pin_first else set()
    loose = [i for i in frames if i not in pinned]
    recent = max(1, history // 2 - 1)
    if len(loose) < max(recent + 1, history - 1):
        return memory
    prototypes = min(prototypes, max_prototypes)
    return consolidate(forget_least_used(memory, max_prototypes - prototypes), loose[:-recent], prototypes)


def consolidate(memory: Memory, indices: Sequence[int], prototypes: int) -> Memory:
    """Return the memory with some frames replaced by their most used tokens, the prototypes.

    A prototype keeps its key and its selection. Its value, for each object, is the mean of the values of all tokens that are
    valid for the object, with the weights of a read whose query is the prototype (softmax over these tokens). Its shrinkage is
    such a mean over all tokens. A prototype is valid for the objects for which its own frame was valid.

    Args:
        memory: the memory.
        indices: the frames to replace.
        prototypes: maximum number of prototypes.
    """
    old = {i: memory.frames[i] for i in indices if bool(memory.frames[i].valid_BN.any())}
    use_BM = torch.cat([_use(memory, i) for i in old], 1) if old else torch.zeros(1, 0)
    memory = _tidy(replace(memory, frames={i: e for i, e in memory.frames.items() if i not in indices}))
    if not old:
        return memory
    if len(use_BM) != 1:
        raise ValueError(f"expected a memory of 1 clip to consolidate, got {len(use_BM)}")
    entries = list(old.values())
    sizes = torch.tensor([_tokens(e) for e in entries], device=use_BM.device)
    key_BDM, shrinkage_B1M, selection_BDM = (torch.cat([e.shared[name].flatten(2) for e in entries], 2) for name in KEYS)
    values_BNDM = torch.cat([e.per_object.flatten(3) for e in entries], 3)
    valid_NM = torch.stack([e.valid_BN[0] for e in entries], 1).repeat_interleave(sizes, 1)
    chosen_P = use_BM[0].topk(min(prototypes, use_BM.shape[1])).indices.sort().values
    key_BDP, selection_BDP = key_BDM[..., chosen_P], selection_BDM[..., chosen_P]
    similarity_MP = similarity(key_BDM, key_BDP, shrinkage_B1M[:, 0], selection_BDP)[0].float()
    mean_P = (shrinkage_B1M[0, 0].float() @ similarity_MP.softmax(0)).to(shrinkage_B1M.dtype)
    shared = {"key": key_BDP, "shrinkage": mean_P[None, None], "selection": selection_BDP}
    read_NDP = torch.zeros_like(values_BNDM[0, :, :, chosen_P])
    for group_M in valid_NM.unique(dim=0):
        planes = (valid_NM == group_M).all(1).nonzero().flatten()
        if bool(group_M.any()):
            weights_MP = similarity_MP[group_M].softmax(0).to(values_BNDM.dtype)
            read_NDP[planes] = values_BNDM[0][planes][..., group_M] @ weights_MP
    pattern_PN = valid_NM[:, chosen_P].t()
    for pattern_N in pattern_PN.unique(dim=0):
        same_P = (pattern_PN == pattern_N).all(1)
        values_NDP = read_NDP[..., same_P] * pattern_N[:, None, None]
        part = {name: each[..., same_P] for name, each in shared.items()}
        memory = _append(memory, pattern_N[None], values_NDP[None], part)
    return memory


def forget_least_used(memory: Memory, max_prototypes: int) -> Memory:
    """Return the memory without its least used prototypes.

    Args:
        memory: the memory.
        max_prototypes: number of prototypes to keep: those with the largest mean weight in the reads that they took part in.
    """
    long = {i: e for i, e in memory.frames.items() if i < 0}
    sizes = [_tokens(e) for e in long.values()]
    if sum(sizes) <= max_prototypes:
        return memory
    use_M = torch.cat([_use(memory, i) for i in long], 1)[0]
    kept_M = torch.zeros_like(use_M, dtype=torch.bool)
    kept_M[use_M.topk(max_prototypes).indices] = True
    frames, tally = dict(memory.frames), dict(memory.tally)
    for (i, entry), kept_K in zip(long.items(), kept_M.split(sizes), strict=True):
        shared = {name: each[..., kept_K] for name, each in entry.shared.items()}
        frames[i] = replace(entry, per_object=entry.per_object[..., kept_K], shared=shared)
        if _name(i) in tally:
            tally[_name(i)] = tally[_name(i)][..., kept_K]
    return _tidy(replace(memory, frames=frames, tally=tally))


def _append(memory: Memory, valid_BN: Tensor, values_BNDP: Tensor, shared: Mapping[str, Tensor]) -> Memory:
    """Add prototypes to the entry that is valid for the same objects, or to a new one before all others."""
    same = [i for i, e in memory.frames.items() if i < 0 and bool((e.valid_BN == valid_BN).all())]
    if not same:
        index = min([0, *memory.frames]) - 1
        complete_B = torch.ones(len(valid_BN), dtype=torch.bool, device=valid_BN.device)
        entry = Entry(values_BNDP, shared, valid_BN, torch.zeros_like(valid_BN), complete_B)
        return replace(memory, frames={index: entry, **memory.frames})
    index, entry = same[0], memory.frames[same[0]]
    tally = dict(memory.tally)
    if _name(index) in tally:
        old_B2M = tally[_name(index)]
        tally[_name(index)] = torch.cat([old_B2M, old_B2M.new_zeros(*old_B2M.shape[:2], values_BNDP.shape[3])], 2)
    entry = replace(
        entry,
        per_object=torch.cat([entry.per_object, values_BNDP], 3),
        shared={name: torch.cat([entry.shared[name], each], 2) for name, each in shared.items()},
    )
    return replace(memory, frames={**memory.frames, index: entry}, tally=tally)


def _given(memory: Memory, frames: Sequence[int]) -> set[int]:
    """For each object the first and the latest frame on which its mask was given."""
    pinned: set[int] = set()
    for plane in range(len(memory.objects)):
        given = [i for i in frames if bool(memory.frames[i].given_BN[:, plane].any())]
        pinned.update(given[:1] + given[-1:])
    return pinned


def _tidy(memory: Memory) -> Memory:
    """The memory without prototypes that are valid for no object, and without counts of entries that are gone."""
    frames = {i: e for i, e in memory.frames.items() if i >= 0 or (bool(e.valid_BN.any()) and _tokens(e))}
    names = {_name(i) for i in frames}
    tally = {name: t for name, t in memory.tally.items() if name in names or not name.startswith("used.")}
    return replace(memory, frames=frames, tally=tally)


def _use(memory: Memory, index: int) -> Tensor:
    """The mean weight of each token of an entry in the reads that it took part in, [B, M]; 0 before the first."""
    tally = memory.tally.get(_name(index))
    if tally is None:
        entry = memory.frames[index]
        key = entry.shared["key"]
        return key.new_zeros(len(key), _tokens(entry), dtype=torch.float32)
    return tally[:, 0] / tally[:, 1].clamp(min=1)


def _tokens(entry: Entry) -> int:
    return entry.shared["key"][0, 0].numel()


def _name(index: int) -> str:
    return f"used.{index}"
