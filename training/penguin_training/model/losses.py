"""The losses of training, as pure functions.

Axes: V visual tokens; S width of the student's features after the adapter, equal to that of the teacher's; K positions
that are learnt; D width of the decoder. All are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BETA = 0.001
"""Where smooth L1 turns from a parabola into a line (released code)."""
_ROWS_PER_PASS = 4096


def cross_entropy_sum(hidden: Tensor, targets: Tensor, weights: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Weighted sum of the cross-entropy over learnt positions.

    Logits are made for so many positions at a time, and made again for the gradient: with a large vocabulary they
    would otherwise be the largest thing in memory.

    Args:
        hidden: [K, D], the decoder's last states where the next token is learnt.
        targets: int64 [K].
        weights: float32 [K].
        head: [rows, D] -> logits [rows, vocabulary].

    Returns:
        A scalar; 0 where K is 0, still joined to `hidden`.
    """

    def of_rows(states: Tensor, wanted: Tensor, weigh: Tensor) -> Tensor:
        return (weigh * F.cross_entropy(head(states).float(), wanted, reduction="none")).sum()

    if len(targets) <= _ROWS_PER_PASS:
        return of_rows(hidden, targets, weights)
    rows = zip(*(whole.split(_ROWS_PER_PASS) for whole in (hidden, targets, weights)), strict=True)
    return torch.stack([checkpoint(of_rows, *part, use_reentrant=False) for part in rows]).sum()


def direction_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - mean cosine between rows of [V, S]."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def amplitude_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between [V, S], mean over all elements."""
    return F.smooth_l1_loss(student.float(), teacher.float(), beta=BETA)


def relation_loss(student: Tensor, teacher: Tensor, groups: Sequence[int] | None = None) -> Tensor:
    """Smooth L1 between the similarities that patches have to each other in student and teacher.

    Similarities are the products of L2-normalised rows.

    Args:
        student: [V, S].
        teacher: [V, S'].
        groups: tokens of each image: patches of one image are compared with each other, and the losses of the images
            are averaged (the paper). None compares all rows with each other (the released code, over the rows of a
            micro-batch).
    """
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    if groups is None:
        return _between_similarities(student, teacher)
    # Images with equal numbers of tokens go through together.
    by_length: dict[int, list[int]] = {}
    start = 0
    for length in groups:
        by_length.setdefault(length, []).append(start)
        start += length
    total = student.new_zeros(())
    for length, starts in by_length.items():
        rows = torch.tensor(starts)[:, None] + torch.arange(length)  # [images, length]
        ours, theirs = (x[rows.to(x.device)] for x in (student, teacher))
        total = total + len(starts) * _between_similarities(ours, theirs)
    return total / len(groups)


def _between_similarities(ours: Tensor, theirs: Tensor) -> Tensor:
    """Smooth L1 between the products of normalised rows [..., V, S] with each other."""
    with torch.autocast(ours.device.type, enabled=False):  # bfloat16 products differ by more than `BETA`
        return F.smooth_l1_loss(ours @ ours.mT, theirs @ theirs.mT, beta=BETA)
