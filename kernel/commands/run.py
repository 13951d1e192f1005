"""`run`, and what stands before it: `plan`, its estimate, and `constant`, an answer in seconds."""

import argparse
import os
import sys
from pathlib import Path

from kernel.commands.options import (
    add_command,
    device_option,
    engine_option,
    json_option,
    out_option,
    positive,
    positive_number,
    recipe_options,
    weights_option,
)
from kernel.config import DEFAULT_DEMO, LOCAL, Paths, TrainingSettings, recipe_named, with_settings
from kernel.errors import UserError
from kernel.system.deadline import Deadline
from kernel.system.terminal.output import json_text


def add_run(commands: argparse._SubParsersAction) -> None:
    run = add_command(commands, run_command, "a folder of images in, RUN/submission.csv out")
    run.add_argument("images", type=Path, help="folder of images; its subfolders are not searched")
    weights_option(run)
    out_option(run, "RUN", "new or own run folder; a finished shard is not made again")
    recipe_options(run)
    device_option(run, "auto (every GPU, else the CPU), cpu, cuda:N, or several with commas (default %(default)s)")
    run.add_argument("--deadline", metavar="TIME", help="such as 8h30m: by then it ends, with what captions there are")
    run.add_argument("--started", type=float, metavar="EPOCH",
                     help="seconds since 1970 from which that counts (default: this process's start)")  # fmt: skip
    run.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    engine_option(run)


def run_command(options: argparse.Namespace) -> int:
    """1 where a captioner could not be used, though every image has its row: whoever starts runs unwatched is told."""
    from kernel.pipeline.constant import answer_at_once
    from kernel.system.deadline import seconds_of

    recipe = recipe_named(options.recipe, options.settings)
    if options.engine != LOCAL and "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        raise UserError(
            f"--engine {options.engine}: a run on Kaggle has one machine and no network, so it can join no cluster. "
            "Leave it out: a run works on every GPU of its machine"
        )
    deadline = Deadline.after(None if options.deadline is None else seconds_of(options.deadline), options.started)
    paths = Paths(options.images, options.weights, options.out, options.bank)
    answer_at_once(paths, options.limit)
    from kernel.pipeline.run import run  # takes seconds, of which a short deadline may not have many

    content = run(recipe, paths, options.device, options.limit, deadline, options.engine, options.address)
    counts = content["counts"]
    written = options.out / "submission.csv"
    print(f"{written}: {counts['images']} images, {counts['bad_images']} of them bad (fallback row)")
    for problem in content["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if counts["degraded_rows"] > counts["bad_images"]:
        print(
            f"of {counts['images']} images {counts['no_captions']} have no captions, {counts['fewer_captions']} fewer "
            f"than asked, on {counts['caption_failures']} the captioner failed, {counts['lacking_captioners']} lack "
            f"those of one of several, and of {counts['unweighed_captions']} captions were not weighed",
            file=sys.stderr,
        )
    for image_id, reason in list(content["bad_images"].items())[:10]:
        print(f"bad image {image_id}: {reason}", file=sys.stderr)
    return 1 if content["given_up"] else 0


def add_plan(commands: argparse._SubParsersAction) -> None:
    says = "estimated memory and time of a run, or of a training, before it costs GPU hours"
    plan = add_command(commands, plan_command, says)
    plan.add_argument("--gpu", help="T4, T4x2, L4x4, A100, H100, cpu, or by memory and speed: "
                      "24GB:100TFLOPS:300GB/s:x2 (default T4x2; of a training each of these)")  # fmt: skip
    plan.add_argument("--images", type=positive, default=16000, metavar="N", help="default %(default)s")
    recipe_options(plan)
    plan.add_argument("--bank-prompts", type=positive, metavar="N", help="prompts of a bank that is yet to be built")
    plan.add_argument("--features-shipped", action="store_true", help="the weights folder holds the words' features")
    plan.add_argument("--deadline", default="9h", metavar="TIME", help="such as 8h30m (default %(default)s)")
    plan.add_argument("--host-memory", type=positive, default=30, metavar="GB", help="default %(default)s")
    plan.add_argument("--picture", type=Path, metavar="SVG", help="also draws memory and time by stage")
    plan.add_argument("--train", action="store_true", help="of a training, tier by tier; --set then sets it")
    plan.add_argument("--pairs", type=positive, default=400_000, metavar="N", help="to train on (default %(default)s)")
    plan.add_argument("--weights", type=Path, metavar="DIR", help="trains the CLIP of this weights folder (default: "
                      "a ViT-L/14 at 224 px)")  # fmt: skip
    plan.add_argument("--tower", type=Path, metavar="FOLDER", help="trains this model of timm instead")
    plan.add_argument("--machines", metavar="NxGPU", help="of building the bank of --bank-prompts, or of --train, on "
                      "so many machines: 8xL4, 4xT4x2, 2x24GB:100TFLOPS:300GB/s")  # fmt: skip
    plan.add_argument("--price", type=positive_number, metavar="PRICE", help="of one of them for an hour")
    json_option(plan)


def plan_command(options: argparse.Namespace) -> None:
    from kernel.banks.prompt_bank import read_bank_record
    from kernel.pipeline.planning.gpus import GB, gpu_named
    from kernel.pipeline.planning.plan import plan
    from kernel.pipeline.planning.table import plan_table, write_picture
    from kernel.system.deadline import seconds_of

    if options.machines:
        return plan_machines_command(options)
    if options.price:
        raise UserError("--price is of one of --machines for an hour, and none are named. Give --machines NxGPU too")
    if options.train:
        return plan_training_command(options)
    prompts = options.bank_prompts
    if options.bank and prompts is None:
        prompts = read_bank_record(options.bank)["count"]
    estimated = plan(
        recipe_named(options.recipe, options.settings),
        gpu_named(options.gpu or "T4x2"),
        options.images,
        seconds_of(options.deadline),
        prompts,
        options.features_shipped,
        options.host_memory * GB,
    )
    if options.picture:
        write_picture(options.picture, estimated)
    print(json_text(estimated.as_json()) if options.json else plan_table(estimated))


def plan_training_command(options: argparse.Namespace) -> None:
    from kernel.pipeline.planning.gpus import gpu_named
    from kernel.training.planning.costs import tower_of
    from kernel.training.planning.plan import GPUS, plan_training
    from kernel.training.planning.table import training_table

    settings = with_settings(TrainingSettings(), options.settings)
    gpus = [gpu_named(name) for name in ([options.gpu] if options.gpu else GPUS)]
    planned = plan_training(tower_of(options.tower, options.weights, settings), gpus, options.pairs, settings)
    print(json_text(planned.as_json()) if options.json else training_table(planned))


def plan_machines_command(options: argparse.Namespace) -> None:
    """The building of a bank, or a training."""
    from kernel.pipeline.planning.bank_plan import plan_bank
    from kernel.pipeline.planning.bank_table import bank_table
    from kernel.pipeline.planning.gpus import GB
    from kernel.pipeline.planning.machines import machines_named
    from kernel.training.planning.costs import tower_of
    from kernel.training.planning.machines import plan_training_on
    from kernel.training.planning.table import machines_table

    given = f"--machines {options.machines}"
    if options.gpu:
        raise UserError(f"{given} names the machines' GPU, and --gpu {options.gpu} another. Give one of the two")
    if not options.train and options.bank_prompts is None:
        raise UserError(
            f"{given}: a run needs one machine. Give --bank-prompts N for the building of a bank, or --train; or plan "
            "the run with --gpu"
        )
    machines, host_memory = machines_named(options.machines), options.host_memory * GB
    if not options.train:
        bank = plan_bank(options.bank_prompts, machines, options.price, host_memory)
        return print(json_text(bank.as_json()) if options.json else bank_table(bank))
    settings = with_settings(TrainingSettings(), options.settings)
    tower = tower_of(options.tower, options.weights, settings)
    training = plan_training_on(machines, tower, options.pairs, settings, options.price, host_memory)
    return print(json_text(training.as_json()) if options.json else machines_table(training))


def add_constant(commands: argparse._SubParsersAction) -> None:
    says = "a valid submission with the same row for every image, in seconds"
    constant = add_command(commands, constant_command, says)
    constant.add_argument("images", type=Path)
    weights_option(constant)
    out_option(constant, "CSV")


def constant_command(options: argparse.Namespace) -> None:
    from kernel.pipeline.constant import write_constant
    from kernel.pipeline.images import left_out_note

    count = write_constant(options.images, options.weights, options.out)
    for note in left_out_note(options.images):
        print(note, file=sys.stderr)
    print(f"{options.out}: the constant answer for {count} images")


def add_demo(commands: argparse._SubParsersAction) -> None:
    demo = add_command(commands, demo_command, "draws miniature images never trained on, runs, scores, reports")
    demo.add_argument("--out", type=Path, default=DEFAULT_DEMO)
    demo.add_argument("--images", type=positive, default=64, metavar="N")
    demo.add_argument("--seed", type=int, default=0, metavar="S")
    weights_option(demo)


def demo_command(options: argparse.Namespace) -> None:
    from kernel.miniature.demo import demo

    demo(options.out, options.weights, options.images, options.seed)
