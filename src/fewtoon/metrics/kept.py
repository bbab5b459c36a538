"""What the evaluation says of the person in the photo: attributes kept, lost and invented, and identity.

Everything here is read off the result of `fewtoon.metrics.evaluate`: sentences for the terminal, and cards,
tables and examples for the report. Every bar stands beside its figure as text and adds nothing to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from fewtoon.metrics.sheet import pair

if TYPE_CHECKING:
    from fewtoon.metrics.evaluate import Pictures

EXAMPLES = 8  # photos and drawings shown of one attribute
NOBODY = "no photo is known to have it, or to have it not"
LEFT, WIDE = 4, 92  # where 0 % lies in a bar and how long it is, in percent of the cell: no dot is cut off


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] of n pictures, with its 95 % interval where there is one."""

    value: float
    interval: tuple[float, float] | None
    n: int

    def __str__(self) -> str:
        """Such as "5 of 60; 95 % interval 3 to 18 %"."""
        counted = f"{round(self.value * self.n)} of {self.n}"
        return f"{counted}; 95 % interval {span(self.interval)}" if self.interval else counted


def percent(share: float) -> str:
    """In whole percent, with a decimal below 1 and above 99: 0 is none and 100 is all."""
    if share in (0, 1) or 0.01 <= share <= 0.99:
        return f"{100 * share:.0f} %"
    return f"{100 * min(max(share, 0.001), 0.999):.1f} %"


def span(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"


# ---------------------------------------------------------------------------------------------------------
# What the result holds


def attributes_of(result: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{attribute: {"all" or group: its entry}}, empty where nothing was read."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for group, entry in result["metrics"].items():
        for name, read in (entry.get("attributes") or {}).items():
            found.setdefault(name, {})[group] = read
    return found


def kept(entry: dict[str, Any]) -> Share | None:
    """Of those who have it. Of two kinds (man, woman), where nothing can be invented, of all."""
    if entry["kept"] is None:
        return None
    of_all = entry["invented"] is None and entry["n_without"] > 0
    n = entry["n_with"] + (entry["n_without"] if of_all else 0)
    return Share(entry["kept"], _interval(entry["interval"]), n)


def lost(entry: dict[str, Any]) -> Share | None:
    """The rest of `kept`, and so is its interval."""
    share = kept(entry)
    if share is None:
        return None
    turned = share.interval and (1 - share.interval[1], 1 - share.interval[0])
    return Share(entry["lost"], turned, share.n)


def invented(entry: dict[str, Any]) -> Share | None:
    """Of those who have it not."""
    if entry["invented"] is None:
        return None
    return Share(entry["invented"], _interval(entry["invented_interval"]), entry["n_without"])


def _interval(ends: list[float | None] | None) -> tuple[float, float] | None:
    if ends is None or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def _worst(entries: dict[str, dict[str, Any]]) -> dict[str, tuple[str, Share]]:
    """{"kept", "invented": (group, share)}, each of the group that does worst and only where there is a figure.
    Over all only where no group has one: a large group hides a small one."""
    worst = {}
    for what, sign, measure in (("kept", 1, kept), ("invented", -1, invented)):
        found = [(group, share) for group, entry in entries.items() if (share := measure(entry)) is not None]
        found = [one for one in found if one[0] != "all"] or found
        if found:
            worst[what] = min(found, key=lambda one: (sign * one[1].value, -one[1].n))
    return worst


def _refused(entries: dict[str, dict[str, Any]]) -> str:
    """What must be said where the worst group is named: groups without a figure might be worse."""
    groups = [group for group, entry in entries.items() if group != "all" and entry["note"]]
    return f"no figure for {', '.join(groups)}" if groups else ""


def _reasons(entries: dict[str, dict[str, Any]]) -> str:
    """Why there is no figure, of all or else of each group."""
    whole = entries.get("all", {}).get("note")
    return whole or "; ".join(dict.fromkeys(entry["note"] for entry in entries.values() if entry["note"]))


# ---------------------------------------------------------------------------------------------------------
# Sentences


def lines(result: dict[str, Any]) -> list[str]:
    """One line for each attribute, of the group that does worst, and one for identity."""
    found = []
    for name, entries in attributes_of(result).items():
        if not _scored(entries):
            found.append(f"{name}: no figure, {_reasons(entries) or NOBODY}")
            continue
        parts = [f"{what}: {_told(*of)}" for what, of in _worst(entries).items()]
        found.append(
            "; ".join(part for part in (f"{name} {parts[0]}", *parts[1:], _refused(entries)) if part)
        )
    who = result["metrics"]["all"].get("identity")
    if who is not None:
        parts = [f"first for {_recognised(who, 'rank1', 'chance')}"]
        if who["rank1_in_group"] is not None:
            parts.append(f"first of the group for {_recognised(who, 'rank1_in_group', 'chance_in_group')}")
        found.append(f"identity: the right person is {', '.join(parts)}")
    return found


def _told(group: str, share: Share) -> str:
    return f"{percent(share.value)} ({'' if group == 'all' else group + ', '}{share})"


def _recognised(who: dict[str, Any], what: str, chance: str) -> str:
    low, high = who[f"{what}_interval"]
    compared = f"chance {percent(who[chance])}, photos {percent(who['ceiling'][what])}"
    return f"{percent(who[what])} (95 % interval {span((low, high))}; {compared})"


# ---------------------------------------------------------------------------------------------------------
# The report


def cards(result: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, words) of what the worst group of each attribute has kept and what was invented for it, and
    of identity."""
    found = []
    for name, entries in attributes_of(result).items():
        for what, (group, share) in _worst(entries).items():
            where = "" if group == "all" else f" in the worst group, {group}"
            rest = _refused(entries)
            found.append((percent(share.value), f"{name} {what}{where}: {share}{rest and '; '}{rest}"))
    who = result["metrics"]["all"].get("identity")
    if who is not None:
        words = (
            f"of the drawings are matched to their own photo (chance {percent(who['chance'])}, another picture "
            f"of the person {percent(who['ceiling']['rank1'])})"
        )
        found.append((percent(who["rank1"]), words))
    return found


def attributes(result: dict[str, Any], shown: Pictures) -> str:
    """The section on what is kept; empty where no attribute is known."""
    of = attributes_of(result)
    if not of:
        return ""
    parts = [
        "<h2>What is kept</h2>",
        '<p class="soft">Read by a classifier that was trained on labelled drawings, and again by a second one '
        "of another make. Kept and lost: of the photos that have it, or of all where it is one of two kinds. "
        "Invented: of the photos that do not have it.</p>",
        f'<p class="soft">{_key("dot", "left:50%;top:0")}share '
        f"{_key('span', 'left:0;width:100%;top:.1rem')}95 % interval {_key('tick', 'left:50%;top:-.2rem')}what "
        "the reader would make of a perfect style, by its errors on real drawings. Every bar goes from 0 to "
        "100 %.</p>",
    ]
    for name, entries in of.items():
        parts.append(f"<h3>{escape(name)}</h3>{_readers(entries)}")
        if _scored(entries):
            parts.append(_table(entries) + _examples(name, shown))
    return "".join(parts)


def _scored(entries: dict[str, dict[str, Any]]) -> bool:
    return any(kept(entry) or invented(entry) for entry in entries.values())


def _readers(entries: dict[str, dict[str, Any]]) -> str:
    """How far the figures can be trusted, in words, or why there are none."""
    if not _scored(entries):
        return f'<div class="notes"><b>No figure</b> {escape(_reasons(entries) or NOBODY)}</div>'
    entry = entries.get("all") or next(iter(entries.values()))
    told = []
    if entry["reader_accuracy"] is not None:
        told.append(f"On real drawings the reader is right for {percent(entry['reader_accuracy'])}")
        second = entry["second"]
        if second and second["reader_accuracy"] is not None:
            told[-1] += f", the second reader for {percent(second['reader_accuracy'])}"
        told[-1] += "."
    if entry["agreement"] is not None:
        told.append(f"Both read {percent(entry['agreement'])} of these drawings alike.")
    return f"<p>{escape(' '.join(told))}</p>" if told else ""


def _table(entries: dict[str, dict[str, Any]]) -> str:
    """A row for each group; of two kinds nothing can be invented."""
    inventing = any(invented(entry) for entry in entries.values())
    rows = []
    for group, entry in entries.items():
        right = entry["reader_accuracy"]
        wrong = None if right is None else 1 - right
        note = f"<small>{escape(entry['note'])}</small>" if entry["note"] else ""
        rows.append(
            f"<tr><td>{escape(group)}{note}</td>{_cell(kept(entry), right)}{_cell(lost(entry), wrong)}"
            + (_cell(invented(entry), wrong) if inventing else "")
            + f'<td style="white-space:nowrap">{_second(entry)}</td></tr>'
        )
    heads = ["group", "kept", "lost", *(["invented"] if inventing else []), "by the second reader"]
    return _tabled(heads, rows)


def _second(entry: dict[str, Any]) -> str:
    """The other reader's figures, which need no bar, or why it has none."""
    second = entry["second"] or {}
    said = [
        f"{what} {percent(second[what])}"
        for what in ("kept", "lost", "invented")
        if second.get(what) is not None
    ]
    if not said:
        note = second.get("note")
        return f'–<small style="white-space:normal">{escape(note)}</small>' if note else "–"
    alike = "" if entry["agreement"] is None else f"<small>{percent(entry['agreement'])} read alike</small>"
    return "<br>".join(said) + alike


def _examples(name: str, shown: Pictures) -> str:
    worst = shown.verdicts.worst(name, EXAMPLES) if shown.verdicts is not None else []
    if not worst:
        return ""
    figures = "".join(
        pair(shown.photos[i], shown.fakes[i], told, f"photo {shown.photo_names[i]}, drawing: {told}")
        for i, told in worst
    )
    return (
        '<p class="over" style="margin-bottom:.3rem">the worst, as the reader sees it: left the photo, right '
        "its drawing</p>"
        f'<div class="pairs">{figures}</div>'
    )


def readers(result: dict[str, Any]) -> str:
    """Who has read the attributes, for the protocol; empty where nobody has."""
    facts = result["protocol"].get("attributes")
    if not facts:
        return ""
    kinds = " and ".join(reader["kind"] for reader in facts["readers"])
    return (
        f"{', '.join(facts['values'])}, read by {kinds}, learned from {facts['n_drawings']} training drawings; "
        f"{facts['interval']}; refused below {percent(facts['refused_below'])}"
    )


def identity(result: dict[str, Any]) -> str:
    """The section on who is recognised; empty where no Face-ID features were measured."""
    of = {group: entry["identity"] for group, entry in result["metrics"].items() if "identity" in entry}
    if not of:
        return ""
    rows = []
    for group, who in of.items():
        top = who["ceiling"]
        ranks = f"{who['median_rank']:g}", f"{who['reciprocal_rank']:.2g}"
        tops = f"{top['median_rank']:g}", f"{top['reciprocal_rank']:.2g}"
        guessed = f"{who['median_rank_chance']:g}", f"{who['reciprocal_rank_chance']:.2g}"
        rows.append(
            f"<tr><td>{escape(group)}<small>{who['n']} drawings</small></td>"
            + _placed(who, "rank1", "chance")
            + _placed(who, "rank1_in_group", "chance_in_group", "n_in_group")
            + _placed(who, "rank5", "chance5")
            + "".join(
                f'<td class="number">{a}<small>photos {b}</small><small>chance {c}</small></td>'
                for a, b, c in zip(ranks, tops, guessed)
            )
            + "</tr>"
        )
    heads = ["group", "first of all", "first of its group", "among five", "median rank", "mean of 1 / rank"]
    return (
        "<h2>Who is recognised</h2>"
        f'<p class="soft">Where the right photo stands among all {of["all"]["n"]}, for a face recognition '
        "network that sees the drawing. A drawing that keeps nothing but the group does well among all, and no "
        "better than chance among its own group. Photos: the same for another picture of the same person, the "
        "ceiling. It is a stand-in, made from the only photo there is: mirrored, small and enlarged again, in "
        "other colours.</p>"
        f'<p class="soft">{_key("dot", "left:50%;top:0")}share '
        f"{_key('span', 'left:0;width:100%;top:.1rem')}95 % interval {_key('tick', 'left:50%;top:-.2rem')}photos "
        f"{_key('zero', 'left:50%;top:-.3rem')}chance</p>" + _tabled(heads, rows)
    )


def _placed(who: dict[str, Any], what: str, chance: str, n: str = "n") -> str:
    if who[what] is None:
        return "<td>–<small>nobody else in it</small></td>"
    share = Share(who[what], _interval(who[f"{what}_interval"]), who[n])
    top = who["ceiling"][what]
    words = f"<small>photos {percent(top)}, chance {percent(who[chance])}</small>"
    return _cell(share, top, who[chance], words)


def _cell(share: Share | None, tick: float | None, zero: float = 0.0, words: str = "") -> str:
    """A share in words, with a bar of 0 to 100 % that shows the same; tick, zero: marks to compare with."""
    if share is None:
        return "<td>–</td>"
    bar = [f'<i class="zero" style="left:{_at(zero)}"></i>']
    if share.interval:
        low, high = share.interval
        bar.append(f'<i class="span" style="left:{_at(low)};width:{WIDE * (high - low):.1f}%"></i>')
    if tick is not None:
        bar.append(f'<i class="tick" style="left:{_at(tick)}"></i>')
    bar.append(f'<i class="dot" style="left:{_at(share.value)}"></i>')
    ends = f"interval {span(share.interval)}".replace(" ", "&nbsp;") if share.interval else ""
    told = f"<small>{round(share.value * share.n)} of {share.n}{ends and '; '}{ends}</small>"
    return (
        f'<td style="min-width:9.5rem">{percent(share.value)}{told}{words}'
        f'<div class="bar" aria-hidden="true" style="margin-right:1rem">{"".join(bar)}</div></td>'
    )


def _at(share: float) -> str:
    return f"{LEFT + WIDE * share:.1f}%"


def _key(mark: str, style: str) -> str:
    return f'<span class="key bar" aria-hidden="true"><i class="{mark}" style="{style}"></i></span>'


def _tabled(heads: list[str], rows: list[str]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
