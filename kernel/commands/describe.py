"""`python -m kernel describe`: its options, and what it prints."""

import argparse
import sys
from glob import has_magic
from pathlib import Path
from typing import Any

from kernel.commands.options import add_command, device_option, json_option, positive, weights_option
from kernel.config import DEFAULT_FEATURES
from kernel.system.terminal.output import json_text


def add_describe(commands: argparse._SubParsersAction) -> None:
    describe = add_command(commands, describe_command, "images to prompts as text, in clip-interrogator's modes")
    describe.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, or patterns such as 'a/*.png'")
    weights_option(describe)
    describe.add_argument("--mode", default="fast", help="classic, fast, best or negative (default %(default)s)")
    describe.add_argument("--language", default="en", help="of the prompts: en, or ko (default %(default)s)")
    describe.add_argument("--top", type=positive, metavar="N",
                          help="terms at most (default 32; in mode classic flavors, default 3)")  # fmt: skip
    describe.add_argument("--without", action="append", default=[], metavar="BANK",
                          help="leaves a word bank out, such as artists; repeatable")  # fmt: skip
    describe.add_argument("--words", action="append", default=[], metavar="[BANK=]FILE",
                          help="your own phrases, one a line, in place of a bank or beside them")  # fmt: skip
    describe.add_argument("--captioner", default="auto", metavar="NAME", help="default: the weights folder's first")
    describe.add_argument("--features", type=Path, default=DEFAULT_FEATURES, metavar="DIR",
                          help="keeps the features of phrases that the weights lack (default %(default)s)")  # fmt: skip
    device_option(describe, "auto (every GPU, else the CPU), cpu, cuda:N, or several")
    json_option(describe, "one JSON object a line, with parts and similarities")


def describe_command(options: argparse.Namespace) -> int:
    from kernel.interrogator.request import Request
    from kernel.pipeline.describe import describe

    words = own_words(options.words)
    request = Request(options.mode, options.top, tuple(options.without), words, str(options.features),
                      language=options.language)  # fmt: skip
    printer = Printer(options.images, options.json)
    records = describe(options.images, request, options.weights, options.captioner, options.device, printer.tell)
    return 1 if any("error" in record for record in records) else 0


class Printer:
    """One line an image on stdout: a JSON object, or the image's name, a tab and the prompt; of a single file the
    prompt alone. What cannot be described gets its reason on stderr, and an empty prompt on stdout where other images
    have theirs."""

    def __init__(self, images: list[str], as_json: bool) -> None:
        self.as_json = as_json
        self.single = len(images) == 1 and not Path(images[0]).is_dir() and not has_magic(images[0])

    def tell(self, record: dict[str, Any]) -> None:
        if "error" in record:
            print(f"{record['image']}: {record['error']}", file=sys.stderr)
        if self.as_json:
            print(json_text(record), flush=True)
        elif not self.single:
            print(f"{record['image']}\t{record.get('prompt', '')}", flush=True)
        elif "prompt" in record:
            print(record["prompt"], flush=True)


def own_words(given: list[str]) -> dict[str, str]:
    """Files by their bank. Example: own_words(["flavors=mine.txt", "pets.txt"]) == {"flavors": "mine.txt", "pets":
    "pets.txt"}"""
    words = {}
    for text in given:
        name, equals, path = text.partition("=")
        words[name if equals else Path(text).stem] = path if equals else text
    return words
