"""The doctor's checkup: planted faults are found, good pictures are left alone, and the page needs nothing else."""

from __future__ import annotations

import io
import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fewtoon.data import twins
from fewtoon.data.checkup import Checkup, checkup, compare, pair, shares, text
from fewtoon.data.doctor import FILE, Report
from fewtoon.data.doctor_page import verdict, write_page
from fewtoon.data.findings import Finding
from fewtoon.data.lettering import count_letters
from fewtoon.data.measures import measure
from fewtoon.data.pack import Pack, Row
from fewtoon.data.prepare import prepare
from fewtoon.data.world import sample
from fewtoon.errors import Problem

Picture = NDArray[np.uint8]
SIZE = 128
BICUBIC = Image.Resampling.BICUBIC
SHARED = Path(os.environ.get("FEWTOON_DATA", Path(__file__).parents[2] / "shared" / "data"))


@cache
def world(side: str) -> tuple[Picture, tuple[str, ...]]:
    images, _, groups = sample(side, 48, SIZE, seed=3)
    return images, tuple(groups)


def jpeg(image: Picture | Image.Image, quality: int) -> Picture:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(image: Picture, side: int) -> Image.Image:
    return Image.fromarray(image).resize((side, side), BICUBIC)


def copy(image: Picture) -> Picture:
    return np.asarray(Image.fromarray(jpeg(resized(image, 80), 60)).resize((SIZE, SIZE), BICUBIC))


def mirrored(image: Picture) -> Picture:
    return jpeg(image[:, ::-1], 75)


def cropped(image: Picture) -> Picture:
    box = (4.0, 2.0, SIZE - 3.0, SIZE - 5.0)
    return jpeg(Image.fromarray(image).resize((SIZE, SIZE), BICUBIC, box=box), 85)


def brightened(image: Picture) -> Picture:
    return (255 * (image / 255) ** 0.75).astype(np.uint8)


def blurred(image: Picture) -> Picture:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2.5)))


def grey(image: Picture) -> Picture:
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def darkened(image: Picture) -> Picture:
    return (image * 0.12).astype(np.uint8)


def speaking(image: Picture, letters: str = "Come back here!", size: int = 15) -> Picture:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    draw.ellipse([-12, -14, SIZE + 12, 34], fill="white", outline="black")
    draw.text((8, 6), letters, fill="black", font=ImageFont.load_default(size))
    return np.asarray(picture)


def pack_of(
    side: str, images: Picture, groups: list[str] | None = None, held_out: set[int] = frozenset()
) -> Pack:  # type: ignore[assignment]
    splits = ["held_out" if i in held_out else "train" for i in range(len(images))]
    return Pack.from_arrays(images, side, groups, splits)


def rows_of(found: Checkup, kind: str) -> set[int]:
    return {item.row for f in found.findings if f.kind == kind for item in f.items if item.row is not None}


def pairs_of(found: Checkup, kind: str) -> set[tuple[int, int]]:
    items = [item for f in found.findings if f.kind == kind for item in f.items]
    return {
        (item.row, item.other_row) for item in items if item.row is not None and item.other_row is not None
    }


# Pictures


@pytest.mark.parametrize("side", ["photos", "drawings"])
def test_good_pictures_are_left_alone(side: str) -> None:
    images, _ = world(side)
    found = checkup(pack_of(side, images, held_out=set(range(12))))
    assert [finding.headline for finding in found.findings] == []
    assert "lettering" in found.clear
    assert any("turned" in line for line in found.unchecked)
    assert "nothing to mend" in text(found)


@pytest.mark.parametrize("side", ["photos", "drawings"])
def test_copies_are_found_and_nothing_else(side: str) -> None:
    images, _ = world(side)
    makers = [copy, mirrored, cropped, brightened]
    extra = [maker(images[5 * k + j]) for k, maker in enumerate(makers) for j in range(5)]
    held_out = {*range(12), *range(len(images), len(images) + 20, 2)}
    found = checkup(pack_of(side, np.concatenate([images, extra]), held_out=held_out))
    expected = {(i, len(images) + i) for i in range(20)}
    across = {(a, b) for a, b in expected if (a in held_out) != (b in held_out)}
    assert pairs_of(found, "twins_across_splits") == across
    assert pairs_of(found, "twins") == expected - across
    items = [item for f in found.findings for item in f.items]
    assert {item.row for item in items if "mirrored" in item.words} == set(range(5, 10))
    assert found.findings[0].kind == "twins_across_splits"
    assert found.findings[0].severity == "serious"
    assert "flattered" in found.findings[0].why


def test_drawings_that_differ_in_one_part_are_no_copies() -> None:
    # The same face with other eyes, another mouth, another shirt: what drawings made of parts are full of.
    images, _ = world("drawings")
    changed = images[:4].copy()
    changed[0, 56:64, 44:56] = (255, 255, 255)
    changed[1, 90:98, 56:72] = (120, 20, 30)
    changed[2, 108:, 20:108, 0] = 255 - changed[2, 108:, 20:108, 0]
    changed[3, 50:58, 30:98] = (20, 20, 20)
    found = checkup(pack_of("drawings", np.concatenate([images, changed]), held_out=set(range(12))))
    assert pairs_of(found, "twins") | pairs_of(found, "twins_across_splits") == set()


def test_another_colour_of_the_same_grey_is_no_copy() -> None:
    images = world("drawings")[0]
    level = np.asarray([np.asarray(Image.fromarray(image).convert("L")) for image in images[:8]], int)[
        ..., None
    ]
    recoloured = np.clip(level + 0.8 * (level - images[:8]), 0, 255).astype(np.uint8)
    found = checkup(pack_of("drawings", np.concatenate([images, recoloured])))
    assert pairs_of(found, "twins") == set()


def test_copies_in_two_groups() -> None:
    images, groups = world("drawings")
    both = pack_of("drawings", np.concatenate([images, [copy(images[0])]]), [*groups, groups[1]])
    assert pairs_of(checkup(both), "twins_across_groups") == {(0, 48)}


@pytest.mark.parametrize("side", ["photos", "drawings"])
def test_planted_faults_are_found_and_no_others(side: str) -> None:
    images = world(side)[0].copy()
    tiny = np.asarray(resized(np.asarray(resized(images[9], 24)), SIZE))
    faults = {
        "blurred": {0: blurred(images[0]), 1: blurred(images[1]), 9: tiny},
        "grey_among_colour": {2: grey(images[2]), 3: grey(images[3])},
        "dark": {4: darkened(images[4])},
        "lettering": {5: speaking(images[5]), 6: speaking(images[6], "NO! NEVER AGAIN", 12)},
        "blank": {7: np.full_like(images[7], 200)},
    }
    for planted in faults.values():
        for row, image in planted.items():
            images[row] = image
    found = checkup(pack_of(side, images))
    assert {kind: rows_of(found, kind) for kind in faults} == {
        kind: set(rows) for kind, rows in faults.items()
    }


@pytest.mark.parametrize("side", ["photos", "drawings"])
def test_photos_among_drawings_and_drawings_among_photos(side: str) -> None:
    # The photos of the drawn world are smoother than a camera's: give them some grain.
    grain = np.random.default_rng(0).normal(0, 3, (48, SIZE, SIZE, 1))
    photos = np.clip(world("photos")[0] + grain, 0, 255).astype(np.uint8)
    images, others = (
        (photos, world("drawings")[0]) if side == "photos" else (world("drawings")[0].copy(), photos)
    )
    assert rows_of(checkup(pack_of(side, images)), "odd") == set()
    images[8:11] = others[8:11]
    assert rows_of(checkup(pack_of(side, images)), "odd") == {8, 9, 10}


def test_colour_among_grey_and_a_mixture() -> None:
    images = world("drawings")[0]
    colourless = np.stack([grey(image) for image in images])
    mostly = checkup(pack_of("drawings", np.concatenate([colourless[:40], images[40:]])))
    assert rows_of(mostly, "colour_among_grey") == set(range(40, 48))
    half = checkup(pack_of("drawings", np.concatenate([colourless[:24], images[24:]])))
    assert "24 have it" in text(half)
    whole = checkup(pack_of("drawings", colourless))
    assert not {"colour_among_grey", "grey_among_colour"} & {finding.kind for finding in whole.findings}


def test_a_pack_that_was_enlarged_as_a_whole() -> None:
    images = np.stack(
        [np.asarray(resized(np.asarray(resized(image, 28)), SIZE)) for image in world("photos")[0]]
    )
    assert [
        finding.kind for finding in checkup(pack_of("photos", images)).findings if "blur" in finding.kind
    ] == ["all_blurred"]


def test_what_the_rows_know() -> None:
    images, _ = world("photos")
    pack = pack_of("photos", images)
    for row in pack.rows:
        row.side, row.yaw, row.roll = 300.0, 5.0, 2.0
    pack.rows[3].side, pack.rows[4].side = 40.0, 100.0
    pack.rows[5].yaw, pack.rows[6].yaw = 60.0, None
    pack.rows[7].roll = 178.0
    found = checkup(pack)
    assert rows_of(found, "tiny") == {3}
    assert rows_of(found, "small") == {4}
    assert rows_of(found, "turned") == {5}
    assert rows_of(found, "tipped") == {7}
    assert found.unchecked == [line for line in found.unchecked if "prepared" in line]


def test_an_artist_who_draws_three_quarter_views_is_right() -> None:
    images, _ = world("drawings")
    pack = pack_of("drawings", images)
    for row in pack.rows:
        row.yaw = 45.0
    pack.rows[1].yaw = 0.0
    assert rows_of(checkup(pack), "turned") == {1}


def test_from_files_to_findings(tmp_path: Path) -> None:
    images, groups = world("photos")
    for i, (image, group) in enumerate(zip(images, groups)):
        (tmp_path / "in" / group).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / group / f"{i:02d}.png")
    (tmp_path / "in" / "torn.jpg").write_text("no")
    (tmp_path / "in" / "again.png").write_bytes((tmp_path / "in" / groups[0] / "00.png").read_bytes())
    resized(images[1], 30).save(tmp_path / "in" / groups[1] / "01.png")
    prepare([tmp_path / "in"], "photos", tmp_path / "pack", size=SIZE, progress=False, workers=1)
    found = checkup(Pack.open(tmp_path / "pack"))
    by_kind = {finding.kind: finding for finding in found.findings}
    assert [item.file for item in by_kind["refused"].items] == ["torn.jpg"]
    assert "not a picture" in by_kind["refused"].items[0].words
    assert len(by_kind["exact_duplicates"].items) == 1
    assert [item.file for item in by_kind["tiny"].items] == [f"{groups[1]}/01.png"]
    assert by_kind["few_to_train"].severity == "serious"
    assert Checkup.model_validate_json(found.model_dump_json()).findings == found.findings
    (tmp_path / "pack" / FILE).write_text("{}")
    assert any("no report" in line for line in checkup(Pack.open(tmp_path / "pack")).unchecked)


def test_packs_of_few_or_blank_pictures_are_no_trouble() -> None:
    blank = np.full((3, SIZE, SIZE, 3), 255, np.uint8)
    assert rows_of(checkup(pack_of("drawings", blank)), "blank") == {0, 1, 2}
    assert "1 drawing of 128 px" in text(checkup(pack_of("drawings", world("drawings")[0][:1])))
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    checkup(pack_of("photos", noise))
    checkup(pack_of("photos", noise[:, :16, :16].copy()))


# The parts


@pytest.mark.parametrize("size", [12, 16, 20])
def test_lettering_of_several_sizes(size: int) -> None:
    for side in ("photos", "drawings"):
        images = world(side)[0][:12]
        plain = [count_letters(np.asarray(Image.fromarray(image).convert("L"))) for image in images]
        spoken = [speaking(image, "Is it you?", size) for image in images]
        said = [count_letters(np.asarray(Image.fromarray(image).convert("L"))) for image in spoken]
        assert plain == [0] * 12
        assert min(said) >= 6


def test_width_of_edges_is_roughly_in_pixels() -> None:
    images = np.full((4, SIZE, SIZE, 3), 40, np.uint8)
    x = np.arange(SIZE)
    for index, width in enumerate((1, 2, 4)):
        ramp = 40 + 160 * np.clip((x - 60) / width, 0, 1)
        images[index] = ramp.astype(np.uint8)[None, :, None]
    edge = measure(images).edge
    assert edge[0] == pytest.approx(1)
    assert 1.5 < edge[1] <= 2
    assert 2.7 < edge[2] <= 4
    assert np.isnan(edge[3])


def test_twins_of_many_are_all_pairs() -> None:
    # Everything at once: each of 60 pictures three times, in an order that says nothing.
    images = np.concatenate([world("photos")[0], world("drawings")[0][:12]])
    three = np.concatenate([images, [copy(image) for image in images], [mirrored(image) for image in images]])
    order = np.random.default_rng(1).permutation(len(three))
    seen = measure(three[order])
    found = {
        (order[t.first] % 60, order[t.second] % 60, t.mirrored) for t in twins.find(seen.grey, seen.colour)
    }
    assert {(a, m) for a, b, m in found if a == b} >= {(i, m) for i in range(60) for m in (False, True)}
    assert all(a == b for a, b, _ in found)


# Photos against drawings


def counted(side: str, **numbers: int) -> Pack:
    groups = [name for name, number in numbers.items() for _ in range(number)]
    return pack_of(side, np.zeros((len(groups), 16, 16, 3), np.uint8), groups)


def kinds(found: list[Finding]) -> dict[str | None, str]:
    return {finding.group: finding.kind for finding in found}


def test_groups_that_do_not_match() -> None:
    photos = counted("photos", women=400, men=400, glasses=200, hats=50)
    drawings = counted("drawings", women=1000, men=900, glasses=60, robots=40)
    assert kinds(compare(photos, drawings)) == {
        "glasses": "fewer_drawings",
        "hats": "only_photos",
        "robots": "only_drawings",
    }
    found = {finding.group: finding for finding in compare(photos, drawings)}
    assert found["glasses"].severity == found["hats"].severity == "serious"
    assert "19% of the photos, but 3% of the drawings (60)" in found["glasses"].headline
    assert "glasses vanish" in found["glasses"].why
    # As many as the sentence asks for make the shares alike.
    wanted = int(re.search(r"\((\d+) in all", found["glasses"].remedy).group(1))  # type: ignore[union-attr]
    mended = shares(photos, counted("drawings", women=1000, men=900, glasses=wanted, robots=40))
    entry = next(entry for entry in mended if entry.group == "glasses")
    assert entry.photo_share == pytest.approx(entry.drawing_share, abs=0.01)


def test_groups_that_match_and_groups_of_few() -> None:
    alike = {"women": 600, "men": 300, "glasses": 30}
    assert kinds(compare(counted("photos", **alike), counted("drawings", **alike))) == {"glasses": "few_shot"}
    even = {"women": 300, "men": 300}
    assert compare(counted("photos", **even), counted("drawings", **even)) == []


def test_groups_that_cannot_be_compared() -> None:
    photos, drawings = counted("photos", a=30), counted("drawings", b=30)
    assert kinds(compare(photos, drawings)) == {None: "no_common_group"}
    none = [pack_of(side, np.zeros((30, 16, 16, 3), np.uint8)) for side in ("photos", "drawings")]
    assert kinds(compare(*none)) == {None: "no_groups"}
    other = Pack.from_arrays(np.zeros((30, 32, 32, 3), np.uint8), "drawings", ["a"] * 30)
    assert kinds(compare(photos, other)) == {None: "framing"}


def test_two_of_the_same_side_are_a_problem() -> None:
    one = checkup(counted("photos", a=30))
    for given in ([one, one], [one, one, one], []):
        with pytest.raises(Problem, match="one of photos and one of drawings"):
            pair(*given)
    assert pair(one) is None


# In words and as a page


def both_sides() -> list[Checkup]:
    checks = []
    for side in ("drawings", "photos"):
        images, groups = world(side)
        images = np.concatenate([images, [copy(images[0])]])
        names = [f"{group}/<b>{i}.png" for i, group in enumerate([*groups, groups[0]])]
        pack = Pack.from_arrays(images, side, [*groups, groups[0]], ["train"] * 48 + ["held_out"], names)
        checks.append(checkup(pack))
    return checks


def test_text_says_what_and_what_to_do() -> None:
    words = text(*both_sides())
    assert words.index("photos and drawings together") < words.index("1 pair of the same picture")
    assert "Delete one of each pair" in words
    assert "{" not in words


def test_page_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    checks = both_sides()
    write_page(tmp_path / "page.html", *checks)
    html = (tmp_path / "page.html").read_text()
    assert os.listdir(tmp_path) == ["page.html"]
    assert not re.search(r"<script|https?:|url\(|@import|<link", html)
    assert set(re.findall(r'src="([^"]{0,22})', html)) == {"data:image/webp;base64"}
    assert "&lt;b&gt;" in html
    assert "<b>0.png" not in html
    # A pair stands as two pictures that can be decoded, in one figure.
    twin = re.search(r'class="thumbs twins"><figure><div>(<img[^>]*><img[^>]*>)</div>', html)
    assert twin
    assert verdict([f for c in checks for f in c.findings] + compare(*pair(*checks) or [])) in html
    for headline in (finding.headline for entry in checks for finding in entry.findings):
        assert headline in html
    again = [Checkup.model_validate(json.loads(entry.model_dump_json())) for entry in checks]
    write_page(tmp_path / "page.html", *again)
    assert "<img" not in (tmp_path / "page.html").read_text()


def test_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match="cannot write"):
        write_page(tmp_path / "file" / "page.html", checkup(counted("photos", a=30)))


def test_report_still_reads_older_files() -> None:
    old = {"side": "photos", "size": 64, "hash": "x", "accepted": 1, "groups": {}}
    assert Report.model_validate(old).refused == []
    assert Row(file="a", sha256="b").yaw is None


# Real pictures


@pytest.mark.parametrize("style", ["lorelei", "avataaars"])
def test_drawings_composed_of_parts_are_hardly_blamed(style: str, tmp_path: Path) -> None:
    folder = SHARED / "drawings" / style / "test"
    if not folder.is_dir():
        pytest.skip(f"no drawings at {folder}")
    prepare([folder], "drawings", tmp_path / "pack", size=SIZE, progress=False, workers=1)
    found = checkup(Pack.open(tmp_path / "pack"))
    assert pairs_of(found, "twins") | pairs_of(found, "twins_across_splits") == set()
    blamed = set().union(*(rows_of(found, finding.kind) for finding in found.findings))
    assert len(blamed) <= 0.03 * found.count
