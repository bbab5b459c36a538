"""The verb `explore`: one module per tool, with TEXT, EXAMPLE, `arguments(parser)` and `run(args) -> exit code`.

A module imports what is slow to import in `run`. `--device` and `--json` are added here.
"""

from __future__ import annotations

import argparse

from fewtoon.explore import chain, directions, edit, encoder, mix, move, named, project, sample, swap

TOOLS = {
    "sample": sample,
    "project": project,
    "encoder": encoder,
    "mix": mix,
    "chain": chain,
    "swap": swap,
    "edit": edit,
    "directions": directions,
    "move": move,
    "named": named,
}


def add_to(verbs: argparse._SubParsersAction, kind: type[argparse.ArgumentParser]) -> None:
    """Add `explore` with all its tools to the parser's `verbs`; `kind`: what a parser is made by."""
    text = "what a StyleGAN style can draw, and styles made of two"
    looks = argparse.RawDescriptionHelpFormatter
    example = "example:\n  fewtoon explore sample runs/drawings --out sampled --seeds 0-15"
    top = verbs.add_parser(
        "explore", help=text, description=f"W{text[1:]}.", epilog=example, formatter_class=looks
    )
    tools = top.add_subparsers(title="what", metavar="WHAT", required=True, parser_class=kind)
    for name, tool in TOOLS.items():
        p = tools.add_parser(
            name,
            help=tool.TEXT,
            description=f"{tool.TEXT[0].upper()}{tool.TEXT[1:]}.",
            epilog=f"example:\n  {tool.EXAMPLE}",
            formatter_class=looks,
        )
        tool.arguments(p)
        p.add_argument("--device", help="cpu, cuda ...; default: the best there is")
        p.add_argument("--json", action="store_true", help="print the result as one JSON object")
        p.set_defaults(run=tool.run)
