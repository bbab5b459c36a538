"""The evaluation report: report.json, one self-contained report.html, and sheet.png to show around."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewtoon.io import images as pictures_io
from fewtoon.metrics import kept
from fewtoon.metrics.page import page
from fewtoon.metrics.sheet import choose, figure, image, pair, sheet, spread

if TYPE_CHECKING:
    from fewtoon.metrics.evaluate import Pictures
    from fewtoon.metrics.memory import Memory


def write(result: dict[str, Any], shown: Pictures, folder: Path) -> None:
    """Write the three files into an existing folder, each whole or not at all; Problem if it cannot."""
    groups = choose(shown)
    with pictures_io.atomic(folder / "report.json") as file:
        file.write((json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    with pictures_io.atomic(folder / "report.html") as file:
        file.write(_html(result, shown, groups).encode())
    pictures_io.save_png(folder / "sheet.png", sheet(shown, groups))


# ------------------------------------------------------------------------------------------------------ HTML


def _html(result: dict[str, Any], shown: Pictures, groups: dict[str, list[int]]) -> str:
    facts, protocol = result["style"], result["protocol"]
    about = [str(facts.get("method", "style")), f"{facts['size']} px"]
    about += [f"step {facts['step']:,}"] if isinstance(facts.get("step"), int) else []
    if _generated(result):
        about += [f"{protocol['n_samples']} pictures of random numbers"]
    else:
        about += [f"{protocol['n_photos']} {protocol['split'].replace('_', '-')} photos"]
    parts = [
        f'<p class="over">fewtoon evaluation · {escape(" · ".join(about))}</p>',
        f"<h1>{escape(headline(result))}</h1>",
        _cards(result),
        _group_table(result),
        kept.attributes(result, shown),
        kept.identity(result),
        _contact_sheet(shown, groups, _side(result)),
        _memorisation(result, shown),
        _augmentation(result),
        _other_features(result),
        _warnings(result),
        _protocol(result),
    ]
    return page("fewtoon evaluation", "\n".join(part for part in parts if part))


def verdict(result: dict[str, Any]) -> str:
    """The outcome for the terminal: one plain sentence, then a line for each attribute that is known, of the
    group where it fares worst, and one for identity."""
    return "\n".join([headline(result), *kept.lines(result)])


def headline(result: dict[str, Any]) -> str:
    """How close the drawings are to the artist's, in one plain sentence."""
    if _generated(result):
        return _headline_of_generated(result)
    now, before = result["metrics"]["all"], result["untranslated"]["all"]
    if now["kid"] is None or now["note"]:
        return "Too few pictures to say how close the drawings are to the artist's."
    (low, high), (before_low, _) = now["kid_interval"], before["kid_interval"]
    if low <= 0:
        return "In these features the drawings cannot be told from the artist's own."
    if high < before_low:
        fall = result["summary"]["below_untranslated"]
        return (
            f"The drawings are closer to the artist's than the photos are: their distance fell by {fall:.0%}."
        )
    if now["kid"] < before["kid"]:
        return "The drawings seem a little closer to the artist's than the photos, but it may be chance."
    return "The drawings are no closer to the artist's than the photos were."


def _generated(result: dict[str, Any]) -> bool:
    """Whether the pictures were made of random numbers."""
    return "n_samples" in result["protocol"]


def _side(result: dict[str, Any]) -> str:
    """What the pictures are compared with: "drawings" or "photos"."""
    return "photos" if "n_train_photos" in result["protocol"] else "drawings"


def _headline_of_generated(result: dict[str, Any]) -> str:
    now = result["metrics"]["all"]
    real = "the artist's own" if _side(result) == "drawings" else "real photos"
    if now["kid"] is None or now["note"]:
        return f"Too few pictures to say how close they are to {real}."
    if now["kid_interval"][0] <= 0:
        return f"In these features the pictures cannot be told from {real}."
    return (
        f"The pictures can be told from {real}: their KID × 1000 is {_number(now['kid'])}, {_interval(now)}."
    )


def _cards(result: dict[str, Any]) -> str:
    now, memory, side = result["metrics"]["all"], result["memorisation"], _side(result)
    cards = [(_number(now["kid"]), f"KID × 1000, {_interval(now)}; 0 is a perfect match")]
    if not _generated(result):
        before = result["untranslated"]["all"]
        cards.append((_number(before["kid"]), "the same for the untranslated photos"))
    made = "pictures" if _generated(result) else "drawings"
    cards.append((_number(now["fid"]), f"FID of {now['n_fake']} {made} against {now['n_real']}"))
    if memory["ratio"] is not None:
        others = "the artist's other drawings" if side == "drawings" else "other photos"
        words = f"as far from the training {side} as {others}; far below 1 would be copying"
        cards.append((f"{memory['ratio']:.2f}×", words))
    cards += kept.cards(result)
    inner = "".join(f'<div class="card"><b>{a}</b><span>{escape(b)}</span></div>' for a, b in cards)
    return f'<div class="cards">{inner}</div>'


def _group_table(result: dict[str, Any]) -> str:
    entries = result["metrics"]
    before = {name: entry["kid"] for name, entry in result.get("untranslated", {}).items()}
    edges = [0.0]
    for name, entry in entries.items():
        edges += [v for v in (*entry["kid_interval"], entry["kid"], before.get(name)) if v is not None]
    low, high = min(edges), max(max(edges), 1e-9)
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    rows = []
    for name, entry in entries.items():
        bar = [f'<i class="zero" style="left:{at(0)}"></i>']
        a, b = entry["kid_interval"]
        if a is not None:
            bar.append(f'<i class="span" style="left:{at(a)};width:{100 * (b - a) / (high - low):.2f}%"></i>')
        if before.get(name) is not None:
            bar.append(f'<i class="tick" style="left:{at(before[name])}"></i>')
        if entry["kid"] is not None:
            bar.append(f'<i class="dot" style="left:{at(entry["kid"])}"></i>')
        note = f"<small>{escape(entry['note'])}</small>" if entry["note"] else ""
        rows.append(
            f"<tr><td>{escape(name)}{note}</td>"
            f'<td class="number">{_number(entry["kid"])}<small>{_interval(entry, words=False)}</small></td>'
            f'<td class="wide"><div class="bar">{"".join(bar)}</div></td>'
            f'<td class="number">{_number(entry["fid"])}</td>'
            f'<td class="number">{entry["n_fake"]} / {entry["n_real"]}</td></tr>'
        )
    real = "the artist's drawings" if _side(result) == "drawings" else "real photos"
    yardstick = (
        '<span class="key bar"><i class="tick" style="left:50%;top:-.2rem"></i></span>untranslated photos; '
        if before
        else ""
    )
    return (
        f"<h2>Distance to {real}</h2>"
        '<p class="soft"><span class="key bar"><i class="dot" style="left:50%;top:0"></i></span>KID × 1000 '
        '<span class="key bar"><i class="span" style="left:0;width:100%;top:.1rem"></i></span>95 % interval '
        f"{yardstick}the thin line is 0. Lower is better.</p>"
        '<div class="scroll"><table><tr><th>group</th><th class="number">KID</th><th></th>'
        '<th class="number">FID</th><th class="number">drawn / real</th></tr>'
        + "".join(rows)
        + "</table></div>"
    )


def _contact_sheet(shown: Pictures, groups: dict[str, list[int]], side: str) -> str:
    translated = len(shown.photos) > 0
    title, sides = ("Photos and their drawings", " Left the photo, right its drawing.")
    if not translated:
        title, sides = "Pictures of random numbers", ""
    parts = [f'<h2>{title}</h2><p class="soft">Evenly spread over the pictures, not chosen.{sides}</p>']
    for name, rows in groups.items():
        figures = "".join(
            pair(shown.photos[i], shown.fakes[i], "", f"photo {shown.photo_names[i]}, drawing")
            if translated
            else figure(shown.fakes[i], "", shown.photo_names[i])
            for i in rows
        )
        mates = [i for i, group in enumerate(shown.drawing_groups) if not name or group == name]
        real = "".join(image(shown.drawings[i], f"real {side[:-1]}") for i in spread(mates, 12))
        title = f"<h3>{escape(name)}</h3>" if name else ""
        whose = "real drawings of the artist" if side == "drawings" else "real photos"
        strip = f'<p class="over">{whose}</p><div class="strip">{real}</div>'
        parts.append(f'{title}<div class="pairs">{figures}</div>{strip}')
    return "".join(parts)


def _memorisation(result: dict[str, Any], shown: Pictures) -> str:
    memory, facts = shown.memory, result["memorisation"]
    if memory is None:
        return ""
    side, made = _side(result), "pictures" if _generated(result) else "translations"
    one, whose = side[:-1], "the artist's other drawings" if side == "drawings" else "other photos"
    if facts["ratio"] is None:
        words = f"There are no held-out {side} to compare with."
    else:
        words = (
            f"{facts['close']:.0%} of the {made} lie nearer to a training {one} than nearly all "
            f"of {whose} do (5 % would be usual). "
            + (
                "That is a sign of copying: look at the pairs."
                if facts["close"] > 0.25 and facts["ratio"] < 0.9
                else "These features show no sign of copying, but a recoloured copy can escape them."
            )
        )
    figures = "".join(
        pair(
            shown.fakes[i],
            shown.train_drawings[memory.nearest[i]],
            f"distance {memory.distance[i]:.2f}",
            f"{'' if _generated(result) else 'drawing of '}{shown.photo_names[i]}, training {one} "
            f"{shown.train_names[memory.nearest[i]]}",
        )
        for i in memory.suspects
    )
    return (
        f"<h2>Learned by heart?</h2><p>{escape(words)}</p>"
        f"{_strip_plot(memory, made, side)}"
        f'<h3>The most suspicious pairs</h3><p class="soft">Left the {made[:-1]}, right the training {one} '
        f'nearest to it.</p><div class="pairs">{figures}</div>'
    )


def _strip_plot(memory: Memory, made: str, side: str) -> str:
    """Each picture a thin line at its distance to the nearest training drawing."""
    rows = [(made, memory.distance, "--accent"), (f"held-out {side}", memory.held_out, "--mark")]
    rows = [row for row in rows if len(row[1])]
    high = max(float(values.max()) for _, values, _ in rows) * 1.04 or 1.0
    left, width = 120, 600
    marks = []
    for index, (label, values, colour) in enumerate(rows):
        y = 10 + 34 * index
        marks.append(f'<text x="0" y="{y + 14}">{label}</text>')
        lines = "".join(f"M{left + width * float(v) / high:.1f} {y}v20" for v in values[:2000])
        marks.append(f'<path d="{lines}" stroke="var({colour})" stroke-width="1.6" opacity=".55"/>')
        middle = left + width * float(np.median(values)) / high
        marks.append(f'<path d="M{middle:.1f} {y - 4}v28" stroke="var(--ink)" stroke-width="2"/>')
    base = 14 + 34 * len(rows)
    marks.append(f'<path d="M{left} {base}h{width}" stroke="var(--line)"/>')
    marks.append(f'<text x="{left}" y="{base + 14}">0, an exact copy</text>')
    marks.append(f'<text x="{left + width}" y="{base + 14}" text-anchor="end">{high:.3g}</text>')
    return (
        f'<svg viewBox="0 0 {left + width} {base + 20}" role="img" aria-label="distances">'
        f"{''.join(marks)}</svg>"
        f'<p class="soft">Distance to the nearest training {side[:-1]}; the longer lines are the medians.</p>'
    )


def _augmentation(result: dict[str, Any]) -> str:
    """A sentence for each kind of augmentation that the style was trained with."""
    if not result.get("augmentation"):
        return ""
    said = []
    for kind, entry in result["augmentation"].items():
        verdict = {True: "they leak", False: "no sign of a leak", None: f"no verdict: {entry['note']}"}
        said.append(
            f"{kind}: {kept.percent(entry['share'])} of the drawings look augmented (95 % interval "
            f"{kept.span(entry['interval'])}), {kept.percent(entry['real_share'])} of the artist's and "
            f"{kept.percent(entry['control_share'])} of these shifted and tilted a little; "
            f"{verdict[entry['leaks']]}."
        )
    accuracy = min(entry["detector_accuracy"] for entry in result["augmentation"].values())
    said.append(f"Read by a detector that is right about {kept.percent(accuracy)} of such drawings or more.")
    return f"<h2>Do augmentations leak?</h2><p>{'<br>'.join(escape(text) for text in said)}</p>"


def _other_features(result: dict[str, Any]) -> str:
    if not result["other_features"]:
        return ""
    parts, translated = ["<h2>In other features</h2>"], not _generated(result)
    before = '<th class="number">untranslated</th>' if translated else ""
    for numbers in result["other_features"].values():
        net = numbers["features"]
        rows = "".join(
            f'<tr><td>{escape(name)}</td><td class="number">{_number(entry["kid"])}'
            f"<small>{_interval(entry, words=False)}</small></td>"
            + (
                f'<td class="number">{_number(numbers["untranslated"][name]["kid"])}</td>'
                if translated
                else ""
            )
            + f'<td class="number">{_number(entry["fid"])}</td></tr>'
            for name, entry in numbers["metrics"].items()
        )
        parts.append(
            f'<h3>{escape(_network(net))}</h3><div class="scroll"><table><tr><th>group</th>'
            f'<th class="number">KID</th>{before}<th class="number">FID</th></tr>'
            f"{rows}</table></div>"
        )
    return "".join(parts)


def _warnings(result: dict[str, Any]) -> str:
    if not result["warnings"]:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in result["warnings"])
    return f'<div class="notes"><b>Read with care</b><ul>{items}</ul></div>'


def _protocol(result: dict[str, Any]) -> str:
    protocol, style, side = result["protocol"], result["style"], _side(result)
    made = f"{protocol.get('n_photos')} photos translated, "
    if _generated(result):
        made = f"{protocol['n_samples']} made of {protocol['made_of']}; "
    packs = [f"{one} {protocol[one][:12]}" for one in ("photos", "drawings") if one in protocol]
    lines = [
        ("style", ", ".join(f"{key} {value}" for key, value in style.items() if key != "groups" and value)),
        ("groups", f"{', '.join(style['groups']) or 'none'}; {protocol['groups']}"),
        ("features", _network(protocol["features"])),
        (
            "pictures",
            f"{made}{protocol[f'n_{side}']} real {side}, split {protocol['split']}, {protocol['size']} px; "
            f"{protocol[f'n_train_{side}']} training {side}",
        ),
        ("KID", protocol["kid"]),
        ("FID", protocol["fid"]),
        *([("attributes", kept.readers(result))] if kept.readers(result) else []),
        ("seed", str(protocol["seed"])),
        ("packs", ", ".join(packs)),
        ("made by", f"fewtoon {protocol['fewtoon']}"),
    ]
    inner = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in lines)
    return f"<h2>How this was measured</h2><dl>{inner}</dl>"


def _network(net: dict[str, Any]) -> str:
    against = "comparable" if net["comparable"] else "not comparable"
    return f"{net['name']} {net['hash']}, {net['dim']}-d, {against} with the literature"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _interval(entry: dict[str, Any], words: bool = True) -> str:
    low, high = entry["kid_interval"]
    if low is None:
        return "no interval" if words else ""
    return (
        f"95 % interval {_number(low)} to {_number(high)}" if words else f"{_number(low)} … {_number(high)}"
    )
