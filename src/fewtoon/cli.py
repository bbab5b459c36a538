"""The command line: one function per verb. Heavy imports happen inside, so that --help is instant."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import fewtoon
from fewtoon.errors import Problem


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 bad input, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
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


def _parser() -> Parser:
    parser = Parser(prog="fewtoon", description="Photos of faces into drawings in one artist's style.")
    parser.add_argument("--version", action="version", version=f"fewtoon {fewtoon.__version__}")
    parser.set_defaults(run=None)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)

    def verb(name: str, function: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=function)
        return sub

    p = verb(
        "prepare",
        prepare,
        "pictures of faces to a pack that training reads",
        "fewtoon prepare photos/ --side photos --out packs/photos --size 128",
    )
    p.add_argument("pictures", nargs="+", metavar="PICTURES", help="picture files, folders or patterns")
    p.add_argument("--side", required=True, choices=["photos", "drawings"])
    p.add_argument("--out", required=True, metavar="PACK")
    p.add_argument("--size", type=int, default=256, help="side of the squares in pixels (default 256)")
    p.add_argument(
        "--groups", default="by-folder", metavar="by-folder|none|CSV", help="CSV: columns file, group"
    )
    p.add_argument(
        "--held-out", type=_share, default=0.1, metavar="SHARE|N", help="kept for evaluation (default 0.1)"
    )
    p.add_argument("--split", metavar="CSV", help="columns file, split (train or held_out)")
    p.add_argument("--seed", type=int, default=0, help="of the split")
    p.add_argument("--note", help="consent or licence of these pictures, stored with them")
    p.add_argument("--keep-duplicates", action="store_true")
    _json(p)

    p = verb(
        "train",
        train,
        "learn a style; the same command resumes",
        "fewtoon train ugatit-light --photos packs/photos --drawings packs/drawings --out runs/first",
    )
    p.add_argument("preset", metavar="PRESET", help="a preset (see --list) or a YAML file", nargs="?")
    p.add_argument("--list", action="store_true", help="list the presets and stop")
    p.add_argument("--photos", metavar="PACK")
    p.add_argument("--drawings", metavar="PACK")
    p.add_argument("--out", metavar="RUN")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; may be repeated"
    )
    p.add_argument("--init", metavar="STYLE", help="start from the weights of a style or run")
    p.add_argument(
        "--track",
        action="append",
        metavar="TRACKER",
        help="tensorboard (default), trackio, wandb, mlflow or none",
    )
    p.add_argument("--device", help="cpu, cuda, mps; default: the best there is")
    _json(p)

    p = verb(
        "translate",
        translate,
        "draw photos",
        "fewtoon translate runs/first photos/ --out drawn --side-by-side",
    )
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument("pictures", nargs="+", metavar="PICTURES", help="photo files, folders or patterns")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--group", help="draw as this group")
    p.add_argument("--side-by-side", action="store_true", help="photo left, drawing right")
    p.add_argument("--batch", type=int, default=8, help="photos at once; changes no pixel (default 8)")
    p.add_argument("--device", help="cpu, cuda ...; default: the best there is")
    p.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="bf16: up to twice as fast, a few levels of 255 off",
    )
    _json(p)

    p = verb(
        "evaluate",
        evaluate,
        "measure a style on held-out pictures and write a report",
        "fewtoon evaluate runs/first --photos packs/photos --drawings packs/drawings --out report",
    )
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument("--photos", required=True, metavar="PACK")
    p.add_argument("--drawings", required=True, metavar="PACK")
    p.add_argument(
        "--features",
        action="append",
        metavar="NAME[:PATH]",
        help="tiny (built in, default), inception:PATH, mobilefacenet:PATH; may be repeated, the first is the headline",
    )
    p.add_argument("--out", metavar="REPORT_DIR", help="default: 'report' in the run, beside the style")
    p.add_argument("--split", choices=["held_out", "train", "all"], default="held_out")
    p.add_argument("--device", help="cpu, cuda ...; default: the best there is")
    _json(p)

    p = verb(
        "import",
        import_,
        "a checkpoint of U-GAT-IT, Face2Webtoon or photo2cartoon to a style",
        "fewtoon import selfie2anime_params_latest.pt --out anime.safetensors",
    )
    p.add_argument("file", metavar="FILE")
    p.add_argument("--out", required=True, metavar="STYLE")
    p.add_argument("--size", type=int, help="picture size for weights that work at any (default 256)")
    _json(p)

    p = verb(
        "inspect", inspect, "say in plain words what a pack, run or style holds", "fewtoon inspect runs/first"
    )
    p.add_argument("path", metavar="PACK|RUN|STYLE")
    _json(p)

    p = verb(
        "world",
        world,
        "draw pictures of the drawn world, with their truth as CSV",
        "fewtoon world --out world --photos 400 --drawings 200 --size 64 --imbalance 1050/249/49/38",
    )
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--photos", type=int, default=200, metavar="N")
    p.add_argument("--drawings", type=int, default=200, metavar="N")
    p.add_argument("--size", type=int, default=128, metavar="S")
    p.add_argument("--seed", type=int, default=0, metavar="K")
    p.add_argument("--imbalance", metavar="a/b/c/d", help="proportions of the four groups of drawings")
    p.add_argument("--style", choices=["flat", "ink"], default="flat", help="the artist")
    _json(p)

    p = verb("demo", demo, "the whole road on the drawn world, in a few minutes", "fewtoon demo --out demo")
    p.add_argument("--out", default="demo", metavar="DIR")
    _json(p)
    return parser


# --- verbs -----------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> int:
    from fewtoon.data import doctor
    from fewtoon.data.prepare import prepare

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
    )
    facts = {
        **report.model_dump(),
        "out": report.out,
        "unchanged": report.unchanged,
        "seconds": report.seconds,
    }
    return _answer(args, facts, doctor.text(report))


def train(args: argparse.Namespace) -> int:
    from fewtoon import config

    if args.list:
        return _answer(args, {"presets": config.presets()}, "\n".join(config.presets()))
    for name in ("preset", "photos", "drawings", "out"):
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
    text = f"style: {summary['best']}\nnext:  fewtoon translate {args.out} PHOTOS --out drawn"
    return _answer(args, summary, text)


def translate(args: argparse.Namespace) -> int:
    from fewtoon import style
    from fewtoon.draw import translate

    result = translate(
        style.load(args.style, args.device, args.precision),
        args.pictures,
        args.out,
        group=args.group,
        side_by_side=args.side_by_side,
        batch=args.batch,
        progress=True,
    )
    for one in result["refused"]:
        print(f"fewtoon: not drawn: {one['file']}: {one['reason']}", file=sys.stderr)
    _answer(args, result, f"{len(result['drawn'])} drawn into {args.out}, {len(result['refused'])} refused")
    return 2 if result["refused"] else 0


def evaluate(args: argparse.Namespace) -> int:
    from fewtoon import style
    from fewtoon.data.pack import Pack
    from fewtoon.metrics.evaluate import evaluate
    from fewtoon.metrics.report import verdict

    path = Path(args.style)
    out = Path(args.out) if args.out else (path / "report" if path.is_dir() else path.parent / "report")
    result = evaluate(
        style.load(args.style, args.device),
        Pack.open(args.photos),
        Pack.open(args.drawings),
        features=args.features or ["tiny"],
        out=out,
        split=args.split,
        progress=True,
    )
    return _answer(args, result, f"{verdict(result)}\nreport: {out / 'report.html'}")


def import_(args: argparse.Namespace) -> int:
    from fewtoon.io.foreign import import_style

    found = import_style(args.file, args.out, args.size)
    return _answer(args, {"style": args.out, "found": found}, f"{args.file}: {found} -> {args.out}")


def inspect(args: argparse.Namespace) -> int:
    path = Path(args.path)
    if (path / "pack.json").is_file():
        from fewtoon.data import doctor
        from fewtoon.data.pack import Pack

        pack = Pack.open(path)
        splits = {name: count.model_dump() for name, count in doctor.counts(pack).items()}
        facts = {"kind": "pack", "side": pack.side, "size": pack.size, "hash": pack.hash, "groups": splits}
        return _answer(args, facts, doctor.describe(pack))
    if path.is_dir():
        from fewtoon.run import Run

        run = Run.open(path)
        return _answer(args, {"kind": "run", "config": run.config(), **run.facts()}, run.describe())
    from fewtoon import style

    header = style.read_header(path)
    return _answer(args, {"kind": "style", **header}, style.describe(header))


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
    return _answer(args, summary, text)


def demo(args: argparse.Namespace) -> int:
    from fewtoon.demo import demo

    summary = demo(args.out)
    return _answer(args, summary, f"report: {summary['report']}\nsheet:  {summary['sheet']}")


# --- helpers ---------------------------------------------------------------------------------------------


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _share(text: str) -> float | int:
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a share such as 0.1 or a number such as 50"
        ) from None


def _answer(args: argparse.Namespace, facts: dict[str, Any], text: str) -> int:
    print(json.dumps(_finite(facts), default=str, allow_nan=False) if args.json else text)
    return 0


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    sys.exit(main())
