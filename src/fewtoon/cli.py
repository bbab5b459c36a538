"""The command line: one function per verb. Heavy imports happen inside, so that --help is instant."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any

from fewtoon import arguments
from fewtoon.answer import answer
from fewtoon.errors import Problem


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 bad input, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    parser = arguments.parser(VERBS)
    args = parser.parse_args(argv)
    if args.run is None:
        parser.print_help()
        return 0
    try:
        code = args.run(args)
        sys.stdout.flush()  # at exit it would be too late to notice a closed pipe
        return code
    except Problem as problem:
        print(f"fewtoon: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        told = str(stopped)
        print(f"fewtoon: {told or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # '| head' closed our stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what is not about the user's files is a Problem by now
        print(f"fewtoon: {error.strerror or error}; free some space or check the file", file=sys.stderr)
        return 2


# --- verbs -----------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> int:
    from fewtoon import config
    from fewtoon.data import doctor
    from fewtoon.data.prepare import prepare

    framing = args.framing
    if args.preset is not None:
        if framing != "auto":
            raise Problem(
                f"--preset {args.preset} and --framing {framing} both name a framing: leave one out"
            )
        framing = config.load(args.preset).train.framing or "auto"
    if framing != "as-is" and not args.find:
        _offer_models()
    report = prepare(
        args.pictures,
        args.side,
        args.out,
        size=args.size,
        groups=args.groups,
        held_out=args.held_out,
        split=args.split,
        seed=args.seed,
        note=args.note,
        keep_duplicates=args.keep_duplicates,
        framing=framing,
        pad=args.pad,
        whiten=args.whiten,
        matte=args.matte,
        find=args.find,
        faces=args.faces,
        upscale=args.upscale,
        only_largest=args.largest,
        smallest=args.smallest,
    )
    facts = {
        **report.model_dump(),
        "out": report.out,
        "unchanged": report.unchanged,
        "seconds": report.seconds,
    }
    return answer(args, facts, doctor.text(report))


def train(args: argparse.Namespace) -> int:
    from fewtoon import config

    if args.list:
        return answer(args, {"presets": config.presets()}, "\n".join(config.presets()))
    for name in ("preset", "out"):
        if getattr(args, name) is None:
            told = "PRESET" if name == "preset" else f"--{name}"
            raise Problem(f"train needs {told}; see 'fewtoon train --help'")
    from fewtoon.engine.train import train

    track = [] if args.track == ["none"] else args.track or ["tensorboard"]
    summary = train(
        args.preset,
        args.photos,
        args.drawings,
        args.out,
        sets=args.set,
        init=args.init,
        device=args.device,
        track=track,
    )
    verb = f"explore sample {args.out}" if summary["generates"] else f"translate {args.out} PHOTOS"
    text = f"style: {summary['best']}\nnext:  fewtoon {verb} --out drawn"
    return answer(args, summary, text)


def translate(args: argparse.Namespace) -> int:
    from fewtoon import style
    from fewtoon.draw import translate

    result = translate(
        style.load(args.style, args.device, args.precision),
        args.pictures,
        args.out,
        group=args.group,
        side_by_side=args.side_by_side,
        paste=args.paste,
        framing=args.framing,
        find=args.find,
        matte=args.matte,
        only_largest=args.largest,
        batch=args.batch,
        progress=True,
    )
    for note in result["notes"]:
        print(f"fewtoon: {note}", file=sys.stderr)
    for one in result["advice"]:
        print(f"fewtoon: {one['drawing']}: {one['advice']}", file=sys.stderr)
    for one in result["refused"]:
        print(f"fewtoon: not drawn: {one['file']}: {one['reason']}", file=sys.stderr)
    text = f"{len(result['drawn'])} drawn into {args.out}, {len(result['refused'])} refused"
    if result["read_as"]:
        text += "\nread as " + ", ".join(f"{name}: {count}" for name, count in result["read_as"].items())
    answer(args, result, text)
    return 2 if result["refused"] else 0


def evaluate(args: argparse.Namespace) -> int:
    from fewtoon import style
    from fewtoon.data.pack import Pack
    from fewtoon.metrics import fakes
    from fewtoon.metrics.evaluate import evaluate
    from fewtoon.metrics.report import verdict

    path = Path(args.style)
    out = Path(args.out) if args.out else (path / "report" if path.is_dir() else path.parent / "report")
    packs: dict[str, Any] = {"photos": args.photos, "drawings": args.drawings}
    if not any(packs.values()):
        raise Problem(
            "evaluate needs --photos and --drawings, or the one that a style makes from random numbers"
        )
    drawer: Any
    if args.through is not None:
        from fewtoon.latent.through import open_through

        drawer = open_through(args.style, args.through, args.encoder, args.device, steps=args.steps)
    else:
        for name in ("encoder", "steps"):
            if getattr(args, name) is not None:
                raise Problem(
                    f"--{name} {getattr(args, name)} goes with --through SOURCE: name it, or leave it out"
                )
        drawer = style.load(args.style, args.device)
    first = fakes.sides(drawer)[0]
    if packs[first] is not None:
        packs[first] = Pack.open(packs[first])
        if drawer.framing != packs[first].framing:
            told = f"{first} framed {packs[first].framing!r}, and the style learned from {drawer.framing!r}"
            print(f"fewtoon: warning: {told}: its figures will be worse than it is", file=sys.stderr)
    result = evaluate(
        drawer,
        **packs,
        features=args.features or ["tiny"],
        out=out,
        split=args.split,
        group=args.group,
        attributes=args.attributes,
        samples=args.samples,
        progress=True,
    )
    for note in fakes.unused(drawer, [side for side, one in packs.items() if one is not None]):
        print(f"fewtoon: {note}", file=sys.stderr)
    return answer(args, result, f"{verdict(result)}\nreport: {out / 'report.html'}")


def study(args: argparse.Namespace) -> int:
    from fewtoon.metrics import table
    from fewtoon.study import study

    result = study(
        args.presets,
        args.photos,
        args.drawings,
        args.out,
        steps=args.steps,
        pictures=args.pictures,
        minutes=args.minutes,
        init=args.init,
        sets=args.set,
        seeds=args.seeds,
        features=args.features or ["tiny"],
        samples=args.samples,
        weights=args.weights,
        device=args.device,
    )
    failed = [row for row in result["rows"] if row.get("failed")]
    for row in failed:
        print(f"fewtoon: {row['preset']}: {row['failed']}", file=sys.stderr)
    answer(args, result, f"{table.headline(result)}\npage: {result['page']}")
    return 2 if failed else 0


def import_(args: argparse.Namespace) -> int:
    from fewtoon.io.foreign import import_style

    groups = [name.strip() for name in args.groups.split(",")] if args.groups is not None else None
    found = import_style(args.file, args.out, args.size, groups)
    return answer(args, {"style": args.out, "found": found}, f"{args.file}: {found} -> {args.out}")


def export(args: argparse.Namespace) -> int:
    from fewtoon.io.stylegan import export_style

    told = export_style(args.style, args.out)
    return answer(args, {"out": args.out, "exported": told}, f"{args.style}: {told} -> {args.out}")


def inspect(args: argparse.Namespace) -> int:
    path = Path(args.path)
    if (path / "pack.json").is_file() or args.other is not None:
        return _inspect_packs(args, [path] if args.other is None else [path, Path(args.other)])
    if args.out is not None:
        raise Problem(f"--out goes with packs, and {args.path!r} is none: leave it away")
    if path.is_dir():
        from fewtoon.run import Run

        run = Run.open(path)
        return answer(args, {"kind": "run", "config": run.config(), **run.facts()}, run.describe())
    from fewtoon import style

    header = style.read_header(path)
    return answer(args, {"kind": "style", **header}, style.describe(header))


def _inspect_packs(args: argparse.Namespace, paths: list[Path]) -> int:
    from fewtoon.data import checkup, doctor
    from fewtoon.data.doctor_page import write_page
    from fewtoon.data.pack import Pack

    if args.out is not None:
        _outside_packs(args.out)
    packs = [Pack.open(path) for path in paths]
    if len(packs) == 2 and packs[0].side == packs[1].side:  # before the work starts
        raise Problem(f"two packs of {packs[0].side}: give one of photos and one of drawings")
    found = [checkup.checkup(pack) for pack in packs]
    facts: dict[str, Any] = {
        "kind": "pack",
        "side": packs[0].side,
        "size": packs[0].size,
        "framing": packs[0].framing,
        "hash": packs[0].hash,
        "groups": {name: count.model_dump() for name, count in doctor.counts(packs[0]).items()},
        "findings": [one.model_dump() for one in found[0].findings],
    }
    both = checkup.pair(*found)
    if both is not None:
        facts["other"] = found[1].model_dump()
        facts["compared"] = [one.model_dump() for one in checkup.compare(*both)]
    lines = [checkup.text(*found), "", *(line for pack in packs for line in doctor.origin(pack))]
    if args.out is not None:
        write_page(args.out, *found)
        lines.append(f"page: {args.out}")
    return answer(args, facts, "\n".join(lines))


def mark(args: argparse.Namespace) -> int:
    from fewtoon.app.mark import serve
    from fewtoon.faces import finders

    groups = [name.strip() for name in args.groups.split(",") if name.strip()] if args.groups else None
    finder = finders.choose(args.find, "drawings") if args.find else None
    serve(args.folder, port=args.port, groups=groups, finder=finder, open_browser=not args.no_browser)
    return 0


def serve(args: argparse.Namespace) -> int:
    from fewtoon.app.studio import serve

    serve(
        args.paths,
        host=args.host,
        port=args.port,
        save=args.save,
        clip=args.clip,
        device=args.device,
        precision=args.precision,
        open_browser=not args.no_browser,
    )
    return 0


def suggest(args: argparse.Namespace) -> int:
    from fewtoon.data.pack import Pack
    from fewtoon.data.suggest import suggest

    _outside_packs(args.out)
    suggestions = suggest(Pack.open(args.pack))
    filled = suggestions.write_csv(args.out, accept=args.accept)
    facts = {"out": args.out, "filled_in": filled, **suggestions.to_json()}
    return answer(args, facts, f"{suggestions.text()}\nsuggestions: {args.out}, {filled} filled in")


def models(args: argparse.Namespace) -> int:
    from fewtoon.faces import models

    if args.action == "fetch":
        models.fetch(wheel=args.wheel)
    facts = {"folder": str(models.folder()), "available": models.available(), "files": models.FILES}
    there = "all there" if models.available() else "not there: run 'fewtoon models fetch'"
    return answer(args, facts, f"{len(models.FILES)} models in {models.folder()}: {there}")


def world(args: argparse.Namespace) -> int:
    from fewtoon.data.world import build

    summary = build(
        args.out,
        photos=args.photos,
        drawings=args.drawings,
        size=args.size,
        seed=args.seed,
        imbalance=args.imbalance,
        style=args.style,
    )
    made = "drawn" if summary["made"] else "already there"
    text = f"{args.photos} photos and {args.drawings} drawings of {args.size} px in {args.out} ({made})"
    return answer(args, summary, text)


def demo(args: argparse.Namespace) -> int:
    from fewtoon.demo import demo

    summary = demo(args.out)
    return answer(args, summary, f"report: {summary['report']}\nsheet:  {summary['sheet']}")


# --- helpers ---------------------------------------------------------------------------------------------


def _offer_models() -> None:
    """Ask, where somebody can answer, whether to fetch the models that find faces."""
    from fewtoon.faces import models

    if models.available() or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(
        "fewtoon: the models that find faces are not there yet (36 MB, once). Fetch them? [Y/n] ",
        end="",
        file=sys.stderr,
    )
    if input().strip().lower() in ("", "y", "yes"):
        models.fetch()


def _outside_packs(path: str) -> None:
    """Raises Problem for a file that would lie in a pack: a pack holds nothing else."""
    if (Path(path).absolute().parent / "pack.json").is_file():
        raise Problem(f"--out {path!r} lies in a pack: write it somewhere else")


VERBS = {
    "prepare": prepare,
    "train": train,
    "translate": translate,
    "evaluate": evaluate,
    "study": study,
    "import": import_,
    "export": export,
    "inspect": inspect,
    "mark": mark,
    "serve": serve,
    "suggest": suggest,
    "models": models,
    "world": world,
    "demo": demo,
}


if __name__ == "__main__":
    sys.exit(main())
