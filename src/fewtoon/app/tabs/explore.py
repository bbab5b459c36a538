from __future__ import annotations

import gradio as gr

from fewtoon.app.shelf import Shelf

TITLE = "Explore"


def build(shelf: Shelf) -> None:
    gr.HTML("<p>Explore</p>")
