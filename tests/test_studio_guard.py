"""The door of the studio, and those who do not mean well."""

from __future__ import annotations

import contextlib
import gc
import http.client
import io
import json
import logging
import os
import secrets
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from PIL import Image

import fewtoon
import generators
import marking
import translators
from fewtoon import style as styles
from fewtoon.app import guard, patience, streams
from fewtoon.app.guard import COOKIE, MAX_UPLOAD
from fewtoon.data import world
from fewtoon.draw import Translator
from fewtoon.io.images import save_png
from fewtoon.run import Run
from studios import studio

SECRET = b"nobody outside may read this"
FORM = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Style, a photo of a face, and a file that is nobody's business."""
    top = tmp_path_factory.mktemp("guard")
    translators.save(top / "ink.safetensors", framing="as-is")
    save_png(top / "face.png", world.picture("photos", 3, 128)[0])
    (top / "secret.png").write_bytes(SECRET)
    return top


@pytest.fixture(scope="module")
def url(top: Path) -> Iterator[str]:
    with studio([top / "ink.safetensors"]) as address:
        yield address


@pytest.fixture(autouse=True)
def unmoved(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever was asked: no upload is left, and nothing has failed in the server."""
    yield
    assert "Traceback" not in capsys.readouterr().err
    assert [one.getMessage() for one in caplog.get_records("call") if one.levelno >= logging.ERROR] == []
    assert "sent" not in spooled()


def spooled() -> list[str]:
    """Names of the files that clients sent or are to fetch."""
    return [name for _, _, names in os.walk(os.environ["GRADIO_TEMP_DIR"]) for name in names]


def ask(
    url: str, path: str, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of an answer, in which nothing of this machine may be. path: as it is sent."""
    place = urlsplit(url)
    line = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    try:
        line.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            line.putheader(name.replace("_", "-"), value)
        if body is not None and "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            line.putheader("Content-Length", str(len(body)))
        line.endheaders()
        with contextlib.suppress(OSError):  # refused before all of it was sent
            line.send(body or b"")
        answer = line.getresponse()
        data = answer.read()
    finally:
        line.close()
    assert SECRET not in data
    assert b"root:x:" not in data
    return answer.status, data, {name.lower(): value for name, value in answer.getheaders()}


def post(url: str, path: str, value: Any, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return ask(url, path, "POST", body, **{"Content_Type": "application/json", **headers})


def form(*files: bytes, name: str = "files", file_name: str = "face.png", kind: str = "image/png") -> bytes:
    named = f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"'
    head = f"--x\r\n{named}\r\nContent-Type: {kind}\r\n\r\n"
    return b"".join(head.encode() + file + b"\r\n" for file in files) + b"--x--\r\n"


def send(url: str, data: bytes, **options: str) -> str:
    """Where an upload lies."""
    status, body, _ = ask(url, "/gradio_api/upload", "POST", form(data, **options), Content_Type=FORM)
    assert status == 200, body
    return json.loads(body)[0]


def translating(url: str) -> int:
    """The number of the function "/translate"."""
    config = json.loads(ask(url, "/config")[1])
    return next(one["id"] for one in config["dependencies"] if one["api_name"] == "translate")


def call(url: str, number: int, data: list[Any], session: str = "", **headers: str) -> dict[str, Any]:
    """What a function answers: {"data": ...} or {"error": ...}."""
    session = session or secrets.token_hex(8)
    asked = {"fn_index": number, "data": data, "session_hash": session}
    status, body, _ = post(url, "/gradio_api/queue/join", asked, **headers)
    assert status == 200, body
    events = ask(url, f"/gradio_api/queue/data?session_hash={session}", **headers)[1]
    told = [json.loads(line[6:]) for line in events.decode().splitlines() if line.startswith("data: ")]
    return next(one["output"] for one in told if one["msg"] == "process_completed")


def file_of(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def draws(top: Path, url: str) -> None:
    """The studio is well: it draws as the command line does."""
    sent = send(url, (top / "face.png").read_bytes())
    files, facts = call(url, translating(url), [file_of(sent), "", "auto", "auto"])["data"]
    status, data, _ = ask(url, "/gradio_api/file=" + quote(files[0]["path"]))
    assert status == 200
    style = fewtoon.load(top / "ink.safetensors", "cpu")
    translator = Translator(style)
    own = translator.draw(translator.look(np.asarray(Image.open(top / "face.png"))))[0].pixels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), own)
    assert facts["read_as"] == [None]


def test_a_page_hears_the_end_of_its_stream_before_it_is_told_of_a_new_call(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it takes the stream for open, and never hears of the result."""
    monkeypatch.setattr(streams, "MOMENT", 2.0)
    session, number = secrets.token_hex(8), translating(url)

    def seconds(session: str) -> float:
        asked = {"fn_index": number, "data": [None, "", "auto", "auto"], "session_hash": session}
        begun = time.monotonic()
        assert post(url, "/gradio_api/queue/join", asked)[0] == 200
        return time.monotonic() - begun

    call(url, number, [None, "", "auto", "auto"], session)
    assert seconds(secrets.token_hex(8)) < 1  # somebody else
    assert seconds(session) > 0.5


# --- addresses ----------------------------------------------------------------------------------------------


def test_whoever_means_well_is_served(top: Path, url: str) -> None:
    status, page, headers = ask(url, "/")
    assert status == 200
    assert b"fewtoon" in page
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert "connect-src 'self' data: blob:" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert json.loads(ask(url, "/health")[1])["status"] == "ok"
    assert ask(url, "/", "HEAD")[0] == 200
    draws(top, url)


@pytest.mark.parametrize(
    "path",
    [
        # What Gradio serves to others.
        "/gradio_api/deep_link?session_hash=a", "/gradio_api/proxy=https://example.org/", "/monitoring",
        "/monitoring/summary", "/gradio_api/runs", "/gradio_api/run-history/records", "/gradio_api/mcp/",
        "/gradio_api/mcp/sse", "/gradio_api/custom_component/a/client/component/index.js", "/gradio_api/openapi.json",
        "/gradio_api/dev/reload", "/gradio_api/user", "/gradio_api/token", "/gradio_api/login_check",
        "/gradio_api/startup-events", "/gradio_api/queue/status", "/gradio_api/heartbeat/a", "/gradio_api/vibe-code",
        "/gradio_api/call/translate/a", "/gradio_api/call/v2/translate/a", "/gradio_api/stream/a/1/2/playlist.m3u8",
        "/gradio_api/profiling/traces", "/login", "/logout", "/pwa_icon", "/pwa_icon/100000", "/docs", "/openapi.json",
        "/gradio_api/queue/data", "/gradio_api/queue/data?session_hash=nobody", "/gradio_api/queue/data?session_hash=",
        # Ways around.
        "//", "//config", "/config//", "/./config", "/%2e/config", "/assets/../config", "/assets/%2e%2e/index.html",
        "/assets//etc/passwd", "/assets/%2fetc/passwd", "/assets/..%2f..%2findex.html", "/static/..%5c..%5cindex",
        "/static/%00", "/svelte/../../../routes.py", "/theme.css%00", "/gradio_api//info", "/GRADIO_API/info",
        "/gradio_api/info%0a", "/gradio_api/%66ile=/etc/passwd", "/%67radio_api/file=/etc/passwd", "/etc/passwd",
        "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/translate", "*", "health", "/.env", "/%ff",
        "/mark", "/mark/0/", "/report/..%2f", "/report", "http:", "/" + "a" * 5000, "/report/page/" + "9" * 5000,
        "/report/pack/0/" + "9" * 5000, "/mark/" + "9" * 5000 + "/",
    ],
)  # fmt: skip
def test_nothing_else_is_there(url: str, path: str) -> None:
    assert ask(url, path)[0] == 404


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "CONNECT", "POST"]
)
def test_no_other_verb(url: str, method: str) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd", "host:443"):
        assert ask(url, path, method)[0] == 404
    if method != "POST":
        assert ask(url, "/gradio_api/queue/join", method)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "run/translate", "api/translate", "call/translate", "call/v2/translate", "component_server", "reset",
        "process_recording", "stream/a", "stream/a/close", "vibe-edit", "run-history/connect", "login", "queue/join/",
        "upload/", "cancel/x", "../gradio_api/queue/join", "mcp/messages",
    ],
)  # fmt: skip
def test_nothing_else_takes_anything(url: str, path: str) -> None:
    assert post(url, f"/gradio_api/{path}", {"data": []})[0] == 404


def test_no_file_of_the_machine(top: Path, url: str) -> None:
    folder, secret = os.environ["GRADIO_TEMP_DIR"], str(top / "secret.png")
    os.symlink(top, f"{folder}/door")
    os.symlink(secret, f"{folder}/window.png")
    try:
        for path in (
            secret, f"/{secret}", "/etc/passwd", "../../../../etc/passwd", "/proc/self/environ", "/dev/zero",
            f"{folder}/../{top.name}/secret.png", f"{folder}/..{secret}", f"{folder}/door/secret.png",
            f"{folder}/window.png", folder, f"{folder}/", f"{folder}x/secret", f"{secret}\0", f"{folder}/\0", "",
            "." * 900, f"file://{secret}", f"http:{secret}", "http://127.0.0.1:9/", "https:/example.org/a", "~/.ssh",
        ):  # fmt: skip
            for written in {quote(path), quote(path, safe="")}:
                status, body, _ = ask(url, f"/gradio_api/file={written}")
                assert (status, json.loads(body)) == (404, {"error": "no such file"})
                assert ask(url, f"/gradio_api/file={written}", "HEAD")[0] == 404
                assert ask(url, f"/gradio_api/file={written}", Range="bytes=0-10")[0] == 404
    finally:
        os.unlink(f"{folder}/door")
        os.unlink(f"{folder}/window.png")


def test_what_is_fetched_cannot_be_a_page(top: Path, url: str) -> None:
    """HTML that is called a picture: our own address may not serve it as a page."""
    evil = b"<script>alert(1)</script>"
    for name in ("a.png", "a.html", "a.svg"):
        sent = send(url, evil, file_name=name, kind="text/html")
        assert Path(sent).name == "sent"
        status, body, headers = ask(url, f"/gradio_api/file={sent}")
        assert (status, body) == (200, evil)
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        Path(sent).unlink()


# --- who asks -----------------------------------------------------------------------------------------------


def test_names_and_pages_that_are_not_ours(url: str) -> None:
    port = urlsplit(url).port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "[::1",
        "",
    ):
        assert ask(url, "/", Host=host)[0] in (400, 403)
        assert post(url, "/gradio_api/queue/join", {}, Host=host)[0] in (400, 403)
    assert ask(url, "/config", Host=f"localhost:{port}")[0] == 200
    for origin in (
        "https://evil.example",
        "null",
        f"http://localhost:{port}",
        "http://127.0.0.1:8000",
        "file://",
    ):
        for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel"):
            assert post(url, path, {}, Origin=origin)[0] == 403
        status, _, headers = ask(url, "/config", Origin=origin)
        assert status == 403
        assert not [name for name in headers if name.startswith("access-control")]
    for site in ("cross-site", "same-site"):
        assert ask(url, "/gradio_api/info", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")[0] == 403
        assert post(url, "/gradio_api/cancel", {}, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 403
        assert ask(url, "/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200
    own = ask(url, "/config", Origin=url.rstrip("/"))
    assert own[0] == 200
    assert not [name for name in own[2] if name.startswith("access-control")]


def test_no_proxy_is_believed(url: str) -> None:
    asked = {
        "X_Forwarded_Host": "evil.example",
        "X_Gradio_Server": "http://evil.example",
        "X_Forwarded_Proto": "https",
    }
    for path in ("/", "/config", "/gradio_api/info", "/?deep_link=..%2f..", "/config?deep_link=a"):
        assert b"evil.example" not in ask(url, path, **asked)[1]
        assert b"evil.example" not in ask(url, path)[1]
    assert json.loads(ask(url, "/config", **asked)[1])["root"] == url.rstrip("/")


def test_a_token(top: Path) -> None:
    token = "a-token-of-a-test"
    with studio([top / "ink.safetensors"], token) as url:
        assert ask(url, "/health")[0] == 200
        wrong = {"Authorization": "Bearer a-token-of-a-tesu"}
        for path in (
            "/",
            "/config",
            "/gradio_api/file=/etc/passwd",
            "/mark/0/",
            "/report/page/0",
            "/?token=",
            "//health",
        ):
            assert ask(url, path)[0] == 401
            assert ask(url, path, **wrong)[0] == 401
            assert ask(url, path, Cookie=f"{COOKIE}=wrong")[0] == 401
        for odd in ("\xe9", "", "Bearer", f"Basic {token}", f"Bearer {token}x", f"Bearer  {token}"):
            assert ask(url, "/", Authorization=odd)[0] == 401
        assert ask(url, "/?token=wrong")[0] == 401
        assert ask(url, f"/config?token={token}")[0] == 401  # only the page itself is opened so
        assert post(url, "/gradio_api/queue/join", {})[0] == 401
        assert ask(url, "/gradio_api/upload", "POST", form(b"x"), Content_Type=FORM)[0] == 401

        status, _, headers = ask(url, f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        assert "HttpOnly" in headers["set-cookie"]
        assert "SameSite=strict" in headers["set-cookie"]
        cookie = headers["set-cookie"].split(";")[0]
        assert ask(url, "/", Cookie=cookie)[0] == 200
        assert ask(url, "/", Cookie=f'other={{"a":[1]}}; {cookie}')[0] == 200
        assert ask(url, "/config", Authorization=f"Bearer {token}", Host="my-machine:7860")[0] == 200
        assert post(url, "/gradio_api/cancel", {}, Cookie=cookie, Origin="https://evil.example")[0] == 403

        client = Client(url, verbose=False, headers={"Authorization": f"Bearer {token}"})
        files, _ = client.predict(handle_file(str(top / "face.png")), "ink", "auto", api_name="/translate")
        assert Path(files[0]).read_bytes()[1:4] == b"PNG"
        client.close()


def test_faces_are_marked_from_another_machine(tmp_path: Path) -> None:
    marking.drawings(tmp_path / "drawings")
    there = {"Host": "my-machine:7860", "Origin": "http://my-machine:7860", "Sec_Fetch_Site": "same-origin"}
    with studio([tmp_path / "drawings"], "a-token-of-a-test") as url:
        mine = {"Cookie": f"{COOKIE}=a-token-of-a-test", **there}
        version = json.loads(ask(url, "/mark/0/pictures/0", **mine)[1])["version"]
        boxes = [{"box": [1, 1, 20, 20], "roll": 0, "group": None}]
        path, marks = "/mark/0/pictures/0", {"version": version, "boxes": boxes}
        assert post(url, path, marks, **there)[0] == 401
        assert post(url, path, marks, **{**mine, "Origin": "http://evil.example:7860"})[0] == 403
        assert post(url, path, marks, **{**mine, "Sec_Fetch_Site": "same-site"})[0] == 403
        assert not (tmp_path / "drawings" / "faces.csv").exists()
        status, body, _ = post(url, path, marks, **mine)
        assert status == 200, body
        assert len((tmp_path / "drawings" / "faces.csv").read_text().splitlines()) == 2


# --- calls --------------------------------------------------------------------------------------------------


def test_a_call_names_only_what_was_sent(top: Path, url: str) -> None:
    number, folder, secret = translating(url), os.environ["GRADIO_TEMP_DIR"], str(top / "secret.png")
    sent = send(url, (top / "face.png").read_bytes())
    base = {"fn_index": number, "session_hash": "a"}
    for file in (
        file_of(secret), {"path": secret}, file_of("/etc/passwd"), file_of(f"{folder}/../{top.name}/secret.png"),
        file_of(folder), file_of(""), file_of("http://127.0.0.1:9/a.png"), file_of(f"{sent}\0"), file_of("./" + sent),
        {"meta": {"_type": "gradio.FileData"}}, {"url": "http://127.0.0.1:9/a.png"}, {"path": None, "url": "data:,a"},
        {"path": [sent]}, {"path": {"path": sent}}, {"url": f"file://{secret}"}, {"meta": None}, [file_of(secret)],
        {"a": [{"b": file_of(secret)}]}, file_of(secret, is_stream=True), file_of(secret, url=sent),
    ):  # fmt: skip
        for body in (
            {**base, "data": [file, "", "auto", "auto"]},
            {**base, "data": [None, file, "auto", "auto"]},
        ):
            assert post(url, "/gradio_api/queue/join", body)[0] == 400
        body = {**base, "data": [None, "", "", ""], "event_data": file}
        assert post(url, "/gradio_api/queue/join", body)[0] == 400
    # Whatever else is told of a file that was sent, it is not believed, and not asked for.
    more = {
        "url": "http://127.0.0.1:9/a.png",
        "orig_name": "../../a\0.svg",
        "mime_type": "text/html",
        "size": -1,
    }
    files, _ = call(url, number, [file_of(sent, **more), "", "auto", "auto"])["data"]
    assert ask(url, "/gradio_api/file=" + files[0]["path"])[0] == 200
    assert not Path(sent).exists()
    assert (
        "sent first"
        in json.loads(post(url, "/gradio_api/queue/join", {**base, "data": [file_of(sent), "", "", ""]})[1])[
            "error"
        ]
    )
    assert "no photo came" in call(url, number, [None, "", "", ""])["error"]


def test_strange_calls(top: Path, url: str) -> None:
    number = translating(url)
    good = {"fn_index": number, "session_hash": "abc", "data": [None, "", "", ""]}
    strange: list[Any] = [
        [], "a", 7, None, {}, {**good, "data": None}, {**good, "data": []}, {**good, "data": [None] * 5},
        {**good, "data": {"0": None}}, {**good, "session_hash": None}, {**good, "session_hash": ""},
        {**good, "session_hash": "a" * 65}, {**good, "session_hash": "../a"}, {**good, "session_hash": ["a"]},
        {key: value for key, value in good.items() if key != "session_hash"},
        b"", b"{", b"\xff\xfe", b'{"data": NaN}', json.dumps(good).encode().replace(b'""', b"1e999", 1),
        json.dumps(good).encode().replace(b'""', b'"\\ud800"', 1), b"[" * 100_000, b'{"a":' * 100_000,
        json.dumps({**good, "data": [None, "", "", [[]]]}).encode().replace(b"[[]]", b"[" * 50 + b"]" * 50),
        b"9" * 5000,
    ]  # fmt: skip
    for body in strange:
        assert post(url, "/gradio_api/queue/join", body)[0] == 400, body
    for odd in (-1, 10_000, 1e9, "0", None, True, [number], 10**400):
        assert post(url, "/gradio_api/queue/join", {**good, "fn_index": odd})[0] == 404
        assert post(url, "/gradio_api/cancel", {**good, "fn_index": odd, "event_id": "a"})[0] == 404
    for body in ({**good, "event_id": "../a"}, {**good}, {**good, "event_id": "a", "session_hash": 1}):
        assert post(url, "/gradio_api/cancel", body)[0] == 400
    assert post(url, "/gradio_api/cancel", {**good, "event_id": "a"})[0] == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert post(url, "/gradio_api/queue/join", good, Content_Type=kind)[0] == 415
    assert post(url, "/gradio_api/queue/join", b" " * 1_000_001)[0] == 413
    assert post(url, "/gradio_api/queue/join", b"", Content_Length="99999999999")[0] == 413
    chunks = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert (
        post(url, "/gradio_api/queue/join", chunks * 20 + b"0\r\n\r\n", Transfer_Encoding="chunked")[0] == 413
    )
    small = json.dumps(good).encode()
    small = f"{len(small):x}\r\n".encode() + small + b"\r\n0\r\n\r\n"
    assert post(url, "/gradio_api/queue/join", small, Transfer_Encoding="chunked")[0] == 200
    for name in (
        "../ink",
        "../../etc/passwd",
        str(top / "ink.safetensors"),
        "ink\0",
        "%2e%2e",
        "a" * 100_000,
        "\x1b[31m",
    ):
        told = call(url, number, [None, name, "", ""])
        assert "no photo came" in told["error"]
        sent = send(url, (top / "face.png").read_bytes())
        told = call(url, number, [file_of(sent), name, "auto", "auto"])
        assert "no style" in told["error"]
        assert len(told["error"]) < 1000
        assert str(top) not in told["error"].replace(name, "")
        sent = send(url, (top / "face.png").read_bytes())
        assert "draws every group alike" in call(url, number, [file_of(sent), "ink", name, "auto"])["error"]


def test_results_that_nobody_fetches(url: str) -> None:
    body = {"fn_index": translating(url), "session_hash": "lazy", "data": [None, "", "", ""]}
    statuses = []
    while 429 not in statuses and len(statuses) < 100:
        statuses.append(post(url, "/gradio_api/queue/join", body)[0])
        time.sleep(0.02)
    assert set(statuses) == {200, 429}
    told = ask(url, "/gradio_api/queue/data?session_hash=lazy")[1]
    assert told.count(b"process_completed") == statuses.count(200)
    assert post(url, "/gradio_api/queue/join", body)[0] == 200
    ask(url, "/gradio_api/queue/data?session_hash=lazy")


def test_pictures_are_not_kept_for_every_page_that_was_ever_open(top: Path, url: str) -> None:
    functions = {one["api_name"]: one["id"] for one in json.loads(ask(url, "/config")[1])["dependencies"]}
    session = secrets.token_hex(8)
    call(url, functions["take"], [file_of(send(url, (top / "face.png").read_bytes()))], session)
    shown = call(url, functions["show"], [None, ["ink"], "auto", "auto"], session)["data"]
    assert "data:image/png;base64," in shown[2]
    pages = [one for one in gc.get_objects() if type(one) is SessionState]
    assert pages
    assert not [page for page in pages if "base64," in json.dumps(page.config_values, default=str)]


def test_a_path_in_every_field_that_takes_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every function of every tab, Gradio's private ones included; those that start and stop processes aside."""
    for seed, name in ((1, "faces"), (2, "drawn")):
        styles.write(tmp_path / f"{name}.safetensors", generators.make(seed), {})
    translators.save(tmp_path / "ink.safetensors", size=32, framing="as-is")
    Run(tmp_path / "first").record({"method": "toy", "model": {}, "train": {}}, {"packs": {}})
    for name in ("some", "others"):
        save_png(tmp_path / name / "face.png", world.picture("photos", 0, 64)[0])
    before = sorted(tmp_path.rglob("*"))
    words = ("textbox", "dropdown", "radio", "checkboxgroup")
    asked = 0
    with studio(sorted(tmp_path.iterdir()), save=tmp_path / "saved") as url:
        config = json.loads(ask(url, "/config")[1])
        parts = {one["id"]: one for one in config["components"]}
        for function in config["dependencies"]:
            if not function["backend_fn"] or function["api_name"] in ("stop", "resume"):
                continue
            values = [parts[i]["props"].get("value") for i in function["inputs"]]
            for place, i in enumerate(function["inputs"]):
                if parts[i]["type"] not in words:
                    continue
                word = ("../../etc/passwd", str(tmp_path / "faces.safetensors"), "..\\..\0<script>")[
                    place % 3
                ]
                odd = [word] if parts[i]["type"] == "checkboxgroup" else word
                answer = call(url, function["id"], [*values[:place], odd, *values[place + 1 :]])
                told = json.dumps(answer)
                for own in (word, word[:80]):  # what it has said itself, or its beginning
                    told = told.replace(json.dumps(own)[1:-1], "")
                assert str(tmp_path) not in told
                assert "data" not in answer or "<script>" not in told
                asked += 1
    assert asked > 50
    assert sorted(tmp_path.rglob("*")) == before
    capsys.readouterr()  # Gradio prints at length what is not among its choices


# --- pictures -----------------------------------------------------------------------------------------------


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG with 1 bit for each pixel; without data it only promises them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(data or b"\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(size: int = 300, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_what_is_no_good_picture(top: Path, url: str) -> None:
    number = translating(url)
    dots = Image.new("P", (32, 32))
    for data, told in [
        (png_of(60_000, 60_000), "its header promises"),
        (png_of(6_400, 6_400, b"\0" * 801 * 6_400), "its header promises"),
        (png_of(2**31 - 1, 2**31 - 1), "promises"),
        (png_of(4_000, 4_000), "damaged or cut short"),
        (jpeg()[:9_000], "damaged or cut short"),
        (jpeg(kind="WEBP")[:5_000], "damaged or cut short"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            "not a picture",
        ),
        (b"<html><script>alert(1)</script></html>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file", "not a picture"),
        (b"PK\x03\x04" + b"\0" * 1000, "not a picture"),
        (b"\0" * 1_000_000, "not a picture"),
        (jpeg(4), "at least 8 x 8"),
        (SECRET, "not a picture"),
        (b"", "the file is empty (0 bytes)"),
    ]:
        answer = call(url, number, [file_of(send(url, data)), "", "auto", "auto"])
        assert told in answer["error"]
        assert len(answer["error"]) < 300
    frames = io.BytesIO()
    dots.save(frames, "GIF", save_all=True, append_images=[dots.copy() for _ in range(200)])
    assert "data" in call(url, number, [file_of(send(url, frames.getvalue())), "", "auto", "auto"])
    draws(top, url)


def test_whoever_has_opened_an_address_reads_a_page(url: str) -> None:
    status, said, headers = ask(url, "/nowhere<b>", Sec_Fetch_Dest="document", Sec_Fetch_Mode="navigate")
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b"<p>there is nothing here</p>" in said
    assert b"nowhere" not in said


def test_a_refused_upload_is_told_in_plain_words(url: str) -> None:
    status, said, _ = ask(url, "/gradio_api/upload", "POST", form(b"a", b"b"), Content_Type=FORM)
    assert (status, said) == (400, b"the form is not understood: it holds one file, named files")


def test_what_is_no_good_upload(top: Path, url: str) -> None:
    def status(body: bytes, kind: str = FORM, path: str = "/gradio_api/upload", **headers: str) -> int:
        return ask(url, path, "POST", body, Content_Type=kind, **headers)[0]

    assert status(form(b"a" * (MAX_UPLOAD + 1))) == 413
    assert status(form(b"a" * (MAX_UPLOAD + 100_000))) == 413
    assert status(b"", Content_Length="99999999999999") == 413
    assert status(b"", Content_Length="-1") == 400  # no HTTP at all
    megabyte = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
    begin = form(b"")[:-9]
    begin = f"{len(begin):x}\r\n".encode() + begin + b"\r\n"
    assert status(begin + megabyte * 21, Transfer_Encoding="chunked") == 413
    assert status(form(*[b"a"] * 1000)) == 400
    assert status(form(b"a", b"b")) == 400
    assert status(form()) == 400
    assert status(b"") == 400
    assert status(form(b"a", name="other")) == 400
    assert status(form(b"a").replace(b"; filename", b"; nofilename")) == 400
    assert status(form(b"a").replace(b"Disposition", b"Disposal")) == 400
    assert status(form(b"a" * 100)[:80]) in (200, 400)
    assert status(form(b"a"), "multipart/form-data") == 400
    assert status(form(b"a"), "application/json") == 415
    assert (
        status(b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\na\r\n' * 1000 + b"--x--\r\n")
        == 400
    )
    assert status(b"--x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n") == 400
    assert status(b"--x\r\nContent-Disposition: " + b"a" * 1_000_000) == 400
    top_of = Path(os.environ["GRADIO_TEMP_DIR"])
    evil = top / "evil"
    names = (
        os.path.relpath(evil, top_of),
        str(evil),
        "..",
        "a\0b",
        "C:\\evil",
        "a" * 2000,
        "",
        ".x",
    )
    for name in names:
        sent = Path(send(url, b"a", file_name=name))
        assert sent.name == "sent"
        assert sent.parent.parent == top_of
        sent.unlink()
    assert not evil.exists()
    assert top_of.stat().st_mode & 0o077 == 0
    many = [f"/gradio_api/upload?upload_id={'a' * 1000}{i}" for i in range(20)]
    for path in many:
        assert status(form(b"a"), path=path) == 200
    for path in top_of.glob("*/sent"):
        path.unlink()
    draws(top, url)


def test_an_upload_that_never_ends(top: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who only begin to send keep nobody out for long."""
    monkeypatch.setattr(guard, "SLOW", 1.0)
    monkeypatch.setattr(guard, "WAIT", 0.2)
    head = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + FORM.encode() + b"\r\n"
        b"Content-Length: 1000000\r\n\r\n" + form(b"a")[:-9]
    )
    place = urlsplit(url)
    lines = [socket.create_connection((place.hostname, place.port)) for _ in range(guard.UPLOADS + 1)]
    for line in lines:
        line.sendall(head)
    answers = sorted(line.recv(1000).split(b" ")[1] for line in lines)
    assert answers == [b"408"] * guard.UPLOADS + [b"503"]
    for line in lines:
        line.close()
    draws(top, url)


# --- many ---------------------------------------------------------------------------------------------------


def test_connections_that_say_nothing_are_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "WAIT", 0.3)
    place = urlsplit(url)
    lines = []
    for said in (b"", b"G", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "):
        lines.append(socket.create_connection((place.hostname, place.port)))
        lines[-1].sendall(said)
        lines[-1].settimeout(20)
    assert [line.recv(10) for line in lines] == [b""] * 3
    for line in lines:
        line.close()


def test_a_thousand_requests_at_once(top: Path, url: str) -> None:
    place, number = urlsplit(url), translating(url)
    photo = (top / "face.png").read_bytes()
    upload = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + FORM.encode() + b"\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form(photo)) + form(photo)
    )
    asked = {"fn_index": number, "data": [None, "", "", ""]}
    answers: list[bytes] = []

    def storm(seed: int) -> None:
        for i in range(seed, 1000, 8):
            body = json.dumps({**asked, "session_hash": f"storm{i}"}).encode()
            join = (
                b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            said = [
                b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", join, join[:-9], upload[: len(upload) // 2],
                b"GET /gradio_api/queue/data?session_hash=storm%d HTTP/1.1\r\nHost: a\r\n\r\n" % i, b"\0" * 100, b"",
                b"GET /gradio_api/file=/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            ][i % 8]  # fmt: skip
            with socket.create_connection((place.hostname, place.port), timeout=30) as line:
                line.sendall(said)
                if i % 8 in (0, 1, 7) and i % 3:  # the others hang up
                    answers.append(line.recv(2000))

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    statuses = {answer.split(b" ")[1] for answer in answers}
    assert statuses <= {b"200", b"404", b"503"}
    assert statuses >= {b"200", b"404"}
    assert not any(b"root:x:" in answer for answer in answers)
    draws(top, url)
    assert threading.active_count() < 100


def test_the_same_photo_from_many_at_once(top: Path, url: str) -> None:
    photo, number = (top / "face.png").read_bytes(), translating(url)
    drawn: list[str] = []

    def one() -> None:
        files, _ = call(url, number, [file_of(send(url, photo)), "", "auto", "auto"])["data"]
        drawn.append(files[0]["path"])

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 8
