"""The look of fewtoon's pages: one style sheet, no script, no request to anywhere."""

from __future__ import annotations

import base64
from html import escape

COLOURS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d1c1a; --soft: #6b6860; --line: #e4e0d8;
  --accent: #b4472f; --accent-soft: #e9b9ab; --mark: #8f8a7e; --warn: #fdf3dc; --warn-line: #e5cf9a;
  --shadow: #1d1c1a38;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171614; --card: #201f1c; --ink: #ebe8e1; --soft: #a19c90; --line: #35322d;
    --accent: #e8836a; --accent-soft: #77392b; --mark: #7d776b; --warn: #2b2517; --warn-line: #5a4b24;
    --shadow: #000000b0;
  }
}
"""
_BASE = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
@media (max-width: 34rem) { body { padding-top: 1.5rem; } }
"""
# Everything but the frame: for pages with a frame of their own.
PIECES = """
h1, h2, .card b { font-family: ui-serif, Georgia, "Times New Roman", serif; font-weight: 600;
  line-height: 1.25; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.3rem); margin: .3rem 0 .8rem; letter-spacing: -.01em;
  text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 1.6rem 0 .5rem; }
p { margin: .4rem 0; max-width: 44em; }
.soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.over { color: var(--soft); font-size: .8rem; letter-spacing: .04em; margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem;
  margin: 1.6rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  overflow-wrap: anywhere; }
.card b { display: block; font-size: 1.8rem; }
.card span { color: var(--soft); font-size: .82rem; line-height: 1.35; display: block; }
.scroll { overflow-x: auto;  /* a shadow at the side where there is more */
  background: linear-gradient(90deg, var(--paper) 60%, transparent) 0 0 / 2.4rem 100% no-repeat local,
    linear-gradient(270deg, var(--paper) 60%, transparent) 100% 0 / 2.4rem 100% no-repeat local,
    linear-gradient(90deg, var(--shadow), transparent) 0 0 / 1rem 100% no-repeat,
    linear-gradient(270deg, var(--shadow), transparent) 100% 0 / 1rem 100% no-repeat; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; font-size: .92rem; }
th { text-align: left; font-weight: 600; font-size: .8rem; color: var(--soft); }
th, td { padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.wide { width: 45%; min-width: 11rem; padding-right: 0; }
td small { color: var(--soft); display: block; }
.bar { position: relative; height: 1.5rem; }
.bar::before { content: ""; position: absolute; inset: calc(50% - .5px) 0 auto; height: 1px;
  background: var(--line); }
.bar i { position: absolute; display: block; }
.bar .span { top: .5rem; height: .5rem; border-radius: .25rem; min-width: 2px;
  background: var(--accent-soft); }
.bar .dot { top: .375rem; width: .75rem; height: .75rem; margin-left: -.375rem; border-radius: 50%;
  background: var(--accent); }
.bar .tick { top: .15rem; width: 2px; height: 1.2rem; margin-left: -1px; background: var(--mark); }
.bar .zero { top: 0; width: 1px; height: 1.5rem; background: var(--line); }
.key { display: inline-block; position: relative; width: 1.1em; height: .7em; margin: 0 .3em 0 .9em; }
.key:first-child { margin-left: 0; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .6rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: .35rem; background: var(--line); }
img.small { image-rendering: pixelated; }
.pictures img { display: block; width: 100%; max-width: 10rem; height: auto; border-radius: .25rem; }
figcaption { font-size: .75rem; line-height: 1.35; margin-top: .25rem; }
.pairs + .over { margin: .9rem 0 .3rem; }
.strip { display: grid; grid-template-columns: repeat(12, 1fr); gap: .35rem; }
.strip img { width: 100%; height: auto; display: block; border-radius: .25rem; }
.notes { background: var(--warn); border: 1px solid var(--warn-line); border-radius: .6rem;
  padding: .7rem 1rem; margin: 1.4rem 0; font-size: .9rem; }
.notes ul { margin: .3rem 0 0; padding-left: 1.1rem; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.2rem;
  font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
@media (max-width: 34rem) {
  th, td { padding-right: .5rem; }
  td.wide { min-width: 6rem; }
  .cards { grid-template-columns: 1fr 1fr; }
  .card b { font-size: 1.4rem; }
  .pairs { grid-template-columns: 1fr 1fr; }
  .strip { grid-template-columns: repeat(6, 1fr); }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
}
"""
STYLE = COLOURS + _BASE + PIECES


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them: a picture travels with its page. kind: "image/png" for instance."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def page(title: str, body: str) -> str:
    """A whole HTML document; `title` is plain text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
