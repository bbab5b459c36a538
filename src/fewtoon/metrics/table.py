"""The table of a study: one row per preset, as a page, as Markdown, and in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewtoon.metrics.kept import percent
from fewtoon.metrics.page import page
from fewtoon.metrics.sheet import image

DASH = "–"
Row = dict[str, Any]
Grid = dict[str, NDArray[np.uint8]]  # title of a column -> (n, S, S, 3), a picture per row


class Cell(NamedTuple):
    """A figure, and what stands below it."""

    figure: str
    below: str = ""


class Column(NamedTuple):
    """Its title, and the cell of a row; None where the row lacks it."""

    title: str
    cell: Callable[[Row], Cell | None]


def headline(result: dict[str, Any]) -> str:
    """Which preset came closest to the artist's drawings, and which cannot be told from it."""
    rows = [row for row in result["rows"] if row.get("kid")]
    rows = [row for row in rows if row["against"] == "drawings"] or rows
    if not rows:
        return "No preset has a figure."
    best = min(rows, key=lambda row: row["kid"]["mean"])
    figure = f"KID × 1000 {_number(best['kid']['mean'])}"
    nothing = (result.get("untranslated") or {}).get("kid")
    if nothing and not best["generates"] and best["kid"]["mean"] >= nothing["mean"]:
        return (
            f"No preset is closer to the real {best['against']} than the photos as they were (KID × 1000 "
            f"{_number(nothing['mean'])}); {best['preset']} comes to {_number(best['kid']['mean'])}."
        )
    if len(rows) == 1:
        return f"{best['preset']}: {figure}."
    like = [row["preset"] for row in rows if row is not best and _overlap(row, best)]
    told = f"{best['preset']} is closest to the real {best['against']} ({figure})"
    if not like:
        return f"{told}, by more than chance."
    return f"{told}, but {' and '.join(like)} may be as close: the intervals overlap."


def markdown(result: dict[str, Any]) -> str:
    """The table and how it was measured, without pictures."""
    columns = _columns(result)
    lines = [
        f"# Study: {_budget(result)}",
        _plain(headline(result)),
        "\n".join(
            [
                f"| preset | {' | '.join(column.title for column in columns)} |",
                f"|---|{'---:|' * len(columns)}",
                *(_line(row, columns) for row in _rows(result)),
            ]
        ),
        *(f"**{_plain(row['preset'])}** failed: {_plain(row['failed'])}" for row in _failed(result)),
        "\n".join(f"- {name}: {text}" for name, text in _protocol(result)),
        "\n".join(f"- {text}" for text in result["notes"]),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def html(result: dict[str, Any], grids: dict[str, Grid]) -> str:
    """The whole page, self-contained. grids: title -> columns of pictures; an empty one is left out."""
    columns, rows = _columns(result), _rows(result)
    bar = _bars(rows)
    heads = "".join(f'<th scope="col" class="number">{escape(column.title)}</th>' for column in columns[1:])
    body = []
    for row in rows:
        cells = [column.cell(row) for column in columns]
        about = f"<small>{escape(_about(row))}</small>"
        body.append(
            f"<tr><td>{escape(row['preset'])}{about}</td>{_td(cells[0])}"
            f'<td style="min-width:9rem"><div class="bar" aria-hidden="true">{bar(row)}</div></td>'
            f"{''.join(map(_td, cells[1:]))}</tr>"
        )
    failed = "".join(
        f"<li><b>{escape(row['preset'])}</b>: {escape(row['failed'])}</li>" for row in _failed(result)
    )
    notes = "".join(f"<li>{escape(text)}</li>" for text in result["notes"])
    facts = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in _protocol(result))
    parts = [
        "<style>body { max-width: 86rem; }</style>",  # all columns side by side, where the screen has room for them
        f'<p class="over">fewtoon study · {escape(_budget(result))}</p>',
        f"<h1>{escape(headline(result))}</h1>",
        f'<div class="notes"><b>Failed</b><ul>{failed}</ul></div>' if failed else "",
        '<p class="soft">The dot is KID × 1000, the bar its 95 % interval, the thin line 0. Lower is better.</p>',
        f'<div class="scroll"><table><tr><th>preset</th><th class="number">{columns[0].title}</th><th></th>'
        f"{heads}</tr>{''.join(body)}</table></div>",
        *(_grid(title, grid) for title, grid in grids.items() if grid),
        f'<div class="notes"><b>Read with care</b><ul>{notes}</ul></div>' if notes else "",
        f"<h2>How this was measured</h2><dl>{facts}</dl>",
    ]
    return page("fewtoon study", "\n".join(part for part in parts if part))


# --- rows and columns -----------------------------------------------------------------------------------------


def _rows(result: dict[str, Any]) -> list[Row]:
    """The yardstick, where photos were translated, and every preset in its order."""
    before = result.get("untranslated")
    return [*([{"preset": "photos, untranslated", **before}] if before else []), *result["rows"]]


def _failed(result: dict[str, Any]) -> list[Row]:
    return [row for row in result["rows"] if row.get("failed")]


def _columns(result: dict[str, Any]) -> list[Column]:
    """KID, and every other column of which any row has a figure."""
    names = sorted({name for row in result["rows"] for name in row.get("attributes", {})})
    others = [
        Column("KID × 100 ± deviation", _hundred),
        Column("back to photos, KID × 100", lambda row: _hundred(row.get("back") or {})),
        Column("FID", lambda row: _mean(row.get("fid"))),
        *(Column(f"{name} kept", _kept(name)) for name in names),
        Column("right person first", _identity),
        Column("KID, mean of groups", lambda row: _mean(row.get("kid_mean_of_groups"))),
        Column("nearest training picture", _memory),
        Column("training", _seconds),
        Column("parameters, drawing / all", _parameters),
        Column("memory", _peak),
    ]
    found = [column for column in others if any(map(column.cell, _rows(result)))]
    return [Column("KID × 1000", _kid), *found]


def _kid(row: Row) -> Cell | None:
    cell = _mean(row.get("kid"))
    ends = (row.get("kid") or {}).get("interval")
    if cell is None or ends is None:
        return cell
    interval = f"{_number(ends[0])} … {_number(ends[1])}"
    return Cell(cell.figure, f"{interval}{cell.below and '; '}{cell.below}")


def _mean(found: dict[str, Any] | None) -> Cell | None:
    """A mean, over seeds where there are several."""
    if not found or found["mean"] is None:
        return None
    spread = found.get("spread")
    return Cell(_number(found["mean"]), f"± {_number(spread)} over seeds" if spread is not None else "")


def _hundred(row: Row) -> Cell | None:
    found = row.get("kid_x100")
    return Cell(f"{_number(found['mean'])} ± {_number(found['deviation'])}") if found else None


def _kept(name: str) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        found = row.get("attributes", {}).get(name)
        if not found:
            return None
        worst = found["worst"]
        below = f"{percent(worst['kept'])} in {worst['group']}" if worst else ""
        return Cell(percent(found["kept"]) if found["kept"] is not None else DASH, below)

    return cell


def _identity(row: Row) -> Cell | None:
    found = row.get("identity")
    if not found:
        return None
    return Cell(percent(found["rank1"]), f"chance {percent(found['chance'])}")


def _memory(row: Row) -> Cell | None:
    ratio = row.get("memorisation")
    return Cell(f"{ratio:.2f}×") if ratio is not None else None


def _seconds(row: Row) -> Cell | None:
    found = row.get("seconds")
    return Cell(f"{found['mean']:,.0f} s", f"{row['steps']:,} steps") if found else None


def _parameters(row: Row) -> Cell | None:
    found = row.get("parameters")
    return Cell(f"{_short(found['drawing'])} / {_short(found['all'])}") if found else None


def _peak(row: Row) -> Cell | None:
    found = row.get("peak_memory")
    return Cell(f"{found / 2**30:.1f} GiB") if found is not None else None


def _about(row: Row) -> str:
    """What is worth knowing of a row beside its figures."""
    if "method" not in row:
        return "no figure" if row.get("failed") else ""
    made = "of random numbers" if row["generates"] else ""
    told = [row["method"], made, "compared with photos" if row["against"] == "photos" else ""]
    return ", ".join(part for part in told if part)


def _overlap(one: Row, other: Row) -> bool:
    """Whether chance may have put one before the other; with several seeds their spread counts too."""
    ends = []
    for row in (one, other):
        kid = row["kid"]
        low, high = kid["interval"] or (kid["mean"], kid["mean"])
        spread = 2 * (kid["spread"] or 0.0)
        ends.append((min(low, kid["mean"] - spread), max(high, kid["mean"] + spread)))
    (a, b), (c, d) = ends
    return a <= d and c <= b


# --- words ------------------------------------------------------------------------------------------------------


def _line(row: Row, columns: list[Column]) -> str:
    cells = [column.cell(row) for column in columns]
    told = [
        DASH if cell is None else cell.figure + (f" ({cell.below})" if cell.below else "") for cell in cells
    ]
    return f"| {_plain(row['preset'])} | {' | '.join(_plain(one) for one in told)} |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _budget(result: dict[str, Any]) -> str:
    (kind, amount), *_ = result["budget"].items()
    each = f"{amount:g} minutes" if kind == "minutes" else f"{amount:,} {kind}"
    seeds = result["seeds"]
    return f"{each} of training for each preset" + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")


def _protocol(result: dict[str, Any]) -> list[tuple[str, str]]:
    net = result["features"]
    against = "comparable" if net["comparable"] else "not comparable"
    packs = ", ".join(f"{side} {digest[:12]}" for side, digest in result["packs"].items())
    return [
        ("features", f"{net['name']} {net['hash']}, {net['dim']}-d, {against} with the literature"),
        ("pictures", f"held-out ones; {result['samples']} of random numbers"),
        ("styles", f"the {result['weights']} weights of each run"),
        (
            "KID × 1000",
            "unbiased, over all pictures; the 95 % interval is scaled to the size of the full sets",
        ),
        ("KID × 100", "the same value; the deviation is that of 100 subsets of half of each side"),
        ("seeds", ", ".join(map(str, result["seeds"]))),
        ("first weights", str(result["init"] or "none")),
        ("settings", ", ".join(result["sets"]) or "those of the presets"),
        ("packs", packs),
        ("device", result["device"]),
        ("made by", f"fewtoon {result['fewtoon']}"),
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(count: int) -> str:
    """Such as 412, 31.5 k, 2.6 M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


# --- the page ---------------------------------------------------------------------------------------------------


def _td(cell: Cell | None) -> str:
    if cell is None:
        return f'<td class="number">{DASH}</td>'
    below = f"<small>{escape(cell.below)}</small>" if cell.below else ""
    return f'<td class="number">{escape(cell.figure)}{below}</td>'


def _bars(rows: list[Row]) -> Callable[[Row], str]:
    """What draws the KID of a row, on one scale for all."""
    edges = [0.0]
    for row in rows:
        if row.get("kid"):
            edges += [row["kid"]["mean"], *(row["kid"]["interval"] or ())]
    low, high = min(edges), max(max(edges), 1e-9)
    low, wide = low - 0.03 * (high - low), 1.06 * (high - low)

    def bar(row: Row) -> str:
        at = lambda value: f"{100 * (value - low) / wide:.2f}%"
        marks = [f'<i class="zero" style="left:{at(0.0)}"></i>']
        kid = row.get("kid")
        if kid and kid["interval"]:
            a, b = kid["interval"]
            marks.append(f'<i class="span" style="left:{at(a)};width:{100 * (b - a) / wide:.2f}%"></i>')
        if kid:
            marks.append(f'<i class="dot" style="left:{at(kid["mean"])}"></i>')
        return "".join(marks)

    return bar


def _grid(title: str, grid: Grid) -> str:
    """Pictures in columns, each of its own title."""
    heads = "".join(f'<th scope="col" style="text-align:center">{escape(name)}</th>' for name in grid)
    start = '<td style="border:0;padding:.15rem"><div style="width:7rem;margin:auto">'
    rows = []
    for number in range(len(next(iter(grid.values())))):
        cells = "".join(
            f"{start}{image(pictures[number], f'{name}, {number + 1}')}</div></td>"
            for name, pictures in grid.items()
        )
        rows.append(f"<tr>{cells}</tr>")
    table = f'<table class="pictures" style="width:auto"><tr>{heads}</tr>{"".join(rows)}</table>'
    return f'<h2>{escape(title)}</h2><div class="scroll">{table}</div>'
