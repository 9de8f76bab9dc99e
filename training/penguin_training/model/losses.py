"""The losses of training, as pure functions, computed in float32.

Axes: V visual tokens; S width of the teacher's features and of the student's after the adapter; K positions that are
learnt; D width of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BETA = 0.001  # Where smooth L1 changes from a parabola to a line (released code)
_ROWS_PER_PASS = 4096


def log_probabilities(
    hidden: Tensor,  # [K, D], the decoder's last hidden states at positions whose next token is learnt
    targets: Tensor,  # int64 [K]
    head: Callable[[Tensor], Tensor],  # [rows, D] -> logits [rows, vocabulary]
) -> Tensor:
    """Returns the log-probability of each learnt token: float32 [K].

    Logits are computed in passes, and recomputed for the gradient: with a large vocabulary they would otherwise be the
    largest tensor in memory.
    """

    def of_rows(states: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(head(states).float(), targets, reduction="none")

    if len(targets) <= _ROWS_PER_PASS:
        return of_rows(hidden, targets)
    passes = zip(*(whole.split(_ROWS_PER_PASS) for whole in (hidden, targets)), strict=True)  # type: ignore[no-untyped-call]
    return torch.cat([checkpoint(of_rows, *part, use_reentrant=False) for part in passes])


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Returns an estimate of the divergence KL(policy || reference) at each token of a sample of the policy: [K].

    r - log r - 1 with r = reference / policy, given log-probabilities [K]: never negative, and unbiased (GRPO:
    DeepSeekMath, arXiv 2402.03300, equation 4).
    """
    log_ratio = reference - policy
    return log_ratio.exp() - log_ratio - 1


def direction_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns 1 - mean cosine similarity between the rows of [V, S]."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def amplitude_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the smooth L1 loss between [V, S], averaged over all elements."""
    return F.smooth_l1_loss(student.float(), teacher.float(), beta=BETA)


def relation_loss(student: Tensor, teacher: Tensor, groups: Sequence[int] | None = None) -> Tensor:
    """Returns the smooth L1 loss between the patch-to-patch cosine similarities of student [V, S] and teacher [V, S'].

    With `groups`, the tokens of each image, only patches of the same image are compared, and the losses of the images
    are averaged (paper). None compares all rows of the micro-batch (released code).
    """
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    if groups is None:
        return _similarity_loss(student, teacher)
    images = zip(student.split(list(groups)), teacher.split(list(groups)), strict=True)  # type: ignore[no-untyped-call]
    return torch.stack([_similarity_loss(*image) for image in images]).mean()


def _similarity_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Compares normalised rows [..., V, S]."""
    with torch.autocast(ours.device.type, enabled=False):  # bfloat16 rounds by more than `BETA`
        return F.smooth_l1_loss(ours @ ours.mT, theirs @ theirs.mT, beta=BETA)
