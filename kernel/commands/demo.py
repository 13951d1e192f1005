"""`demo`, the one command of the miniature world."""

import argparse
from pathlib import Path

from kernel.commands.options import add_command, positive, weights_option
from kernel.config import DEFAULT_DEMO


def add_demo(commands: argparse._SubParsersAction) -> None:
    demo = add_command(commands, demo_command, "draws miniature images never trained on, runs, scores, reports")
    demo.add_argument("--out", type=Path, default=DEFAULT_DEMO)
    demo.add_argument("--images", type=positive, default=64, metavar="N")
    demo.add_argument("--seed", type=int, default=0, metavar="S")
    weights_option(demo)


def demo_command(options: argparse.Namespace) -> None:
    from kernel.miniature.demo import demo

    demo(options.out, options.weights, options.images, options.seed)
