"""The doctor's page: one HTML file with thumbnails, no script, no request to anywhere."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewtoon.data import doctor
from fewtoon.data.checkup import Checkup, Finding, Item, Shares, compare, pair, shares
from fewtoon.data.findings import count
from fewtoon.io.files import write_bytes
from fewtoon.metrics.page import data_uri, page

SHOWN = 18  # pictures of one finding
SHOWN_PAIRS = 12
SHOWN_FILES = 12  # where there is no picture to show
THUMBNAIL = 128  # pixels
EXAMPLES = 8  # pictures of each group, to see what is in it; as many as the style sheet has columns

STYLE = """
.finding { border-left: .25rem solid var(--mark); padding: .1rem 0 .1rem 1rem; margin: 1.8rem 0; }
.finding.serious { border-color: var(--accent); }
.finding.note { border-color: var(--line); }
.finding h3 { font-size: 1.05rem; margin: 0 0 .3rem; }
.finding .badge { font-size: .75rem; font-weight: 600; margin: 0 0 .15rem; color: var(--soft); }
.finding.serious .badge { color: var(--accent); }
.finding .remedy::before { content: "\\2192\\00a0"; color: var(--accent); }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.4rem, 1fr)); gap: .6rem;
  margin: .8rem 0 .3rem; }
.thumbs.twins { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.thumbs.twins div { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.strip.examples { grid-template-columns: repeat(8, 1fr); }
.files { font-size: .875rem; margin: .6rem 0; padding-left: 1.1rem; }
.share { display: grid; grid-template-columns: 3.2rem 1fr; gap: .1rem .6rem; align-items: center;
  font-size: .8rem; color: var(--soft); }
.share i { display: block; height: .7rem; border-radius: .2rem; min-width: 2px; background: var(--mark); }
.share i.drawings { background: var(--accent); }
.fine { columns: 2; column-gap: 2.5rem; font-size: .9rem; padding-left: 1.1rem; }
@media (max-width: 34rem) { .fine { columns: 1; } }
"""

BADGES = {"serious": "mend this before training", "look": "worth a look", "note": "good to know"}


def write_page(path: str | Path, *checkups: Checkup) -> None:
    """Write the page of one pack, or of photos and drawings together, whole or not at all.
    Raises Problem when the file cannot be written, and as `pair` does."""
    write_bytes(path, html(*checkups).encode())


def html(*checkups: Checkup) -> str:
    """That page as text. Raises Problem as `pair` does."""
    both = pair(*checkups)
    matches = compare(*both) if both else []
    findings = matches + [finding for entry in checkups for finding in entry.findings]
    packs = " · ".join(f"{count(entry.count, entry.side[:-1])}, {entry.size} px" for entry in checkups)
    parts = [
        f"<style>{STYLE}</style>",
        f'<p class="over">fewtoon doctor · {escape(packs)}</p>',
        f"<h1>{escape(verdict(findings))}</h1>",
        _cards(checkups, findings),
        _together(shares(*both), matches) if both else "",
        *(_one(entry) for entry in checkups),
        "<h2>How this was looked for</h2>"
        '<p class="soft">By measuring, not by understanding: thresholds were chosen so that few good pictures are '
        "blamed, so a fault may be missed. Nothing was changed or deleted; what you do is up to you. After any "
        "change in your folders run <code>fewtoon prepare</code> again.</p>",
    ]
    return page("fewtoon doctor", "\n".join(part for part in parts if part))


def verdict(findings: list[Finding]) -> str:
    """The outcome in one plain sentence."""
    serious = sum(finding.severity == "serious" for finding in findings)
    look = sum(finding.severity == "look" for finding in findings)
    if serious:
        return f"{count(serious, 'thing').capitalize()} to mend before training" + (
            f", {look} more worth a look." if look else "."
        )
    if look:
        return f"Ready to train; {count(look, 'thing')} {'is' if look == 1 else 'are'} worth a look first."
    return "Ready to train: nothing to mend was found."


def _cards(checkups: tuple[Checkup, ...], findings: list[Finding]) -> str:
    cards = []
    for entry in checkups:
        held_out = sum(c.held_out for c in entry.groups.values())
        cards.append(
            (
                f"{entry.count:,}",
                f"{entry.side}: {entry.count - held_out:,} to train on, {held_out:,} held out for the exam",
            )
        )
        touched = {i for f in entry.findings for item in f.items for i in (item.row, item.other_row)} - {None}
        cards.append((f"{len(touched):,}", f"of the {entry.side} have something to look at"))
    inner = "".join(f'<div class="card"><b>{a}</b><span>{escape(b)}</span></div>' for a, b in cards)
    return f'<div class="cards">{inner}</div>'


# ---------------------------------------------------------------------------------------------------------
# Photos and drawings together


def _together(table: list[Shares], matches: list[Finding]) -> str:
    widest = max([max(entry.photo_share, entry.drawing_share) for entry in table] or [1]) or 1
    rows = "".join(
        f'<tr><td>{escape(entry.group)}</td><td class="number">{entry.photos:,}</td>'
        f'<td class="number">{entry.drawings:,}</td><td class="wide"><div class="share">'
        f'<span>{entry.photo_share:.0%}</span><i style="width:{100 * entry.photo_share / widest:.1f}%"></i>'
        f'<span>{entry.drawing_share:.0%}</span><i class="drawings" '
        f'style="width:{100 * entry.drawing_share / widest:.1f}%"></i></div></td></tr>'
        for entry in table
    )
    told = (
        "".join(_finding(finding, None) for finding in matches)
        or "<p>Every group has its like on both sides.</p>"
    )
    shown = (
        '<div class="scroll"><table><tr><th>group</th><th class="number">photos</th><th class="number">drawings</th>'
        f"<th>share of the photos (grey) and of the drawings (red)</th></tr>{rows}</table></div>"
        if table
        else ""
    )
    return (
        "<h2>Do photos and drawings match?</h2>"
        "<p>The model learns what the drawings look like <em>as a whole</em>, and makes every photo look like them. "
        "What is rare among the drawings and frequent among the photos, such as glasses, is therefore what it "
        "loses. Training pictures are counted.</p>" + shown + told
    )


# ---------------------------------------------------------------------------------------------------------
# One pack


def _one(entry: Checkup) -> str:
    parts = [f"<h2>The {entry.side}</h2>"]
    where = f"{entry.path} · " if entry.path else ""
    parts.append(f'<p class="soft">{escape(where)}{entry.size} px, framing {escape(str(entry.framing))}</p>')
    parts.append(_groups(entry))
    parts += [_finding(finding, entry) for finding in entry.findings]
    if entry.clear:
        items = "".join(f"<li>{escape(name)}</li>" for name in entry.clear)
        parts.append(f'<h3>Looked for, and not found</h3><ul class="fine">{items}</ul>')
    if entry.unchecked:
        items = "".join(f"<li>{escape(name)}</li>" for name in entry.unchecked)
        parts.append(f'<h3>Could not be looked for</h3><ul class="fine">{items}</ul>')
    return "".join(parts)


def _groups(entry: Checkup) -> str:
    """A row of examples for each group, evenly spread: what the model will be told this group looks like."""
    rows = []
    for name, numbers in entry.groups.items():
        pictures = ""
        if entry.pack is not None:
            mine = [i for i, row in enumerate(entry.pack.rows) if (row.group or doctor.UNGROUPED) == name]
            spread = np.unique(np.linspace(0, len(mine) - 1, min(EXAMPLES, len(mine))).round().astype(int))
            pictures = "".join(
                _image(entry.pack.images[mine[i]], entry.pack.rows[mine[i]].file) for i in spread
            )
        title = (
            "all"
            if entry.groups.keys() == {doctor.UNGROUPED}
            else "no group"
            if name == doctor.UNGROUPED
            else name
        )
        rows.append(
            f"<tr><td>{escape(title)}<small>{numbers.train:,} to train on, {numbers.held_out:,} held out</small></td>"
            f'<td class="wide" style="width:72%"><div class="strip examples">'
            f"{pictures}</div></td></tr>"
        )
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _finding(finding: Finding, entry: Checkup | None) -> str:
    return (
        f'<section class="finding {finding.severity}"><p class="badge">{BADGES[finding.severity]}</p>'
        f"<h3>{escape(finding.headline)}</h3><p>{escape(finding.why)}</p>"
        f'<p class="remedy">{escape(finding.remedy)}</p>{_items(finding.items, entry)}</section>'
    )


def _items(items: list[Item], entry: Checkup | None) -> str:
    pack = entry.pack if entry else None
    if not items:
        return ""
    if pack is None or items[0].row is None:
        limit = SHOWN_FILES
        inner = "".join(
            f"<li>{escape(item.file)}{': ' + escape(item.words) if item.words else ''}</li>"
            for item in items[:limit]
        )
        shown = f'<ul class="files">{inner}</ul>'
    elif items[0].other_row is not None:
        limit = SHOWN_PAIRS
        inner = "".join(
            f"<figure><div>{_image(pack.images[item.row], item.file)}"
            f"{_image(pack.images[item.other_row], item.other_file or '')}</div>"
            f"{_caption(item.file, item.other_file or '', item.words)}</figure>"
            for item in items[:limit]
        )
        shown = f'<div class="thumbs twins">{inner}</div>'
    else:
        limit = SHOWN
        inner = "".join(
            f"<figure>{_image(pack.images[item.row], item.file)}{_caption(item.file, item.words)}</figure>"
            for item in items[:limit]
        )
        shown = f'<div class="thumbs">{inner}</div>'
    more = len(items) - limit
    return shown + (f'<p class="soft">and {more:,} more</p>' if more > 0 else "")


def _caption(*lines: str) -> str:
    # Long names may break behind a folder.
    told = "<br>".join(escape(line).replace("/", "/<wbr>") for line in lines if line)
    return f"<figcaption>{told}</figcaption>"


def _image(image: NDArray[np.uint8], alternative: str) -> str:
    side = min(THUMBNAIL, image.shape[0])
    picture = Image.fromarray(np.asarray(image))
    if side < image.shape[0]:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=4)
    data = data_uri(buffer.getvalue(), "image/webp")
    return f'<img width="{side}" height="{side}" alt="{escape(alternative)}" loading="lazy" src="{data}">'
