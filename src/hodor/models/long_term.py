"""Long-term memory: old frames become a few prototypes, chosen by how often they were read (XMem, section 3.3).

    count         after each read: how much each token spoke
    keep          the working memory within its bounds; what leaves it is consolidated
    consolidate   the most used tokens of old frames, each with the mean value of what resembles it

`Entry.shared` holds key, shrinkage and selection along the channels (see `parts`); `Entry.per_object` holds values, B N C
and then h w (a frame) or P (prototypes). Prototypes stand under negative indices, one entry for every set of objects that
they know. `Memory.tally` has, under "used.INDEX", for each token of an entry the sum of its weights and how often it was
read, B 2 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hodor.models.base import Entry, Memory
from hodor.models.matching import similarity

PROTOTYPES, MOST = 128, 10_000
"""What the paper takes: prototypes of one consolidation, tokens of the long-term memory."""


def parts(shared_BDX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> key B Ck M, shrinkage B M (at least 1) and selection B Ck M (in [0, 1]) of an entry's `shared`."""
    flat_BDM = shared_BDX.flatten(2)
    width = (flat_BDM.shape[1] - 1) // 2
    return flat_BDM[:, :width], flat_BDM[:, width], flat_BDM[:, width + 1 :]


def count(memory: Memory, use_BM: Tensor) -> Memory:
    """The memory after a read in which each token, entry after entry, had this sum of weights."""
    tally = dict(memory.tally)
    sizes = [_tokens(entry) for entry in memory.frames.values()]
    for index, use_BK in zip(memory.frames, use_BM.detach().float().split(sizes, 1), strict=True):
        new_B2K = torch.stack([use_BK, torch.ones_like(use_BK)], 1)
        old_B2K = tally.get(_name(index))
        tally[_name(index)] = new_B2K if old_B2K is None else old_B2K + new_B2K
    return replace(memory, tally=tally)


def keep(memory: Memory, history: int, pin_first: bool, *, prototypes: int = PROTOTYPES, most: int = MOST) -> Memory:
    """The memory within its bounds: fewer than `history` frames (T_max), and at most `most` prototypes.

    Frames stay as they are until there are too many; then the latest few stay (history / 2 with the first one, T_min), and
    the older become at most `prototypes` prototypes. pin_first: for each object the first and the latest frame that was
    given are never consolidated. The original pins the first frame of the video alone, which is the same where all objects
    begin there. Entries that know no object any more are dropped.

    Raises ValueError: "the memory holds 2 clips, want 1 to consolidate".
    """
    memory = _tidy(memory)
    frames = [i for i in memory.frames if i >= 0]
    pinned = _given(memory, frames) if pin_first else set()
    loose = [i for i in frames if i not in pinned]
    recent = max(1, history // 2 - 1)
    if len(loose) < max(recent + 1, history - 1):
        return memory
    prototypes = min(prototypes, most)
    return consolidate(forget_least_used(memory, most - prototypes), loose[:-recent], prototypes)


def consolidate(memory: Memory, indices: Sequence[int], prototypes: int) -> Memory:
    """These frames replaced by their most used tokens, at most `prototypes` of them.

    A prototype keeps its key and selection. Its value, of each object, is the mean of the values of all tokens that know
    the object, weighted as a read with the prototype for a query would (the softmax over all tokens); so is its shrinkage,
    over all tokens. A prototype knows the objects that its own frame knew.
    """
    old = {i: memory.frames[i] for i in indices if bool(memory.frames[i].valid_BN.any())}
    use_BM = torch.cat([_use(memory, i) for i in old], 1) if old else torch.zeros(1, 0)
    memory = _tidy(replace(memory, frames={i: e for i, e in memory.frames.items() if i not in indices}))
    if not old:
        return memory
    if len(use_BM) != 1:
        raise ValueError(f"the memory holds {len(use_BM)} clips, want 1 to consolidate")
    entries = list(old.values())
    sizes = torch.tensor([_tokens(e) for e in entries], device=use_BM.device)
    shared_BDM = torch.cat([e.shared.flatten(2) for e in entries], 2)
    values_BNDM = torch.cat([e.per_object.flatten(3) for e in entries], 3)
    valid_NM = torch.stack([e.valid_BN[0] for e in entries], 1).repeat_interleave(sizes, 1)
    chosen_P = use_BM[0].topk(min(prototypes, use_BM.shape[1])).indices.sort().values
    key, shrinkage, selection = parts(shared_BDM)
    alike_MP = similarity(key, key[..., chosen_P], shrinkage, selection[..., chosen_P])[0].float()
    mean_P = (shrinkage[0].float() @ alike_MP.softmax(0)).to(shrinkage.dtype)
    shared_DP = torch.cat([key[0, :, chosen_P], mean_P[None], selection[0, :, chosen_P]])
    read_NDP = torch.zeros_like(values_BNDM[0, :, :, chosen_P])
    for knows_M in valid_NM.unique(dim=0):
        planes = (valid_NM == knows_M).all(1).nonzero().flatten()
        if bool(knows_M.any()):
            weights_MP = alike_MP[knows_M].softmax(0).to(values_BNDM.dtype)
            read_NDP[planes] = values_BNDM[0][planes][..., knows_M] @ weights_MP
    pattern_PN = valid_NM[:, chosen_P].t()
    for pattern_N in pattern_PN.unique(dim=0):
        mine_P = (pattern_PN == pattern_N).all(1)
        values_NDP = read_NDP[..., mine_P] * pattern_N[:, None, None]
        memory = _append(memory, pattern_N[None], values_NDP[None], shared_DP[None, :, mine_P])
    return memory


def forget_least_used(memory: Memory, most: int) -> Memory:
    """The memory with at most `most` prototypes: those that were used most for each time they were read."""
    long = {i: e for i, e in memory.frames.items() if i < 0}
    sizes = [_tokens(e) for e in long.values()]
    if sum(sizes) <= most:
        return memory
    use_M = torch.cat([_use(memory, i) for i in long], 1)[0]
    stays_M = torch.zeros_like(use_M, dtype=torch.bool)
    stays_M[use_M.topk(most).indices] = True
    frames, tally = dict(memory.frames), dict(memory.tally)
    for (i, entry), stays_K in zip(long.items(), stays_M.split(sizes), strict=True):
        frames[i] = replace(entry, per_object=entry.per_object[..., stays_K], shared=entry.shared[..., stays_K])
        if _name(i) in tally:
            tally[_name(i)] = tally[_name(i)][..., stays_K]
    return _tidy(replace(memory, frames=frames, tally=tally))


def _append(memory: Memory, valid_BN: Tensor, values_BNDP: Tensor, shared_BDP: Tensor) -> Memory:
    """Prototypes added to the entry that knows these very objects, or to a new one before all others."""
    same = [i for i, e in memory.frames.items() if i < 0 and bool((e.valid_BN == valid_BN).all())]
    if not same:
        index = min([0, *memory.frames]) - 1
        confidence_B = torch.ones(len(valid_BN), dtype=torch.bool, device=valid_BN.device)
        entry = Entry(values_BNDP, shared_BDP, valid_BN, torch.zeros_like(valid_BN), confidence_B)
        return replace(memory, frames={index: entry, **memory.frames})
    index, entry = same[0], memory.frames[same[0]]
    tally = dict(memory.tally)
    if _name(index) in tally:
        old_B2M = tally[_name(index)]
        tally[_name(index)] = torch.cat([old_B2M, old_B2M.new_zeros(*old_B2M.shape[:2], shared_BDP.shape[2])], 2)
    entry = replace(
        entry,
        per_object=torch.cat([entry.per_object, values_BNDP], 3),
        shared=torch.cat([entry.shared, shared_BDP], 2),
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
    """Without prototypes that know nobody, and without counts of what is no longer there."""
    frames = {i: e for i, e in memory.frames.items() if i >= 0 or (bool(e.valid_BN.any()) and _tokens(e))}
    names = {_name(i) for i in frames}
    tally = {name: t for name, t in memory.tally.items() if name in names or not name.startswith("used.")}
    return replace(memory, frames=frames, tally=tally)


def _use(memory: Memory, index: int) -> Tensor:
    """B M: the mean weight of each token of an entry in the reads that it took part in; 0 before the first."""
    tally = memory.tally.get(_name(index))
    if tally is None:
        entry = memory.frames[index]
        return entry.shared.new_zeros(len(entry.shared), _tokens(entry), dtype=torch.float32)
    return tally[:, 0] / tally[:, 1].clamp(min=1)


def _tokens(entry: Entry) -> int:
    return entry.shared[0, 0].numel()


def _name(index: int) -> str:
    return f"used.{index}"
