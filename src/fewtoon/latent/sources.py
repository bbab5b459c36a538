"""The styles that a latent tool works on."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from fewtoon import style as styles
from fewtoon.errors import Problem
from fewtoon.io.files import file_hash, printable
from fewtoon.methods.stylegan import StyleGAN
from fewtoon.style import Style


class Source(NamedTuple):
    """A style to draw from, and which file it is."""

    name: str  # short, and unlike that of the other sources: for labels and the names of files
    style: Style
    given: str  # the path as it was given
    file: Path
    sha256: str

    @property
    def method(self) -> StyleGAN:
        return cast(StyleGAN, self.style.method)

    def facts(self) -> dict[str, str]:
        return {"name": self.name, "file": self.file.name, "sha256": self.sha256}


def open_sources(paths: Sequence[str | Path], device: str | None = None) -> list[Source]:
    """The StyleGAN styles at `paths`: files, or folders of runs. Raises Problem for what is none."""
    found = open_styles(paths, device)
    for source in found:
        check_kind(source.style, printable(source.given))
    return found


def open_styles(
    paths: Sequence[str | Path], device: str | None = None, taken: Collection[str] = ()
) -> list[Source]:
    """The styles at `paths`, of any method, each with a name of its own that is not one of `taken`."""
    found: list[Source] = []
    for path in paths:
        style = styles.load(path, device)
        folder = Path(path).is_dir()
        file = Path(path) / "best.safetensors" if folder else Path(path)
        stem = Path(path).absolute().name if folder else Path(path).stem
        name = re.sub(r"[^\w.-]+", "_", printable(stem)).strip("._") or "style"
        used = {*taken, *(one.name for one in found)}
        name = next(
            one for one in (name, *(f"{name}-{k}" for k in range(2, len(used) + 3))) if one not in used
        )
        found.append(Source(name, style, str(path), file, file_hash(file)))
    return found


def check_kind(style: Style, told: str) -> None:
    """Raises Problem, with the name `told`, for a style that is no StyleGAN."""
    if not isinstance(style.method, StyleGAN):
        raise Problem(
            f"{told!r} is a style of {style.method.name}, which makes no pictures from random numbers; name one of "
            "'fewtoon train stylegan' or an imported StyleGAN2"
        )


def group_for(style: Style, group: str | None) -> str | None:
    """`group` where the style has groups, None where it has none."""
    return group if style.groups else None


def check_group(given: Sequence[Style], group: str | None) -> None:
    """Raises Problem for a group that one of the styles with groups lacks, or that none could have."""
    for style in [one for one in given if one.groups] or given[:1]:
        style.check_group(group)


def check_family(sources: Sequence[Source]) -> None:
    """Raises Problem for a style that cannot draw the codes of the first."""
    first = sources[0].method.generator
    for source in sources[1:]:
        g = source.method.generator
        layouts = [(one.size, one.mapping.average.shape[0]) for one in (g, first)]
        if layouts[0] != layouts[1]:
            (size, length), (wanted, other) = layouts
            raise Problem(
                f"{source.given}: a style of {size} px with codes of length {length} cannot draw those of "
                f"{sources[0].name}, {wanted} px and {other}, of another size: name one that was fine-tuned or swapped "
                "from it"
            )
