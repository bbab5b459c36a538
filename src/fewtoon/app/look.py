"""The look of the studio: that of the HTML reports, and pieces of HTML that the tabs share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from html import escape
from typing import Any, TypeVar

import gradio as gr

from fewtoon.errors import Problem
from fewtoon.metrics.page import COLOURS, PIECES, data_uri

READ = 20.0  # seconds that a sentence stays which nothing else on the page tells
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]

# Gradio's own variables in our colours; then the pieces of the reports, for what stands in a `sheet`.
HEAD = f"""
<meta name="referrer" content="no-referrer">
<style>
{COLOURS}
.gradio-container, .dark {{
  --body-background-fill: var(--paper); --background-fill-primary: var(--paper);
  --background-fill-secondary: var(--paper); --block-background-fill: var(--card);
  --block-label-background-fill: var(--card); --block-border-color: var(--line);
  --border-color-primary: var(--line); --border-color-accent: var(--accent); --input-background-fill: var(--paper);
  --input-border-color: var(--line); --input-border-color-focus: var(--accent); --body-text-color: var(--ink);
  --body-text-color-subdued: var(--soft); --block-label-text-color: var(--soft); --block-title-text-color: var(--ink);
  --block-info-text-color: var(--soft); --color-accent: var(--accent); --color-accent-soft: var(--accent-soft);
  --slider-color: var(--accent); --neutral-200: var(--line); --link-text-color: var(--accent);
  --link-text-color-hover: var(--accent);
  --checkbox-background-color-selected: var(--accent); --checkbox-border-color-selected: var(--accent);
  --checkbox-label-background-fill: var(--card); --checkbox-label-background-fill-selected: var(--card);
  --button-primary-background-fill: var(--accent); --button-primary-background-fill-hover: var(--accent);
  --button-primary-text-color: var(--card); --button-secondary-background-fill: var(--card);
  --button-secondary-text-color: var(--ink); --button-secondary-border-color: var(--line);
  --button-secondary-background-fill-hover: var(--paper); --button-primary-border-color: var(--accent);
  --block-radius: .6rem; --radius-lg: .6rem; --button-border-width: 1px;
}}
body, gradio-app {{ background: var(--paper) !important; }}
.gradio-container {{ width: 100% !important; max-width: 68rem !important; margin: 0 auto !important;
  font-size: 1rem; }}
.gradio-container > .main {{ padding-inline: clamp(.75rem, 4vw, 1.25rem) !important; }}
:focus-visible {{ outline: 2px solid var(--accent) !important; outline-offset: 2px; }}
.reset-button:focus-visible {{ outline-offset: -2px; }}
@media (pointer: coarse) {{
  .tab-like-container, .tab-like-container > * {{ min-height: 2.2rem; }}
  .reset-button {{ min-width: 2.4rem !important; }}
  .gradio-container input[type=range] {{ min-height: 1.6rem; }}
  .source-selection .icon {{ min-width: 2.6rem; min-height: 2.2rem; }}
}}
.sheet {{
  color: var(--ink); line-height: 1.55; font-variant-numeric: tabular-nums; overflow-wrap: break-word;
  {PIECES}
  a {{ color: var(--accent); }}
  iframe {{ width: 100%; height: 80vh; border: 1px solid var(--line); border-radius: .6rem; background: var(--paper); }}
}}
</style>
<script>
// Gradio opens a list at every key, and hears of Tab after it has closed the list that is left.
addEventListener("keydown", event => {{
  if (event.key === "Tab" && event.target.matches("[aria-autocomplete]")) event.stopPropagation();
}}, true);
</script>
"""

# What was sent comes to the handlers as it is: a picture as the path of its file, unopened, since our own door reads it
# (Gradio writes another one); a number beyond the ends of a slider and a choice that has gone meanwhile, since what is
# wrong with it is told beside the picture. In the classes: a widget that is updated is made anew, and for one of our
# own Gradio writes files.
gr.Image.preprocess = lambda self, payload: None if payload is None else payload.path  # type: ignore
gr.Slider.preprocess = lambda self, payload: payload  # type: ignore[method-assign]
gr.Dropdown.preprocess = lambda self, payload: payload  # type: ignore[method-assign]

# Of events that are not for programs. What is changed while an event is answered is passed over by Gradio, unless it is
# live: then it is answered next.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIVE: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}

Made = TypeVar("Made", bound=Callable[..., Any])


def theme() -> gr.themes.Base:
    """Paper, ink and one accent, light and dark, with the fonts of the machine: nothing is fetched."""
    return gr.themes.Base(font=FONT, font_mono=MONO)


def sheet(body: str) -> str:
    """HTML that looks as it does in the reports; `body` is HTML already."""
    return f'<div class="sheet">{body}</div>' if body else ""


def figure(data: bytes, caption: str, alt: str | None = None) -> str:
    """A PNG with a caption under it, as in the reports."""
    picture = f'<img src="{data_uri(data, "image/png")}" alt="{escape(alt or caption)}">'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def download(data: bytes, name: str, text: str) -> str:
    """A link that saves a PNG as a file, without asking the server again."""
    return (
        f'<a class="save" href="{data_uri(data, "image/png")}" download="{escape(name)}">{escape(text)}</a>'
    )


def note(text: str) -> str:
    """A sentence that should not be overlooked."""
    return sheet(f'<div class="notes" role="status">{escape(text)}</div>') if text else ""


def told(handler: Made, said: Callable[[Problem], str]) -> Made:
    """For the handler of an event: what a person can mend is told on the page, in one line, as `said` puts it."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Problem as problem:
            raise gr.Error(said(problem), duration=READ, title="", print_exception=False) from None

    return wrapped  # type: ignore[return-value]
