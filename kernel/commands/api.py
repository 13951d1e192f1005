"""What `import kernel` offers: the commands as functions, with paths and recipes as people have them at hand."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel.config import DEFAULT_FEATURES, DEFAULT_RECIPE, DEFAULT_WEIGHTS, Paths, Recipe, recipe_named

if TYPE_CHECKING:
    from kernel.sidecars.asked import Sidecars


def run(
    images: str | Path,
    out: str | Path,
    recipe: str | Recipe = DEFAULT_RECIPE,
    weights: str | Path = DEFAULT_WEIGHTS,
    bank: str | Path | None = None,
    device: str = "auto",
    limit: int | None = None,
) -> dict[str, Any]:
    """Runs a recipe over a folder of images, as `python -m kernel run` does; returns the content of run.json.

    Example: kernel.run("images", "RUN", kernel.Recipe(num_beams=3, captions_per_image=3))["counts"]
    Raises UserError for whatever is wrong before the first image.
    """
    from kernel.pipeline.run import run as run_pipeline

    paths = Paths(Path(images), Path(weights), Path(out), Path(bank) if bank else None)
    return run_pipeline(chosen(recipe), paths, device, limit)


def evaluate(submission: str | Path, prompts: str | Path, weights: str | Path = DEFAULT_WEIGHTS) -> Any:
    """The Score of a submission: its `mean` cosine, `ci95`, and cosines `per_image`."""
    from kernel.evaluation.evaluate import evaluate as evaluate_files

    return evaluate_files(Path(submission), Path(prompts), Path(weights))


def describe(
    images: str | Path | Iterable[str | Path],
    mode: str = "fast",
    weights: str | Path = DEFAULT_WEIGHTS,
    top: int | None = None,
    without: Iterable[str] = (),
    words: Mapping[str, str | Path] | None = None,
    captioner: str = "auto",
    device: str = "auto",
    language: str = "en",
    features: str | Path = DEFAULT_FEATURES,
    ban: Iterable[str] = (),
    recursive: bool = False,
    write: "str | Sidecars | None" = None,
) -> list[dict[str, Any]]:
    """Prompts for people, one record an image, as `python -m kernel describe --json` prints them.

    `images`: a file, a folder or a pattern, or several. `words`: files of phrases by the bank they replace or add.
    `ban`: no term with these words is taken. `write` puts captions beside the pictures: "txt", "jsonl", "csv" or
    `kernel.Sidecars("txt", existing="append")`; records are then those of pictures that were described for it.
    `language`: "en" or "ko". `captioner`: one of the weights folder, or several joined by commas.
    Example: kernel.describe("images", "best", without=["artists"])[0]["prompt"]
    """
    from kernel.interrogator.request import Request
    from kernel.pipeline.captioning import describe_into
    from kernel.pipeline.describe import Means
    from kernel.pipeline.describe import describe as describe_images
    from kernel.sidecars.asked import Sidecars

    given = [images] if isinstance(images, str | Path) else list(images)
    own = {name: str(path) for name, path in (words or {}).items()}
    request = Request(mode, top, tuple(without), own, str(features), tuple(ban), language=language)
    means = Means(captioner, device)
    if write is None:
        return describe_images(given, request, Path(weights), means, recursive=recursive)
    sidecars = Sidecars(write) if isinstance(write, str) else write
    return describe_into(sidecars, given, request, Path(weights), means, recursive=recursive)[0]


def serve(
    weights: str | Path = DEFAULT_WEIGHTS,
    port: int = 0,
    host: str | None = None,
    password: str | None = None,
    names: Iterable[str] = (),
    device: str = "auto",
    features: str | Path = DEFAULT_FEATURES,
) -> Any:
    """Starts the page and the API of `python -m kernel serve` beside what follows, and prints their address.

    What comes back has the `address`, and `close()`; in a `with` block it is closed at the end. `port` 0 is any free
    one. `host`, `password`, `names`: as the command's, for others than this machine, and behind a notebook's proxy.
    Example: kernel.serve(names=["my-proxy.example"]).address
    Raises UserError when the weights are incomplete or the address cannot be had.
    """
    from kernel.server.serving import Address, Serving

    serving = Serving(Address(port, host, password, tuple(names)), Path(weights), device, Path(features)).begin()
    print(serving.address, flush=True)
    return serving


def show(
    run: str | Path,
    n: int = 12,
    by: str | None = None,
    prompts: str | Path | None = None,
    images: str | Path | None = None,
    weights: str | Path | None = None,
) -> None:
    """Draws `n` images of a finished run in the notebook as report.html does: summary, then a card each.

    `by`: "worst" or "best" cosine, which need `prompts`, "disagreement" of the estimates, or "id"; by default the worst
    where prompts are given, else disagreement. `images` and `weights`: where they lie now, for a run that was moved.
    """
    from kernel.evaluation.report import display_page, page_of

    truth, pictures, models = (Path(given) if given else None for given in (prompts, images, weights))
    some = (n, by or ("worst" if prompts else "disagreement"))
    display_page(page_of(Path(run), truth, some=some, images=pictures, weights=models))


def plan(gpu: str = "T4x2", images: int = 16_000, recipe: str | Recipe = DEFAULT_RECIPE) -> Any:
    """The Plan of a run, an estimate: memory, batches and time by stage; printed, it is a table."""
    from kernel.pipeline.planning.gpus import gpu_named
    from kernel.pipeline.planning.plan import plan as plan_run
    from kernel.pipeline.planning.table import PrintedPlan

    return PrintedPlan(**vars(plan_run(chosen(recipe), gpu_named(gpu), images)))


def chosen(recipe: str | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else recipe_named(recipe)
