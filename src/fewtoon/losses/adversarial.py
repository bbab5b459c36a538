"""Adversarial losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def least_squares(logit: Tensor, target: float) -> Tensor:
    """mean (logit - target)^2: LSGAN with labels 1 for real and 0 for fake (Mao et al., arXiv:1611.04076, eq. 2).

    logit: any shape. Returns a float32 scalar.
    """
    return (logit.float() - target).square().mean()


def logistic(logit: Tensor, real: bool) -> Tensor:
    """mean softplus(-logit), or of softplus(logit) where not `real`: the non-saturating logistic loss.

    Goodfellow et al., arXiv:1406.2661, section 3. logit: any shape. Returns a float32 scalar.
    """
    logit = logit.float()
    return F.softplus(-logit if real else logit).mean()


def classification(logit: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits against one label, the mean over all of them; float32 scalar."""
    logit = logit.float()
    return F.binary_cross_entropy_with_logits(logit, logit.new_full(logit.shape, target))


def group_classification(logit: Tensor, groups: Tensor, squared: bool = False) -> Tensor:
    """How far a classifier's logits (B, G) are from the groups (B,) int64, the mean over the batch; float32.

    Cross-entropy (Face2Webtoon), or the squared error from the one-hot vector, averaged over the groups too
    (Zhuang & Yang, arXiv:2007.13332). Pictures of no group, -1, have no part; 0 where there are no others.
    """
    logit, known = logit.float(), groups >= 0
    if not known.all():
        logit, groups = logit[known], groups[known]
    if not len(groups):
        return logit.sum()
    if squared:
        return F.mse_loss(logit, F.one_hot(groups, logit.shape[1]).float())
    return F.cross_entropy(logit, groups)
