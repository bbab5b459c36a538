"""The published training steps of four translators restated plainly, to measure ours against; three more are in
`plain_codes`.

Eager PyTorch in float32 and NCHW with the library's own layers; every picture goes through a network in a pass of its
own, and what the discriminators' step has drawn is drawn again in the generators' step where the publications do.
Where they leave it open whether the discriminators' step runs back through the generators, it does not here.
Networks are called as in fewtoon, and have their layers in the same order, so that weights can be copied.

    CycleGAN    Zhu et al., arXiv:1703.10593
    AGGAN       Mejjati et al., arXiv:1806.02311, before its switch, with the intended kernels of the attention
    CUT         Park et al., arXiv:2007.15651
    CartoonGAN  Chen et al., CVPR 2018; drawings with smoothed edges are given, as the published code reads them
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Losses = dict[str, Tensor]


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def square(logit: Tensor, target: float) -> Tensor:
    return (logit - target).square().mean()


def adam(networks: Iterable[nn.Module], rate: float, decay: float = 0.0) -> torch.optim.Adam:
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, rate, (0.5, 0.999), weight_decay=decay)


def weighted(losses: Losses, weights: dict[str, float]) -> Tensor:
    """The sum of the losses, each times the weight of the last part of its name."""
    return torch.stack([weights[name.split("/")[-1]] * loss for name, loss in losses.items()]).sum()


def by_the_unbiased(norm: nn.Module, given: tuple[Tensor], normed: Tensor) -> Tensor:
    """What an instance norm gives when it divides by the unbiased deviation: as a forward hook."""
    count = given[0][0, 0].numel()
    offset = 0.0 if norm.bias is None else norm.bias[:, None, None]
    return (normed - offset) * ((count - 1) / count) ** 0.5 + offset


def frozen(networks: Iterable[nn.Module], yes: bool) -> None:
    for network in networks:
        network.requires_grad_(not yes)


class Pool:
    """The last 50 pictures; each returned picture is swapped with one of them half of the time."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []

    def __call__(self, picture: Tensor) -> Tensor:
        if len(self.pictures) < 50:
            self.pictures.append(picture)
            return picture
        if random.random() > 0.5:
            place = random.randrange(50)
            old, self.pictures[place] = self.pictures[place].clone(), picture
            return old
        return picture


class Plain:
    """One training: networks by name, and a step that returns its losses."""

    networks: dict[str, nn.Module]

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        raise NotImplementedError

    def of(self, *names: str) -> list[nn.Module]:
        return [self.networks[name] for name in names]


# --- blocks -----------------------------------------------------------------------------------------------

Layers = Sequence[nn.Module]
Pad = type[nn.Module]


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(pad(x)))))), or the ReLU of that."""

    def __init__(
        self, c: int, pad: Pad = nn.ReflectionPad2d, after: bool = False, affine: bool = False
    ) -> None:
        super().__init__()
        first, second = ((pad(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c, affine=affine)) for _ in range(2))
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.body(x)
        return F.relu(y) if self.after else y


def translator(
    c: int, pad: Pad = nn.ReflectionPad2d, after: bool = False, affine: bool = False
) -> nn.Sequential:
    """ResNet-9 of CycleGAN, and of AGGAN."""

    def done(width: int) -> Layers:
        return nn.InstanceNorm2d(width, affine=affine), nn.ReLU()

    return nn.Sequential(
        *(pad(3), nn.Conv2d(3, c, 7), *done(c)),
        *(nn.Conv2d(c, 2 * c, 3, 2, 1), *done(2 * c)),
        *(nn.Conv2d(2 * c, 4 * c, 3, 2, 1), *done(4 * c)),
        *(Residual(4 * c, pad, after, affine) for _ in range(9)),
        *(nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, 1), *done(2 * c)),
        *(nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1), *done(c)),
        *(pad(3), nn.Conv2d(c, 3, 7), nn.Tanh()),
    )


def patches(c: int, pad: int = 1, attended: bool = False) -> nn.Sequential:
    """The 70 x 70 patch discriminator; that of AGGAN normalises the first map, too, and with scales."""
    layers: list[nn.Module] = []
    inside = 3
    for place, (outside, stride) in enumerate(((c, 2), (2 * c, 2), (4 * c, 2), (8 * c, 1))):
        layers.append(nn.Conv2d(inside, outside, 4, stride, pad))
        if place or attended:
            layers.append(nn.InstanceNorm2d(outside, affine=attended))
        layers.append(nn.LeakyReLU(0.2))
        inside = outside
    return nn.Sequential(*layers, nn.Conv2d(inside, 1, 4, 1, pad))


# --- CycleGAN, AGGAN and CUT ------------------------------------------------------------------------------


class There(Plain):
    """What CycleGAN and AGGAN have in common: generators first, then discriminators with pools of 50 pictures."""

    def __init__(self, makers: dict[str, nn.Module], judges: dict[str, nn.Module], rate: float) -> None:
        self.networks = makers | judges
        self.judges = list(judges.values())
        self.g, self.d = adam(makers.values(), rate), adam(self.judges, rate)
        self.pools = Pool(), Pool()

    def losses(self, photos: Tensor, drawings: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """Those of the generators, without the adversarial ones; the fakes: photo and drawing."""
        raise NotImplementedError

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        self.g.zero_grad()
        losses, photo, drawing = self.losses(photos, drawings)
        frozen(self.judges, True)
        for side, judge, fake in zip(("photos", "drawings"), self.judges, (photo, drawing)):
            losses[f"G/{side}/adversarial"] = square(judge(fake), 1)
        weighted(losses, {"adversarial": 1, "cycle": 10, "identity": 5}).backward()
        self.g.step()

        frozen(self.judges, False)
        self.d.zero_grad()
        for side, judge, pool, real, fake in zip(
            ("photos", "drawings"), self.judges, self.pools, (photos, drawings), (photo, drawing)
        ):
            losses[f"D/{side}/real"] = square(judge(real), 1)
            losses[f"D/{side}/fake"] = square(judge(pool(fake.detach())), 0)
            ((losses[f"D/{side}/real"] + losses[f"D/{side}/fake"]) / 2).backward()
        self.d.step()
        return losses


class CycleGAN(There):
    def __init__(self, c: int) -> None:
        makers = {name: translator(c) for name in ("photo_to_drawing", "drawing_to_photo")}
        judges = {f"{side}_discriminator": patches(c) for side in ("photos", "drawings")}
        super().__init__(makers, judges, 2e-4)

    def losses(self, photos: Tensor, drawings: Tensor) -> tuple[Losses, Tensor, Tensor]:
        draw, shoot = self.of("photo_to_drawing", "drawing_to_photo")
        drawing, photo = draw(photos), shoot(drawings)
        losses = {
            "G/photos/cycle": l1(shoot(drawing), photos),
            "G/drawings/cycle": l1(draw(photo), drawings),
            "G/photos/identity": l1(shoot(photos), photos),
            "G/drawings/identity": l1(draw(drawings), drawings),
        }
        return losses, photo, drawing


class Attention(nn.Module):
    """Where to draw: a mask (B, 1, S, S) in [0, 1]."""

    def __init__(self, c: int) -> None:
        super().__init__()

        def layer(i: int, o: int, k: int, stride: int = 1, pad: int = 0) -> Layers:
            padding = nn.ReflectionPad2d(pad) if pad else nn.Identity()
            return padding, nn.Conv2d(i, o, k, stride), nn.InstanceNorm2d(o, affine=True), nn.ReLU()

        self.body = nn.Sequential(
            *layer(3, c, 7, 2, 3),
            *(nn.ZeroPad2d(1), *layer(c, 2 * c, 3, 2)),
            Residual(2 * c, after=True, affine=True),
            *(nn.Upsample(scale_factor=2), *layer(2 * c, 2 * c, 3, pad=1)),
            *(nn.Upsample(scale_factor=2), *layer(2 * c, c, 3, pad=1)),
            *(nn.ReflectionPad2d(3), nn.Conv2d(c, 1, 7), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class AGGAN(There):
    """CycleGAN that draws through a mask and keeps the rest of the picture."""

    def __init__(self, c: int) -> None:
        makers: dict[str, nn.Module] = {
            name: translator(c, nn.ZeroPad2d, True, True) for name in ("photo_to_drawing", "drawing_to_photo")
        }
        makers |= {f"{side}_attention": Attention(c) for side in ("photos", "drawings")}
        judges = {f"{side}_discriminator": patches(2 * c, 2, True) for side in ("photos", "drawings")}
        super().__init__(makers, judges, 1e-4)

    def losses(self, photos: Tensor, drawings: Tensor) -> tuple[Losses, Tensor, Tensor]:
        draw, shoot, see_photo, see_drawing = self.of(
            "photo_to_drawing", "drawing_to_photo", "photos_attention", "drawings_attention"
        )

        def through(maker: nn.Module, mask: Tensor, x: Tensor) -> Tensor:
            return mask * maker(x) + (1 - mask) * x

        drawing = through(draw, see_photo(photos), photos)
        photo = through(shoot, see_drawing(drawings), drawings)
        losses = {
            "G/photos/cycle": l1(through(shoot, see_drawing(drawing), drawing), photos),
            "G/drawings/cycle": l1(through(draw, see_photo(photo), photo), drawings),
        }
        return losses, photo, drawing


class Blur(nn.Module):
    """(1, 2, 1) / 4 in both directions over the mirrored map, every second pixel of it."""

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (taps[:, None] * taps).repeat(x.shape[1], 1, 1, 1)
        return F.conv2d(F.pad(x, [1] * 4, mode="reflect"), kernel, stride=2, groups=x.shape[1])


class CUT(Plain):
    """The discriminator, then the generator with the projections; one pass draws photos and drawings, as published."""

    LAYERS = (0, 4, 8, 12, 16)  # whose outputs are compared: padding, two convolutions, two residual blocks
    PATCHES, LENGTH, TEMPERATURE = 256, 256, 0.07

    def __init__(self, c: int) -> None:
        def done(width: int) -> Layers:
            return nn.InstanceNorm2d(width), nn.ReLU()

        def up(i: int, o: int) -> Layers:
            return nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(i, o, 3, 1, 1), *done(o)

        self.generator = nn.Sequential(
            *(nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), *done(c)),
            *(nn.Conv2d(c, 2 * c, 3, 1, 1), *done(2 * c), Blur()),
            *(nn.Conv2d(2 * c, 4 * c, 3, 1, 1), *done(4 * c), Blur()),
            *(Residual(4 * c) for _ in range(9)),
            *(*up(4 * c, 2 * c), *up(2 * c, c)),
            *(nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh()),
        )
        judge = nn.Sequential(
            *(nn.Conv2d(3, c, 4, 1, 1), nn.LeakyReLU(0.2), Blur()),
            *(nn.Conv2d(c, 2 * c, 4, 1, 1), nn.InstanceNorm2d(2 * c), nn.LeakyReLU(0.2), Blur()),
            *(nn.Conv2d(2 * c, 4 * c, 4, 1, 1), nn.InstanceNorm2d(4 * c), nn.LeakyReLU(0.2), Blur()),
            *(nn.Conv2d(4 * c, 8 * c, 4, 1, 1), nn.InstanceNorm2d(8 * c), nn.LeakyReLU(0.2)),
            nn.Conv2d(8 * c, 1, 4, 1, 1),
        )
        widths = (3, 2 * c, 4 * c, 4 * c, 4 * c)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(w, self.LENGTH), nn.ReLU(), nn.Linear(self.LENGTH, self.LENGTH))
            for w in widths
        )
        self.judge = judge
        self.networks = {"generator": self.generator, "discriminator": judge, "projections": self.heads}
        self.g, self.d, self.f = (adam([each], 2e-4) for each in (self.generator, judge, self.heads))

    def features(self, x: Tensor) -> list[Tensor]:
        found = []
        for place, layer in enumerate(self.generator[: self.LAYERS[-1] + 1]):
            x = layer(x)
            if place in self.LAYERS:
                found.append(x)
        return found

    def contrast(self, made: Tensor, source: Tensor) -> Tensor:
        total = torch.zeros(())
        for head, query, key in zip(self.heads, self.features(made), self.features(source)):
            query, key = (each.permute(0, 2, 3, 1).flatten(1, 2) for each in (query, key))
            places = torch.randperm(query.shape[1])[: self.PATCHES]
            query, key = (F.normalize(head(each[:, places]), dim=2) for each in (query, key))
            logits = query @ key.detach().transpose(1, 2) / self.TEMPERATURE
            wanted = torch.arange(logits.shape[1]).repeat(len(logits))
            total = total + F.cross_entropy(logits.flatten(0, 1), wanted)
        return total / len(self.heads)

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        drawing, same = self.generator(torch.cat([photos, drawings])).split(len(photos))
        frozen([self.judge], False)
        self.d.zero_grad()
        losses = {
            "D/fake": square(self.judge(drawing.detach()), 0),
            "D/real": square(self.judge(drawings), 1),
        }
        ((losses["D/fake"] + losses["D/real"]) / 2).backward()
        self.d.step()

        frozen([self.judge], True)
        self.g.zero_grad()
        self.f.zero_grad()
        g = {
            "G/adversarial": square(self.judge(drawing), 1),
            "G/nce": self.contrast(drawing, photos),
            "G/identity": self.contrast(same, drawings),
        }
        weighted(g, {"adversarial": 1, "nce": 0.5, "identity": 0.5}).backward()
        self.g.step()
        self.f.step()
        return losses | g


# --- CartoonGAN -------------------------------------------------------------------------------------------


class CartoonGAN(Plain):
    """The discriminator first, then the generator, which draws its picture again."""

    def __init__(self, c: int, features: nn.Module) -> None:
        """features: pictures in [-1, 1] -> conv4_4 of VGG19. `smoothed`: the drawings with smoothed edges."""
        d = c // 2

        def done(width: int) -> Layers:
            return nn.InstanceNorm2d(width), nn.ReLU()

        generator = nn.Sequential(
            *(nn.Conv2d(3, c, 7, 1, 3), *done(c)),
            *(nn.Conv2d(c, 2 * c, 3, 2, 1), nn.Conv2d(2 * c, 2 * c, 3, 1, 1), *done(2 * c)),
            *(nn.Conv2d(2 * c, 4 * c, 3, 2, 1), nn.Conv2d(4 * c, 4 * c, 3, 1, 1), *done(4 * c)),
            *(Residual(4 * c, nn.ZeroPad2d) for _ in range(8)),
            *(nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, 1), nn.Conv2d(2 * c, 2 * c, 3, 1, 1), *done(2 * c)),
            *(nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1), nn.Conv2d(c, c, 3, 1, 1), *done(c)),
            *(nn.Conv2d(c, 3, 7, 1, 3), nn.Tanh()),
        )
        discriminator = nn.Sequential(
            *(nn.Conv2d(3, d, 3, 1, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(d, 2 * d, 3, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(2 * d, 4 * d, 3, 1, 1), nn.InstanceNorm2d(4 * d), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(4 * d, 4 * d, 3, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(4 * d, 8 * d, 3, 1, 1), nn.InstanceNorm2d(8 * d), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(8 * d, 8 * d, 3, 1, 1), nn.InstanceNorm2d(8 * d), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(8 * d, 1, 3, 1, 1), nn.Sigmoid()),
        )
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.features, self.smoothed = features, torch.empty(0)
        self.g, self.d = adam([generator], 2e-4), adam([discriminator], 2e-4)

    def __call__(self, photos: Tensor, drawings: Tensor) -> Losses:
        draw, judge = self.networks.values()

        def heard(picture: Tensor, label: float) -> Tensor:
            found = judge(picture)
            return F.binary_cross_entropy(found, torch.full_like(found, label))

        self.d.zero_grad()
        losses = {
            "D/real": heard(drawings, 1),
            "D/fake": heard(draw(photos).detach(), 0),
            "D/smoothed": heard(self.smoothed, 0),
        }
        torch.stack(list(losses.values())).sum().backward()
        self.d.step()

        self.g.zero_grad()
        drawing = draw(photos)
        with torch.no_grad():
            wanted = self.features(photos)
        g = {"G/adversarial": heard(drawing, 1), "G/content": l1(self.features(drawing), wanted)}
        (g["G/adversarial"] + 10 * g["G/content"]).backward()
        self.g.step()
        return losses | g
