"""The studio under load: clients that draw photos through its API, all at once, against the bare translator.

`fewtoon serve` runs in a process of its own with a light U-GAT-IT of random weights, framing as-is: no face is
looked for, so that what the studio itself costs is not hidden behind that. A request is an upload, a call, its
events and the fetching of the drawing, over connections of its own. The bare translator is `fewtoon.draw.Translator`:
bytes of a photo to bytes of a PNG, one after the other, with one thread or all, whichever is faster. Both work in
turn, A B A B ..., and what is compared is photos per second of wall clock, and CPU seconds of a photo. `lost` counts
requests without a drawing, `different` drawings whose bytes are not those of the bare translator. Resident memory is
that of the server, after every tenth of the requests.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import torch
from PIL import Image

import fewtoon
from common.measure import machine, parser, tell
from fewtoon import style
from fewtoon.data import world
from fewtoon.draw import Translator
from fewtoon.io import images
from fewtoon.methods.ugatit import UGATIT

TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def server(path: Path) -> Iterator[tuple[str, int]]:
    """Its address and the number of its process."""
    command = [
        str(Path(sys.executable).parent / "fewtoon"),
        "serve",
        str(path),
        "--port",
        "0",
        "--no-browser",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "http://" in line)
        found = re.search(r"http://\S+/", said)
        assert found is not None
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def megabytes(pid: int) -> int:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise SystemExit(
            "the studio has ended: somebody has stopped it, or the memory of this machine was full"
        )
    return round(int(found[1]) / 1024)


def cpu_seconds(pid: int) -> float:
    """Of a process and all its threads, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def fastest(work: Callable[[], object]) -> int:
    """The number of threads of PyTorch with which some work is done soonest; they are set."""
    seconds = {}
    for threads in {1, torch.get_num_threads()}:
        torch.set_num_threads(threads)
        work()
        began = time.perf_counter()
        for _ in range(5):
            work()
        seconds[threads] = time.perf_counter() - began
    best = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(best)
    return best


class Caller:
    """A program that asks the studio for drawings."""

    def __init__(self, url: str) -> None:
        self.place = urlsplit(url)
        config = json.loads(self.ask("GET", "/config"))
        functions = {one["api_name"]: one["id"] for one in config["dependencies"]}
        self.function = functions["translate"]

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        line = http.client.HTTPConnection(self.place.hostname or "", self.place.port, timeout=600)
        try:
            line.request(method, path, body, {"Content-Type": kind} if body else {})
            answer = line.getresponse()
            data = answer.read()
            if answer.status != 200:
                raise OSError(f"{answer.status}: {data[:200]!r}")
            return data
        finally:
            line.close()

    def drawing(self, photo: bytes, session: str) -> bytes:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="photo.jpg"\r\n\r\n'
        form = head + photo + b"\r\n--x--\r\n"
        sent = json.loads(self.ask("POST", "/gradio_api/upload", form, "multipart/form-data; boundary=x"))[0]
        data = [{"path": sent, "meta": {"_type": "gradio.FileData"}}, "", "auto", "auto"]
        call = {"fn_index": self.function, "data": data, "session_hash": session}
        self.ask("POST", "/gradio_api/queue/join", json.dumps(call).encode())
        events = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}").decode().splitlines()
        told = [json.loads(line[6:]) for line in events if line.startswith("data: ")]
        done = next(one for one in told if one["msg"] == "process_completed")
        files = done["output"]["data"][0]
        return self.ask("GET", "/gradio_api/file=" + quote(files[0]["path"]))


class Crowd:
    """Clients that draw at the same time, and what they have seen."""

    def __init__(self, caller: Caller, photo: bytes, truth: bytes, clients: int) -> None:
        self.caller, self.photo, self.truth, self.clients = caller, photo, truth, clients
        self.latencies: list[float] = []
        self.lost: list[str] = []
        self.different = 0
        self._lock = threading.Lock()

    def draw(self, requests: int) -> None:
        """All clients together, each one request after the other until there were so many."""
        left = iter(range(requests))

        def client() -> None:
            session = uuid.uuid4().hex
            while True:
                with self._lock:
                    if next(left, None) is None:
                        return
                began = time.perf_counter()
                try:
                    drawn = self.caller.drawing(self.photo, session)
                except (OSError, ValueError, KeyError, StopIteration, http.client.HTTPException) as error:
                    with self._lock:
                        self.lost.append(f"{type(error).__name__}: {error}")
                    continue
                with self._lock:
                    self.latencies.append(time.perf_counter() - began)
                    self.different += drawn != self.truth

        threads = [threading.Thread(target=client) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--channels", type=int, default=64)
    p.add_argument("--photo", type=int, default=1024, help="pixels of a side of the photo")
    p.add_argument("--clients", type=int, default=20)
    p.add_argument("--requests", type=int, default=500, help="of all runs together")
    args = p.parse_args()
    torch.manual_seed(0)
    part = args.requests // args.runs
    file = io.BytesIO()
    Image.fromarray(world.picture("photos", 0, args.photo)[0]).save(file, "JPEG", quality=90)
    photo = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "style.safetensors"
        method = UGATIT(UGATIT.Config(channels=args.channels), args.size, training=False)
        style.write(path, method, {"framing": "as-is"})
        translator = Translator(fewtoon.load(path, "cpu"))

        def bare() -> bytes:
            pixels = images.read(io.BytesIO(photo), draft=translator.cutter.draft)
            drawn = translator.draw(translator.look(pixels))[0].pixels
            out = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(drawn)).save(out, "PNG")
            return out.getvalue()

        threads = fastest(bare)
        truth = bare()
        with server(path) as (url, pid):
            crowd = Crowd(Caller(url), photo, truth, args.clients)
            crowd.draw(args.clients)  # the style is read, threads are started
            crowd.latencies.clear()
            used = cpu_seconds(pid)
            time.sleep(5)
            idle = (cpu_seconds(pid) - used) / 5
            memory, speeds, costs = {0: megabytes(pid)}, [], []
            tenth = max(1, args.requests // 10)
            for run in range(args.runs):
                began, used = time.perf_counter(), time.process_time()
                for _ in range(part):
                    bare()
                bare_speed = part / (time.perf_counter() - began)
                bare_cost = (time.process_time() - used) / part
                began, used, done = time.perf_counter(), cpu_seconds(pid), 0
                while done < part:
                    now = min(tenth, part - done)
                    crowd.draw(now)
                    done += now
                    memory[run * part + done] = megabytes(pid)
                speeds.append((bare_speed, part / (time.perf_counter() - began)))
                costs.append((bare_cost, (cpu_seconds(pid) - used) / part))
    seconds = sorted(crowd.latencies)
    tell(
        {
            "benchmark": "studio_load",
            "ratio_throughput": round(statistics.median(studio / bare for bare, studio in speeds), 3),
            "ratio_cpu": round(statistics.median(bare / studio for bare, studio in costs), 3),
            "lost": len(crowd.lost),
            "why_lost": crowd.lost[:3],
            "different": crowd.different,
            "latency_seconds": {
                name: round(seconds[min(len(seconds) - 1, int(share * len(seconds)))], 3)
                for name, share in (("p50", 0.5), ("p95", 0.95), ("most", 1.0))
            },
            "photos_per_second": {
                name: round(statistics.median(column), 2)
                for name, column in zip(("bare", "studio"), zip(*speeds))
            },
            "cpu_seconds_per_photo": {
                name: round(statistics.median(column), 4)
                for name, column in zip(("bare", "studio"), zip(*costs))
            },
            "cpu_idle": round(idle, 3),
            "resident_megabytes": memory,
            "settings": {
                name: getattr(args, name)
                for name in ("size", "channels", "photo", "clients", "requests", "runs")
            }
            | {
                "framing": "as-is",
                "threads_of_bare": threads,
                "load": [round(x, 1) for x in os.getloadavg()],
            },
            "machine": machine(),
        },
        args,
    )


if __name__ == "__main__":
    main()
