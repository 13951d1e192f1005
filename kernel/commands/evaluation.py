"""What is asked of a submission, `evaluate` and `check`, of a run, `report` and `verify`, of an image, `explain`."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from kernel.commands.options import add_command, device_option, json_option, recipe_options, weights_option
from kernel.config import recipe_named
from kernel.system.terminal.output import json_text


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = add_command(commands, evaluate_command, "mean cosine of a submission against the true prompts")
    evaluate.add_argument("submission", type=Path)
    evaluate.add_argument("prompts", type=Path, help="CSV with the columns imgId,prompt")
    weights_option(evaluate)
    device_option(evaluate)
    json_option(evaluate)


def evaluate_command(options: argparse.Namespace) -> None:
    from kernel.evaluation.evaluate import evaluate

    result = evaluate(options.submission, options.prompts, options.weights, options.device)
    if options.json:
        print(json_text(asdict(result)))
    else:
        low, high = result.ci95
        print(f"mean cosine {result.mean:.4f} over {result.n} images, 95 % interval {low:.4f} to {high:.4f}")
        print(f"flattened, as the seed deck scored: {result.flattened:.4f}")


def add_check(commands: argparse._SubParsersAction) -> None:
    check = add_command(commands, check_command, "is it a valid submission for exactly these images?")
    check.add_argument("submission", type=Path)
    check.add_argument("images", type=Path)


def check_command(options: argparse.Namespace) -> None:
    from kernel.pipeline.images import left_out_note, list_images
    from kernel.pipeline.submission import check_submission

    images = list_images(options.images)
    for note in left_out_note(options.images):
        print(note, file=sys.stderr)
    check_submission(options.submission, [image.id for image in images])
    print(f"{options.submission}: valid for {len(images)} images")


def add_report(commands: argparse._SubParsersAction) -> None:
    report = add_command(commands, report_command, "RUN/report.html: every image beside what was said of it")
    report.add_argument("run", type=Path)
    report.add_argument("--prompts", type=Path, help="prompts.csv with the true prompts: adds scores")
    report.add_argument("--pictures-beside", action="store_true", help="the pictures in a folder beside the page")
    report.add_argument("--images", type=Path, metavar="DIR", help="where the run's images lie now (default: found)")
    report.add_argument("--weights", type=Path, metavar="DIR",
                        help="where its weights lie now, for --prompts (default: found)")  # fmt: skip


def report_command(options: argparse.Namespace) -> None:
    from kernel.evaluation.report import write_report

    where = {"images": options.images, "weights": options.weights}
    print(write_report(options.run, options.prompts, options.pictures_beside, **where))


def add_explain(commands: argparse._SubParsersAction) -> None:
    explain = add_command(commands, explain_command, "why one image gets its answer: neighbours, captions, shares")
    explain.add_argument("image", type=Path)
    weights_option(explain)
    recipe_options(explain)
    device_option(explain)
    json_option(explain)


def explain_command(options: argparse.Namespace) -> None:
    from kernel.evaluation.explain import explain, text_of

    recipe = recipe_named(options.recipe, options.settings)
    explanation = explain(options.image, recipe, options.weights, options.bank, options.device)
    print(json_text(asdict(explanation)) if options.json else text_of(explanation))


def add_verify(commands: argparse._SubParsersAction) -> None:
    says = "real weights on the 7 visible images against what the seed deck printed"
    add_command(commands, verify_command, says).add_argument("run", type=Path)


def verify_command(options: argparse.Namespace) -> int:
    from kernel.evaluation.seed_deck import verify

    verdict = verify(options.run)
    print(verdict.text)
    return 0 if verdict.plausible else 1
