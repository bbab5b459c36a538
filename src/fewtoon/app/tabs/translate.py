"""Translate: a photo, all its faces, in one Style or several side by side."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gradio as gr
import numpy as np
from PIL import Image

from fewtoon import style as styles
from fewtoon.app import look
from fewtoon.app.photos import Photos
from fewtoon.app.shelf import Shelf
from fewtoon.draw import Drawn, Seen, Translator
from fewtoon.errors import Problem
from fewtoon.faces.framing import Kind
from fewtoon.io import images
from fewtoon.metrics.page import data_uri

TITLE = "Translate"
SIDE_BY_SIDE = 4  # Styles at once
FACES = 12  # of one photo, the largest: a page with hundreds of pictures helps nobody
SHOWN = 720  # pixels of the longer side of a photo on the page
# What /translate takes beside a photo, and what stands for nothing said.
API = {"style": "", "group": styles.AUTO, "framing": styles.AUTO}
AT_ONCE = 2  # photos that are looked at at the same time; the network draws one after the other

CSS = """
#photo button > .wrap { min-height: 0; height: 100%; }
#photo .source-selection { position: relative; z-index: 1; }
.faces { position: relative; display: inline-block; max-width: 100%; }
.faces img { display: block; max-width: 100%; max-height: 24rem; border-radius: .35rem; }
.faces svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.faces rect { fill: none; stroke: var(--accent); stroke-width: 2; vector-effect: non-scaling-stroke; }
.sheet .faces svg text { fill: #fff; stroke: #000; stroke-width: .2em; paint-order: stroke; font-weight: 600;
  font-size: var(--size); }
.styles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.compare { position: relative; --cut: 50%; }
.compare img { display: block; width: 100%; image-rendering: auto; }
.compare .before { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--cut)) 0 0); }
.compare::after { content: ""; position: absolute; inset: 0 auto 0 var(--cut); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #0008; pointer-events: none; }
.compare + input { width: 100%; accent-color: var(--accent); margin: .4rem 0 0; }
a.save { display: inline-block; margin: .2rem 0; padding: .35rem .8rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--card); text-decoration: none; }
"""

# Gradio has a button for what everybody does with keys. Of those that are held down the last paste counts.
JS = """
let pasting;
addEventListener("paste", event => {
  const file = [...event.clipboardData?.files ?? []].find(one => one.type.startsWith("image/"));
  if (!file || !document.getElementById("photo")?.offsetParent) return;
  event.preventDefault();
  clearTimeout(pasting);
  pasting = setTimeout(() => {
    const input = document.querySelector("#photo input[type=file]"), files = new DataTransfer();
    if (!input) return;
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", {bubbles: true}));
  }, 300);
});
"""


def build(shelf: Shelf) -> None:
    """The tab, and the function `/translate` of the API."""
    easel = Easel(shelf)
    names = shelf.names("style")
    if not names:
        gr.HTML(
            look.note(
                "No Style is here: start with 'fewtoon serve STYLE', a file or the folder of a training."
            )
        )
    key = gr.State("")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            photo = gr.Image(
                type="filepath", sources=["upload", "webcam"], label="Photo", height=240, elem_id="photo",
                webcam_options=gr.WebcamOptions(mirror=False), buttons=[],
            )  # fmt: skip
            drawers = easel.names()
            chosen = gr.CheckboxGroup(
                drawers, value=drawers[:1], label="Styles", info=f"up to {SIDE_BY_SIDE}, side by side"
            )
            groups = easel.groups(drawers[:1])
            group = gr.Dropdown(
                groups, value=styles.AUTO, label="Group", info="auto: as the style reads the face",
                interactive=True, visible=len(groups) > 1,
            )  # fmt: skip
            framing = gr.Dropdown(
                [styles.AUTO, *get_args(Kind)], value=styles.AUTO, label="Framing",
                info="auto: as the style learned it; as-is: the whole photo", interactive=True,
            )  # fmt: skip
        with gr.Column(scale=3, min_width=280):
            said = gr.HTML(
                look.sheet(
                    '<p class="soft">Choose a photo of a face, drop it, paste it with Ctrl+V, or take one.</p>'
                )
            )
            faces = gr.HTML()
            drawings = gr.HTML()

    live = {**look.LIVE, "show_progress": "minimal"}
    busy = {**live, "concurrency_id": "draw", "concurrency_limit": AT_ONCE}
    drawn: dict[str, Any] = {"inputs": [key, chosen, group, framing], "outputs": [said, faces, drawings]}
    photo.input(easel.take, photo, [key, photo, said], **live).then(easel.show, **drawn, **busy)
    chosen.input(easel.regroup, [chosen, group], group, **live).success(easel.show, **drawn, **busy)
    for widget in (group, framing):
        widget.input(easel.show, **drawn, **busy)

    # The API: what a program asks for, without a page.
    with gr.Row(visible=False):
        sent = gr.Image(type="filepath", label="photo")
        asked = [gr.Textbox(value, label=label) for label, value in API.items()]
        files, facts = gr.File(file_count="multiple"), gr.JSON()
        gr.Button().click(
            easel.translate, [sent, *asked], [files, facts], api_name="translate",
            api_description="Draw every face of a photo, from left to right. style: a name, empty for the first; "
            "group: one of the style's, or 'auto'; framing: portrait, ffhq, as-is, or 'auto' for the style's own. "
            "Returns PNG files and facts: faces, advice, read_as.",
            concurrency_id="draw", concurrency_limit=AT_ONCE,
        )  # fmt: skip
        gr.Button().click(
            easel.told, None, gr.JSON(), api_name="styles", api_description="The styles that draw photos."
        )


class Cell(NamedTuple):
    """The drawing of a face by a Style."""

    name: str
    seen: Seen
    drawn: Drawn


class Easel:
    """What the widgets of this tab do."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self.photos = shelf, Photos()
        # One drawing at a time, always by the same thread: each that draws keeps memory of its own.
        self._pen = ThreadPoolExecutor(1, "pen")

    # --- what there is to choose from ---------------------------------------------------------------------

    def names(self) -> list[str]:
        return list(self.shelf.headers(generates=False))

    def told(self) -> dict[str, Any]:
        """Name -> {"size", "groups"} of every Style that draws photos."""
        headers = self.shelf.headers(generates=False)
        return {name: {"size": own["size"], "groups": own["groups"]} for name, own in headers.items()}

    def groups(self, names: Sequence[str]) -> list[str]:
        """What "Group" offers for some Styles: "auto", and the groups that any of them has."""
        headers = self.shelf.headers(generates=False)
        own = (group for name in names if name in headers for group in headers[name]["groups"])
        return [styles.AUTO, *dict.fromkeys(own)]

    def regroup(self, names: list[str], group: str) -> Any:
        """The choices of "Group" after other Styles were chosen."""
        choices = self.groups(names)
        value = group if group in choices else styles.AUTO
        return gr.update(choices=choices, value=value, visible=len(choices) > 1)

    # --- drawing ------------------------------------------------------------------------------------------

    def take(self, path: str | None) -> tuple[Any, Any, Any]:
        """A photo was chosen: its key, an empty place for the next one, and what is wrong with it."""
        if path is None:  # the webcam was opened, for instance; a photo may be on its way already
            return gr.skip(), gr.skip(), gr.skip()
        try:
            return self.photos.take(path), None, gr.skip()
        except Problem as problem:
            return "", None, look.note(str(problem))

    def show(
        self, key: str, names: list[str], group: str, framing: str = styles.AUTO
    ) -> tuple[Any, str, str]:
        """HTML of the sentences, of the photo with its faces numbered, and of the drawings."""
        if not key:
            return gr.skip(), "", ""
        if not names:
            return look.note("Choose a Style to draw with."), "", ""
        told: dict[str, None] = {}  # each sentence once
        if len(names) > SIDE_BY_SIDE:
            left = ", ".join(names[SIDE_BY_SIDE:])
            told[f"{SIDE_BY_SIDE} styles are drawn at once: untick one of them for {left}"] = None
        found: list[Seen] = []  # of the first style that looks for faces
        columns: list[list[Cell]] = []
        whole: list[list[Cell]] = []  # of styles that take the photo as it is
        pictures: dict[int | None, np.ndarray] = {}  # the photo as large as a style needs it
        for name in names[:SIDE_BY_SIDE]:
            try:
                faces, column = self._column(name, key, group, framing, pictures)
            except Problem as problem:  # one that is damaged does not keep the others from drawing
                told[self.shelf.said(problem)] = None
                continue
            if faces[0].cutout.face is None:
                whole.append(column)
                told |= dict.fromkeys(faces[0].advice)
            else:
                columns.append(column)
                found = found or faces
        seen = _largest(found)
        for number, face in enumerate(seen, 1):
            told |= {f"face {number}: {one}" if len(seen) > 1 else one: None for one in face.advice}
        # Where faces are looked for, the photo was decoded whole.
        photo = _with_boxes(pictures[None], seen, len(found)) if seen else ""
        drawings = _gallery(columns) + _gallery(whole, "The whole photo" if columns else "")
        return "".join(map(look.note, told)), photo, drawings

    def _column(
        self, name: str, key: str, group: str, framing: str, pictures: dict[int | None, np.ndarray]
    ) -> tuple[list[Seen], list[Cell]]:
        """All faces that a Style finds in a photo, and its drawings of the largest. pictures: decoded so far."""
        translator = self.shelf.translator(name, _own(framing))
        draft = translator.cutter.draft
        if draft not in pictures:
            pictures[draft] = self.photos.get(key, draft)
        faces = translator.look(pictures[draft])
        shown, own = _largest(faces), group if group in translator.style.groups else None
        drawn = self._draw(translator, shown, own)
        return faces, [Cell(name, face, one) for face, one in zip(shown, drawn)]

    def _draw(self, translator: Translator, faces: list[Seen], group: str | None) -> list[Drawn]:
        return self._pen.submit(translator.draw, faces, group).result()

    def _drawer(self, name: str) -> str:
        """The name of the style that is asked for; of the first that draws photos where none is."""
        if name:
            return str(name)
        for first in self.names():
            return first
        raise Problem("no style here draws photos: start the studio with one")

    def translate(
        self, path: str | None, style: str, group: str, framing: str = styles.AUTO
    ) -> tuple[list[str], dict[str, Any]]:
        """The API: files, the bytes of which are those of `fewtoon translate`, and facts."""
        if path is None:
            raise Problem("no photo came: send one with handle_file")
        data = self.photos.bytes_of(path)
        translator = self.shelf.translator(self._drawer(style), _own(framing))
        translator.style.check_group(group or None)
        faces = translator.look(self.photos.decoded(data, translator.cutter.draft))
        drawn = self._draw(translator, faces, group or None)
        folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
        files = []
        for number, one in enumerate(drawn, 1):
            file = folder / f"drawing-{number}.png"
            file.write_bytes(images.png_bytes(one.pixels))
            files.append(str(file))
        found = [face.cutout.face for face in faces]
        return files, {
            "faces": [None if face is None else [round(side, 1) for side in face.box] for face in found],
            "advice": [face.advice for face in faces],
            "read_as": [one.read_as for one in drawn],
        }


def _own(framing: str) -> str | None:
    """The framing that is asked for; None: the style's own."""
    return None if framing in (styles.AUTO, "", None) else str(framing)[:40]


# --- HTML ---------------------------------------------------------------------------------------------------


def _largest(faces: list[Seen]) -> list[Seen]:
    """Those that are shown, in their order."""
    if len(faces) <= FACES:
        return faces
    sizes = [face.cutout.face.area if face.cutout.face else 0.0 for face in faces]
    kept = sorted(range(len(faces)), key=lambda i: -sizes[i])[:FACES]
    return [faces[i] for i in sorted(kept)]


def _with_boxes(picture: np.ndarray, faces: Sequence[Seen], count: int) -> str:
    """The photo with a numbered box around each face that is drawn, of all that were found."""
    height, width = picture.shape[:2]
    small = Image.fromarray(picture)
    small.thumbnail((SHOWN, SHOWN), Image.Resampling.BILINEAR)
    marks = []
    for number, seen in enumerate(faces, 1):
        assert seen.cutout.face is not None
        left, top, right, bottom = seen.cutout.face.box
        letters = max(height, width) / 22
        marks.append(
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{right - left:.0f}" height="{bottom - top:.0f}"/>'
            f'<text x="{left + letters / 5:.1f}" y="{top + letters:.1f}" style="--size:{letters:.1f}px">{number}</text>'
        )
    told = f"{count} face{'s' if count > 1 else ''} found"
    if count > len(faces):
        told += f", the {len(faces)} largest are drawn"
    return look.sheet(
        f'<div class="faces"><img src="{_photo(small)}" alt="the photo, {told}">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(marks)}</svg></div>'
        f'<p class="over">{told}</p>'
    )


def _photo(picture: Image.Image) -> str:
    """A photo to be looked at, as an address."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return data_uri(file.getvalue(), "image/jpeg")


def _gallery(columns: Sequence[Sequence[Cell]], title: str = "") -> str:
    """For each face a row, in it for each Style the drawing over the photo, with a slider between them.

    title: over a row; of several, each has its number.
    """
    rows = []
    most = max(map(len, columns), default=0)
    for number in range(most):
        cells = [_compare(*column[number], number + 1, most) for column in columns if number < len(column)]
        over = f"Face {number + 1}" if most > 1 else title
        head = f"<h3>{over}</h3>" if over else ""
        rows.append(f'{head}<div class="styles">{"".join(cells)}</div>')
    return look.sheet("".join(rows))


def _compare(name: str, seen: Seen, drawn: Drawn, number: int, of: int) -> str:
    data = images.png_bytes(drawn.pixels)
    after, before = data_uri(data, "image/png"), _photo(Image.fromarray(seen.cutout.pixels))
    which = f" of face {number}" if of > 1 else ""
    read = f", read as {drawn.read_as}" if drawn.read_as else ""
    slide = "this.previousElementSibling.style.setProperty('--cut', this.value + '%')"
    file = f"{name}-{number}.png" if of > 1 else f"{name}.png"
    return (
        f'<figure><div class="compare"><img src="{after}" alt="drawing{which} by {escape(name)}">'
        f'<img class="before" src="{before}" alt="photo{which}"></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="before and after{which}, {escape(name)}" '
        f"oninput={json.dumps(slide)}>"
        f"<figcaption>{escape(name + read)}</figcaption>"
        f"{look.download(data, file, 'Download')}</figure>"
    )
