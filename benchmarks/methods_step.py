"""One training step of each translator of the literature against its published schedule, restated plainly in
common/plain_methods.py and common/plain_codes.py.

Same weights, same pictures: first the losses of one step are compared, with all random numbers 0.5, then CPU seconds
of whole steps (all optimisers, ours with the engine's seeds, norms and checks) are measured in turn, on one thread.
DRIT's step is three, of which one moves everything. CartoonGAN's content loss has a VGG19 of random weights; its
drawings with smoothed edges are given to the published step and made in ours.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common import plain_codes, plain_methods
from common.measure import interleaved, machine, median_ratio, medians, parser, tell
from common.plain_methods import Plain
from fewtoon import config as configs
from fewtoon import methods
from fewtoon.config import Config, Train
from fewtoon.engine import loop
from fewtoon.engine.progress import Watch
from fewtoon.engine.trainee import Trainee
from fewtoon.methods.base import Batch
from fewtoon.nets import vgg
from fewtoon.nets.cartoongan import smooth_edges
from ugatit_step import pictures

NAMES = ("cyclegan", "aggan", "cut", "unit", "munit", "drit", "cartoongan")
STEPS = {"drit": 3}  # updates that count as one step
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Ours:
    """A step as the engine takes it."""

    def __init__(self, name: str, size: int, model: dict[str, Any], precision: str) -> None:
        kind = methods.find(name)
        settings = configs.section(kind.Config, model, "model")
        train = Train(batch=1, precision=precision)  # `batch` pictures come all the same
        self.trainee = Trainee(
            Config(method=name, model=settings, train=train), size, [], torch.device("cpu")
        )
        self.steps, self.watch = STEPS.get(name, 1), Watch(1, quiet=True)

    def __call__(self, photos: Tensor, drawings: Tensor) -> dict[str, float]:
        """The losses of the first update."""
        self.trainee.counters.micro_batch = len(photos)
        none = torch.full((len(photos),), -1)
        found = [
            loop.update(self.trainee, Batch(photos, drawings, none, none, step), self.watch)
            for step in range(self.steps)
        ]
        assert not any(each.bad for each in found)
        return found[0].values


def plainly(name: str, size: int, channels: int, features: Callable[[Tensor], Tensor]) -> Plain:
    """The published step, with torch's first weights."""
    if name == "cartoongan":
        return plain_methods.CartoonGAN(channels, features)
    if name == "drit":
        return plain_codes.DRIT(channels, size)
    kinds: dict[str, type[Any]] = {
        "cyclegan": plain_methods.CycleGAN,
        "aggan": plain_methods.AGGAN,
        "cut": plain_methods.CUT,
        "unit": plain_codes.UNIT,
        "munit": plain_codes.MUNIT,
    }
    return kinds[name](channels)


def model_of(name: str, channels: int, file: Path) -> dict[str, Any]:
    """Our settings for the same networks."""
    if name == "aggan":
        return {"channels": channels, "discriminator_channels": 2 * channels}
    if name == "cartoongan":
        return {"channels": channels, "discriminator_channels": channels // 2, "vgg": str(file)}
    return {"channels": channels}


# --- the same weights -------------------------------------------------------------------------------------


def parts(network: nn.Module) -> tuple[list[Any], list[list[Tensor]]]:
    """Convolutions and linear layers, and of each normalisation its scale and offset, in order."""
    layers = [module for module in network.modules() if isinstance(module, CONVOLUTIONS)]
    norms = [
        [parameter.data for parameter in module.parameters(recurse=False)]
        for module in network.modules()
        if not isinstance(module, CONVOLUTIONS) and any(True for _ in module.parameters(recurse=False))
    ]
    return layers, norms


@torch.no_grad()
def copy_weights(ours: Any, plain: Plain) -> None:
    """Ours into the plain networks; biases that ours leaves out become 0."""
    networks = ours.networks()
    for name, network in plain.networks.items():
        (layers, norms), (mine, my_norms) = parts(network), parts(networks[name])
        for theirs, own in zip(layers, mine, strict=True):
            weight = own.weight
            if isinstance(theirs, nn.ConvTranspose2d) and not isinstance(own, nn.ConvTranspose2d):
                weight = weight.transpose(0, 1)
            theirs.weight.copy_(weight.reshape(theirs.weight.shape))
            if own.bias is not None:
                theirs.bias.copy_(own.bias)
            elif theirs.bias is not None:
                theirs.bias.zero_()
        for pair, own_pair in zip(norms, my_norms, strict=True):
            for theirs, own in zip(pair, own_pair, strict=True):
                theirs.copy_(own)


@contextlib.contextmanager
def nothing_at_random() -> Iterator[None]:
    """Normal numbers are all 0.5, and permutations leave everything where it is."""

    def halves(*shape: Any, **given: Any) -> Tensor:
        return torch.full(shape, 0.5)

    def halves_like(x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)

    with (
        mock.patch.object(torch, "randn", halves),
        mock.patch.object(torch, "randn_like", halves_like),
        mock.patch.object(torch, "randperm", lambda count, **given: torch.arange(count)),
    ):
        yield


@contextlib.contextmanager
def unbiased(plain: Plain) -> Iterator[None]:
    """Instance norms with a scale, of their own or from outside, divide by the unbiased deviation."""
    modules = [module for network in plain.networks.values() for module in network.modules()]
    norms = [module.norm for module in modules if isinstance(module, plain_codes.AdaptiveResidual)]
    norms += [module for module in modules if isinstance(module, nn.InstanceNorm2d) and module.affine]
    hooks = [norm.register_forward_hook(plain_methods.by_the_unbiased) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()


def compare(ours: Ours, plain: Plain, photos: Tensor, drawings: Tensor) -> dict[str, float]:
    """How far each loss of the first step is from the published one, relatively.

    Ours divides by the unbiased deviation where an instance norm has a scale, the published ones by the biased one;
    for this step they do as ours.
    """
    copy_weights(ours.trainee.method, plain)
    with nothing_at_random(), unbiased(plain):
        mine = ours(photos, drawings)
        theirs = {name: loss.item() for name, loss in plain(photos, drawings).items()}
    missing = theirs.keys() - mine.keys()
    assert not missing, f"ours has no {sorted(missing)}: {sorted(mine)}"
    return {name: abs(mine[name] - value) / max(abs(value), 1e-8) for name, value in theirs.items()}


# --- measuring --------------------------------------------------------------------------------------------


def measure(
    name: str, size: int, channels: int, batch: int, runs: int, file: Path, features: Any
) -> dict[str, Any]:
    photos, drawings = pictures(size, batch)
    model = model_of(name, channels, file)

    def ready(plain: Plain) -> Plain:
        if isinstance(plain, plain_methods.CartoonGAN):
            plain.smoothed = smooth_edges(drawings).contiguous()
        return plain

    torch.manual_seed(0)
    plain = ready(plainly(name, size, channels, features))
    fp32, bf16 = (Ours(name, size, model, precision) for precision in ("fp32", "bf16"))
    apart = compare(fp32, plain, photos.contiguous(), drawings.contiguous())
    works: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(photos.contiguous(), drawings.contiguous()),
        "fp32": lambda: fp32(photos, drawings),
        "bf16": lambda: bf16(photos, drawings),
    }
    seconds = interleaved(works, runs)
    worst = max(apart, key=lambda each: apart[each])
    return {
        "ratio_fp32": median_ratio(seconds, "plain", "fp32"),
        "ratio_bf16": median_ratio(seconds, "plain", "bf16"),
        "cpu_seconds": medians(seconds),
        "loss_difference": apart[worst],
        "loss_that_differs_most": worst,
    }


def random_vgg19(file: Path) -> Callable[[Tensor], Tensor]:
    """Writes a VGG19 with random weights; conv4_4 of it, for pictures in [-1, 1]."""
    torch.manual_seed(0)
    network = vgg.VGG(19)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    save_file(network.state_dict(), file)
    network = network.until("conv4_4").requires_grad_(False)
    return lambda pictures: network(vgg.imagenet(pictures), ["conv4_4"])[0]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--channels", type=int, default=32)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--methods", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    args = p.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vgg19.safetensors"
        features = random_vgg19(file) if "cartoongan" in args.methods else None
        for name in args.methods:
            found[name] = measure(name, args.size, args.channels, args.batch, args.runs, file, features)
    settings = {"size": args.size, "channels": args.channels, "batch": args.batch, "threads": 1}
    result = {
        "benchmark": "methods_step",
        **{f"ratio_{kind}": middle(found, f"ratio_{kind}") for kind in ("fp32", "bf16")},
        "methods": found,
        "settings": settings | {"runs": args.runs},
        "machine": machine(),
    }
    tell(result, args)


def middle(found: dict[str, Any], key: str) -> float:
    """The geometric mean over the methods."""
    return round(math.exp(sum(math.log(each[key]) for each in found.values()) / len(found)), 2)


if __name__ == "__main__":
    main()
