"""The tables and pictures of docs/ that a command makes: `make docs` writes them, `make lint` checks none is stale.

Each stands between two marks. Those of settings, commands, suffixes and the plan are computed here, in seconds. Those
of speed are made of what was measured in hours and is kept in tests/bench/measured/; `--measured` first takes what
`make bench`, `make curves`, `python -m tests.bench.tried` and `make ablation` left in build/. The tables of the
ablation, the text side, the true sizes, many images and little time are not between marks: their commands take up to
an hour and leave nothing that is kept, so that no check holds them to anything.
"""

import argparse
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from kernel.commands.options import Parser

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
MEASURED = HERE / "measured"
LEFT = (
    "bench/bench.json", "bench/bench.svg", "bench/curves.json", "bench/curves.svg", "bench/tried.md",
    "ablation/ablation.svg",
)  # fmt: skip
BEGIN, END = "<!-- {}: made by make docs -->", "<!-- end -->"


def measured(name: str) -> Any:
    return json.loads((MEASURED / name).read_text(encoding="utf-8"))


def bench() -> str:
    from tests.bench.summary import table

    return table(measured("bench.json"))


def curves() -> str:
    from tests.bench.curves import table

    return table(measured("curves.json"))


def tried() -> str:
    return (MEASURED / "tried.md").read_text(encoding="utf-8")


def settings() -> str:
    """Every field of a recipe with its value in each preset."""
    from kernel.config import RECIPES

    fields = [field.name for field in dataclasses.fields(next(iter(RECIPES.values()))) if field.name != "name"]
    rows = [[f"`{name}`", *(shown(getattr(recipe, name)) for recipe in RECIPES.values())] for name in fields]
    return markdown(["setting", *(f"`{name}`" for name in RECIPES)], rows)


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return f"`{json.dumps(value)}`"


def commands() -> str:
    """Every command with its first line of help; the steps of `publish` one by one."""
    from kernel.__main__ import parser

    rows = []
    for name, words, command in commands_of(parser()):
        steps = [[f"`{name} {step}`", said] for step, said, _ in commands_of(command)]
        rows += steps or [[f"`{name}`", words]]
    return markdown(["command", "what it does"], rows)


def commands_of(parser: Parser) -> list[tuple[str, str, Parser]]:
    """Name, help and parser of each subcommand."""
    if parser.arguments_later:
        parser.arguments_later(parser)
    return [
        (choice.dest, choice.help or "", action.choices[choice.dest])
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    ]


def suffixes() -> str:
    """Every suffix by its decoder, and where that decoder comes from when it does not always come with Pillow."""
    from kernel.pipeline.images import FORMATS, OPTIONAL

    by_decoder: dict[str, list[str]] = {}
    for suffix, decoder in FORMATS.items():
        by_decoder.setdefault(decoder, []).append(f"`{suffix}`")
    needs = dict.fromkeys(OPTIONAL, "Pillow built with it, as its wheels are") | {"HEIF": "the package `pillow-heif`"}
    rows = [[decoder, ", ".join(found), needs.get(decoder, "")] for decoder, found in by_decoder.items()]
    return markdown(["decoder", "names that end in", "needs"], rows)


def plan() -> str:
    """What the page's own command prints."""
    return printed("plan", "--gpu", "T4x2", "--images", "16000")


def training_plan() -> str:
    return printed("plan", "--train")


def bank_plan() -> str:
    return in_short("plan", "--bank-prompts", "56000000", "--machines", "8xL4", "--price", "0.80")


def machines_plan() -> str:
    return in_short("plan", "--train", "--pairs", "10600000", "--machines", "8xL4", "--price", "0.80")


def in_short(*command: str) -> str:
    """Without what is assumed, most of which stands on the page already."""
    said, _, _ = printed(*command).partition("\n\nassumed, not measured:\n")
    return f"{said}\n```\n"


def printed(*command: str) -> str:
    from kernel.__main__ import main as kernel

    said = io.StringIO()
    with redirect_stdout(said):
        kernel(list(command))
    return f"```text\n{said.getvalue()}```\n"


def captioners() -> str:
    """What each captioner is and, estimated, takes of a T4."""
    from kernel.models.captioners.loading import SHIPPED, listing

    rows = [
        [f"`{own['kind']}`", own["prompt"], ", ".join(own["languages"]), own["licence"],
         f"{SHIPPED[own['kind']].parameters / 1e6:,.0f} M", f"{own['gigabytes']:.2f}",
         caption_minutes(own["kind"]), caption_minutes(own["kind"], "num_beams=1", "captions_per_image=1"),
         own["source"]]
        for own in listing()
    ]  # fmt: skip
    return markdown(
        ["captioner", "prompt", "languages", "licence", "parameters", "GB", "min, 5 beams", "min, 1 beam", "source"],
        rows,
    )


def caption_minutes(name: str, *settings: str) -> str:
    from kernel.config import recipe_named
    from kernel.pipeline.planning.gpus import gpu_named
    from kernel.pipeline.planning.plan import plan

    recipe = recipe_named("baseline", [f"captioner={name}", *settings])
    stages = {own.name: own for own in plan(recipe, gpu_named("T4"), 16_000, with_cures=False).stages}
    return f"{stages['captions'].seconds / 60:.0f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))


# by page, the tables between its marks
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "captioners.md": {"captioners": captioners},
    "planning.md": {
        "plan": plan,
        "training plan": training_plan,
        "bank plan": bank_plan,
        "machines plan": machines_plan,
    },
    "running.md": {"settings": settings, "commands": commands, "suffixes": suffixes},
    "speed.md": {"bench": bench, "tried": tried, "curves": curves},
}


def renewed(path: Path) -> str:
    """The page's text with its tables made anew. Raises ValueError where a table has no place in it."""
    text = path.read_text(encoding="utf-8")
    for name, make in TABLES[path.name].items():
        before, begin, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{path}: expected a line '{BEGIN.format(name)}' and after it '{END}'")
        text = f"{before}{begin}\n\n{make()}\n{end}{after}"
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="writes nothing; 1 and their names when pages are stale")
    parser.add_argument("--measured", action="store_true", help="first takes what was measured from build/")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR", help="default %(default)s")
    options = parser.parse_args(arguments)
    for left in LEFT if options.measured else ():
        if Path("build", left).is_file():
            print(shutil.copy(Path("build", left), MEASURED))
    pages = {options.docs / name: renewed(options.docs / name) for name in TABLES}
    stale = [path for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"{path}: holds other tables than its commands make. Run 'make docs', look at the change, commit it")
        else:
            path.write_text(pages[path], encoding="utf-8")
            print(path)
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
