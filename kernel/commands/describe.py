"""`python -m kernel describe`: its options, and what it prints."""

import argparse
import sys
from glob import has_magic
from pathlib import Path
from typing import Any

from kernel.commands.options import add_command, device_option, engine_option, json_option, positive, weights_option
from kernel.config import DEFAULT_FEATURES
from kernel.errors import UserError
from kernel.sidecars.asked import Sidecars
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
    describe.add_argument("--captioner", default="auto", metavar="NAME",
                          help="or several joined by commas: the best prompt of each one's caption "
                          "(default: the weights folder's first)")  # fmt: skip
    describe.add_argument("--features", type=Path, default=DEFAULT_FEATURES, metavar="DIR",
                          help="keeps the features of phrases that the weights lack (default %(default)s)")  # fmt: skip
    describe.add_argument("--ban", type=Path, metavar="FILE", help="no term with these words, one a line, is taken")
    describe.add_argument("--recursive", action="store_true", help="folders with their subfolders")
    add_sidecar_options(describe)
    device_option(describe, "auto (every GPU, else the CPU), cpu, cuda:N, or several")
    json_option(describe, "one JSON object a line, with parts and similarities")
    engine_option(describe, "describes")
    describe.add_argument("--scratch", type=Path, metavar="DIR",
                          help="keeps there what is made until all is, so that a killed command goes on; with --engine "
                          "ray on the disk that all machines share")  # fmt: skip


def add_sidecar_options(describe: argparse.ArgumentParser) -> None:
    """None of them is set where it is not given, so that one without --write can be told."""
    files = describe.add_argument_group("captions beside the pictures, for trainers")
    files.add_argument("--write", metavar="KIND", help="txt (IMAGE.txt), jsonl (metadata.jsonl in each folder) or csv "
                       "(one file of all)")  # fmt: skip
    files.add_argument("--existing", metavar="WHAT", help="pictures that have a caption: skip (default; they are not "
                       "computed), overwrite, append or prepend")  # fmt: skip
    files.add_argument("--prefix", metavar="TEXT", help="stands before what is written, such as a trigger word")
    files.add_argument("--suffix", metavar="TEXT", help="stands behind it")
    files.add_argument("--form", help="prompt (default: caption and terms), tags (the terms) or sentence (the caption)")
    files.add_argument("--max-tokens", type=positive, metavar="N", help="of a caption by CLIP's tokenizer; terms are "
                       "dropped from its end")  # fmt: skip
    files.add_argument("--keys", type=lambda text: tuple(text.split(",")), metavar="NAME,TEXT",
                       help="of a row of jsonl (default file_name,text; of musubi image_path,caption)")  # fmt: skip
    files.add_argument("--out", metavar="CSV", help="of --write csv (default batch.csv in the folder of pictures)")


def sidecars_asked(options: argparse.Namespace) -> Sidecars | None:
    names = ("existing", "prefix", "suffix", "form", "max_tokens", "keys", "out")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.write is not None:
        return Sidecars(options.write, **given)
    for name in given:
        raise UserError(f"--{name.replace('_', '-')} is of captions in files. Give --write txt, jsonl or csv too")
    return None


def describe_command(options: argparse.Namespace) -> int:
    from kernel.banks.word_banks import read_phrases
    from kernel.interrogator.request import Request
    from kernel.pipeline.captioning import describe_into
    from kernel.pipeline.describe import Means, describe

    words = own_words(options.words)
    banned = tuple(read_phrases(options.ban).phrases) if options.ban else ()
    request = Request(options.mode, options.top, tuple(options.without), words, str(options.features), banned,
                      language=options.language)  # fmt: skip
    printer = Printer(options.images, options.json)
    means = Means(options.captioner, options.device, options.engine, options.address, options.scratch)
    sidecars = sidecars_asked(options)
    if sidecars is None:
        records = describe(options.images, request, options.weights, means, printer.tell, options.recursive)
    else:
        tell = printer.tell if options.json else printer.tell_error
        asked = options.images, request, options.weights, means, tell, options.recursive
        records, said = describe_into(sidecars, *asked)
        print(said, file=sys.stderr if options.json else sys.stdout)
    return 1 if any("error" in record for record in records) else 0


class Printer:
    """One line an image on stdout: a JSON object, or the image's name, a tab and the prompt; of a single file the
    prompt alone. What cannot be described gets its reason on stderr, and an empty prompt on stdout where other images
    have theirs."""

    def __init__(self, images: list[str], as_json: bool) -> None:
        self.as_json, self.stdout = as_json, sys.stdout  # which Ray's own words are kept from meanwhile
        self.single = len(images) == 1 and not Path(images[0]).is_dir() and not has_magic(images[0])

    def tell_error(self, record: dict[str, Any]) -> None:
        if "error" in record:
            print(f"{record['image']}: {record['error']}", file=sys.stderr)

    def tell(self, record: dict[str, Any]) -> None:
        self.tell_error(record)
        if self.as_json:
            self.say(json_text(record))
        elif not self.single:
            self.say(f"{record['image']}\t{record.get('prompt', '')}")
        elif "prompt" in record:
            self.say(record["prompt"])

    def say(self, line: str) -> None:
        print(line, file=self.stdout, flush=True)


def own_words(given: list[str]) -> dict[str, str]:
    """Files by their bank. Example: own_words(["flavors=mine.txt", "pets.txt"]) == {"flavors": "mine.txt", "pets":
    "pets.txt"}"""
    words = {}
    for text in given:
        name, equals, path = text.partition("=")
        words[name if equals else Path(text).stem] = path if equals else text
    return words
