"""Options of the command line: those that several commands have, and unknown ones told with those that there are."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from kernel.config import DEFAULT_WEIGHTS
from kernel.errors import did_you_mean


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


def add_weights(command: argparse.ArgumentParser) -> None:
    """`--weights`, which most commands have."""
    command.add_argument(
        "--weights", type=Path, default=DEFAULT_WEIGHTS, metavar="DIR", help="weights folder (default %(default)s)"
    )


def positive(text: str) -> int:
    """Raises ArgumentTypeError for what is below 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number
