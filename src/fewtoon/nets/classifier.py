"""A small network that reads which group a face is of, and how it learns that from few labelled pictures.

It teaches generators that must keep the group, and tells the group of a photo that nobody named. What judges a
style is another one (`fewtoon.metrics.attributes`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64  # pixels to which every picture is brought
BATCH = 32  # of `learn`
RATE, DECAY = 2e-3, 1e-2  # of AdamW
BALANCE = 0.75  # 1: all groups are seen as often, 0: as often as they have pictures


class GroupClassifier(nn.Module):
    """Pictures to group logits.

    Three convolutions at half the size each and one more, group normalisation, and both the average and the
    maximum over all positions: an accessory counts wherever it is. channels: width of the first layer.
    """

    def __init__(self, groups: int, channels: int = 32) -> None:
        super().__init__()
        c = channels
        layers = [(3, c, 4, 2), (c, 2 * c, 4, 2), (2 * c, 4 * c, 4, 2), (4 * c, 4 * c, 3, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, stride=s, padding=1) for a, b, k, s in layers)
        self.norms = nn.ModuleList(nn.GroupNorm(4, b) for _, b, _, _ in layers)
        self.last = nn.Linear(8 * c, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, groups), float32."""
        x = brought(x)
        for conv, norm in zip(self.convs, self.norms):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        x = x.float()
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return self.last(F.dropout(pooled, 0.3, self.training)).float()


def brought(x: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) at the size that a classifier looks at."""
    if x.shape[2] == SIDE:
        return x
    return F.interpolate(x.float(), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def varied(x: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in [-1, 1] that still show the same group: turned a little, moved, enlarged, in other
    colours, and half of them less sharp. Differentiable; random numbers from torch's generator of the CPU."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(len(x), *shape).to(x.device)

    x = x.float()
    angle, scale = (draw() - 0.5) * 0.5, 1 + (draw() - 0.5) * 0.3
    mirror = torch.where(draw() < 0.5, -1.0, 1.0)
    affine = torch.stack(
        [
            torch.stack([angle.cos() * mirror, -angle.sin(), (draw() - 0.5) * 0.25 / scale], 1),
            torch.stack([angle.sin() * mirror, angle.cos(), (draw() - 0.5) * 0.25 / scale], 1),
        ],
        1,
    ) * scale.view(-1, 1, 1)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, 0.2 + 1.4 * draw(1, 1, 1))
    level = x.mean((1, 2, 3), keepdim=True)
    x = torch.lerp(level, x, 0.6 + 0.8 * draw(1, 1, 1))
    x = x + 0.6 * (draw(1, 1, 1) - 0.5) + 0.35 * (draw(3, 1, 1) - 0.5)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(x, soft, (2 * draw(1, 1, 1) - 1).clamp_min(0))


def learn(network: GroupClassifier, pictures: Tensor, groups: Tensor, steps: int, seed: int) -> None:
    """Train `network` on pictures (N, S, S, 3) uint8 of `groups` (N,); -1, no group, is left out.

    Small groups come nearly as often as large ones. The same arguments give the same weights. 1500 steps take less
    than a minute on one core.
    """
    device = next(network.parameters()).device
    rows = torch.nonzero(groups >= 0)[:, 0].cpu()
    target = groups.cpu()[rows]
    shares = (1 / torch.bincount(target).float())[target] ** BALANCE
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    needed = [p.requires_grad for p in network.parameters()]
    network.train().requires_grad_(True)
    small = torch.cat([brought(_values(part)) for part in pictures[rows.to(pictures.device)].split(256)])
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in range(steps):
            picked = torch.multinomial(shares, BATCH, replacement=True)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logit = network(varied(small[picked.to(small.device)].to(device)))
            loss = F.cross_entropy(logit, target[picked].to(device), label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    for parameter, asked in zip(network.parameters(), needed):
        parameter.requires_grad_(asked)
        parameter.grad = None


def _values(pictures: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [-1, 1], channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
