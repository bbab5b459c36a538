"""The tool: seeds or latents edited by a text, at several strengths, drawn by the source and by styles made from it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io import clip as clips
from fewtoon.io import images
from fewtoon.io.files import file_hash, printable
from fewtoon.latent.codes import of_file, of_seeds
from fewtoon.latent.direction import layers_of
from fewtoon.latent.progress import bar
from fewtoon.latent.record import all_or_none, check_out, record
from fewtoon.latent.seeds import check_seeds, check_truncations, seeds_told
from fewtoon.latent.sheet import cell, enlarged, sheet, sheet_size
from fewtoon.latent.sources import Source, check_family, check_group, open_sources
from fewtoon.latent.text import Identity, Recipe, check_recipe, optimise, strength
from fewtoon.latent.video import FPS, FRAMES_PER_SEED, check_size, check_video, check_walk, save_video

STRENGTHS = (0.0, 1.0, 2.0)
SEED_TRUNCATION = 0.7  # of StyleCLIP's start; latents of photos start where they are
STRONGEST = 20.0


def edit(
    source: str | Path,
    recipe: Recipe,
    clip: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] | None = None,
    latents: str | Path | None = None,
    draw: Sequence[str | Path] = (),
    strengths: Sequence[float] = STRENGTHS,
    layers: str | None = None,
    truncation: float | None = None,
    group: str | None = None,
    clip_model: str | None = None,
    identity: str | Path | None = None,
    single: bool = False,
    video: str | Path | None = None,
    frames: int | None = None,
    fps: float = FPS,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Move codes of the style `source` as `recipe` says, and draw the way at several strengths.

    seeds, or a file of latents, say which codes; neither: seeds 0 to 3. clip: a CLIP file, of the architecture
    `clip_model`. draw: more styles, made from the source, that draw the same edits. strengths: alpha of
    `fewtoon.latent.text.strength`, a column each beside the start. layers: those of the recipe in words, as "0-3,8" or
    "4px-16px". truncation: of the start, 0.7 for seeds and 1 for latents where it is not said; each style truncates to
    its own average, and the way is added to that. group: of seeds, where the source has groups. identity: a face
    recognition file. single: also a PNG per picture. video: from the start to the strongest and back, as .webp or .mp4.

    In `out`: sheet.png; latents.safetensors with the codes at strength 0 ('NAME.w') and their starts ('NAME.start'),
    (N, codes, W); edit.json: styles and files with sha256, every setting, losses, cosines of pictures and text, and the
    command. Returns what was written. Raises Problem for bad input, before anything is moved or written.
    """
    out, strengths = Path(out), check_strengths(strengths)
    if seeds is not None and latents is not None:
        raise Problem("--seeds and --latents: name one of them")
    if latents is not None and group is not None:
        raise Problem(f"--group {group}: latents are codes already, groups are for seeds; leave it out")
    chosen = check_seeds(range(4) if seeds is None else seeds)
    if truncation is None:
        truncation = SEED_TRUNCATION if latents is None else 1.0
    check_truncations([truncation])
    if video is None and frames is not None:
        raise Problem(f"{frames} frames of no video: say --video NAME.webp or NAME.mp4")
    sources = open_sources([source, *draw], device)
    read = [clip, *(one.file for one in sources), *(path for path in (latents, identity) if path is not None)]
    check_out(out, "edit", read, video)
    check_family(sources)
    first = sources[0]
    if latents is None:
        check_group([first.style], group)
        codes = of_seeds(first, chosen, group)
    else:
        codes = of_file(first, latents)
    if layers is not None:
        recipe = replace(recipe, layers=layers_of(layers, first.style.size))
    check_recipe(recipe, codes.w.shape[1])
    columns, size = 1 + len(strengths), first.style.size
    names = [one.name for one in sources]
    if math.prod(sheet_size(names, size, columns * len(codes.names), columns)) > images.MAX_PIXELS:
        raise Problem(f"{len(codes.names)} pictures at {len(strengths)} strengths: too many for one sheet")
    if video is not None:
        check_video(video)
        frames = 2 * FRAMES_PER_SEED if frames is None else frames
        check_walk(2, frames, fps)
        check_size(video, frames, len(sources) * cell(size), len(codes.names) * cell(size))
    network = clips.load(clip, clip_model, first.style.device)
    for text in (recipe.text, recipe.neutral):
        if text is not None:
            network.check_text(text)
    person = None
    notes = []
    if identity is not None:
        person = Identity(identity, first.style.framing).to(first.style.device)
    elif recipe.identity:
        notes.append("the person is not looked at: name a face recognition file with --identity to keep it")

    start = first.method.truncated(codes.w, truncation)
    way, losses = ways(first, network, start, recipe, person, codes.names, progress)

    def code(one: Source, alpha: float) -> Tensor:
        """(N, codes, W). Each style starts from where its own average leads, and goes the source's way."""
        begin = one.method.truncated(codes.w, truncation)
        return strength(begin + way, begin, alpha)

    labels = [one.name if len(sources) > 1 else "" for one in sources]
    aim = network.texts([recipe.text])[0]
    drawn: dict[str, np.ndarray] = {}
    cosines: dict[str, list[list[float]]] = {}
    for one, label in zip(sources, labels):
        pictures = [one.style.synthesis(code(one, alpha)) for alpha in (-1.0, *strengths)]
        pixels = np.stack([styles.to_pixels(part) for part in pictures], 1)  # (N, columns, S, S, 3)
        drawn[label] = pixels.reshape(-1, *pixels.shape[2:])
        cosines[one.name] = _cosines(network, aim, pictures)

    heads = [f"strength {alpha:g}" for alpha in strengths]
    titles = [word for name in codes.names for word in (f"{name[:11]}: start", *heads)]
    images.save_png(out / "sheet.png", sheet(drawn, titles, columns))
    singles = _singles(out, drawn, codes.names, strengths) if single else []
    if video is not None and frames is not None:
        farthest = max(strengths, key=lambda alpha: abs(alpha + 1))
        shots = bar(range(frames), "video", progress)
        save_video(video, (_frame(sources, code, k / frames, farthest) for k in shots), fps)

    command = ["fewtoon", "explore", "edit", first.given, *_words(recipe), "--clip", str(clip)]
    command += [] if clip_model is None else ["--clip-model", clip_model]
    command += ["--seeds", seeds_told(chosen)] if latents is None else ["--latents", str(latents)]
    command += ["--draw", *(one.given for one in sources[1:])] if draw else []
    command += [f"--strength={','.join(repr(alpha) for alpha in strengths)}"]
    command += [f"--truncation={float(truncation)!r}"] + ([] if group is None else ["--group", group])
    command += [] if identity is None else ["--identity", str(identity)]
    command += ["--single"] * single
    if video is not None:
        command += ["--video", str(video), "--frames", str(frames), "--fps", repr(float(fps))]
    command += ["--device", str(first.style.device), "--out", str(out)]
    facts = {
        "names": codes.names,
        "seeds": chosen if latents is None else None,
        "latents": None if latents is None else _file(latents),
        "clip": {**_file(clip), "model": network.name, "size": network.size},
        "identity": None if identity is None else _file(identity),
        "recipe": asdict(recipe),
        "strengths": strengths,
        "truncation": truncation,
        "group": group,
        "losses": losses,
        "cosines": cosines,
        "device": str(first.style.device),
    }
    tensors = {f"{first.name}.w": start + way, f"{first.name}.start": start}
    record(out / "edit.json", out / "latents.safetensors", sources, command, facts, tensors)
    return {
        "out": str(out),
        "sheet": str(out / "sheet.png"),
        "pictures": [str(path) for path in singles],
        "video": None if video is None else str(video),
        "latents": str(out / "latents.safetensors"),
        "record": str(out / "edit.json"),
        "names": codes.names,
        "strengths": strengths,
        "losses": losses,
        "cosines": cosines,
        "notes": notes,
    }


def check_strengths(values: Sequence[float]) -> list[float]:
    """The strengths as a list. Raises Problem for none, one twice, or one that leads nowhere."""
    found = [float(value) for value in values]
    for value in found:
        if not -STRONGEST <= value <= STRONGEST:  # nan fails too
            raise Problem(
                f"strength {value:g}: -1 is the start, 0 the edit, 2 three times as far; at most 20"
            )
    if not found or len(set(found)) < len(found):
        raise Problem(f"strengths {found}: name at least one, and none twice")
    return found


def strengths_of(text: str) -> list[float]:
    """'0,1,2' -> [0.0, 1.0, 2.0]. Raises Problem for anything else."""
    try:
        return check_strengths([float(part) for part in text.split(",")])
    except ValueError:
        raise Problem(f"--strength {text!r}: write a number such as 1, or several: 0,1,2") from None


def ways(
    first: Source,
    network: clips.Clip,
    start: Tensor,
    recipe: Recipe,
    person: Identity | None,
    names: Sequence[str],
    progress: bool,
) -> tuple[Tensor, list[dict[str, list[float]]]]:
    """How far each code moves, (N, codes, W), and of each picture the losses at the start and at the end.

    Batches are always of one size: kernels chosen by the size of a batch would let neighbours change the last digits.
    """
    chunk = 1 if first.style.device.type == "cpu" else styles.GPU_CHUNK
    moves: list[Tensor] = []
    losses: list[dict[str, list[float]]] = []
    for at, part in zip(range(0, len(start), chunk), start.split(chunk)):
        full = torch.cat([part, part[-1:].expand(chunk - len(part), *part.shape[1:])])
        begin = full.to(first.style.device)
        told = f"{names[at]} ({at + 1} of {len(start)})"
        moved = optimise(
            partial(first.method.generator.synthesis, noise="fixed"),
            network,
            begin,
            recipe,
            person,
            lambda steps, told=told: bar(steps, told, progress),  # type: ignore[misc]
        )
        moves.append((moved.w - begin)[: len(part)].cpu())
        for number in range(len(part)):
            losses.append({k: [values[0][number], values[-1][number]] for k, values in moved.losses.items()})
    return torch.cat(moves), losses


def _cosines(network: clips.Clip, aim: Tensor, pictures: Sequence[Tensor]) -> list[list[float]]:
    """Of each picture its cosines with the text, at the start and at each strength."""
    with torch.no_grad():
        found = [
            [float(network.pictures(one.to(aim.device)) @ aim) for one in part.split(1)] for part in pictures
        ]
    return [list(row) for row in zip(*found)]


def _singles(
    out: Path, drawn: Mapping[str, np.ndarray], names: Sequence[str], strengths: Sequence[float]
) -> list[Path]:
    """A PNG for each picture of the sheet: the files."""
    columns = ["start", *(f"strength{alpha:g}" for alpha in strengths)]
    written: list[Path] = []
    with all_or_none(written):
        for label, pictures in drawn.items():
            parts = [(name, column) for name in _files(names) for column in columns]
            for (name, column), pixels in zip(parts, pictures, strict=True):
                written.append(out / ("-".join([label] * bool(label) + [name, column]) + ".png"))
                images.save_png(written[-1], pixels)
    return written


def _frame(
    sources: Sequence[Source], code: Callable[[Source, float], Tensor], time: float, farthest: float
) -> np.ndarray:
    """Codes beside one another, styles below: (H, W, 3) uint8. time: 0 at the start, 0.5 where it turns."""
    share = 0.5 - 0.5 * math.cos(2 * math.pi * time)
    alpha = (farthest + 1) * share - 1
    rows = []
    for one in sources:
        pixels = styles.to_pixels(one.style.synthesis(code(one, alpha)))
        rows.append(np.concatenate([enlarged(picture) for picture in pixels], axis=1))
    return np.concatenate(rows)


def _files(names: Sequence[str]) -> list[str]:
    """Names as parts of file names, no two alike."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._")[:80] or "code" for name in names]
    if len(set(plain)) < len(plain):
        plain = [f"{number:04d}-{name}" for number, name in enumerate(plain)]
    return plain


def _words(recipe: Recipe) -> list[str]:
    """The recipe as it is written on the command line."""
    words = [f"--text={recipe.text}"] + ([] if recipe.neutral is None else [f"--neutral={recipe.neutral}"])
    words += [
        "--steps",
        str(recipe.steps),
        "--rate",
        repr(float(recipe.rate)),
        "--near",
        repr(float(recipe.near)),
    ]
    words += ["--identity-weight", repr(float(recipe.identity)), "--space", recipe.space]
    words += [] if recipe.layers is None else ["--layers", ",".join(map(str, recipe.layers))]
    return [*words, "--views", str(recipe.views)]


def _file(path: str | Path) -> dict[str, str]:
    return {"file": printable(Path(path).name), "sha256": file_hash(path)}
