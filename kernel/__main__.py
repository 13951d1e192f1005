"""The command line: `python -m kernel COMMAND --help`.

Exit codes: 0 done, 1 failed, 2 wrong usage; a run whose submission is whole but a captioner failed ends with 1 too.
Results go to stdout, progress and notes to stderr. A closed pipe on stdout ends a command quietly, with exit code 1.
Heavy modules are imported inside the commands that need them, so that help answers at once.
"""

import argparse
import sys

from kernel.commands.banks import add_bank
from kernel.commands.captioners import add_captioners
from kernel.commands.describe import add_describe
from kernel.commands.doctor import add_doctor
from kernel.commands.evaluation import add_check, add_evaluate, add_explain, add_report, add_verify
from kernel.commands.options import Parser
from kernel.commands.run import add_constant, add_demo, add_plan, add_run
from kernel.commands.serve import add_serve
from kernel.commands.training import add_fit, add_train
from kernel.config import LOCAL
from kernel.errors import UserError, of_this_machine
from kernel.system.interrupts import end_when_interrupted
from kernel.system.offline import refuse_network, stay_offline
from kernel.system.stores.urls import Url, require_paths
from kernel.system.terminal.output import printing

# what `python -m kernel` alone answers; each example is a command that the parser knows
FIRST = """Stable Diffusion images to prompts, as text and as embeddings, offline.

  describe   the prompts of pictures as text, or in files beside them for a trainer
             python -m kernel describe PICTURES --write txt
  run        a folder of images to a submission of prompt embeddings, in a run folder
             python -m kernel run PICTURES --out RUN
  report     one page that shows every picture of a run beside what was said of it
             python -m kernel report RUN
  doctor     what a run needs, and whether it is there
             python -m kernel doctor
  publish    the way to Kaggle, step by step
             python -m kernel publish init --user NAME

All commands: python -m kernel --help. Options of one: python -m kernel COMMAND --help"""


def main(arguments: list[str] | None = None) -> int:
    if not (sys.argv[1:] if arguments is None else arguments):
        print(FIRST)
        return 0
    options = parser().parse_args(arguments)
    if options.offline:
        stay_offline() if asks_others(options) else refuse_network()
    try:
        require_paths(options.command.__name__.removesuffix("_command"), vars(options).values())
        return options.command(options) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, MemoryError) as error:
        print(f"error: {of_this_machine(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return 1


def asks_others(options: argparse.Namespace) -> bool:
    """Whether other machines are asked for: a cluster, or a store by its URL."""
    if getattr(options, "engine", LOCAL) != LOCAL:
        return True
    given = [own if isinstance(own, list) else [own] for own in vars(options).values()]
    return any(isinstance(place, Url) for own in given for place in own)


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m kernel", description="Stable Diffusion images to prompt embeddings, offline.")
    top.set_defaults(offline=True)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    # in the order of the help
    for add in (add_run, add_evaluate, add_check, add_report, add_plan, add_bank, add_train, add_fit, add_explain,
                add_describe, add_serve, add_captioners, add_constant, add_verify, add_doctor, add_publish,
                add_demo):  # fmt: skip
        add(commands)
    return top


def add_publish(commands: argparse._SubParsersAction) -> None:
    publish = commands.add_parser("publish", help="the way to Kaggle: wheels, weights, datasets, push, submit")
    publish.arguments_later = add_publish_steps


def add_publish_steps(publish: Parser) -> None:
    from kernel.commands.publish import add_steps  # only a `publish` command imports anything of publish

    add_steps(publish)


if __name__ == "__main__":
    end_when_interrupted()
    sys.exit(printing(main))
