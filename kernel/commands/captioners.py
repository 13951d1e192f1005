"""`python -m kernel captioners`: what can write captions, each with its class, licence and size."""

import argparse

from kernel.commands.options import add_command, json_option
from kernel.system.terminal.output import json_text


def add_captioners(commands: argparse._SubParsersAction) -> None:
    captioners = add_command(commands, captioners_command, "the captioners there are, with licence, size, languages")
    json_option(captioners, "one JSON list")


def captioners_command(options: argparse.Namespace) -> None:
    from kernel.models.captioners.loading import listing

    rows = listing()
    if options.json:
        print(json_text(rows))
        return
    print("GB in half precision; licences as remembered, the page of the source has the last word")
    shown = [[own["kind"], f"{own['gigabytes']:.2f}", own["prompt"], own["licence"], ", ".join(own["languages"]),
              own["source"]] for own in rows]  # fmt: skip
    table = [["captioner", "GB", "prompt", "licence", "languages", "source"], *shown]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
