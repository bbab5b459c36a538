"""A Style: one file with everything needed to draw, and the object that draws with it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

import fewtoon
from fewtoon import config, methods
from fewtoon import device as devices
from fewtoon.errors import Problem, nearest
from fewtoon.faces.framing import Kind, Pad
from fewtoon.io import images, weights

if TYPE_CHECKING:
    from fewtoon.faces.cutter import Cutter
    from fewtoon.methods.base import Method

FORMAT = "fewtoon-style"
VERSION = 1
AUTO = "auto"  # the group that each photo is read as
DEEPEST = 32  # columns that `describe` indents: swaps of swaps of swaps
GPU_CHUNK = 8  # pictures per forward pass on a GPU; on a CPU one at a time is as fast


class Style:
    """One artist's style, ready to draw.

    Attributes: `header` (what the file says of itself), `method`, `size` (side of the pictures in pixels),
    `groups` (names that `group` may be; empty where the method draws every group alike), `framing`, `pad` and
    `whiten` (how its photos were cut out, see `fewtoon.faces.framing`), `device`, `precision`.
    """

    def __init__(self, method: Method, header: dict[str, Any], device: str, precision: str) -> None:
        self.method, self.header = method, header
        self.size = method.size
        self.groups = method.groups if method.grouped else []
        self.framing: str = header.get("framing") or "as-is"
        self.pad: str = header.get("pad") or "reflect"
        self.whiten: str | None = header.get("whiten")
        self._cutters: dict[str | None, Cutter] = {}  # those that `draw` has used, by framing
        self.device, self.precision = torch.device(device), precision
        for network in method.networks().values():
            network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            network.eval().requires_grad_(False)

    def translate(self, photos: Tensor, group: str | Sequence[str] | None = None) -> Tensor:
        """Photos to drawings: (B, 3, S, S) float in [-1, 1] -> the same, on the CPU or where `photos` is.

        group: one of `groups`, for all photos, or one for each; "auto", or None: each photo is drawn as the group
        that it is read as (see `guess`). The network always sees the same shape, so a photo's drawing does not
        depend on its neighbours or on the size of the batch. Raises Problem for a wrong type or shape and for an
        unknown group.
        """
        self._check(photos)
        if not isinstance(group, (str, type(None))):
            names = list(group)
            if len(names) != len(photos):
                raise Problem(
                    f"{len(names)} groups for {len(photos)} photos; name one for each, or one for all"
                )
            for name in set(names):
                self.check_group(name)
        else:
            self.check_group(group)
            if group in self.groups or not self.groups:
                return self._translated(photos, group if self.groups else None, self.method.translate)
            names = self.guess(photos)
        drawings = torch.empty(photos.shape, dtype=torch.float32, device=photos.device)
        for name in sorted(set(names)):
            rows = [row for row, own in enumerate(names) if own == name]
            drawings[rows] = self._translated(photos[rows], name, self.method.translate).to(drawings)
        return drawings

    def back(self, drawings: Tensor, group: str | None = None) -> Tensor:
        """Drawings to photos, as `translate` the other way: (B, 3, S, S) float in [-1, 1] -> the same.

        group: of all of them, of a style with groups; None: its rich one. Raises Problem for a style that has not
        learned this direction, for a wrong type or shape, and for an unknown group.
        """
        if not self.method.goes_back():
            raise Problem(f"this style ({self.method.name}) has not learned to make photos of drawings")
        self._check(drawings)
        self.check_group(None if group == AUTO else group)
        name = group if group in self.groups else None
        return self._translated(drawings, name, self.method.back)

    def guess(self, photos: Tensor) -> list[str]:
        """Which of `groups` each photo (B, 3, S, S) seems to be of, by the reader that the style carries.

        A style without a reader takes everybody for its rich group. Raises Problem for a style that has no
        groups, and for a wrong type or shape.
        """
        self._check(photos)
        if not self.groups:
            raise Problem("this style draws every group alike, so there is nothing to guess")
        numbers: list[int] = []
        with torch.inference_mode():
            for part in photos.split(1):
                numbers += self.method.read(part.to(self.device, torch.float32)).tolist()
        return [self.groups[number] for number in numbers]

    # --- a style that generates: pictures from random numbers, without a photo ---------------------------------

    def mapping(self, z: Tensor, group: str | None = None) -> Tensor:
        """Random numbers z (B, Z) to style codes w: (B, W), or (B, codes, W) where they differ from layer to layer.

        group: of a style that has groups. Raises Problem for a style that translates photos, and for a wrong shape.
        """
        draw = self._generator("mapping")
        self.check_group(group)
        return self._in_chunks(self._latents(z), lambda part: draw(part, group))

    def synthesis(self, w: Tensor, noise: Literal["fixed", "random"] = "fixed") -> Tensor:
        """Style codes w, (B, W) or (B, codes, W), to pictures (B, 3, S, S) float in [-1, 1].

        noise: the style's own, so that the same w gives the same picture, or drawn from torch's generator.
        """
        if noise not in ("fixed", "random"):
            raise Problem(f"noise {noise!r}: 'fixed' or 'random'")
        draw = self._generator("synthesis")
        return self._in_chunks(w, lambda part: draw(part, noise).clamp(-1, 1))

    def sample(self, z: Tensor, truncation: float = 1.0, group: str | None = None) -> Tensor:
        """Pictures (B, 3, S, S) float in [-1, 1] of random numbers z (B, Z), with the style's own noise.

        truncation: w is moved to the average w, 1: not at all, 0: all the way (typical, and less varied).
        """
        move = self._generator("truncated")
        return self.synthesis(move(self.mapping(z, group), truncation))

    def drawn(self, inputs: Tensor) -> Tensor:
        """What it draws of `inputs`: photos (B, 3, S, S), or random numbers (B, Z) of a style that generates."""
        return self.sample(inputs) if self.method.generates else self.translate(inputs)

    def _generator(self, what: str) -> Callable[..., Tensor]:
        if not self.method.generates:
            raise Problem(
                f"this style ({self.method.name}) translates photos and has no {what}: that takes a StyleGAN style"
            )
        return getattr(self.method, what)

    def _latents(self, z: Tensor) -> Tensor:
        length = self.method.latents(1, 0).shape[1]
        if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim != 2 or z.shape[1] != length:
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise Problem(f"random numbers of shape {shape}; this style takes a float tensor (B, {length})")
        return z.to(self.device, torch.float32)

    def _check(self, photos: Tensor) -> None:
        if self.method.generates:
            raise Problem(
                f"this style ({self.method.name}) makes pictures from random numbers and translates no photos: "
                "see style.sample(z), or 'fewtoon explore sample'"
            )
        takes = f"this style takes a float tensor (B, 3, {self.size}, {self.size}) in [-1, 1]"
        if not isinstance(photos, Tensor) or not photos.is_floating_point():
            raise Problem(f"photos of type {getattr(photos, 'dtype', type(photos).__name__)}; {takes}")
        if photos.ndim != 4 or photos.shape[1:] != (3, self.size, self.size):
            raise Problem(f"photos of shape {tuple(photos.shape)}; {takes}")

    def _translated(
        self, pictures: Tensor, group: str | None, by: Callable[[Tensor, str | None], Tensor]
    ) -> Tensor:
        def draw(part: Tensor) -> Tensor:
            return by(part.contiguous(memory_format=torch.channels_last), group).clamp(-1, 1)

        return self._in_chunks(pictures, draw) if len(pictures) else pictures.float()

    def _in_chunks(self, inputs: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """What `draw` makes of `inputs` (B, ...), float32 where these are; it always sees the same shape."""
        chunk = 1 if self.device.type == "cpu" else GPU_CHUNK
        made = []
        with torch.inference_mode(), self._autocast():
            for part in inputs.split(chunk):
                some = part.to(self.device, torch.float32)
                full = torch.cat([some, some[-1:].expand(chunk - len(some), *some.shape[1:])])
                made.append(draw(full)[: len(some)].float().to(inputs.device))
        return torch.cat(made)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def check_group(self, group: str | None) -> None:
        """Raises Problem for a group that this style does not draw in a way of its own."""
        if group is None or group in self.groups or (group == AUTO and not self.groups):
            return
        if not self.groups:
            raise Problem(f"this style draws every group alike; leave group {group!r} out")
        if group != AUTO:
            raise Problem(f"this style has no group {group!r}; {nearest(group, [*self.groups, AUTO])}")
        if not self.method.reads_groups():
            names = ", ".join(self.groups)
            raise Problem(
                f"this style cannot read a photo's group, so {group!r} is not for it; name one of: {names}"
            )

    def cutter(
        self, framing: str | None = None, find: Sequence[str] | str = (), matte: str | None = None
    ) -> tuple[Cutter, list[str]]:
        """What cuts faces out of photos as this style saw them in training, and what is worth a sentence.

        framing: another than the style's own. find: specs of finders (`fewtoon.faces.finders`). matte: the spec
        of another matte (`fewtoon.faces.matte`). Raises Problem for what is not known or does not open.
        """
        from fewtoon.faces import finders
        from fewtoon.faces.cutter import Cutter
        from fewtoon.faces.matte import open_matte

        if framing is not None and framing not in get_args(Kind):
            raise Problem(f"no framing {framing!r}: {nearest(framing, get_args(Kind))}")
        kind, notes = cast(Kind, framing or self.framing), []
        finder = opened = None
        if kind != "as-is":
            named = [find] if isinstance(find, str) else list(find)
            finder = finders.choose(named, "photos")
            notes += finders.notes(named)
        if matte is not None:
            opened = open_matte(matte)
        elif self.whiten is not None:
            try:
                opened = open_matte(self.whiten)
            except Problem as problem:
                notes.append(f"this style draws people before white, but backgrounds stay: {problem}")
        return Cutter(self.size, kind, cast(Pad, self.pad), finder, opened), notes

    def draw(
        self, image: Image.Image | np.ndarray, group: str | None = None, framing: str | None = None
    ) -> Image.Image:
        """The face in a photo, a PIL image or an (H, W, 3) uint8 array, to a drawing of `size` x `size` pixels.

        group: as in `translate`. The largest face is framed as in training, or as `framing` says; for "as-is"
        the photo is a face already and cropped to its middle where it is not square. Raises Problem for anything
        else, and when there is no face.
        """
        from fewtoon.faces import coach
        from fewtoon.faces.cutter import whitened

        try:
            if isinstance(image, Image.Image):
                image = images.to_rgb(images.upright(image))
            pixels = np.asarray(image)
        except (OSError, ValueError, TypeError, RuntimeError, SyntaxError) as error:  # torn, closed, ragged
            raise Problem(f"the image cannot be read ({error}); open the photo again") from None
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise Problem(
                f"an image of shape {pixels.shape} and type {pixels.dtype}; draw takes a PIL image or an "
                "(H, W, 3) uint8 array"
            )
        if framing not in self._cutters:
            self._cutters[framing], notes = self.cutter(framing)
            for note in notes:
                warnings.warn(note, stacklevel=2)
        cutter = self._cutters[framing]
        faces = sorted(cutter.find(pixels), key=lambda face: -face.area)
        if cutter.kind != "as-is" and not faces:
            raise Problem(coach.no_face(pixels))
        (cutout,) = cutter.cut(pixels, faces[:1])
        drawing = to_pixels(self.translate(to_tensor(cutout.pixels[None]), group))[0]
        return Image.fromarray(whitened(cutout, drawing))

    def save(self, path: str | Path) -> None:
        """Write this style to one .safetensors file, atomically."""
        write(path, self.method, self.header)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W) float in [-1, 1] -> (B, H, W, 3) uint8, rounded to the nearest level."""
    levels = pictures.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def write(
    path: str | Path,
    method: Method,
    facts: dict[str, Any],
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write the networks of `method`, built with training=False, as a Style, atomically.

    extra: name -> state dict of further networks, some of `method.extra`, that a training may begin with.
    `facts` go into the header: framing, packs (their hashes), licence, metrics, step, source, whatever is
    known. Format, version, method, settings, size and groups are added here.
    """
    networks = {name: network.state_dict() for name, network in method.networks().items()} | dict(extra or {})
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, state in networks.items()
        for key, tensor in state.items()
    }
    header = {
        **facts,
        "format": FORMAT,
        "version": VERSION,
        "fewtoon": fewtoon.__version__,
        "method": method.name,
        "model": config.portable(method.config),
        "size": method.size,
        "groups": method.groups,
        "networks": sorted(networks),
    }
    weights.write(path, tensors, {"fewtoon": json.dumps(header)})


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _one_of(kinds: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in get_args(kinds)


def _facts(value: Any) -> bool:
    return value is None or isinstance(value, dict)


# What `load` and `describe` rely on; everything else in a header is only passed on.
_HEADER: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str),
    "size": lambda value: type(value) is int and 16 <= value <= 2048,
    "groups": _names,
    "networks": lambda value: _names(value) and bool(value),
    "framing": _one_of(Kind),
    "pad": _one_of(Pad),
    "whiten": lambda value: value is None or isinstance(value, str),
    "source": _facts,
    "packs": _facts,
    "metrics": _facts,
    "licence": _facts,
}


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a Style file, without reading its weights. Raises Problem if it is none."""
    path = Path(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("fewtoon")
    except FileNotFoundError:
        raise Problem(
            f"style {str(path)!r} does not exist; name a .safetensors file or a run folder"
        ) from None
    except (SafetensorError, OSError) as error:
        raise Problem(
            f"{str(path)!r} is not a style, or torn ({error}): copy it again, or bring a foreign checkpoint in with "
            "'fewtoon import'"
        ) from None
    try:
        header = json.loads(text or "")
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Problem(
            f"{str(path)!r} is a safetensors file but not a style of fewtoon; see 'fewtoon import --help'"
        )
    if header.get("version") != VERSION:
        raise Problem(
            f"style {str(path)!r} has version {header.get('version')!r}, this fewtoon reads {VERSION}; update fewtoon"
        )
    for key, valid in _HEADER.items():
        if not valid(header.get(key)):
            raise Problem(
                f"style {str(path)!r} is damaged: its header has no valid {key!r}; copy the file again"
            )
    return header


def load(path: str | Path, device: str | None = None, precision: Literal["fp32", "bf16"] = "fp32") -> Style:
    """Open a Style file, or the best Style of a run folder.

    `device`: "cpu", "cuda" ...; None: a GPU if there is one. Raises Problem for a missing, torn or foreign
    file and for a device that does not work. Nothing in the file is executed.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "best.safetensors").is_file():
            raise Problem(
                f"run {str(path)!r} has no best.safetensors yet; train it until the first held-out KID"
            )
        path = path / "best.safetensors"
    if precision not in ("fp32", "bf16"):
        raise Problem(f"precision {precision!r}: 'fp32' or 'bf16'")
    header = read_header(path)
    kind = methods.find(header["method"])
    settings = config.section(kind.Config, header.get("model"), "model")
    with torch.device("meta"):  # no memory, and no first weights, before the tensors are known to fit
        method = kind(settings, header["size"], header["groups"], training=False)
    tensors = weights.read(path)
    networks = method.networks()
    for name in set(networks) - set(header["networks"]):  # an imported file may hold one direction only
        if name not in method.optional:
            raise Problem(f"style {str(path)!r} lacks the network {name!r}, which draws; copy the file again")
        del networks[name]
    known = {*networks, *method.extra}
    strays = [key for key in (*header["networks"], *tensors) if key.split(".")[0] not in known]
    if strays:
        raise Problem(
            f"style {str(path)!r} is damaged: {method.name} has no place for {strays[0]!r}; copy the file again"
        )
    for name, network in networks.items():
        own = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        weights.fill(network, own, f"style {str(path)!r}, network {name!r}")
        if not all(torch.isfinite(tensor).all() for tensor in own.values()):
            raise Problem(f"style {str(path)!r} holds weights that are not finite; it was spoilt in training")
    return Style(method, header, str(devices.pick(device)), precision)


def groups_of(header: dict[str, Any]) -> list[str]:
    """The `groups` of the Style that a header is of, without its weights: none where it draws every group alike."""
    kind = methods.find(header["method"])
    with torch.device("meta"):
        method = kind(
            config.section(kind.Config, header.get("model"), "model"),
            header["size"],
            header["groups"],
            training=False,
        )
    return list(method.groups) if method.grouped else []


def describe(header: dict[str, Any]) -> str:
    """A style file in plain words."""
    kind = methods.find(header["method"])
    lines = [
        f"style of {header['size']} px, method {header['method']} ({kind.paper})",
        f"groups: {', '.join(header['groups']) or 'none'}"
        + (", read from the photo where none is named" if kind.reader in header["networks"] else ""),
        f"faces are framed {header.get('framing') or 'as-is'}"
        + (f", background made white by {header['whiten']}" if header.get("whiten") else ""),
    ]
    if kind.generates:
        lines += _generator_told(kind, header)
    lines += _parents_told(header.get("made_of"))
    source = header.get("source")
    if source:
        told = f"{source.get('file')}, sha256 {str(source.get('sha256'))[:12]}"
        lines.append(f"imported from {source.get('system')} ({told})")
    if header.get("step") is not None:
        lines.append(f"trained for {header['step']} steps")
    metrics = header.get("metrics") or {}
    if isinstance(metrics.get("kid"), (int, float)):
        lines.append(f"held-out KID x1000 {metrics['kid']:.2f} (features {metrics.get('features')})")
    for side, digest in (header.get("packs") or {}).items():
        lines.append(f"{side}: pack {str(digest)[:12]}")
    for side, notes in (header.get("licence") or {}).items():
        lines += [f"note on the {side}: {note}" for note in (notes if isinstance(notes, list) else [notes])]
    return "\n".join(lines)


def _generator_told(kind: type[Method], header: dict[str, Any]) -> list[str]:
    """The lines about a style that generates: its random numbers, its networks."""
    settings = config.section(kind.Config, header.get("model"), "model")
    with torch.device("meta"):
        method = cast(Any, kind(settings, header["size"], header["groups"], training=False))
    drawing = sum(p.numel() for network in method.networks().values() for p in network.parameters())
    channels = ", ".join(map(str, method.channels))
    told = [
        f"draws of {method.config.latent} random numbers z; style codes w: {method.generator.codes} of "
        f"{method.config.style} numbers",
        f"{drawing:,} parameters; channels at 4, 8 ... {method.size} px: {channels}",
    ]
    if method.config.freeze_styles:
        told.append(f"its first {method.config.freeze_styles} style codes are its source's (FreezeSG)")
    if "discriminator" in header["networks"]:
        return [*told, "with its discriminator: fine-tuning (train --init) goes on with it"]
    return [*told, "without its discriminator: fine-tuning (train --init) begins with a fresh one"]


def _parents_told(made_of: Any, indent: str = "") -> list[str]:
    """The lines about a style that was made of two, and of what these were made."""
    if not isinstance(made_of, dict) or len(indent) > DEEPEST:
        return []
    width = made_of.get("width")
    how = f"smooth switch of width {width:g}" if isinstance(width, (int, float)) and width else "hard switch"
    chosen = ", ".join(f"{name} {made_of.get(name)}" for name in ("mapping", "constant", "noise", "rgb"))
    lines = [f"{indent}made of two by {made_of.get('by')}: {how} at {made_of.get('resolution')} px; {chosen}"]
    for side, place in (("low", "up to there"), ("high", "above")):
        parent = made_of.get(side)
        if isinstance(parent, dict):
            name = (
                f"{parent['file']}, sha256 {str(parent.get('sha256'))[:12]}"
                if parent.get("file")
                else "no file"
            )
            steps = f", trained for {parent['step']} steps" if parent.get("step") is not None else ""
            lines.append(f"{indent}  {side}, {place}: {name}{steps}")
            lines += _parents_told(parent.get("made_of"), indent + "    ")
    return lines
