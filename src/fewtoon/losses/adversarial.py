"""Adversarial losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def least_squares(logit: Tensor, target: float) -> Tensor:
    """mean (logit - target)^2: LSGAN with labels 1 for real and 0 for fake (Mao et al., arXiv:1611.04076, eq. 2).

    logit: any shape. Returns a float32 scalar.
    """
    return (logit.float() - target).square().mean()


def classification(logit: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits against one label, the mean over all of them; float32 scalar."""
    logit = logit.float()
    return F.binary_cross_entropy_with_logits(logit, logit.new_full(logit.shape, target))
