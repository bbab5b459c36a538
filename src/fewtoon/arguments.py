"""What the command line takes: every verb and its arguments. `fewtoon.cli` does what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

import fewtoon
from fewtoon import explore

FINDERS = (
    "mediapipe, haar, yunet:FILE or cascade:FILE; may be repeated: on photos the first that finds a face decides, "
    "on drawings all are asked"
)
MATTES = "mediapipe (default), sinet:FILE or extremec3:FILE"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; what a verb does not know is told by itself, with its own help."""

    def parse_known_args(self, args=None, namespace=None):
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def parser(run: Mapping[str, Callable[[argparse.Namespace], int]]) -> Parser:
    """The parser of the whole command line; `run` holds the function of each verb, which becomes `args.run`."""
    top = Parser(prog="fewtoon", description="Photos of faces into drawings in one artist's style.")
    top.add_argument("--version", action="version", version=f"fewtoon {fewtoon.__version__}")
    top.set_defaults(run=None)
    verbs = top.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run[name])
        return sub

    p = verb(
        "prepare",
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
    p.add_argument(
        "--framing",
        choices=["auto", "portrait", "ffhq", "as-is"],
        default="auto",
        help="how faces are cut out; as-is: each picture is a face already; auto (default): as-is where all "
        "pictures are squares, portrait otherwise",
    )
    p.add_argument("--preset", metavar="PRESET", help="take the framing that this preset wants")
    p.add_argument("--find", action="append", default=[], metavar="FINDER", help=FINDERS)
    p.add_argument("--faces", metavar="CSV", help="boxes and groups; default: faces.csv of 'fewtoon mark'")
    p.add_argument("--largest", action="store_true", help="one face per picture, the largest")
    p.add_argument("--smallest", type=int, metavar="PX", help="leave out smaller faces (default: size / 8)")
    p.add_argument("--pad", choices=["reflect", "white"], help="beyond the edge of a picture")
    p.add_argument("--whiten", action="store_true", help="put people before a white background")
    p.add_argument("--matte", metavar="MATTE", help=f"whiten by: {MATTES}")
    p.add_argument(
        "--upscale", metavar="FILE", help="super-resolution for small faces: carn:FILE or spandrel:FILE"
    )
    _json(p)

    p = verb(
        "train",
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
        "draw photos",
        "fewtoon translate runs/first photos/ --out drawn --side-by-side",
    )
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument("pictures", nargs="+", metavar="PICTURES", help="photo files, folders or patterns")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--group", help="draw everybody as this group; auto (default): as the photo is read")
    p.add_argument("--side-by-side", action="store_true", help="photo left, drawing right")
    p.add_argument("--paste", action="store_true", help="the whole photo, with every face in it drawn")
    p.add_argument("--framing", choices=["portrait", "ffhq", "as-is"], help="another than the style's own")
    p.add_argument("--find", action="append", default=[], metavar="FINDER", help=FINDERS)
    p.add_argument("--matte", metavar="MATTE", help=MATTES)
    p.add_argument("--largest", action="store_true", help="one face per photo, the largest")
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
        "measure a style on held-out pictures and write a report",
        "fewtoon evaluate runs/first --photos packs/photos --drawings packs/drawings --out report",
    )
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument("--photos", metavar="PACK", help="not needed for a style that makes drawings from numbers")
    p.add_argument("--drawings", metavar="PACK", help="not needed for one that makes photos")
    p.add_argument(
        "--samples", type=int, default=1000, metavar="N", help="pictures of such a style (default 1000)"
    )
    p.add_argument(
        "--through",
        metavar="SOURCE",
        help="of a StyleGAN style of drawings: project the photos into this one, its source, and draw them from there",
    )
    p.add_argument("--encoder", metavar="FILE", help="with --through: of 'explore encoder', where it starts")
    p.add_argument("--steps", type=int, metavar="N", help="with --through: of each projection")
    p.add_argument(
        "--features",
        action="append",
        metavar="NAME[:PATH]",
        help="tiny (built in, default), inception:PATH, mobilefacenet:PATH; may be repeated, the first is the headline",
    )
    p.add_argument("--out", metavar="REPORT_DIR", help="default: 'report' in the run, beside the style")
    p.add_argument("--split", choices=["held_out", "train", "all"], default="held_out")
    p.add_argument(
        "--group",
        help="auto: as the style reads it from the photo, or a name; default: as the photo is labelled",
    )
    p.add_argument(
        "--attributes",
        metavar="YAML",
        help="what the groups say of people, as 'glasses: {yes: [...], no: [...]}'; default: by the groups' names",
    )
    p.add_argument("--device", help="cpu, cuda ...; default: the best there is")
    _json(p)

    p = verb(
        "study",
        "train several presets under one budget and compare them in one table; the same command goes on",
        "fewtoon study demo ugatit-ada --photos packs/photos --drawings packs/drawings --minutes 30 --out study",
    )
    p.add_argument(
        "presets",
        nargs="+",
        metavar="PRESET",
        help="a preset or a YAML file; PRESET:key=value,key=value varies it",
    )
    p.add_argument("--photos", metavar="PACK")
    p.add_argument("--drawings", metavar="PACK")
    p.add_argument("--out", required=True, metavar="DIR", help="study.html, .json and .md, and the runs")
    budget = p.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, metavar="N", help="of each training")
    budget.add_argument("--pictures", type=int, metavar="N", help="of a side, seen in each: steps x batch")
    budget.add_argument("--minutes", type=float, metavar="M", help="of training steps in each")
    p.add_argument("--init", metavar="STYLE|RUN", help="first weights, for presets of its kind of method")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for every preset; may be repeated"
    )
    p.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="K", help="a training each (default 0)"
    )
    p.add_argument(
        "--features", action="append", metavar="NAME[:PATH]", help="see evaluate; the first is in the table"
    )
    p.add_argument(
        "--samples", type=int, default=1000, metavar="N", help="pictures of random numbers (default 1000)"
    )
    p.add_argument(
        "--weights", choices=["last", "best"], default="last", help="of each run: last (default) or best"
    )
    p.add_argument("--device", help="cpu, cuda, mps; default: the best there is")
    _json(p)

    p = verb(
        "import",
        "a checkpoint of U-GAT-IT, Face2Webtoon, photo2cartoon, few_shot_face2cartoon or StyleGAN2 to a style",
        "fewtoon import selfie2anime_params_latest.pt --out anime.safetensors",
    )
    p.add_argument("file", metavar="FILE")
    p.add_argument("--out", required=True, metavar="STYLE")
    p.add_argument("--size", type=int, help="picture size for weights that work at any (default 256)")
    p.add_argument("--groups", help="names, separated by commas, of a checkpoint that has groups")
    _json(p)

    p = verb(
        "export",
        "a StyleGAN style to a checkpoint that other StyleGAN2 code reads",
        "fewtoon export runs/drawings --out drawings.pt",
    )
    p.add_argument("style", metavar="STYLE|RUN")
    p.add_argument("--out", required=True, metavar="FILE.pt", help="in rosinality's layout")
    _json(p)

    p = verb(
        "inspect",
        "say in plain words what a pack, run or style holds, and what to mend in a pack",
        "fewtoon inspect packs/photos packs/drawings --out doctor.html",
    )
    p.add_argument("path", metavar="PACK|RUN|STYLE")
    p.add_argument("other", metavar="PACK", nargs="?", help="the pack of the other side, to compare with")
    p.add_argument("--out", metavar="HTML", help="write the findings on packs as a page with thumbnails")
    _json(p)

    explore.add_to(verbs, Parser)

    p = verb(
        "mark",
        "mark faces and groups by hand, in a local web page",
        "fewtoon mark drawings/ --groups women,men",
    )
    p.add_argument("folder", metavar="DIR", help="a folder of pictures; the boxes go to faces.csv in it")
    p.add_argument("--groups", help="names, separated by commas, for the keys 1 to 9")
    p.add_argument("--find", action="append", default=[], metavar="FINDER", help=FINDERS)
    p.add_argument("--port", type=int, default=0, help="default: a free one")
    p.add_argument("--no-browser", action="store_true", help="print the address and open nothing")

    p = verb(
        "serve",
        "the studio: one local web page for the whole road",
        "fewtoon serve runs/first packs/drawings my/drawings",
    )
    p.add_argument(
        "paths",
        nargs="*",
        metavar="STYLE|RUN|...",
        help="styles, runs and studies; packs and HTML reports to be shown; files of directions; folders of pictures "
        "to be marked",
    )
    p.add_argument("--port", type=int, default=7860, help="0: a free one (default 7860)")
    p.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; beyond this machine (0.0.0.0) a token is asked for (default 127.0.0.1)",
    )
    p.add_argument(
        "--save",
        default="studio",
        metavar="DIR",
        help="the one folder that styles and pictures are saved into (default studio)",
    )
    p.add_argument("--clip", metavar="FILE", help="weights of CLIP, for editing by text")
    p.add_argument("--device", help="cpu, cuda ...; default: the best there is")
    p.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the networks that draw")
    p.add_argument("--no-browser", action="store_true", help="print the address and open nothing")

    p = verb(
        "suggest",
        "learn the groups from the labelled part of a pack and propose them for the rest",
        "fewtoon suggest packs/drawings --out groups.csv --accept 0.95",
    )
    p.add_argument("pack", metavar="PACK")
    p.add_argument("--out", required=True, metavar="CSV", help="columns file, group, suggested, probability")
    p.add_argument(
        "--accept",
        type=float,
        metavar="P",
        help="fill in what is at least as probable; without it the column 'group' is left for you to fill",
    )
    _json(p)

    p = verb(
        "models",
        "the models that find faces and backgrounds: fetch them once, or list them",
        "fewtoon models fetch",
    )
    p.add_argument("action", choices=["fetch", "list"])
    p.add_argument("--wheel", metavar="FILE", help="take them from this downloaded file: needs no network")
    _json(p)

    p = verb(
        "world",
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

    p = verb("demo", "the whole road on the drawn world, in a few minutes", "fewtoon demo --out demo")
    p.add_argument("--out", default="demo", metavar="DIR")
    _json(p)
    return top


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _share(text: str) -> float | int:
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a share such as 0.1 or a number such as 50"
        ) from None
