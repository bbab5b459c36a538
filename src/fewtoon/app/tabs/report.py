from __future__ import annotations

import gradio as gr

from fewtoon.app.shelf import Shelf

TITLE = "Report"


def build(shelf: Shelf) -> None:
    gr.HTML("<p>Report</p>")
