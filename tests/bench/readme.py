"""README's section on speed, made of what was measured: `python -m tests.bench.readme` after `make bench`.

The figures of build/bench/ are kept in tests/bench/measured/, so that a test can hold README to them.
"""

import json
import shutil
from pathlib import Path

from tests.bench.curves import table as curves_table
from tests.bench.summary import table

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
MEASURED = HERE / "measured"
FILES = ("bench.json", "bench.svg", "curves.json", "curves.svg", "tried.md")
BEGIN, END = "<!-- {}: made by python -m tests.bench.readme -->", "<!-- end -->"


def with_figures(readme: str) -> str:
    """README with the tables of what is kept in place of those between its marks."""
    bench = json.loads((MEASURED / "bench.json").read_text(encoding="utf-8"))
    curves = json.loads((MEASURED / "curves.json").read_text(encoding="utf-8"))
    tables = {
        "bench": table(bench),
        "tried": (MEASURED / "tried.md").read_text(encoding="utf-8"),
        "curves": curves_table(curves),
    }
    for name, text in tables.items():
        before, mark, rest = readme.partition(BEGIN.format(name))
        if not mark:
            raise ValueError(f"{README}: no line {BEGIN.format(name)}")
        readme = f"{before}{mark}\n\n{text}\n{END}{rest.partition(END)[2]}"
    return readme


def main() -> None:
    MEASURED.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(Path("build/bench", name), MEASURED / name)
    README.write_text(with_figures(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
