"""Options of the command line: those that several commands have, and unknown ones told with those that there are."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from kernel.config import DEFAULT_MIRROR, DEFAULT_RECIPE, DEFAULT_WEIGHTS, ENGINES, LOCAL, RECIPES
from kernel.errors import UserError, did_you_mean
from kernel.system.stores.urls import Place, place


class Parser(argparse.ArgumentParser):
    """As argparse's, but what a command does not know is told by that command, with its options and the nearest."""

    # gives a command its arguments when it is the one that was typed, so that no other command imports what they need
    arguments_later: Callable[["Parser"], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        add_arguments, self.arguments_later = self.arguments_later, None
        if add_arguments:
            add_arguments(self)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown[0])
        return found, unknown

    def refuse(self, unknown: str) -> NoReturn:
        if not unknown.startswith("-"):
            self.error(f"unexpected {unknown!r}: it is one more than the command takes")
        options = sorted(name for name in self._option_string_actions if name.startswith("--"))
        name = unknown.partition("=")[0]
        self.error(f"unknown option {name}{did_you_mean(name, options)}. Valid: {', '.join(options)}")


Does = Callable[[argparse.Namespace], int | None]


def add_command(commands: argparse._SubParsersAction, does: Does, help: str) -> Parser:
    """The command that runs the function `NAME_command`, without arguments yet.

    What that returns is the exit code; nothing is 0.
    """
    command = commands.add_parser(does.__name__.removesuffix("_command"), help=help)
    command.set_defaults(command=does)
    return command


def path_or_url(text: str) -> Place:
    """Raises ArgumentTypeError for a URL of no store."""
    try:
        return place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def weights_option(command: Parser, what: str = "weights folder", kind: Callable[[str], Place] = Path) -> None:
    command.add_argument("--weights", type=kind, default=DEFAULT_WEIGHTS, metavar="DIR",
                         help=f"{what} (default %(default)s)")  # fmt: skip


def recipe_options(command: Parser) -> None:
    """`--recipe`, what of it is set otherwise, and the bank that it may ask."""
    command.add_argument("--recipe", default=DEFAULT_RECIPE, help=f"one of: {', '.join(RECIPES)} (default %(default)s)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                         help="a recipe setting, such as num_beams=3 or modifiers.flavors=5; repeatable")  # fmt: skip
    bank_option(command, "prompt bank (default WEIGHTS/prompt_bank, where it exists)")


def bank_option(command: Parser, help: str, required: bool = False) -> None:
    command.add_argument("--bank", type=Path, required=required, metavar="DIR", help=help)


def out_option(command: Parser, metavar: str, help: str | None = None, kind: Callable[[str], Place] = Path) -> None:
    command.add_argument("--out", type=kind, required=True, metavar=metavar, help=help)


def engine_option(command: Parser, does: str = "makes the shards") -> None:
    command.add_argument("--engine", default=LOCAL, choices=ENGINES, help=f"who {does}: this machine's devices, or the "
                         "machines of a Ray cluster (default %(default)s)")  # fmt: skip
    command.add_argument("--address", metavar="ADDRESS", help="the cluster's, such as ray://HOST:10001 or HOST:6379 "
                         "(default: RAY_ADDRESS, else the one that runs here)")  # fmt: skip


def mirror_option(command: Parser) -> None:
    command.add_argument("--mirror", type=Path, default=DEFAULT_MIRROR, metavar="DIR",
                         help="files and folders may be URLs, such as s3://BUCKET/FOLDER: where on this machine what "
                              "they name lies (default %(default)s)")  # fmt: skip


def device_option(command: Parser, help: str | None = None) -> None:
    command.add_argument("--device", default="auto", help=help)


def json_option(command: Parser, help: str = "one JSON object on stdout") -> None:
    command.add_argument("--json", action="store_true", help=help)


def positive(text: str) -> int:
    """Raises ArgumentTypeError for what is below 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def positive_number(text: str) -> float:
    """Raises ArgumentTypeError for what is not finite and above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
