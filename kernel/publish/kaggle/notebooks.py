"""The notebooks: py:percent sources, and the .ipynb built from them.

Jupytext draws new random cell ids each time, so they are numbered instead: the same source gives the same bytes.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from kernel.errors import UserError

FOLDER = "notebooks"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def built(source: str) -> str:
    """The .ipynb text of a py:percent source, without outputs."""
    import jupytext
    import nbformat

    notebook = jupytext.reads(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = nbformat.from_dict({})
    return nbformat.writes(notebook, version=4, indent=1) + "\n"


def build_notebooks(project: Path) -> list[Path]:
    """Writes the .ipynb beside every source of `project/notebooks` and returns them."""
    sources = sorted((project / FOLDER).glob("*.py"))
    for source in sources:
        source.with_suffix(".ipynb").write_text(built(source.read_text(encoding="utf-8")), encoding="utf-8")
    return [source.with_suffix(".ipynb") for source in sources]


def check_built(project: Path) -> None:
    """Raises UserError when a notebook is not what its source builds."""
    for source in sorted((project / FOLDER).glob("*.py")):
        target = source.with_suffix(".ipynb")
        text = target.read_text(encoding="utf-8") if target.is_file() else None
        if text != built(source.read_text(encoding="utf-8")):
            raise UserError(
                f"{target}: {'differs from' if text else 'missing; expected what is built from'} {source.name}, so "
                "something else than its source would run. Run 'make notebooks'"
            )


def recipe_named_in(notebook: Path) -> str | None:
    """The recipe of the notebook's `session.run("NAME")`; None where it has no such line, or several."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = set(re.findall(r"""^session\.run\(\s*["']([\w-]+)["']""", code, re.MULTILINE))
    return names.pop() if len(names) == 1 else None


def check_inputs_named(notebook: Path, sources: Iterable[str]) -> None:
    """Raises UserError when the notebook names an input (a path under /kaggle/input) that is no source of it."""
    slugs = {source.rpartition("/")[2] for source in sources}
    for path in re.findall(r"/kaggle/input/([\w./-]+)", notebook.read_text(encoding="utf-8")):
        if not slugs & set(path.split("/")):
            raise UserError(
                f"{notebook}: names /kaggle/input/{path}, which nothing mounts; its sources are "
                f"{', '.join(sorted(slugs))}. Add the source to kernel-metadata.json, or find the folder by its marker"
            )
