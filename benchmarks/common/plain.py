"""The published U-GAT-IT training step restated plainly, to measure ours against.

Eager PyTorch in NCHW with the library's own layers, in the published order: the fakes are made twice, they
are not detached in the discriminators' step (which therefore runs back through the generators), real and
fake pictures go through the discriminators apart, and discriminators collect gradients in the generators'
step. Facts from Kim et al., arXiv:1907.10830; weights can be copied to and from fewtoon's networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm


class Adaptive(nn.Module):
    def __init__(self, c, rho, own):
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, c, 1, 1), rho))
        if own:
            self.gamma, self.beta = (
                nn.Parameter(torch.ones(1, c, 1, 1)),
                nn.Parameter(torch.zeros(1, c, 1, 1)),
            )

    def forward(self, x, gamma=None, beta=None):
        a = (x - x.mean((2, 3), keepdim=True)) / torch.sqrt(x.var((2, 3), keepdim=True) + 1e-5)
        b = (x - x.mean((1, 2, 3), keepdim=True)) / torch.sqrt(x.var((1, 2, 3), keepdim=True) + 1e-5)
        y = self.rho.expand(x.shape[0], -1, -1, -1) * a + (1 - self.rho.expand(x.shape[0], -1, -1, -1)) * b
        if gamma is None:
            return y * self.gamma + self.beta
        return y * gamma[:, :, None, None] + beta[:, :, None, None]


class Block(nn.Module):
    def __init__(self, c, adaptive):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c, c, 3, bias=False), nn.Conv2d(c, c, 3, bias=False)
        self.pad = nn.ReflectionPad2d(1)
        self.norm1 = Adaptive(c, 0.9, False) if adaptive else nn.InstanceNorm2d(c)
        self.norm2 = Adaptive(c, 0.9, False) if adaptive else nn.InstanceNorm2d(c)

    def forward(self, x, *style):
        y = F.relu(self.norm1(self.conv1(self.pad(x)), *style))
        return x + self.norm2(self.conv2(self.pad(y)), *style)


class PlainGenerator(nn.Module):
    def __init__(self, c=64, blocks=4):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 7, bias=False)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, bias=False)
        self.down2 = nn.Conv2d(2 * c, 4 * c, 3, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.InstanceNorm2d(w) for w in (c, 2 * c, 4 * c))
        self.encoder = nn.ModuleList(Block(4 * c, False) for _ in range(blocks))
        self.average, self.maximum = nn.Linear(4 * c, 1, bias=False), nn.Linear(4 * c, 1, bias=False)
        self.mix = nn.Conv2d(8 * c, 4 * c, 1)
        self.style1, self.style2 = nn.Linear(4 * c, 4 * c, bias=False), nn.Linear(4 * c, 4 * c, bias=False)
        self.gamma, self.beta = nn.Linear(4 * c, 4 * c, bias=False), nn.Linear(4 * c, 4 * c, bias=False)
        self.decoder = nn.ModuleList(Block(4 * c, True) for _ in range(blocks))
        self.up1, self.up1_norm = nn.Conv2d(4 * c, 2 * c, 3, bias=False), Adaptive(2 * c, 0.0, True)
        self.up2, self.up2_norm = nn.Conv2d(2 * c, c, 3, bias=False), Adaptive(c, 0.0, True)
        self.head = nn.Conv2d(c, 3, 7, bias=False)
        self.pad1, self.pad3 = nn.ReflectionPad2d(1), nn.ReflectionPad2d(3)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x):
        x = F.relu(self.norms[0](self.stem(self.pad3(x))), inplace=True)
        x = F.relu(self.norms[1](self.down1(self.pad1(x))), inplace=True)
        x = F.relu(self.norms[2](self.down2(self.pad1(x))), inplace=True)
        for block in self.encoder:
            x = block(x)
        b = x.shape[0]
        average, maximum = F.adaptive_avg_pool2d(x, 1).view(b, -1), F.adaptive_max_pool2d(x, 1).view(b, -1)
        logit = torch.cat([self.average(average), self.maximum(maximum)], 1)
        one = x * self.average.weight[0][None, :, None, None]
        two = x * self.maximum.weight[0][None, :, None, None]
        x = F.relu(self.mix(torch.cat([one, two], 1)))
        heat = x.sum(1, keepdim=True)
        y = F.adaptive_avg_pool2d(x, 1).view(b, -1)
        y = F.relu(self.style2(F.relu(self.style1(y))))
        gamma, beta = self.gamma(y), self.beta(y)
        for block in self.decoder:
            x = block(x, gamma, beta)
        x = F.relu(self.up1_norm(self.up1(self.pad1(self.up(x)))), inplace=True)
        x = F.relu(self.up2_norm(self.up2(self.pad1(self.up(x)))), inplace=True)
        return torch.tanh(self.head(self.pad3(x))), logit, heat


class PlainDiscriminator(nn.Module):
    def __init__(self, c=64, layers=7):
        super().__init__()
        widths = [3, *(c * 2**i for i in range(layers - 1))]
        strides = [2] * (layers - 2) + [1]
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=s)) for a, b, s in zip(widths, widths[1:], strides)
        )
        top = widths[-1]
        self.cam_average = spectral_norm(nn.Linear(top, 1, bias=False))
        self.cam_maximum = spectral_norm(nn.Linear(top, 1, bias=False))
        self.mix = nn.Conv2d(2 * top, top, 1)
        self.last = spectral_norm(nn.Conv2d(top, 1, 4, bias=False))
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x):
        for conv in self.convs:
            x = F.leaky_relu(conv(self.pad(x)), 0.2)
        b = x.shape[0]
        average, maximum = F.adaptive_avg_pool2d(x, 1).view(b, -1), F.adaptive_max_pool2d(x, 1).view(b, -1)
        logit = torch.cat([self.cam_average(average), self.cam_maximum(maximum)], 1)
        one = x * self.cam_average.weight_orig[0][None, :, None, None]
        two = x * self.cam_maximum.weight_orig[0][None, :, None, None]
        x = F.leaky_relu(self.mix(torch.cat([one, two], 1)), 0.2)
        return self.last(self.pad(x)), logit, x.sum(1, keepdim=True)


def norm(network):
    """Of the gradient of a whole network."""
    return torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm().item()


class PlainStep:
    """The six networks, two Adam optimisers and one published step, batch 1 or more."""

    def __init__(self, c=64, blocks=4, layers=(7, 5), lr=1e-4):
        self.networks = {
            "photo_to_drawing": PlainGenerator(c, blocks),
            "drawing_to_photo": PlainGenerator(c, blocks),
            "photos_global": PlainDiscriminator(c, layers[0]),
            "photos_local": PlainDiscriminator(c, layers[1]),
            "drawings_global": PlainDiscriminator(c, layers[0]),
            "drawings_local": PlainDiscriminator(c, layers[1]),
        }
        two = list(self.networks.values())
        self.g = torch.optim.Adam(
            [p for n in two[:2] for p in n.parameters()], lr, (0.5, 0.999), weight_decay=1e-4
        )
        self.d = torch.optim.Adam(
            [p for n in two[2:] for p in n.parameters()], lr, (0.5, 0.999), weight_decay=1e-4
        )

    def __call__(self, photos, drawings, update=True):
        n = self.networks
        self.d.zero_grad()
        fake_drawing, _, _ = n["photo_to_drawing"](photos)
        fake_photo, _, _ = n["drawing_to_photo"](drawings)
        d = {}
        for side, real, fake in (("photos", photos, fake_photo), ("drawings", drawings, fake_drawing)):
            for reach in ("global", "local"):
                judge = n[f"{side}_{reach}"]
                (rl, rc, _), (fl, fc, _) = judge(real), judge(fake)
                d[f"{side}_{reach}/adversarial"] = ((rl - 1) ** 2).mean() + (fl**2).mean()
                d[f"{side}_{reach}/cam"] = ((rc - 1) ** 2).mean() + (fc**2).mean()
        sum(d.values()).backward()
        if update:
            self.d.step()
        else:  # the generators' step adds to these gradients: keep a copy to compare
            self.norms = {name: norm(n[name]) for name in list(n)[2:]}

        self.g.zero_grad()
        fake_drawing, cam_ab, _ = n["photo_to_drawing"](photos)
        fake_photo, cam_ba, _ = n["drawing_to_photo"](drawings)
        back_photo, _, _ = n["drawing_to_photo"](fake_drawing)
        back_drawing, _, _ = n["photo_to_drawing"](fake_photo)
        same_photo, cam_aa, _ = n["drawing_to_photo"](photos)
        same_drawing, cam_bb, _ = n["photo_to_drawing"](drawings)
        g, total = {}, 0
        for side, fake in (("photos", fake_photo), ("drawings", fake_drawing)):
            for reach in ("global", "local"):
                logit, cam, _ = n[f"{side}_{reach}"](fake)
                g[f"{side}_{reach}/adversarial"] = ((logit - 1) ** 2).mean()
                g[f"{side}_{reach}/cam"] = ((cam - 1) ** 2).mean()
        total = sum(g.values())
        bce = F.binary_cross_entropy_with_logits
        for side, real, back, same, one, zero in (
            ("photos", photos, back_photo, same_photo, cam_ba, cam_aa),
            ("drawings", drawings, back_drawing, same_drawing, cam_ab, cam_bb),
        ):
            g[f"{side}/cycle"] = (back - real).abs().mean()
            g[f"{side}/identity"] = (same - real).abs().mean()
            g[f"{side}/cam"] = bce(one, torch.ones_like(one)) + bce(zero, torch.zeros_like(zero))
            total = total + 10 * g[f"{side}/cycle"] + 10 * g[f"{side}/identity"] + 1000 * g[f"{side}/cam"]
        total.backward()
        if not update:
            self.norms |= {name: norm(n[name]) for name in list(n)[:2]}
        else:
            self.g.step()
            for name in ("photo_to_drawing", "drawing_to_photo"):
                for module in n[name].modules():
                    if hasattr(module, "rho"):
                        module.rho.data.clamp_(0, 1)
        return d, g
