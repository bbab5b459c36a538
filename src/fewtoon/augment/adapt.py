"""ADA: as much augmentation as the discriminators need so that they do not learn the real pictures by heart.

Karras et al., Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, arXiv:2006.06676,
section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewtoon.augment.pipeline import Pipeline
from fewtoon.errors import Problem


class Ada(nn.Module):
    """The pipeline at a probability p that follows how sure the discriminators are of the real pictures.

    The paper's r_t = E[sign D(real)] is for logits whose zero lies between real and fake. Least squares with
    labels 1 and 0 (LSGAN) has that point at 0.5, hence r = E[sign(D(real) - 0.5)]: 0 when they cannot tell, 1
    when they are sure of every picture. A picture counts once, however many patches judge it.

    operations, fill: of `Pipeline`; the default are those that the paper found best with few pictures.
    target: r above it raises p, below it lowers p. pictures: after how many p would have gone from 0 to 1.
    every: pictures between two changes, so one changes p by every / pictures (256 / 500,000 = 5.12e-4).
    limit: p stays within [0, limit]; near 1 augmentations leak into what the generator draws (appendix C).
    start: p at the beginning. undecided: the logit between real and fake, 0.5 or, of a logistic loss, 0.
    Raises Problem for settings outside their bounds.
    """

    p: Tensor  # float32 scalar
    signs: Tensor  # float32 scalar: sum of the pictures' mean signs since the last change
    seen: Tensor  # float32 scalar: pictures since the last change

    def __init__(
        self,
        operations: Sequence[str] = ("blit", "geometry", "color"),
        fill: str = "reflect",
        target: float = 0.6,
        pictures: int = 500_000,
        every: int = 256,
        limit: float = 0.8,
        start: float = 0.0,
        undecided: float = 0.5,
    ) -> None:
        super().__init__()
        _within("target", target, -1, 1)
        _within("pictures", pictures, 1, float("inf"))
        _within("every", every, 1, 2**24)  # beyond it float32 no longer counts
        _within("limit", limit, 0, 1)
        _within("start", start, 0, limit)
        self.pipeline = Pipeline(operations, fill)
        self.target, self.pictures, self.every, self.limit = target, pictures, every, limit
        self.undecided = undecided
        self.register_buffer("p", torch.tensor(float(start)))
        self.register_buffer("signs", torch.tensor(0.0))
        self.register_buffer("seen", torch.tensor(0.0))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1], real or fake -> the same, augmented; see Pipeline.forward."""
        return self.pipeline(images, self.p)

    @torch.no_grad()
    def observe(self, *logits: Tensor) -> None:
        """Remember what was said of augmented real pictures: logits (B, 1, h, w), or anything (B, ...).

        Several discriminators that judge the same B pictures go into one call: the pictures count once, with
        the mean over the discriminators. A logit that is not a number counts as undecided.
        """
        signs_of = [(logit.detach().float() - self.undecided).sign() for logit in map(_columns, logits)]
        means = [signs.flatten(1).mean(1) for signs in signs_of]
        signs = torch.stack(means).mean(0)  # (B,)
        self.signs += signs.sum()
        self.seen += len(signs)

    @torch.no_grad()
    def tune(self) -> None:
        """p += sign(r - target) n / pictures, once n >= `every` pictures were seen; their count begins anew."""
        if self.seen < self.every:
            return
        direction = (self.signs / self.seen - self.target).sign()
        self.p.add_(direction * self.seen / self.pictures).clamp_(0, self.limit)
        self.signs.zero_()
        self.seen.zero_()


def _columns(logit: Tensor) -> Tensor:
    """(B,) as (B, 1)."""
    return logit[:, None] if logit.ndim == 1 else logit


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        upto = f"from {low:g} to {high:g}" if high < float("inf") else f"at least {low:g}"
        raise Problem(f"ADA's {name} is {value!r}: must be a number {upto}")
