"""The report's sections on the person in the photo, and the lines that the command prints."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from fewtoon.data import world
from fewtoon.data.suggest import wilson
from fewtoon.metrics import kept, report
from fewtoon.metrics.identity import ranks
from studios import chromium, needs_browser

SIZE = 32
COUNTS = {"0_woman": 60, "1_man": 50, "2_man_glasses": 31}
N = sum(COUNTS.values())
OF = [group for group, count in COUNTS.items() for _ in range(count)]


def presence(with_it, without, lose=0, invent=0, note=None):
    """An entry for something that a face has or has not."""
    scored = note is None
    return {
        "kept": 1 - lose / with_it if with_it and scored else None,
        "lost": lose / with_it if with_it and scored else None,
        "invented": invent / without if without and scored else None,
        "interval": list(wilson(with_it - lose, with_it) if with_it else wilson(invent, without)),
        "invented_interval": list(wilson(invent, without)) if without else None,
        "n_with": with_it,
        "n_without": without,
        "reader_accuracy": 0.996 if scored else 0.71,
        "note": note,
        "second": {"kept": 0.125, "lost": 0.875, "invented": None, "reader_accuracy": 0.98},
        "agreement": 0.97,
    }


def kinds(first, second, lose):
    """An entry for one of two kinds: `second` pictures are of the second."""
    entry = presence(first + second, 0, lose)
    return {**entry, "n_with": second, "n_without": first, "invented_interval": None}


def known():
    """{group: {attribute: entry}}: the failure that this tool is about."""
    return {
        "all": {"glasses": presence(31, 110, 31, 2), "presentation": kinds(60, 81, 65)},
        "0_woman": {"glasses": presence(0, 60), "presentation": kinds(60, 0, 2)},
        "1_man": {"glasses": presence(0, 50, 0, 2), "presentation": kinds(0, 50, 43)},
        "2_man_glasses": {"glasses": presence(31, 0, 31), "presentation": kinds(0, 31, 20)},
    }


def who(rows, seed):
    """Identity of drawings that know the group and a little more."""
    random = np.random.default_rng(seed)
    people = random.standard_normal((N, 12)) + 2 * np.repeat(np.eye(3, 12), list(COUNTS.values()), axis=0)
    drawn, again = (people + noise * random.standard_normal(people.shape) for noise in (2.0, 0.4))
    rows = np.asarray(rows)
    top = {k: v for k, v in ranks(again @ people.T, OF, rows).items() if "chance" not in k}
    return {
        "cosine": 0.2,
        "n": len(rows),
        "ceiling": {"cosine": 0.8, **top},
        **ranks(drawn @ people.T, OF, rows),
    }


def made(attributes=None, identity=False):
    """A result as `evaluate` gives it, with KID enough for a headline."""

    def distance(value):
        return {
            "kid": value,
            "kid_interval": [value - 2, value + 2],
            "fid": 0.1,
            "n_real": 60,
            "n_fake": 60,
            "note": None,
        }

    groups = ["all", *COUNTS]
    metrics = {group: distance(20.0) for group in groups}
    for group in groups:
        if attributes:
            metrics[group]["attributes"] = attributes[group]
        if identity:
            metrics[group]["identity"] = who([i for i in range(N) if group in ("all", OF[i])], 0)
    return {
        "style": {"size": SIZE, "groups": list(COUNTS), "method": "ugatit", "step": 7000},
        "protocol": {
            "groups": "unknown to the style",
            "split": "held_out",
            "features": {"name": "tiny", "hash": "0" * 12, "dim": 658, "comparable": False},
            "size": SIZE,
            "n_photos": N,
            "n_drawings": 60,
            "n_train_drawings": 0,
            "kid": "x1000",
            "fid": "n - 1",
            "seed": 0,
            "photos": "0" * 64,
            "drawings": "1" * 64,
            "fewtoon": "0",
        },
        "metrics": metrics,
        "untranslated": {group: distance(200.0) for group in groups},
        "summary": {"below_untranslated": 0.9, "kid_mean_of_groups": 20.0},
        "memorisation": {"ratio": None, "close": None, "suspects": [], "note": None},
        "other_features": {},
        "warnings": ["handmade"],
    }


class Verdicts:
    """What the readers say of each picture: here, that the last ones lost their glasses."""

    def __init__(self, sentence="glasses lost (read {:.2f})"):
        self.sentence, self.attributes = sentence, []

    def worst(self, name, count):
        if name != "glasses":
            return []
        return [(N - 1 - k, self.sentence.format(0.01 * k)) for k in range(12)][:count]


def pictures(verdicts=None):
    faces, drawings = (world.sample(side, 16, SIZE, seed=1)[0] for side in ("photos", "drawings"))
    return SimpleNamespace(
        photos=np.resize(faces, (N, SIZE, SIZE, 3)),  # again and again
        fakes=np.resize(drawings, (N, SIZE, SIZE, 3)),
        photo_names=[f"photo_{i}.png" for i in range(N)],
        photo_groups=OF,
        drawings=drawings,
        drawing_groups=OF[:16],
        train_drawings=drawings[:0],
        train_names=[],
        memory=None,
        verdicts=verdicts,
    )


@pytest.fixture(scope="module")
def shown():
    return pictures(Verdicts())


def text_of(html):
    """The words of HTML, without its marks, in one line."""
    words = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign]
    parser.feed(html)
    return " ".join(" ".join(words).split())


def row_of(html, name):
    """The cells of the first table row that begins with `name`."""
    row = re.search(rf"<tr><td>{re.escape(name)}[<&].*?</tr>", html)
    return re.findall(r"<td.*?</td>", row[0])


# ---- the lines ---------------------------------------------------------------------------------------------


def test_one_line_for_each_attribute_with_the_worst_group():
    said = report.verdict(made(known())).splitlines()
    assert said[0] == report.headline(made())
    assert said[1:] == [
        "glasses kept: 0 % (2_man_glasses, 0 of 31; 95 % interval 0 to 11 %); "
        "invented: 4 % (1_man, 2 of 50; 95 % interval 1 to 13 %)",
        "presentation kept: 14 % (1_man, 7 of 50; 95 % interval 7 to 26 %)",
    ]


def test_without_attributes_there_is_only_the_headline(shown):
    assert report.verdict(made()) == report.headline(made())
    assert kept.cards(made()) == []
    assert kept.attributes(made(), shown) == kept.identity(made()) == ""


def test_a_large_good_group_does_not_hide_a_small_bad_one():
    entries = known()
    entries["all"]["glasses"] = presence(1000, 1000, 31)
    (line,) = [text for text in kept.lines(made(entries)) if text.startswith("glasses")]
    assert "kept: 0 % (2_man_glasses" in line


def test_where_there_are_no_groups_it_is_over_all():
    found = made({group: {} for group in ["all", *COUNTS]} | {"all": {"glasses": presence(40, 60, 1)}})
    assert kept.lines(found) == [
        "glasses kept: 98 % (39 of 40; 95 % interval 87 to 100 %); invented: 0 % (0 of 60; 95 % interval 0 to 6 %)"
    ]


def test_a_refusal_is_said_and_nothing_else(shown):
    entries = known()
    for group in entries:
        entries[group]["glasses"] = presence(31, 110, 5, 5, note="the reader is right for 71 %, below 90 %")
    found = made(entries)
    assert kept.lines(found)[0] == "glasses: no figure, the reader is right for 71 %, below 90 %"
    assert not any("glasses" in words for _, words in kept.cards(found))
    html = kept.attributes(found, shown)
    glasses = html[html.index("<h3>glasses") : html.index("<h3>presentation")]
    assert "No figure</b> the reader is right for 71 %, below 90 %" in glasses
    assert "<table" not in glasses
    assert "<figure" not in glasses


def test_a_refusal_in_one_group_is_noted_there(shown):
    entries = known()
    entries["1_man"]["glasses"] = presence(0, 3, 0, 1, note="3 photos are too few")
    cells = row_of(kept.attributes(made(entries), shown), "1_man")
    assert [text_of(cell) for cell in cells[:4]] == ["1_man 3 photos are too few", "–", "–", "–"]
    line = kept.lines(made(entries))[0]
    assert "invented: 0 % (0_woman, 0 of 60;" in line
    assert line.endswith("; no figure for 1_man")
    assert kept.cards(made(entries))[0][1].endswith("; no figure for 1_man")
    assert "no figure" not in kept.lines(made(known()))[0]


def test_where_every_group_is_refused_it_is_over_all(shown):
    entries = known()
    for group in COUNTS:
        entries[group]["glasses"] = presence(9, 9, 1, 1, note=f"{group} has 3 drawings")
    line = kept.lines(made(entries))[0]
    assert line.startswith("glasses kept: 0 % (0 of 31; 95 % interval 0 to 11 %); invented: 2 % (2 of 110;")
    assert line.endswith("; no figure for 0_woman, 1_man, 2_man_glasses")


def test_a_refusal_of_the_second_reader_is_noted(shown):
    entries = known()
    nothing = {
        "kept": None,
        "lost": None,
        "invented": None,
        "reader_accuracy": 0.8,
        "note": "right about 80 %",
    }
    entries["2_man_glasses"]["glasses"].update(second=nothing, agreement=None)
    cells = row_of(kept.attributes(made(entries), shown), "2_man_glasses")
    assert text_of(cells[4]) == "– right about 80 %"
    assert text_of(cells[1]).startswith("0 %")


def test_of_two_kinds_nothing_can_be_invented(shown):
    html = kept.attributes(made(known()), shown)
    two = html[html.index("<h3>presentation") :]
    assert "invented" in html[html.index("<h3>glasses") : html.index("<h3>presentation")]
    assert "invented" not in two
    assert text_of(row_of(two, "all")[1]) == "54 % 76 of 141; interval 46 to 62 %"


def test_the_line_of_identity():
    found = made(identity=True)
    (line,) = kept.lines(found)
    entry = found["metrics"]["all"]["identity"]
    for what, chance in (("rank1", "chance"), ("rank1_in_group", "chance_in_group")):
        assert f"for {kept.percent(entry[what])} (95 % interval " in line
        assert f"chance {kept.percent(entry[chance])}, photos {kept.percent(entry['ceiling'][what])})" in line
    for one in found["metrics"].values():
        one["identity"]["rank1_in_group"] = None
    assert "of the group" not in kept.lines(found)[0]
    assert "nobody else in it" in kept.identity(found)


def test_percent_says_none_and_all_only_where_it_is_so():
    said = [kept.percent(share) for share in (0, 0.0002, 0.002, 0.014, 0.5, 0.993, 0.99999, 1)]
    assert said == ["0 %", "0.1 %", "0.2 %", "1 %", "50 %", "99.3 %", "99.9 %", "100 %"]


# ---- the report --------------------------------------------------------------------------------------------


def test_the_table_says_in_words_what_its_bars_show(shown):
    html = kept.attributes(made(known()), shown)
    group, keep, lose, invent, second = row_of(html, "2_man_glasses")
    assert text_of(keep) == "0 % 0 of 31; interval 0 to 11 %"
    assert text_of(lose) == "100 % 31 of 31; interval 89 to 100 %"
    assert text_of(invent) == "–"
    assert text_of(second) == "kept 12 % lost 88 % 97 % read alike"
    assert text_of(group) == "2_man_glasses"
    assert text_of(row_of(html, "1_man")[3]) == "4 % 2 of 50; interval 1 to 13 %"
    at = dict(re.findall(r'class="(dot|tick|span)" style="left:([\d.]+)%', lose))
    assert float(at["dot"]) == 96
    assert float(at["span"]) == pytest.approx(4 + 92 * 0.890, abs=0.1)
    assert float(at["tick"]) == pytest.approx(4 + 92 * 0.004, abs=0.1)  # what the reader loses by itself
    assert html.count('class="bar"') == html.count('class="bar" aria-hidden="true"') > 8


def test_the_readers_are_the_ceiling(shown):
    words = text_of(kept.attributes(made(known()), shown))
    assert "On real drawings the reader is right for 99.6 %, the second reader for 98 %." in words
    assert "Both read 97 % of these drawings alike." in words


def test_a_second_reader_is_not_required(shown):
    entries = known()
    for of in entries.values():
        of["glasses"].update(second=None, agreement=None)
    words = text_of(row_of(kept.attributes(made(entries), shown), "2_man_glasses")[4])
    assert words == "–"


def test_cards_name_the_worst_group():
    cards = {words: figure for figure, words in kept.cards(made(known(), identity=True))}
    text = "glasses kept in the worst group, 2_man_glasses: 0 of 31; 95 % interval 0 to 11 %"
    assert cards[text] == "0 %"
    assert cards["glasses invented in the worst group, 1_man: 2 of 50; 95 % interval 1 to 13 %"] == "4 %"
    assert any(words.startswith("of the drawings are matched to their own photo") for words in cards)
    assert len(cards) == 4


def test_the_worst_examples_are_shown_worst_first_and_eight_at_most(shown):
    html = kept.attributes(made(known()), shown)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions == [f"glasses lost (read {0.01 * k:.2f})" for k in range(8)]
    assert f'alt="photo photo_{N - 1}.png, drawing: glasses lost (read 0.00)"' in html
    assert f'width="{2 * SIZE}" height="{SIZE}"' in html
    assert "<figure>" not in kept.attributes(made(known()), pictures(verdicts=None))


def test_the_identity_table_has_the_ceiling_and_chance():
    found = made(identity=True)
    cells = row_of(kept.identity(found), "2_man_glasses")
    entry = found["metrics"]["2_man_glasses"]["identity"]
    assert len(cells) == 6
    assert text_of(cells[0]) == "2_man_glasses 31 drawings"
    for cell, what, chance in zip(
        cells[1:4], ("rank1", "rank1_in_group", "rank5"), ("chance", "chance_in_group", "chance5")
    ):
        assert text_of(cell).startswith(
            f"{kept.percent(entry[what])} {round(31 * entry[what])} of 31; interval "
        )
        words = f"photos {kept.percent(entry['ceiling'][what])}, chance {kept.percent(entry[chance])}"
        assert text_of(cell).endswith(words)
    assert text_of(cells[4]) == f"{entry['median_rank']:g} photos 1 chance {(N + 1) / 2:g}"


def test_the_protocol_names_the_readers(tmp_path):
    found = made(known())
    assert kept.readers(found) == ""
    found["protocol"]["attributes"] = {
        "values": {"glasses": {}, "presentation": {}},
        "readers": [{"kind": "edges"}, {"kind": "convolutions"}],
        "n_drawings": 1386,
        "interval": "Wilson 1927, 95 %",
        "refused_below": 0.9,
    }
    report.write(found, pictures(), tmp_path)
    told = (
        "glasses, presentation, read by edges and convolutions, learned from 1386 training drawings; "
        "Wilson 1927, 95 %; refused below 90 %"
    )
    assert told in text_of((tmp_path / "report.html").read_text())


def test_only_who_has_decoys_counts_in_the_group():
    found = made(identity=True)
    found["metrics"]["all"]["identity"].update(rank1_in_group=0.25, n_in_group=100)
    cells = row_of(kept.identity(found), "all")
    assert text_of(cells[2]).startswith("25 % 25 of 100; ")
    assert f" of {N}; " in text_of(cells[1])


def test_the_page_is_whole_stands_alone_and_runs_nothing(tmp_path):
    entries = known()
    entries["all"]["<b>hat</b>"] = presence(70, 71, 3, 4, note="<script>alert(1)</script>")
    found = made(entries, identity=True)
    report.write(found, pictures(Verdicts("<script>alert({})</script>")), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<b>hat" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    order = ["Distance to the artist", "What is kept", "Who is recognised", "Photos and their drawings"]
    places = [page.index(f"<h2>{title}") for title in order]
    assert places == sorted(places)
    assert report.headline(found) in text_of(page)


@needs_browser
@pytest.mark.parametrize("width", [280, 390, 1000])
def test_the_page_is_as_wide_as_its_window(tmp_path, monkeypatch, width):
    monkeypatch.setitem(COUNTS, "3_women_with_round_glasses_and_earrings", 0)
    entries = known()
    entries["3_women_with_round_glasses_and_earrings"] = {"glasses": presence(40, 50, 40, 50)}
    report.write(made(entries), pictures(Verdicts()), tmp_path)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 700})
        page.goto((tmp_path / "report.html").as_uri())
        page.locator(".card", has_text="invented in the worst group, 3_women").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.close()
