"""The measures J and F of video object segmentation, from `hodor.scoring.metrics`."""

from hodor.scoring.metrics import (
    BOUND,
    FrameScores,
    Statistics,
    average,
    boundary,
    boundary_f,
    frame_scores,
    jaccard,
    mose_f,
    mose_j,
    pair_scores,
    statistics,
)

__all__ = [
    "BOUND",
    "FrameScores",
    "Statistics",
    "average",
    "boundary",
    "boundary_f",
    "frame_scores",
    "jaccard",
    "mose_f",
    "mose_j",
    "pair_scores",
    "statistics",
]
