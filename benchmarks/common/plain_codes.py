"""The published training steps of the translators that read codes from pictures, restated plainly as in
`plain_methods`.

    UNIT   Liu et al., arXiv:1703.00848, as its later implementation has it, without the VGG loss
    MUNIT  Huang et al., arXiv:1804.04732
    DRIT   Lee et al., arXiv:1808.00948: three iterations, in two of which the content discriminator alone learns
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.plain_methods import Losses, Plain, Residual, adam, l1, square, weighted

# --- UNIT and MUNIT ---------------------------------------------------------------------------------------


def conv(
    i: int, o: int, k: int, stride: int = 1, norm: str = "in", act: str = "relu", slope: float = 0.2
) -> nn.Sequential:
    """Reflection padding, convolution, normalisation, activation."""
    norms = {"in": lambda: nn.InstanceNorm2d(o), "ln": lambda: WholeNorm(o), "none": nn.Identity}
    acts = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(slope), "tanh": nn.Tanh, "none": nn.Identity}
    pad = (
        nn.ReplicationPad2d if k == 5 else nn.ReflectionPad2d
    )  # as ours has it after enlarging, to compare losses
    return nn.Sequential(
        pad(k // 2 if stride == 1 else 1), nn.Conv2d(i, o, k, stride), norms[norm](), acts[act]()
    )


class WholeNorm(nn.Module):
    """By the mean and the unbiased deviation of the whole picture, with gamma and beta for each channel."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        mean, deviation = flat.mean(1)[:, None, None, None], flat.std(1)[:, None, None, None]
        x = (x - mean) / (deviation + 1e-5)
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


def content_encoder(c: int) -> nn.Sequential:
    blocks = (Residual(4 * c) for _ in range(4))
    return nn.Sequential(conv(3, c, 7), conv(c, 2 * c, 4, 2), conv(2 * c, 4 * c, 4, 2), *blocks)


def upward(c: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Upsample(scale_factor=2), conv(4 * c, 2 * c, 5, norm="ln")),
        *(nn.Upsample(scale_factor=2), conv(2 * c, c, 5, norm="ln")),
        conv(c, 3, 7, norm="none", act="tanh"),
    )


class Scales(nn.Module):
    """The discriminator at three scales."""

    def __init__(self, c: int, slope: float = 0.2) -> None:
        super().__init__()
        widths = (3, c, 2 * c, 4 * c, 8 * c)
        self.scales = nn.ModuleList(
            nn.Sequential(*(conv(a, b, 4, 2, "none", "leaky", slope) for a, b in itertools.pairwise(widths)))
            for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Conv2d(8 * c, 1, 1) for _ in range(3))
        self.shrink = nn.AvgPool2d(3, 2, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for scale, head in zip(self.scales, self.heads):
            found.append(head(scale(x)))
            x = self.shrink(x)
        return found


def to(logits: list[Tensor], target: float) -> Tensor:
    """Least squares, summed over the scales."""
    return torch.stack([square(logit, target) for logit in logits]).sum()


class UNIT(Plain):
    def __init__(self, c: int) -> None:
        self.networks = {}
        for side in ("photos", "drawings"):
            self.networks[f"{side}_encoder"] = content_encoder(c)
            self.networks[f"{side}_decoder"] = nn.Sequential(*(Residual(4 * c) for _ in range(4)), *upward(c))
        for side in ("photos", "drawings"):
            self.networks[f"{side}_discriminator"] = Scales(c)
        everything = list(self.networks.values())
        self.makers, self.judges = everything[:4], everything[4:]
        self.g, self.d = adam(self.makers, 1e-4, 1e-4), adam(self.judges, 1e-4, 1e-4)

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        encode_photo, decode_photo, encode_drawing, decode_drawing = self.makers
        judge_photo, judge_drawing = self.judges

        def noisy(code: Tensor) -> Tensor:
            return code + torch.randn_like(code)

        self.d.zero_grad()
        code_photo, code_drawing = encode_photo(photos), encode_drawing(drawings)
        photo, drawing = decode_photo(noisy(code_drawing)), decode_drawing(noisy(code_photo))
        losses = {
            "D/photos/adversarial": to(judge_photo(photo.detach()), 0) + to(judge_photo(photos), 1),
            "D/drawings/adversarial": to(judge_drawing(drawing.detach()), 0) + to(judge_drawing(drawings), 1),
        }
        weighted(losses, {"adversarial": 1}).backward()
        self.d.step()

        self.g.zero_grad()
        code_photo, code_drawing = encode_photo(photos), encode_drawing(drawings)
        same_photo, same_drawing = decode_photo(noisy(code_photo)), decode_drawing(noisy(code_drawing))
        photo, drawing = decode_photo(noisy(code_drawing)), decode_drawing(noisy(code_photo))
        code_back_drawing, code_back_photo = encode_photo(photo), encode_drawing(drawing)
        back_photo, back_drawing = (
            decode_photo(noisy(code_back_photo)),
            decode_drawing(noisy(code_back_drawing)),
        )
        g = {
            "G/photos/reconstruction": l1(same_photo, photos),
            "G/drawings/reconstruction": l1(same_drawing, drawings),
            "G/photos/kl": code_photo.square().mean(),
            "G/drawings/kl": code_drawing.square().mean(),
            "G/photos/cycle": l1(back_photo, photos),
            "G/drawings/cycle": l1(back_drawing, drawings),
            "G/photos/cycle_kl": code_back_photo.square().mean(),
            "G/drawings/cycle_kl": code_back_drawing.square().mean(),
            "G/photos/adversarial": to(judge_photo(photo), 1),
            "G/drawings/adversarial": to(judge_drawing(drawing), 1),
        }
        weights = {"reconstruction": 10, "kl": 0.01, "cycle": 10, "cycle_kl": 0.01, "adversarial": 1}
        weighted(g, weights).backward()
        self.g.step()
        return losses | g


class AdaptiveResidual(nn.Module):
    """A residual block whose normalisations take their deviation and mean from outside."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c, c, 3), nn.Conv2d(c, c, 3)
        self.pad, self.norm = nn.ReflectionPad2d(1), nn.InstanceNorm2d(c)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        mean1, scale1, mean2, scale2 = style.chunk(4, 1)
        y = F.relu(self.adapt(self.conv1(self.pad(x)), mean1, scale1))
        return x + self.adapt(self.conv2(self.pad(y)), mean2, scale2)

    def adapt(self, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        return self.norm(x) * scale[:, :, None, None] + mean[:, :, None, None]


class StyleDecoder(nn.Module):
    def __init__(self, c: int, style: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AdaptiveResidual(4 * c) for _ in range(4))
        self.up = upward(c)
        self.mlp = nn.Sequential(
            *(
                nn.Linear(style, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, 64 * c),
            )
        )

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        for block, numbers in zip(self.blocks, self.mlp(style).chunk(4, 1)):
            content = block(content, numbers)
        return self.up(content)


def style_encoder(c: int, style: int) -> nn.Sequential:
    return nn.Sequential(
        conv(3, c, 7, norm="none"),
        *(conv(a * c, b * c, 4, 2, "none") for a, b in ((1, 2), (2, 4), (4, 4), (4, 4))),
        *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * c, style, 1), nn.Flatten()),
    )


class MUNIT(Plain):
    def __init__(self, c: int, style: int = 8) -> None:
        self.style = style
        self.networks = {}
        for side in ("photos", "drawings"):
            self.networks[f"{side}_content"] = content_encoder(c)
            self.networks[f"{side}_style"] = style_encoder(c, style)
            self.networks[f"{side}_decoder"] = StyleDecoder(c, style, 4 * c)
        for side in ("photos", "drawings"):
            self.networks[f"{side}_discriminator"] = Scales(c)
        everything = list(self.networks.values())
        self.makers, self.judges = everything[:6], everything[6:]
        self.g, self.d = adam(self.makers, 1e-4, 1e-4), adam(self.judges, 1e-4, 1e-4)

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        content_p, style_p, decode_p, content_d, style_d, decode_d = self.makers
        judge_photo, judge_drawing = self.judges
        n = len(photos)

        self.d.zero_grad()
        random_p, random_d = torch.randn(n, self.style), torch.randn(n, self.style)
        (c_p, _), (c_d, _) = (content_p(photos), style_p(photos)), (content_d(drawings), style_d(drawings))
        photo, drawing = decode_p(c_d, random_p), decode_d(c_p, random_d)
        losses = {
            "D/photos/adversarial": to(judge_photo(photo.detach()), 0) + to(judge_photo(photos), 1),
            "D/drawings/adversarial": to(judge_drawing(drawing.detach()), 0) + to(judge_drawing(drawings), 1),
        }
        weighted(losses, {"adversarial": 1}).backward()
        self.d.step()

        self.g.zero_grad()
        random_p, random_d = torch.randn(n, self.style), torch.randn(n, self.style)
        (c_p, s_p), (c_d, s_d) = (
            (content_p(photos), style_p(photos)),
            (content_d(drawings), style_d(drawings)),
        )
        same_photo, same_drawing = decode_p(c_p, s_p), decode_d(c_d, s_d)
        photo, drawing = decode_p(c_d, random_p), decode_d(c_p, random_d)
        again_c_d, again_s_p = content_p(photo), style_p(photo)
        again_c_p, again_s_d = content_d(drawing), style_d(drawing)
        g = {
            "G/photos/reconstruction": l1(same_photo, photos),
            "G/drawings/reconstruction": l1(same_drawing, drawings),
            "G/photos/style": l1(again_s_p, random_p),
            "G/drawings/style": l1(again_s_d, random_d),
            "G/photos/content": l1(again_c_d, c_d),
            "G/drawings/content": l1(again_c_p, c_p),
            "G/photos/adversarial": to(judge_photo(photo), 1),
            "G/drawings/adversarial": to(judge_drawing(drawing), 1),
        }
        weights = {"reconstruction": 10, "style": 1, "content": 1, "adversarial": 1}
        weighted(g, weights).backward()
        self.g.step()
        return losses | g


# --- DRIT -------------------------------------------------------------------------------------------------


class Pooling(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = nn.Conv2d(i, i, 3), nn.Conv2d(i, o, 3), nn.Conv2d(i, o, 1)
        self.pad, self.leaky = nn.ReflectionPad2d(1), nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.pad(self.leaky(self.conv1(self.pad(self.leaky(x))))))
        return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))


class Attributes(nn.Module):
    """A picture -> mean and logarithm of the variance of its attribute code."""

    def __init__(self, c: int, length: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(3, c, 4, 2)),
            *(Pooling(k * c, (k + 1) * c) for k in (1, 2, 3)),
            *(nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.mean, self.log_variance = nn.Linear(4 * c, length), nn.Linear(4 * c, length)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return self.mean(y), self.log_variance(y)


class Appending(nn.Module):
    """The decoder, to whose maps the attribute code is appended."""

    def __init__(self, c: int, length: int) -> None:
        super().__init__()
        first = 4 * c + length
        second = (first + length) // 2
        third = (second + length) // 2
        self.blocks = nn.Sequential(*(Residual(first) for _ in range(3)))
        self.up1 = nn.ConvTranspose2d(first + length, second, 3, 2, 1, 1)
        self.norm1 = WholeNorm(second)
        self.up2 = nn.ConvTranspose2d(second + length, third, 3, 2, 1, 1)
        self.norm2 = WholeNorm(third)
        self.head = nn.ConvTranspose2d(third + length, 3, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        def told(x: Tensor) -> Tensor:
            return torch.cat([x, code[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)

        x = self.blocks(told(x))
        x = F.relu(self.norm1(self.up1(told(x))))
        x = F.relu(self.norm2(self.up2(told(x))))
        return torch.tanh(self.head(told(x)))


class DRIT(Plain):
    """One iteration that moves everything, and two in which the content discriminator learns alone."""

    def __init__(self, c: int, size: int, length: int = 8) -> None:
        self.length = length
        n: dict[str, nn.Module] = {"shared_content": Residual(4 * c), "shared_decoder": Residual(4 * c)}
        for side in ("photos", "drawings"):
            stem = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), nn.LeakyReLU(0.01))
            downs = conv(c, 2 * c, 3, 2), conv(2 * c, 4 * c, 3, 2)
            n[f"{side}_content"] = nn.Sequential(stem, *downs, *(Residual(4 * c) for _ in range(3)))
            n[f"{side}_attribute"], n[f"{side}_decoder"] = Attributes(c, length), Appending(c, length)
        makers = list(n.values())
        judges: dict[str, nn.Module] = {}
        for side in ("photos", "drawings"):
            judges |= {f"{side}{kind}_discriminator": Scales(c, 0.01) for kind in ("", "_random")}
        layers: list[nn.Module] = []
        side_length, count = size // 4, 0
        while (
            count < 3 and (side_length - 5) // 2 + 1 >= 4
        ):  # a small picture has room for fewer of the three
            side_length, count = (side_length - 5) // 2 + 1, count + 1
            layers += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(4 * c, 4 * c, 7, 2),
                nn.InstanceNorm2d(4 * c),
                nn.LeakyReLU(0.01),
            ]
        last = nn.Conv2d(4 * c, 4 * c, 4), nn.LeakyReLU(0.01), nn.Conv2d(4 * c, 1, 1)
        self.judge_content = nn.Sequential(*layers, *last)
        self.networks = n | judges | {"content_discriminator": self.judge_content}
        self.judges = list(judges.values())
        self.g, self.d = adam(makers, 1e-4, 1e-4), adam(self.judges, 1e-4, 1e-4)
        self.c = adam([self.judge_content], 4e-5, 1e-4)

    def content(self, side: str, x: Tensor) -> Tensor:
        code = self.networks["shared_content"](self.networks[f"{side}_content"](x))
        return code + torch.randn_like(code)

    def decode(self, side: str, content: Tensor, code: Tensor) -> Tensor:
        return self.networks[f"{side}_decoder"](self.networks["shared_decoder"](content), code)

    def tell_contents(self, photo: Tensor, drawing: Tensor) -> Tensor:
        self.c.zero_grad()
        loss = said(self.judge_content(photo.detach()), 0) + said(self.judge_content(drawing.detach()), 1)
        loss.backward()
        nn.utils.clip_grad_norm_(self.judge_content.parameters(), 5)
        self.c.step()
        return loss

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        losses = self.whole(photos, drawings)
        for _ in range(2):
            self.tell_contents(self.content("photos", photos), self.content("drawings", drawings))
        return losses

    def whole(self, photos: Tensor, drawings: Tensor) -> Losses:
        n, sides, real = self.networks, ("photos", "drawings"), {"photos": photos, "drawings": drawings}
        other = {"photos": "drawings", "drawings": "photos"}
        content = {side: self.content(side, real[side]) for side in sides}
        mean, log, code = {}, {}, {}
        for side in sides:
            mean[side], log[side] = n[f"{side}_attribute"](real[side])
            code[side] = mean[side] + torch.randn_like(mean[side]) * (log[side] / 2).exp()
        z = torch.randn(len(photos), self.length)
        fake = {side: self.decode(side, content[other[side]], code[side]) for side in sides}
        same = {side: self.decode(side, content[side], code[side]) for side in sides}
        free = {side: self.decode(side, content[other[side]], z) for side in sides}
        again, code_again = {}, {}
        for side in sides:
            again[other[side]] = self.content(side, fake[side])
            m, v = n[f"{side}_attribute"](fake[side])
            code_again[side] = m + torch.randn_like(m) * (v / 2).exp()
        back = {side: self.decode(side, again[side], code_again[side]) for side in sides}
        read = {side: n[f"{side}_attribute"](free[side])[0] for side in sides}

        losses: Losses = {}
        self.d.zero_grad()
        for side in sides:
            for kind, made in (("", fake), ("_random", free)):
                judge = n[f"{side}{kind}_discriminator"]
                logits = zip(judge(real[side]), judge(made[side].detach()))
                name = f"D/{side}/{kind[1:] + '_' if kind else ''}adversarial"
                losses[name] = torch.stack([said(a, 1) + said(b, 0) for a, b in logits]).sum()
                losses[name].backward()
        self.d.step()
        losses["content/adversarial"] = self.tell_contents(content["photos"], content["drawings"])

        self.g.zero_grad()
        first, second = {}, {}
        for side in sides:
            first[f"G/{side}/adversarial"] = sum_said(n[f"{side}_discriminator"](fake[side]), 1)
            first[f"G/{side}/content_adversarial"] = said(self.judge_content(content[side]), 0.5)
            first[f"G/{side}/cycle"] = l1(back[side], real[side])
            first[f"G/{side}/reconstruction"] = l1(same[side], real[side])
            kl = mean[side].square() + log[side].exp() - 1 - log[side]
            first[f"G/{side}/kl"] = kl.sum(1).mean() / 2
            first[f"G/{side}/content"] = content[side].square().mean()
            second[f"G/{side}/random_adversarial"] = sum_said(
                n[f"{side}_random_discriminator"](free[side]), 1
            )
            second[f"G/{side}/latent"] = l1(read[side], z)
        weights = {"adversarial": 1, "content_adversarial": 1, "cycle": 10, "reconstruction": 10, "kl": 0.01}
        weights |= {"content": 0.01, "random_adversarial": 1, "latent": 10}
        weighted(first, weights).backward(retain_graph=True)
        kept = [p for side in sides for p in n[f"{side}_attribute"].parameters()]
        gradients = [p.grad.clone() for p in kept if p.grad is not None]
        weighted(second, weights).backward()  # moves what draws, and not what reads attributes
        for p, gradient in zip(kept, gradients):
            p.grad = gradient
        self.g.step()
        return losses | first | second


def said(logit: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, label))


def sum_said(logits: list[Tensor], label: float) -> Tensor:
    return torch.stack([said(logit, label) for logit in logits]).sum()
