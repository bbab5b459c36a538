"""Explore: what a StyleGAN style can draw, with sliders."""

from __future__ import annotations

import random
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any, NamedTuple, cast

import gradio as gr
import numpy as np
from torch import Tensor

from fewtoon.app import look
from fewtoon.app.caption import LONGEST, captioned
from fewtoon.app.shelf import Shelf
from fewtoon.errors import Problem
from fewtoon.io import images
from fewtoon.latent.bench import COMPONENTS, Bench, Last, Wish, count_of, finite, whole
from fewtoon.latent.chain import Link
from fewtoon.latent.direction import Direction, layers_of
from fewtoon.latent.sources import Source
from fewtoon.nets.stylegan2 import resolutions
from fewtoon.style import Style

TITLE = "Explore"
NAMED = 12  # sliders for directions with names
LARGEST_SEED = 2**31 - 1
WORDS = 200  # characters of a text for CLIP
STEPS = (10, 300)  # of an edit by words
EDITS = 16  # edits that are remembered
NONE = "none"

CSS = """
.gradio-container:has(.bench) { overflow: clip !important; }
.column.bench { position: sticky !important; top: 1rem; align-self: flex-start; }
.bench figure { max-width: 32rem; }
.bench .pixels img { image-rendering: pixelated; }
.bench .beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(10rem, 45%), 1fr)); gap: .6rem; }
@media (max-width: 48rem) {
  html:has(.bench) { scroll-padding-top: 48vh; }
  .column.bench { top: 0; z-index: 50; padding: .5rem 0; gap: 0; background: var(--paper); }
  .bench figure { margin-block: 0 .3rem; }
  .bench figure img { width: auto; max-width: 100%; height: 34vh; object-fit: contain; }
  .bench .beside figure img { width: 100%; height: auto; }
}
"""


class Settings(NamedTuple):
    """What the widgets say, in their order."""

    style: str
    group: str
    seed: float
    truncation: float
    parent: bool
    other: float
    mix_layers: str
    by: str
    component: float
    layers: str
    strength: float
    swap: str
    resolution: str
    width: float
    edit: str
    alpha: float
    translator: str
    above: str
    below: str
    named: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Settings:
        count = len(cls._fields) - 1
        return cls._make([*values[:count], tuple(values[count:])])


def build(shelf: Shelf) -> None:
    room = Room(shelf)
    names = room.generators()
    missing = gr.HTML(
        look.sheet(
            "<p>Here StyleGAN styles are explored: they draw from random numbers. Name one: <code>fewtoon serve "
            "faces.safetensors</code>; <code>fewtoon train stylegan</code> makes them, <code>fewtoon import</code> "
            "brings published ones.</p>"
        ),
        visible=not names,
    )
    with gr.Row(visible=bool(names)) as desk:
        with gr.Column(scale=1, min_width=280, elem_classes="bench"):
            picture = gr.HTML(look.sheet('<p class="soft">The first picture takes a moment.</p>'))
            said = gr.HTML()
        with gr.Column(scale=1, min_width=280):
            style = gr.Dropdown(names, value=names[0] if names else None, label="Style")
            shown = gr.State("")  # the style that the other widgets are set for
            with gr.Row(equal_height=True):
                # Without a precision: Gradio would make another seed of 1.5, and the page still say 1.5.
                seed = gr.Number(0, label="Seed", min_width=120)
                another = gr.Button("Another", min_width=100)
            truncation = gr.Slider(
                0, 1.5, value=0.7, step=0.01, label="Truncation", info="0: the average picture"
            )
            group = gr.Dropdown([NONE], value=NONE, label="Group", visible=False)
            sliders = [
                gr.Slider(-3, 3, value=0, step=0.05, label=f"direction {i}", visible=False, interactive=True)
                for i in range(NAMED)
            ]
            more = gr.HTML()
            with gr.Accordion("Components (SeFa, GANSpace)", open=False):
                by = gr.Radio(["sefa", "ganspace"], value="sefa", label="Found by")
                component = gr.Slider(0, COMPONENTS - 1, value=0, step=1, label="Component")
                layers = gr.Textbox("all", label="Layers", info="all, 0-3,8 or 4px-16px", max_length=60)
                strength = gr.Slider(
                    -6, 6, value=0, step=0.05, label="Strength", info="in standard deviations"
                )
            with gr.Accordion("Second parent", open=False):
                parent = gr.Checkbox(False, label="Mix with a second seed")
                other = gr.Number(1, label="Its seed")
                mix_layers = gr.Textbox("4px-8px", label="Layers that are its", max_length=60)
            with gr.Accordion("Swap layers with another style", open=False):
                swap = gr.Dropdown([NONE, *names], value=NONE, label="Style above the resolution")
                resolution = gr.Dropdown([NONE], value=NONE, label="Resolution")
                width = gr.Slider(0, 4, value=0, step=0.05, label="Smoothness", info="0: a hard switch")
            with gr.Accordion("Edit by words", open=False):
                if shelf.clip is None:
                    gr.HTML(
                        look.sheet(
                            '<p class="soft">Takes the weights of CLIP: <code>fewtoon serve ... --clip FILE</code>, '
                            "with <code>pip install 'fewtoon[clip]'</code>.</p>"
                        )
                    )
                text = gr.Textbox(label="Words", placeholder="a smiling face", max_length=WORDS)
                neutral = gr.Textbox(label="What it shows already", placeholder="a face", max_length=WORDS)
                effort = gr.Slider(*STEPS, value=60, step=10, label="Steps")
                go = gr.Button("Edit", interactive=shelf.clip is not None)
                alpha = gr.Slider(
                    -1, 2, value=0, step=0.05, label="How far", info="-1: not at all, 0: to the end"
                )
                edit = gr.State("")
            with gr.Accordion("Chain into a translator", open=False):
                translator = gr.Dropdown([NONE], value=NONE, label="Style that draws photos")
            with gr.Accordion("Caption", open=False):
                above = gr.Textbox(label="Above", max_length=LONGEST)
                below = gr.Textbox(label="Below", max_length=LONGEST)
            with gr.Accordion("Save", open=False):
                into = (
                    "none: start with --save FOLDER" if shelf.folder is None else shelf.folder.resolve().name
                )
                gr.HTML(look.sheet(f'<p class="soft">Into the folder {escape(into)}.</p>'))
                name = gr.Textbox(label="Name", max_length=200)
                with gr.Row():
                    save = gr.Button("Save the picture")
                    keep = gr.Button("Save the swap as a style")
                saved = gr.HTML()

    values = [
        style, group, seed, truncation, parent, other, mix_layers, by, component, layers, strength, swap, resolution,
        width, edit, alpha, translator, above, below, *sliders,
    ]  # fmt: skip
    one_by_one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "explore"}
    alone, live = {**look.QUIET, **one_by_one}, {**look.LIVE, **one_by_one}
    drawn: dict[str, Any] = {"fn": room.draw, "inputs": values, "outputs": [picture, said]}
    lists: dict[str, Any] = {"fn": room.lists, "inputs": style, "outputs": [missing, desk, style, translator]}
    set_up: dict[str, Any] = {
        "fn": room.choose,
        "inputs": [style, shown],
        "outputs": [shown, group, resolution, swap, edit, component, more, *sliders],
    }
    tab = gr.context.Context.block  # the one that is open
    assert isinstance(tab, gr.Tab)
    tab.select(**lists, **look.QUIET).then(**set_up, **look.QUIET).then(**drawn, **live)
    style.input(**set_up, **look.LIVE).then(**drawn, **live)
    another.click(lambda: random.randrange(LARGEST_SEED), None, seed, **look.QUIET).then(**drawn, **live)
    # Half a list of layers means nothing, and finding components anew takes a while: they are read when they are whole.
    written = (layers, mix_layers)
    moved = [
        # A slider is set back and a text is pasted without what Gradio calls an input.
        cast(Any, one).change if isinstance(one, (gr.Slider, gr.Number, gr.Textbox)) else cast(Any, one).input
        for one in values
        if one not in (style, edit, *written)
    ]
    gr.on([*moved, *(event for one in written for event in (one.submit, one.blur))], **drawn, **live)
    go.click(
        room.edit, [text, neutral, effort, *values], edit, api_visibility="private", concurrency_limit=1,
        concurrency_id="words", show_progress_on=[picture],
    ).success(**drawn, **live)  # fmt: skip
    save.click(room.save_picture, [name, *values], saved, **alone)
    kept = keep.click(room.save_style, [name, *values], saved, **alone)
    kept.success(**lists, **look.QUIET).then(**set_up, **look.QUIET)


class Room:
    """What the widgets of this tab do."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self.bench = shelf, Bench()
        self._edits: OrderedDict[str, tuple[str, Tensor]] = OrderedDict()  # key -> (sha256 of the style, way)
        self._links: Last[Link] = Last(1)
        self._clip: Any = None
        self._lock = threading.Lock()

    # --- what there is to choose from ---------------------------------------------------------------------

    def generators(self) -> list[str]:
        return list(self.shelf.headers(generates=True))

    def translators(self) -> list[str]:
        return list(self.shelf.headers(generates=False))

    def sizes(self, name: str) -> list[str]:
        """The resolutions at which layers of a style can be swapped."""
        header = self.shelf.headers(generates=True).get(name)
        if header is None:
            raise Problem(f"no style {name!r} here")
        return [f"{size} px" for size in resolutions(header["size"])[:-1]]

    def lists(self, name: str | None) -> list[Any]:
        """What there is by now: a training gets its first style, a swap is saved."""
        names, others = self.generators(), [NONE, *self.translators()]
        value = name if name in names else next(iter(names), None)
        there = gr.update(choices=names, value=value)
        return [
            gr.update(visible=not names),
            gr.update(visible=bool(names)),
            there,
            gr.update(choices=others),
        ]

    def choose(self, name: str | None, shown: str) -> list[Any]:
        """The widgets of a style: its groups, resolutions, components, and directions with names.

        shown: the style that they are of already.
        """
        swaps = [NONE, *(one for one in self.generators() if one != name)]
        if name is None or name == shown:
            return [shown, gr.skip(), gr.skip(), gr.update(choices=swaps), *[gr.skip()] * (3 + NAMED)]
        source, all_sizes = self.shelf.source(name), self.sizes(name)
        names = list(self._named(source).items())
        found, rest = names[:NAMED], [one for one, _ in names[NAMED:]]
        sliders = [
            gr.update(visible=True, label=one, minimum=low, maximum=high, value=0)
            for one, direction in found
            for low, high in [reach(direction)]
        ]
        sliders += [gr.update(visible=False, value=0)] * (NAMED - len(found))
        of_it = source.style.groups or [NONE]
        groups = gr.update(choices=of_it, value=of_it[0], visible=len(of_it) > 1)
        sizes = gr.update(choices=all_sizes, value=all_sizes[len(all_sizes) // 2])
        components = gr.update(maximum=count_of(source) - 1, value=0)
        told = f"without a slider: {', '.join(rest)}; name fewer files of directions"
        more = look.sheet(f'<p class="soft">{escape(told)}</p>' if rest else "")
        return [name, groups, sizes, gr.update(choices=swaps, value=NONE), "", components, more, *sliders]

    def _named(self, source: Source) -> Any:
        files = [self.shelf.path("directions", one) for one in self.shelf.names("directions")]
        return self.bench.named(source, files)

    # --- drawing ------------------------------------------------------------------------------------------

    def draw(self, *values: Any) -> tuple[Any, str]:
        """HTML of the picture, and of what is wrong: the picture then stays as it was."""
        settings = Settings.of(values)
        if settings.style is None:
            return gr.skip(), ""
        try:
            return self._page(settings), ""
        except Problem as problem:
            return gr.skip(), look.note(self.shelf.said(problem))

    def _page(self, settings: Settings) -> str:
        drawn, pixels = self._drawn(settings)
        data = images.png_bytes(pixels)
        small = "pixels" if pixels.shape[0] < 256 else ""
        by = settings.style if settings.translator == NONE else settings.translator
        shown = look.figure(data, f"{by}, seed {int(settings.seed)}")
        if pixels is not drawn and settings.translator != NONE:
            shown = f'<div class="beside">{look.figure(images.png_bytes(drawn), settings.style)}{shown}</div>'
        link = look.download(data, f"{settings.style}-{int(settings.seed)}.png", "Download")
        return look.sheet(f'<div class="{small}">{shown}</div>{link}')

    def _drawn(self, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """The picture of the style, and what became of it: (S, S, 3) uint8 each."""
        source = self.shelf.source(settings.style)
        drawn = self.bench.picture(source, self._wish(settings, source), self._swap(settings, source))
        pixels = drawn
        if settings.translator != NONE:
            pixels = self._translated(settings.translator, source, drawn)
        return drawn, captioned(pixels, str(settings.above or ""), str(settings.below or ""))

    def _wish(self, settings: Settings, source: Source) -> Wish:
        group = None if settings.group == NONE else settings.group
        size = source.style.size
        moves = []
        for (name, direction), far in zip(self._named(source).items(), settings.named):
            far = finite(far, *reach(direction), name)
            moves += [(direction, far)] if far else []
        far = finite(settings.strength, -6, 6, "strength")
        if far:
            number = whole(settings.component, 0, COMPONENTS - 1, "component")
            by = cast(Any, settings.by)
            moves.append((self.bench.component(source, by, number, str(settings.layers)[:60], group), far))
        way = None
        if settings.edit:
            sha, way = self._edits.get(str(settings.edit), ("", None))
            if way is None or sha != source.sha256:
                raise Problem("this edit is no longer here: edit again")
        other = whole(settings.other, 0, LARGEST_SEED, "seed") if settings.parent else None
        return Wish(
            seed=whole(settings.seed, 0, LARGEST_SEED, "seed"),
            truncation=finite(settings.truncation, 0, 1.5, "truncation"),
            group=group,
            other=other,
            layers=layers_of(str(settings.mix_layers)[:60], size) if settings.parent else (),
            moves=moves,
            way=way,
            alpha=finite(settings.alpha, -1, 2, "how far"),
        )

    def _swap(self, settings: Settings, low: Source) -> Style | None:
        if settings.swap in (NONE, None):
            return None
        sizes = self.sizes(settings.style)
        if settings.resolution not in sizes:
            raise Problem(f"resolution {str(settings.resolution)[:20]!r}: {', '.join(sizes)}")
        resolution = resolutions(low.style.size)[sizes.index(settings.resolution)]
        width = finite(settings.width, 0, 4, "smoothness")
        return self.bench.swap(low, self.shelf.source(settings.swap), resolution, width)

    def _translated(self, name: str, source: Source, picture: np.ndarray) -> np.ndarray:
        style, framing = self.shelf.style(name), source.style.framing
        # By the object: the link that is kept keeps it too. What finds faces is not opened for every move of a slider.
        link = self._links.get((id(style), framing), lambda: Link(style, framing))
        (drawn,) = link.draw([picture], [link.place(picture) if link.reframes else None])
        if drawn is None:
            raise Problem(f"{name!r} finds no face in this picture: try another seed")
        return drawn.drawing

    # --- words -------------------------------------------------------------------------------------------

    def edit(self, text: str, neutral: str, effort: float, *values: Any) -> str:
        """Find where words lead from the picture as it is without them; the key of the way."""
        from fewtoon.io import clip as clips
        from fewtoon.latent.edit import ways
        from fewtoon.latent.text import Recipe

        if self.shelf.clip is None:
            raise Problem("editing by words takes CLIP: start the studio with --clip FILE")
        if not str(text or "").strip():
            raise Problem("say in words what the picture shall become")
        settings = Settings.of(values)._replace(edit="")
        source = self.shelf.source(settings.style)
        if self._clip is None:
            self._clip = clips.load(self.shelf.clip, None, source.style.device)
        steps = whole(effort, *STEPS, "steps")
        recipe = Recipe(
            str(text)[:WORDS], str(neutral or "")[:WORDS].strip() or None, steps=steps, identity=0
        )
        for words in (recipe.text, recipe.neutral):
            if words is not None:
                self._clip.check_text(words)
        start = self.bench.codes(source, replace(self._wish(settings, source), moves=()))
        way, _ = ways(source, self._clip, start, recipe, None, ["picture"], False)
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._edits[key] = source.sha256, way
            while len(self._edits) > EDITS:
                self._edits.popitem(last=False)
        return key

    # --- saving ------------------------------------------------------------------------------------------

    def save_picture(self, name: str, *values: Any) -> str:
        path = self.shelf.saving(str(name or "").strip(), ".png")
        images.save_png(path, self._drawn(Settings.of(values))[1])
        return look.note(f"saved as {path.name}")

    def save_style(self, name: str, *values: Any) -> str:
        settings = Settings.of(values)
        made = self._swap(settings, self.shelf.source(settings.style))
        if made is None:
            raise Problem("nothing is swapped: choose another style under 'Swap layers' first")
        path = self.shelf.saving(str(name or "").strip(), ".safetensors")
        made.save(path)
        (thing,) = self.shelf.add(path)
        return look.note(f"saved as {path.name}; among the styles it is {thing.name!r}")


def reach(direction: Direction) -> tuple[float, float]:
    """Of its slider: as far as somebody has looked, and 0, where it rests."""
    low, high = direction.range
    return min(0.0, low), max(0.0, high)
