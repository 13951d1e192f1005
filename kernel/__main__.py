"""The command line: `python -m kernel COMMAND --help`.

Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to stdout, progress and notes to stderr. A closed pipe on
stdout ends a command quietly, with exit code 1.
Heavy modules are imported inside the commands that need them, so that help answers at once.
"""

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from kernel.commands.describe import add_describe
from kernel.commands.doctor import add_doctor
from kernel.commands.options import Parser, add_weights, positive
from kernel.config import (
    DEFAULT_DEMO,
    DEFAULT_RECIPE,
    RECIPES,
    BankSettings,
    Paths,
    recipe_named,
)
from kernel.errors import UserError
from kernel.system.deadline import Deadline
from kernel.system.offline import refuse_network
from kernel.system.output import json_text, printing


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupted)
    if options.offline:
        refuse_network()
    try:
        return options.command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return 1


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m kernel", description="Stable Diffusion images to prompt embeddings, offline.")
    top.set_defaults(offline=True)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="a folder of images in, RUN/submission.csv out")
    run.add_argument("images", type=Path, help="folder of images; its subfolders are not searched")
    add_weights(run)
    run.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="new or own run folder; a finished shard is not made again",
    )
    add_recipe(run)
    run.add_argument(
        "--device",
        default="auto",
        help="auto (every GPU, else the CPU), cpu, cuda:N, or several with commas (default %(default)s)",
    )
    run.add_argument("--deadline", metavar="TIME", help="such as 8h30m: by then it ends, with what captions there are")
    run.add_argument("--started", type=float, metavar="EPOCH",
                     help="seconds since 1970 from which that counts (default: this process's start)")  # fmt: skip
    run.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    run.set_defaults(command=run_command)

    evaluate = commands.add_parser("evaluate", help="mean cosine of a submission against the true prompts")
    evaluate.add_argument("submission", type=Path)
    evaluate.add_argument("prompts", type=Path, help="CSV with the columns imgId,prompt")
    add_weights(evaluate)
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--json", action="store_true", help="one JSON object on stdout")
    evaluate.set_defaults(command=evaluate_command)

    check = commands.add_parser("check", help="is it a valid submission for exactly these images?")
    check.add_argument("submission", type=Path)
    check.add_argument("images", type=Path)
    check.set_defaults(command=check_command)

    report = commands.add_parser("report", help="RUN/report.html: every image beside what was said of it")
    report.add_argument("run", type=Path)
    report.add_argument("--prompts", type=Path, help="prompts.csv with the true prompts: adds scores")
    report.add_argument("--pictures-beside", action="store_true", help="the pictures in a folder beside the page")
    report.add_argument("--images", type=Path, metavar="DIR", help="where the run's images lie now (default: found)")
    report.add_argument(
        "--weights", type=Path, metavar="DIR", help="where its weights lie now, for --prompts (default: found)"
    )
    report.set_defaults(command=report_command)

    plan = commands.add_parser("plan", help="estimated memory and time of a run, before it costs GPU hours")
    plan.add_argument("--gpu", default="T4x2", help="T4, T4x2, L4x4, H100, cpu, or by memory and speed: "
                      "24GB:100TFLOPS:300GB/s:x2 (default %(default)s)")  # fmt: skip
    plan.add_argument("--images", type=positive, default=16000, metavar="N", help="default %(default)s")
    add_recipe(plan)
    plan.add_argument("--bank-prompts", type=positive, metavar="N", help="prompts of a bank that is yet to be built")
    plan.add_argument("--features-shipped", action="store_true", help="the weights folder holds the words' features")
    plan.add_argument("--deadline", default="9h", metavar="TIME", help="such as 8h30m (default %(default)s)")
    plan.add_argument("--host-memory", type=positive, default=30, metavar="GB", help="default %(default)s")
    plan.add_argument("--picture", type=Path, metavar="SVG", help="also draws memory and time by stage")
    plan.add_argument("--json", action="store_true", help="one JSON object on stdout")
    plan.set_defaults(command=plan_command)

    bank = commands.add_parser("bank", help="a prompt bank from files of prompts")
    bank.add_argument("prompts", type=Path, nargs="+", help=".txt, .csv, .tsv, .jsonl or .parquet files")
    add_weights(bank)
    bank.add_argument(
        "--out", type=Path, required=True, metavar="BANK", help="new or own folder; a killed build goes on"
    )
    bank.add_argument("--column", metavar="NAME", help="the column of tables (default: found)")
    bank.add_argument("--exclude", type=Path, metavar="PROMPTS",
                      help="prompts that will be scored: equal and near ones stay out of the bank")  # fmt: skip
    bank.add_argument("--near", type=float, default=BankSettings.near, metavar="COSINE",
                      help="of prompts this near only the first is kept (default %(default)s)")  # fmt: skip
    bank.add_argument("--device", default="auto")
    bank.set_defaults(command=bank_command)

    fit = commands.add_parser("fit", help="fits the shares of recipe text on images with known prompts")
    fit.add_argument("pairs", type=Path, help="a folder with images/ and prompts.csv (imgId,prompt)")
    add_weights(fit)
    fit.add_argument(
        "--bank", type=Path, required=True, metavar="DIR", help="prompt bank; fusion.json is written there"
    )
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder of the estimates")
    fit.add_argument("--device", default="auto")
    fit.set_defaults(command=fit_command)

    explain = commands.add_parser("explain", help="why one image gets its answer: neighbours, captions, shares")
    explain.add_argument("image", type=Path)
    add_weights(explain)
    add_recipe(explain)
    explain.add_argument("--device", default="auto")
    explain.add_argument("--json", action="store_true", help="one JSON object on stdout")
    explain.set_defaults(command=explain_command)

    add_describe(commands)

    constant = commands.add_parser("constant", help="a valid submission with the same row for every image, in seconds")
    constant.add_argument("images", type=Path)
    add_weights(constant)
    constant.add_argument("--out", type=Path, required=True, metavar="CSV")
    constant.set_defaults(command=constant_command)

    verify = commands.add_parser(
        "verify", help="real weights on the 7 visible images against what the seed deck printed"
    )
    verify.add_argument("run", type=Path)
    verify.set_defaults(command=verify_command)

    add_doctor(commands)
    publish = commands.add_parser("publish", help="the way to Kaggle: wheels, weights, datasets, push, submit")
    publish.arguments_later = add_publish_steps

    demo = commands.add_parser("demo", help="draws miniature images never trained on, runs, scores, reports")
    demo.add_argument("--out", type=Path, default=DEFAULT_DEMO)
    demo.add_argument("--images", type=positive, default=64, metavar="N")
    demo.add_argument("--seed", type=int, default=0, metavar="S")
    add_weights(demo)
    demo.set_defaults(command=demo_command)
    return top


def add_publish_steps(publish: Parser) -> None:
    from kernel.commands.publish import add_steps  # only a `publish` command imports anything of publish

    add_steps(publish)


def add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recipe", default=DEFAULT_RECIPE, help=f"one of: {', '.join(RECIPES)} (default %(default)s)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                         help="a recipe setting, such as num_beams=3 or modifiers.flavors=5; repeatable")  # fmt: skip
    command.add_argument(
        "--bank", type=Path, metavar="DIR", help="prompt bank (default WEIGHTS/prompt_bank, where it exists)"
    )


def run_command(options: argparse.Namespace) -> int:
    from kernel.pipeline.run import run
    from kernel.system.durations import seconds_of

    recipe = recipe_named(options.recipe, options.settings)
    deadline = Deadline.after(seconds_of(options.deadline) if options.deadline else None, options.started)
    paths = Paths(options.images, options.weights, options.out, options.bank)
    content = run(recipe, paths, options.device, options.limit, deadline)
    counts = content["counts"]
    written = options.out / "submission.csv"
    print(f"{written}: {counts['images']} images, {counts['bad_images']} of them bad (fallback row)")
    for problem in content["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if counts["degraded_rows"] > counts["bad_images"]:
        print(
            f"of {counts['images']} images {counts['no_captions']} have no captions, {counts['fewer_captions']} fewer "
            f"than asked, on {counts['caption_failures']} the captioner failed",
            file=sys.stderr,
        )
    for image_id, reason in list(content["bad_images"].items())[:10]:
        print(f"bad image {image_id}: {reason}", file=sys.stderr)
    return 0


def evaluate_command(options: argparse.Namespace) -> int:
    from kernel.evaluation.evaluate import evaluate

    result = evaluate(options.submission, options.prompts, options.weights, options.device)
    if options.json:
        print(json_text(asdict(result)))
    else:
        low, high = result.ci95
        print(f"mean cosine {result.mean:.4f} over {result.n} images, 95 % interval {low:.4f} to {high:.4f}")
        print(f"flattened, as the seed deck scored: {result.flattened:.4f}")
    return 0


def check_command(options: argparse.Namespace) -> int:
    from kernel.pipeline.images import left_out_note, list_images
    from kernel.pipeline.submission import check_submission

    images = list_images(options.images)
    for note in left_out_note(options.images):
        print(note, file=sys.stderr)
    check_submission(options.submission, [image.id for image in images])
    print(f"{options.submission}: valid for {len(images)} images")
    return 0


def report_command(options: argparse.Namespace) -> int:
    from kernel.evaluation.report import write_report

    where = {"images": options.images, "weights": options.weights}
    print(write_report(options.run, options.prompts, options.pictures_beside, **where))
    return 0


def plan_command(options: argparse.Namespace) -> int:
    from kernel.banks.prompt_bank import read_bank_record
    from kernel.pipeline.planning.gpus import GB, gpu_named
    from kernel.pipeline.planning.plan import plan
    from kernel.pipeline.planning.table import plan_table, write_picture
    from kernel.system.durations import seconds_of

    prompts = options.bank_prompts
    if options.bank and prompts is None:
        prompts = read_bank_record(options.bank)["count"]
    estimated = plan(
        recipe_named(options.recipe, options.settings),
        gpu_named(options.gpu),
        options.images,
        seconds_of(options.deadline),
        prompts,
        options.features_shipped,
        options.host_memory * GB,
    )
    if options.picture:
        write_picture(options.picture, estimated)
    print(json_text(estimated.as_json()) if options.json else plan_table(estimated))
    return 0


def bank_command(options: argparse.Namespace) -> int:
    from kernel.banks.build import build_bank

    settings = BankSettings(options.prompts, options.column, options.exclude, options.near)
    record = build_bank(settings, options.weights, options.out, options.device)
    print(f"{options.out}: {record['count']:,} of {record['read']:,} prompts")
    for reason, count in record["dropped"].items():
        print(f"  {count:>10,} dropped: {reason}")
    if record["excluded"]:
        found = record["excluded"]
        print(
            f"  {found['equal'] + found['near']:>10,} kept out: equal ({found['equal']:,}) or near to {found['name']}"
        )
    return 0


def fit_command(options: argparse.Namespace) -> int:
    from kernel.training.fit import fit

    result = fit(options.pairs, options.weights, options.bank, options.out, options.device)
    for name, share in result["shares"].items():
        print(f"{name:<12} share {share:.4f}, alone {result['alone'][name]:.4f}")
    low, high = result["held_out"]["ci95"]
    print(f"fitted shares {result['held_out']['mean']:.4f} on images held out ({low:.4f} to {high:.4f})")
    print(f"published shares {result['published_shares']:.4f}; {options.bank / 'fusion.json'}")
    return 0


def explain_command(options: argparse.Namespace) -> int:
    from kernel.evaluation.explain import explain, text_of

    recipe = recipe_named(options.recipe, options.settings)
    explanation = explain(options.image, recipe, options.weights, options.bank, options.device)
    print(json_text(asdict(explanation)) if options.json else text_of(explanation))
    return 0


def constant_command(options: argparse.Namespace) -> int:
    from kernel.pipeline.constant import write_constant
    from kernel.pipeline.images import left_out_note

    count = write_constant(options.images, options.weights, options.out)
    for note in left_out_note(options.images):
        print(note, file=sys.stderr)
    print(f"{options.out}: the constant answer for {count} images")
    return 0


def verify_command(options: argparse.Namespace) -> int:
    from kernel.evaluation.seed_deck import verify

    verdict = verify(options.run)
    print(verdict.text)
    return 0 if verdict.plausible else 1


def demo_command(options: argparse.Namespace) -> int:
    from kernel.miniature.demo import demo

    demo(options.out, options.weights, options.images, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(printing(main))
