"""An encoder for one generator: what code would it draw this picture from? Learned from its own pictures.

Its answer is a start for `fewtoon.latent.project`, and with no steps after it a fast one.

Zhu, Shen, Zhao, Zhou: In-Domain GAN Inversion for Real Image Editing, ECCV 2020, arXiv:2004.00049; here the code of the
generator's own pictures is known and therefore taught, and nothing is adversarial.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import fewtoon
from fewtoon import style as styles
from fewtoon.data.pack import Pack
from fewtoon.engine.progress import Watch
from fewtoon.engine.seed import generator
from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash, printable, write_bytes
from fewtoon.latent.inversion import average, clipped, distance, rate_at, spread
from fewtoon.latent.record import ENCODER, check_own
from fewtoon.latent.sources import Source, open_sources
from fewtoon.losses.perceptual import Likeness, open_likeness
from fewtoon.nets.encoder import Encoder

VERSION = 1
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam
HELD_OUT = 64  # of the generator's pictures that it is measured on


@dataclass(frozen=True)
class Settings:
    """How an encoder learns. Raises Problem for values that will not do."""

    steps: int = 4000
    batch: int = 8  # pictures per step; with photos half of them
    rate: float = 0.002  # of Adam, at its highest; rises and falls as in projection
    code: float = 1.0  # weight of the error of the code, in units of the spread of w
    pixel: float = 1.0  # weight of the mean squared error of the picture that the code draws
    perceptual: float = 1.0  # weight of its unlikeness
    pull: float = 0.05  # weight of the distance of the codes of photos from the average w
    mixed: float = 0.5  # share of the generator's pictures that are drawn from two codes
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= 10_000_000:
                raise Problem(f"{name} {value!r}: a whole number from {least} to 10000000")
        for name in ("rate", "code", "pixel", "perceptual", "pull", "mixed"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:  # nan fails too
                raise Problem(f"{name} {value!r}: a number from 0 on")
        if self.mixed > 1:
            raise Problem(f"mixed {self.mixed!r}: a share from 0 to 1")
        if not (self.code or self.pixel or self.perceptual):
            raise Problem(
                "code, pixel and perceptual are all 0, so there is nothing to learn: leave one of them"
            )


class Opened(NamedTuple):
    """An encoder from a file."""

    network: Encoder
    header: dict[str, Any]
    notes: list[str]  # what is worth a sentence
    file: str
    sha256: str

    @torch.no_grad()
    def guess(self, photos: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, codes, W) on the CPU; one at a time, so that neighbours change nothing."""
        device = next(self.network.parameters()).device
        return torch.cat([self.network(one.to(device)).cpu() for one in photos.split(1)])

    def facts(self) -> dict[str, Any]:
        return {"file": self.file, "sha256": self.sha256, "of": self.header.get("style")}


# --- learning ----------------------------------------------------------------------------------------------


def learn(
    source: Source,
    likeness: Likeness,
    settings: Settings,
    photos: np.ndarray | None = None,
    tell: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> Encoder:
    """An encoder E of the generator G of `source`, in eval mode.

    Minimised by Adam, for pictures x = G(w) of random codes w and for photos y, (N, S, S, 3) uint8:

        code |E(x) - w|^2 / spread^2 + L(G(E(x)), x)   and   L(G(E(y)), y) + pull distance(E(y))

    each the mean over its half of the batch, where L = pixel MSE + perceptual unlikeness. Without photos the batch is
    all x. Every random number is a function of the seed and the step. Raises Problem when a loss is not finite.
    """
    g, device = source.method.generator, source.style.device
    torch.manual_seed(settings.seed)
    network = Encoder(g.size, source.method.channels, g.mapping.average.shape[0])
    scale = spread(source)
    network.middle.copy_(average(source))
    network.scale.fill_(scale / math.sqrt(network.style))
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    adam = torch.optim.Adam(network.parameters(), settings.rate, BETAS, EPSILON)
    seen = 0 if photos is None else settings.batch // 2
    own = settings.batch - seen
    for step in range(settings.steps):
        random = generator(settings.seed, 0, step, "encoder")
        with torch.no_grad():
            w = random_codes(source, own, settings.mixed, random)
            x = g.synthesis(w, "fixed").clamp(-1, 1)
        if photos is not None:
            x = torch.cat([x, _photos(photos, seen, random).to(device)])
        with torch.no_grad():
            wanted = likeness.describe(x) if settings.perceptual else []
        found = network(x)
        y = clipped(g.synthesis(found, "fixed"))
        each = settings.pixel * (y - x).square().mean((1, 2, 3))
        if settings.perceptual:
            each = each + settings.perceptual * likeness.compare(likeness.describe(y), wanted)
        losses = {
            "code": distance(found[:own], w, scale).mean(),
            "own": each[:own].mean(),
        }
        whole = settings.code * losses["code"] + losses["own"]
        if seen:
            losses["photos"] = each[own:].mean()
            whole = whole + losses["photos"]
            whole = whole + settings.pull * distance(found[own:], network.middle, scale).mean()
        if not torch.isfinite(whole):
            raise Problem(
                f"the loss is {float(whole.detach())} at step {step}: take a smaller --rate than {settings.rate:g}"
            )
        adam.param_groups[0]["lr"] = settings.rate * rate_at((step + 1) / (settings.steps + 1))
        adam.zero_grad()
        whole.backward()
        adam.step()
        tell(step + 1, {name: float(loss.detach()) for name, loss in losses.items()})
    return network.eval().requires_grad_(False)


def random_codes(source: Source, count: int, mixed: float, random: torch.Generator) -> Tensor:
    """(count, codes, W): of random z; a share `mixed` has a second z's codes from a random layer on, as in training."""
    g = source.method.generator
    z = torch.randn(2 * count, source.method.config.latent, generator=random)
    w = source.method.mapping(z.to(source.style.device))
    w = w[:, None].expand(-1, g.codes, -1) if w.ndim == 2 else w
    first = torch.randint(1, g.codes, (count, 1), generator=random)
    first[torch.rand(count, generator=random) >= mixed] = g.codes
    second = (torch.arange(g.codes) >= first).to(w.device)
    return torch.where(second[:, :, None], w[count:], w[:count])


def _photos(photos: np.ndarray, count: int, random: torch.Generator) -> Tensor:
    """Random ones, half of them mirrored."""
    chosen = torch.randint(len(photos), (count,), generator=random)
    found = styles.to_tensor(photos[chosen.numpy()])
    mirrored = torch.rand(count, generator=random) < 0.5
    return torch.where(mirrored[:, None, None, None], found.flip(3), found)


@torch.no_grad()
def psnr(source: Source, network: Encoder, pictures: Tensor) -> float:
    """The mean over (N, 3, S, S) of the peak signal-to-noise ratio, in dB, of what their codes draw."""
    found = [network(one.to(source.style.device)) for one in pictures.split(1)]
    drawn = source.style.synthesis(torch.cat(found)).cpu()
    return float(peak_ratio(drawn, pictures).mean())


def peak_ratio(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, (B, 3, S, S) in [-1, 1] each -> (B,) dB: 10 log10(2^2 / MSE)."""
    error = (made.clamp(-1, 1) - wanted).square().mean((1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-12))


# --- the verb ----------------------------------------------------------------------------------------------


def encoder(
    style: str | Path,
    out: str | Path,
    *,
    settings: Settings | None = None,
    photos: str | Path | None = None,
    backbone: str | Path | None = None,
    heads: str | Path | None = None,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Learn an encoder of a style or run, and write it to `out`, a .safetensors file, with a .json beside it.

    photos: a pack, whose training split it learns too, of the style's size. backbone, heads: files of LPIPS; without
    them `SSIM`. The header says which style it is of, every setting, and what came out: `psnr_own`, of pictures of
    the generator that it never saw, and `psnr_photos`, of the pack's held-out split. Returns these. Raises Problem for
    bad input, before anything is learned.
    """
    settings = settings or Settings()
    out = Path(out)
    if out.suffix.lower() != ".safetensors":
        raise Problem(f"--out {printable(out)!r}: its name must end in .safetensors")
    if out.is_dir():
        raise Problem(f"--out {printable(out)!r} is a folder: name a file")
    (source,) = open_sources([style], device)
    if out.resolve() == source.file.resolve():
        raise Problem(f"--out {printable(out)!r} is the style itself: choose another name")
    check_own(out, "encoder")
    check_own(out.with_suffix(".json"), "record")
    check_place(out.parent)
    likeness = open_likeness(backbone, heads, source.style.device)
    pack, train, held = _opened(photos, source, settings)

    watch = Watch(settings.steps, quiet=not progress)
    watch.start(0)
    try:
        network = learn(source, likeness, settings, train, watch.step)
    finally:
        watch.close()
    own = random_codes(source, HELD_OUT, 0.0, generator(settings.seed, 0, 0, "encoder held out"))
    metrics = {"psnr_own": psnr(source, network, source.style.synthesis(own).cpu()), "own_pictures": HELD_OUT}
    if held is not None and len(held):
        metrics |= {"psnr_photos": psnr(source, network, styles.to_tensor(held)), "photos": len(held)}

    command = ["fewtoon", "explore", "encoder", source.given]
    for name, value in asdict(settings).items():
        command += [f"--{name}", repr(value)]
    for name, given in (("photos", photos), ("backbone", backbone), ("heads", heads)):
        command += [f"--{name}", str(given)] if given is not None else []
    command += ["--device", str(source.style.device), "--out", str(out)]
    header = {
        "format": ENCODER,
        "version": VERSION,
        "fewtoon": fewtoon.__version__,
        "torch": torch.__version__,
        "command": shlex.join(command),
        "style": {**source.facts(), "synthesis_sha256": synthesis_hash(source)},
        "size": network.size,
        "codes": network.codes,
        "w": network.style,
        "channels": list(source.method.channels),
        "likeness": likeness.facts(),
        "settings": asdict(settings),
        "photos": None
        if pack is None
        else {"pack": pack.hash, "notes": sorted({r.note for r in pack.rows if r.note})},
        "metrics": metrics,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    weights.write(out, tensors, {"fewtoon": json.dumps(header)})
    beside = out.with_suffix(".json")
    write_bytes(beside, (json.dumps(header, indent=1) + "\n").encode())
    return {"out": str(out), "record": str(beside), "likeness": likeness.facts(), **metrics}


def _opened(
    photos: str | Path | None, source: Source, settings: Settings
) -> tuple[Pack | None, np.ndarray | None, np.ndarray | None]:
    """The pack, its training pictures and its held-out ones. Raises Problem for what cannot be learned from."""
    if photos is None:
        return None, None, None
    pack = Pack.open(photos)
    if pack.size != source.style.size:
        raise Problem(
            f"pack {printable(photos)!r} has pictures of {pack.size} px, {source.name} draws {source.style.size}: "
            f"prepare it with --size {source.style.size}"
        )
    if settings.batch < 2:
        raise Problem(f"batch {settings.batch}: with --photos at least 2, one of each kind")
    train = pack.where("train")
    if not len(train):
        raise Problem(f"pack {printable(photos)!r} has no pictures for training: all are held out")
    return pack, pack.images[train], pack.images[pack.where("held_out")]


def check_place(folder: Path) -> None:
    """Raises Problem for a folder that cannot be written or made: to be told before the work, not after it."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "cannot be written" if there.is_dir() else "is a file"
        raise Problem(f"--out: {printable(there)!r} {what}; choose another place")


def synthesis_hash(source: Source) -> str:
    """sha256 (hex) over the names and numbers of what draws: the same for copies of a style, whatever its header."""
    total = hashlib.sha256()
    for name, tensor in sorted(source.method.generator.synthesis.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def open_encoder(path: str | Path, source: Source) -> Opened:
    """The encoder in a file, for `source`, on its device.

    Raises Problem for a file that is none or is torn, and for an encoder of another layout. One that was trained for
    another style of this layout works, more or less, and gets a note.
    """
    told = f"encoder {printable(path)!r}"
    header = _header(path, told)
    g = source.method.generator
    here = {"size": g.size, "codes": g.codes, "w": g.mapping.average.shape[0]}
    there = {name: header.get(name) for name in here}
    if here != there:
        sides = (", ".join(f"{name} {value}" for name, value in one.items()) for one in (there, here))
        raise Problem(
            f"{told} is of a style of another layout ({next(sides)}; {source.name} has {next(sides)}): train one with "
            f"'fewtoon explore encoder {source.given}'"
        )
    channels = header.get("channels")
    if not isinstance(channels, list) or not all(type(c) is int and 1 <= c <= 4096 for c in channels):
        channels = []
    if len(channels) != len(source.method.sizes):
        raise Problem(f"{told} is damaged: its header has no valid 'channels'; copy the file again")
    with torch.device("meta"):
        network = Encoder(g.size, channels, here["w"])
    tensors = weights.read(path)
    weights.fill(network, tensors, told)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise Problem(f"{told} holds weights that are not finite: train it again")
    notes = []
    of = header.get("style")
    if not isinstance(of, dict) or of.get("synthesis_sha256") != synthesis_hash(source):
        whose = of.get("file") if isinstance(of, dict) else None
        notes.append(
            f"{told} was trained for another style ({whose or 'unknown'}): its guesses for {source.name} are worse"
        )
    network.to(source.style.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Opened(network.eval().requires_grad_(False), header, notes, Path(path).name, file_hash(path))


def _header(path: str | Path, told: str) -> dict[str, Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("fewtoon")
        header = json.loads(text or "null")
    except FileNotFoundError:
        raise Problem(f"{told} does not exist; 'fewtoon explore encoder STYLE' makes one") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Problem(f"{told} cannot be read ({error}); copy it again") from None
    if not isinstance(header, dict) or header.get("format") != ENCODER:
        raise Problem(f"{told} is a safetensors file but no encoder; name one of 'fewtoon explore encoder'")
    if header.get("version") != VERSION:
        raise Problem(
            f"{told} has version {header.get('version')!r}, this fewtoon reads {VERSION}; update fewtoon"
        )
    return header
