"""The marking page: the server asked as a browser would ask it, and as nobody must."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import fewtoon.faces
from asking import one_line
from fewtoon.app import proposals as proposals_module
from fewtoon.app.desk import Desk
from fewtoon.app.proposals import Proposals
from fewtoon.app.server import listening
from fewtoon.app.tiles import Tiles
from fewtoon.data import world
from fewtoon.data.marks import NAME, Mark, Marks
from fewtoon.faces.face import Face
from fewtoon.io.images import find, save_png
from marking import RED, SIDE, Nothing, Painted, drawings, entry, rows, served, wait

SECRET = b"nobody may read this"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_bytes(SECRET)
    top = drawings(tmp_path / "drawings")
    (top / "notes.txt").write_bytes(SECRET)
    return top


# Whom it answers, and what


def test_only_the_pictures_of_the_folder_are_ever_read(folder: Path) -> None:
    with served(folder) as site:
        for path in (
            *("/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/notes.txt", "/faces.csv"),
            *("/pictures/..%2f..%2fsecret.txt", "/pictures/notes.txt", "/pictures/-1", "/pictures/4"),
            *("/pictures/0/tiles/7", "/pictures/0/tiles/..%2f..", "/pictures/9/thumbnail", "/pictures/0x1"),
            *("/pictures/99999999999999999999", "/pictures/a.png/thumbnail", "//etc/passwd", "/etc/passwd"),
        ):
            status, body, _ = site.ask(path)
            assert status == 404, path
            assert SECRET not in body
        assert site.ask("/pictures/4", {"version": "", "boxes": []})[0] == 404
        assert site.ask("/status?index=99")[0] == site.ask("/status?index=%C2%B2")[0] == 200
        assert site.ask("/pictures/0/thumbnail")[0] == site.ask("/pictures/0/tiles/0")[0] == 200
        assert site.ask("/pictures/0", method="DELETE", content_type="application/json")[0] == 405
    assert not (folder / NAME).exists()


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost@evil.example", "", None),
        *("localhost.", "0.0.0.0", "169.254.169.254", "[::1", "127.0.0.1/evil"),
    ],
)
def test_another_name_for_this_machine_is_refused(folder: Path, host: str | None) -> None:
    with served(folder) as site:
        for path in ("/", "/state", "/pictures/0/tiles/0"):
            assert site.ask(path, host=host)[0] == (400 if host is None else 403)
        if host is not None:
            assert site.ask("/pictures/0", {"boxes": []}, host=host)[0] == 403
    assert not (folder / NAME).exists()


def test_a_number_of_thousands_of_digits_is_no_picture(folder: Path) -> None:
    with served(folder) as site:
        for path in (f"/pictures/{'9' * 5000}", f"/pictures/0/tiles/{'9' * 5000}"):
            assert site.ask(path)[0] == 404


def test_the_loopback_names_are_answered(folder: Path) -> None:
    with served(folder) as site:
        for host in ("127.0.0.1", "localhost", f"localhost:{site.port}", "[::1]:80", "LOCALHOST"):
            assert site.ask("/", host=host)[0] == 200, host


def test_changes_come_as_json_from_our_own_page(folder: Path) -> None:
    with served(folder) as site:
        version = site.get("/pictures/0")["version"]
        change = {"version": version, "boxes": []}
        for expected, headers in (
            (415, {"content_type": "text/plain"}),
            (415, {"content_type": "application/x-www-form-urlencoded"}),
            (415, {"content_type": None}),
            (403, {"origin": "http://evil.example"}),
            (403, {"origin": "null"}),
            (403, {"origin": f"http://127.0.0.1:{site.port + 1}"}),
            (403, {"sec_fetch_site": "cross-site"}),
            (403, {"sec_fetch_site": "same-site"}),
        ):
            for path in ("/pictures/0", "/groups"):
                assert site.ask(path, change, **headers)[0] == expected, headers
        assert not (folder / NAME).exists()
        status, _, headers = site.ask("/pictures/0", method="OPTIONS", origin="http://evil.example")
        assert status >= 400
        assert not [name for name in headers if name.lower().startswith("access-control")]
        own = {"origin": f"http://127.0.0.1:{site.port}", "sec_fetch_site": "same-origin"}
        assert site.ask("/pictures/0", change, **own)[0] == 200
    assert rows(folder)[0]["file"] == "a.png"


def test_large_and_damaged_requests_are_refused(folder: Path) -> None:
    with served(folder) as site:
        assert site.ask("/pictures/0", b"", content_length="1000001")[0] == 413
        assert site.ask("/pictures/0", [b" " * 100_000] * 11)[0] == 413  # does not say how much will come
        assert site.ask("/pictures/0", b"", content_length="99999999999")[0] == 413
        for body in (b"", b"{", b"[]", b"3", b"[" * 100_000, b"\xff", b'{"name": "\\ud800"}'):
            for path in ("/pictures/0", "/groups"):
                assert site.ask(path, body)[0] == 400, body
        for name in (None, 3, "", "all", "a\nb", "x" * 101, " x", []):
            assert site.ask("/groups", {"name": name})[0] == 400, name
    assert not (folder / NAME).exists()


def test_every_answer_forbids_what_the_page_does_not_need(folder: Path) -> None:
    with served(folder) as site:
        for path in ("/", "/state", "/pictures/0/tiles/0", "/nothing"):
            headers = site.ask(path)[2]
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; frame-ancestors 'self'")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Access-Control-Allow-Origin"] is None
        policy = site.ask("/")[2]["Content-Security-Policy"]
        assert "script-src 'sha256-" in policy
        assert "unsafe" not in policy.split("script-src")[1].split(";")[0]


# The table


def test_a_change_is_in_the_table_at_once(folder: Path) -> None:
    with served(folder, groups=["zoe", "ann"]) as site:
        assert site.get("/state")["groups"] == ["zoe", "ann", "ben"]
        assert site.get("/state")["first"] == 0
        status, answer = site.save(0, [entry(10, 20, 110.06, 140, roll=-200, group="zoe"), entry(0, 0, 9, 9)])
        assert status == 200
        assert [tuple(row.values()) for row in rows(folder)] == [
            ("a.png", "0", "0", "9", "9", "0", ""),
            ("a.png", "10", "20", "110.1", "140", "160", "zoe"),
        ]
        assert site.save(1, []) == (200, {"version": site.get("/pictures/1?ahead")["version"]})
        state = site.get("/state")
        assert (state["states"], state["first"], state["faces"]) == ("dn..", 2, 2)
        assert site.save(0, None, answer["version"])[0] == 200  # not marked, as if it had never been
        assert [row["file"] for row in rows(folder)] == ["b 1.png"]


@pytest.mark.parametrize(
    ("boxes", "word"),
    [
        ("x", "list"),
        ([3], "object"),
        ([{"box": [1, 2, 3]}], "numbers"),
        ([{"box": [1, 2, "3", 4]}], "numbers"),
        ([{"box": [1, 2, True, 4]}], "numbers"),
        ([{"box": [1, 2, float("nan"), 4]}], "numbers"),
        ([{"box": [1, 2, 10**400, 4]}], "numbers"),
        ([entry(5, 2, 3, 4)], "right"),
        ([entry(1, 2, 3e7, 4)], "right"),
        ([entry(1, 2, 3, 4, group="all")], "'all'"),
        ([{**entry(1, 2, 3, 4), "group": 7}], "text"),
        ([{**entry(1, 2, 3, 4), "extra": [["left", "9"]]}], "pairs"),
        ([{**entry(1, 2, 3, 4), "extra": {"a": 1}}], "pairs"),
        ([entry(0, 0, 100, 100), entry(0, 0, 100, 99)], "two boxes"),
        ([entry(0, 0, 1, 1)] * 1001, "1000"),
    ],
)
def test_boxes_that_the_table_cannot_hold(folder: Path, boxes: Any, word: str) -> None:
    with served(folder) as site:
        status, answer = site.save(0, boxes)
        assert status == 400
        assert word in answer["error"]
        assert "\n" not in answer["error"]
    assert not (folder / NAME).exists()


def test_two_pages_and_a_hand_do_not_overwrite_each_other(folder: Path) -> None:
    with served(folder) as site:
        first, second = (site.get(f"/pictures/{i}")["version"] for i in (0, 1))
        assert site.save(0, [entry(0, 0, 50, 50)], first)[0] == 200
        assert site.save(1, [entry(1, 1, 50, 50)], second)[0] == 200  # another picture: no conflict
        before = (folder / NAME).read_bytes()
        status, answer = site.save(0, [], first)
        assert (status, NAME in answer["error"]) == (409, True)
        assert (folder / NAME).read_bytes() == before

        # By hand: a new column, a note and another box for the first picture.
        (folder / NAME).write_text(
            "file,left,top,right,bottom,roll,group,note\n"
            "a.png,0,0,60,60,0,,mine\nb 1.png,1,1,50,50,0,,\ngone.png,,,,,,,\n",
            encoding="utf-8",
        )
        seen = site.get("/pictures/0")
        assert seen["boxes"][0]["box"] == [0, 0, 60, 60]
        assert site.get("/state")["unknown"] == ["gone.png"]
        version = site.get("/pictures/1")["version"]
        assert site.save(1, [entry(2, 2, 50, 50)], version)[0] == 200
        assert site.save(0, [{**seen["boxes"][0], "box": [0, 0, 70, 70]}], seen["version"])[0] == 200
        assert [(row["file"], row["right"], row["note"]) for row in rows(folder)] == [
            ("a.png", "70", "mine"),
            ("b 1.png", "50", ""),
            ("gone.png", "", ""),
        ]

        # Looked at again, with a column that is empty for this picture: it still says the same.
        version = site.get("/pictures/1")["version"]
        os.utime(folder / NAME, ns=(0, 0))
        assert site.get("/pictures/1")["version"] == version

        # A hand that is not finished: nothing is written, and the sentence says where.
        half = (folder / NAME).read_text(encoding="utf-8") + "b 1.png,5"
        (folder / NAME).write_text(half, encoding="utf-8")
        for status, answer in (site.save(0, [], seen["version"]), (503, json.loads(site.ask("/state")[1]))):
            assert status == 503
            assert "line 5" in answer["error"]
        assert (folder / NAME).read_text(encoding="utf-8") == half


def test_rows_without_folders_are_shown_and_kept(folder: Path) -> None:
    (folder / NAME).write_text("file,left,top,right,bottom\nc.png,1,2,30,40\na.png,900,900,990,990\n")
    with served(folder) as site:
        assert site.get("/state")["states"] == "d.d."
        assert site.get("/pictures/2")["boxes"][0]["box"] == [1, 2, 30, 40]
        assert "outside" in site.get("/pictures/0")["notes"][0]
        assert site.save(2, [entry(1, 2, 30, 41)])[0] == 200
    assert [row["file"] for row in rows(folder)] == ["a.png", "ann/c.png"]


def test_a_table_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with served(folder) as site:
        with monkeypatch.context() as context:
            context.setattr(os, "replace", full)
            status, answer = site.save(0, [entry(0, 0, 50, 50)])
            assert (status, "No space left" in answer["error"]) == (503, True)
        assert site.get("/pictures/0")["boxes"] is None
        assert site.save(0, [entry(0, 0, 50, 50)])[0] == 200


def test_one_line_for_what_cannot_be_served(tmp_path: Path, folder: Path) -> None:
    one_line(lambda: Desk(tmp_path / "none"), "'" + str(tmp_path / "none"), "not a folder")
    one_line(lambda: Desk(folder / "a.png"), "not a folder")
    (tmp_path / "empty").mkdir()
    one_line(lambda: Desk(tmp_path / "empty"), "no pictures")
    one_line(lambda: Desk(folder, ["ok", "all"]), "'all'")
    (folder / NAME).write_text("file,left\n")
    one_line(lambda: Desk(folder), NAME, "line 1", "'top'")
    with listening(0) as door:
        port = door.getsockname()[1]
        assert door.getsockname()[0] == "127.0.0.1"
        one_line(lambda: listening(port), str(port), "another")
    one_line(lambda: listening(70000), "70000")


# Pictures


@pytest.mark.parametrize(
    ("height", "width", "tiles"), [(9000, 300, 5), (300, 9000, 5), (64, 48, 1), (2500, 2600, 4)]
)
def test_tiles_make_up_the_picture(tmp_path: Path, height: int, width: int, tiles: int) -> None:
    ramp = np.add.outer(np.arange(height), np.arange(width)) // 40 % 256
    picture = np.stack([ramp, 255 - ramp, np.full_like(ramp, 90)], 2).astype(np.uint8)
    save_png(tmp_path / "x.png", picture, compress_level=1)
    shown = Tiles().picture(tmp_path / "x.png")
    assert (shown.width, shown.height, len(shown.tiles)) == (width, height, tiles)
    assert min(shown.shown_width, shown.shown_height) == min(width, height, 2400)
    put = np.zeros((shown.shown_height, shown.shown_width, 3), np.uint8)
    for (x, y, w, h), tile in zip(shown.places, shown.tiles):
        part = np.asarray(Image.open(io.BytesIO(tile)))
        assert part.shape == (h, w, 3)
        assert max(w, h) <= 2048
        put[y : y + h, x : x + w] = part
    small = np.asarray(Image.fromarray(picture).resize((shown.shown_width, shown.shown_height)))
    assert np.abs(put.astype(int) - small).mean() < 2.5
    thumbnail = Image.open(io.BytesIO(Tiles().thumbnail(tmp_path / "x.png")))
    assert max(thumbnail.size) <= 128


def test_tiles_follow_the_file_and_forget_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = Tiles()
    save_png(tmp_path / "x.png", np.full((40, 40, 3), 10, np.uint8))
    first = tiles.picture(tmp_path / "x.png")
    assert tiles.picture(tmp_path / "x.png") is first
    save_png(tmp_path / "x.png", np.full((50, 40, 3), 10, np.uint8))
    assert tiles.picture(tmp_path / "x.png").height == 50
    monkeypatch.setattr("fewtoon.app.tiles.MAX_MEMORY", 3 * first.memory)
    for i in range(9):
        save_png(tmp_path / f"{i}.png", np.full((40, 40, 3), i, np.uint8))
        tiles.picture(tmp_path / f"{i}.png")
    assert len(tiles._kept) <= 3


def test_unreadable_pictures_are_told_and_passed_over(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (folder / "film.mp4").write_bytes(b"0")
    with served(folder) as site:
        assert [file["name"] for file in site.get("/state")["refused"]] == ["film.mp4"]
        wait(lambda: site.get("/status")["states"][0] == "x")
        assert site.get("/state")["first"] == 1
        for path in ("/pictures/0", "/pictures/0/tiles/0", "/pictures/0/thumbnail"):
            status, body, _ = site.ask(path)
            assert status == 422
            assert "a.png" not in json.loads(body)["error"]
        assert site.get("/pictures/1")["width"] == SIDE


# Proposals


def test_proposals_come_from_the_finder(folder: Path) -> None:
    with served(folder, finder=Painted()) as site:
        assert site.get("/pictures/1")["proposals"] is None  # nothing is begun before the page is there
        site.get("/state")
        wait(lambda: site.get("/status")["states"] == ".p..")
        (proposal,) = site.get("/pictures/1")["proposals"]
        assert proposal == {"box": list(RED), "roll": 0, "score": 0.8, "finder": "painted"}
        nothing = wait(
            lambda: (answer := site.get("/pictures/0/proposals"))["proposals"] is not None and answer
        )
        assert nothing == {"proposals": [], "round": 0}


def marked(faces: dict[int, int]) -> dict[int, list[Face]]:
    return {index: [Face((9.0 * i, 0, 9.0 * i + 8, 8)) for i in range(n)] for index, n in faces.items()}


def test_it_learns_from_finished_pictures_and_learns_again(folder: Path) -> None:
    lessons: list[list[int]] = []
    finished: dict[int, int] = {}

    class Learned(Nothing):
        name = "learned"

        def __init__(self) -> None:
            self.lesson = len(lessons)

        def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
            again = Face((80, 70, 190, 180), score=0.1 * self.lesson, finder=self.name)
            return [again, Face((0, 0, 9, 9), finder=self.name)]

    def learn(examples: list[tuple[NDArray[np.uint8], list[Face]]]) -> Learned:
        assert all(picture.shape == (SIDE, SIDE, 3) for picture, _ in examples)
        lessons.append(sorted(len(faces) for _, faces in examples))
        return Learned()

    proposals = Proposals(find([folder])[0], lambda: marked(finished), Painted(), learn)
    proposals.start()
    proposals.start()
    assert len(proposals._threads) == 2
    try:
        wait(lambda: proposals.of(1) is not None)
        assert [face.finder for face in proposals.of(1) or []] == ["painted"]
        finished |= {0: 6}
        proposals.look_at(0)  # still on the screen: not finished
        time.sleep(0.2)
        assert (lessons, proposals.learned_from) == ([], 0)
        finished |= {2: 0}
        proposals.look_at(3)
        wait(lambda: proposals.round == 1)
        assert (lessons, proposals.learned_from) == ([[0, 6]], 6)
        # What was learned goes first, and takes the place of what the finder found there.
        wait(lambda: len(proposals.of(1) or []) == 2)
        assert [(face.finder, face.score) for face in proposals.of(1) or []] == [
            ("learned", 0.1),
            ("learned", 1.0),
        ]
        finished |= {2: 2}
        proposals.marked()
        time.sleep(0.2)
        assert proposals.round == 1  # not enough more
        finished |= {2: 3}
        proposals.marked()
        wait(lambda: (proposals.of(1) or [Face((0, 0, 1, 1))])[0].score == 0.2)
        assert (lessons[1], proposals.learned_from) == ([3, 6], 9)
    finally:
        proposals.close()
    assert not any(thread.is_alive() for thread in proposals._threads)


def test_a_finder_that_stumbles_is_told_and_does_not_end_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stumbling(Painted):
        def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
            if not super().__call__(picture):
                raise ValueError("no red here")
            return super().__call__(picture)

    def learn(examples: object) -> Nothing:
        raise RuntimeError("too hard")

    proposals = Proposals(find([folder])[0], lambda: marked({3: 5}), Stumbling(), learn)
    proposals.start()
    try:
        wait(lambda: all(proposals.of(i) is not None for i in range(3)))
        assert proposals.some(1)
        wait(lambda: "too hard" in capsys.readouterr().err)
        assert proposals.learned_from == 5  # not tried again before there is more
        assert proposals.round == 0
    finally:
        proposals.close()


def test_without_a_finder_there_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fewtoon.faces.finders", None)  # as if it could not be imported
    monkeypatch.delattr(fewtoon.faces, "finders", raising=False)  # nor had been, by another test
    with served(folder, finder=None) as site:
        site.get("/state")
        assert "before some faces are marked" in wait(lambda: site.get("/status")["message"])
        assert site.save(0, [entry(0, 0, 50, 50)])[0] == 200


def test_strips_are_looked_at_panel_by_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = pytest.importorskip("fewtoon.faces.panels")
    asked: list[tuple[int, ...]] = []

    def find_in_panels(finder: Painted, picture: NDArray[np.uint8]) -> list[Face]:
        asked.append(picture.shape)
        return finder(picture)

    monkeypatch.setattr(panels, "find_in_panels", find_in_panels)
    for height, width in ((150, 100), (100, 150), (400, 100), (100, 400)):
        assert proposals_module.faces_of(np.zeros((height, width, 3), np.uint8), Painted()) == []
    assert asked == [(400, 100, 3), (100, 400, 3)]


def test_the_faces_of_a_strip_are_found_where_they_are() -> None:
    pytest.importorskip("fewtoon.faces.panels")
    strip = np.full((3000, 300, 3), 255, np.uint8)
    strip[700:1000, 20:280] = world.picture("drawings", 0, 300)[0][:, :260]
    strip[2000:2300, 20:280] = world.picture("drawings", 1, 300)[0][:, :260]
    strip[2100:2200, 100:180] = (255, 0, 0)
    (face,) = proposals_module.faces_of(strip, Painted())
    assert face.box == (100, 2100, 180, 2200)


def test_what_is_being_learned_is_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = threading.Event()

    def learn(examples: object) -> Nothing:
        begun.set()
        time.sleep(1.3)
        return Nothing()

    proposals = Proposals(find([folder])[0], lambda: marked({3: 5}), Nothing(), learn)
    proposals.start()
    assert begun.wait(10)
    proposals.close()
    assert not any(thread.is_alive() for thread in proposals._threads)
    assert "everything is saved" in capsys.readouterr().err
    proposals.close()
    proposals.start()  # after the end nothing begins
    assert not any(thread.is_alive() for thread in proposals._threads)


def test_a_box_beside_its_picture_spoils_no_lesson(folder: Path) -> None:
    lessons: list[int] = []

    def learn(examples: list[Any]) -> Nothing:
        lessons.append(len(examples))
        return Nothing()

    faces = {**marked({2: 5}), 3: [Face((900, 900, 990, 990))]}
    proposals = Proposals(find([folder])[0], lambda: faces, Nothing(), learn)
    proposals.start()
    try:
        wait(lambda: lessons == [1])
    finally:
        proposals.close()


# Its own process


SERVE = """
import sys
from fewtoon.app.mark import serve
class Nothing:
    name = identity = "nothing"
    def __call__(self, picture):
        return []
serve(sys.argv[1], finder=Nothing(), open_browser=False)
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_ends_it_with_everything_kept(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "4 pictures" in first
        port = int(first.split("127.0.0.1:")[1].split("/")[0])
        connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=10
        )  # stays open: must not hold it up
        connection.request("GET", "/pictures/0")
        version = json.loads(connection.getresponse().read())["version"]
        change = json.dumps({"version": version, "boxes": [entry(1, 2, 30, 40)]})
        connection.request("POST", "/pictures/0", change, {"Content-Type": "application/json"})
        assert connection.getresponse().read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "1 of 4 pictures are done, 1 faces" in out
    assert Marks.read(folder / NAME).of("a.png") == [Mark("a.png", (1, 2, 30, 40))]
