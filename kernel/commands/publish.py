"""`python -m kernel publish ...`: the commands of the way to Kaggle, run from the project's top folder."""

import argparse
from dataclasses import fields
from pathlib import Path

from kernel.commands.options import (
    Parser,
    add_command,
    bank_option,
    device_option,
    engine_option,
    out_option,
    positive,
    weights_option,
)
from kernel.config import DEFAULT_RECIPE, LOCAL, RECIPES, PairSettings, recipe_named
from kernel.publish.hub.pins import PINS
from kernel.publish.hub.prompt_filters import LANGUAGES, PromptSettings

PROJECT = Path()
KAGGLE_WEIGHTS = Path("build/kaggle-weights")
DOWNLOADS = Path("build/downloads")
PROMPTS = Path("build/prompts.parquet")
BANK = Path("build/prompt_bank")


def add_steps(publish: Parser) -> None:
    publish.set_defaults(offline=False)
    steps = publish.add_subparsers(required=True, metavar="STEP")

    init = add_command(steps, init_command, "writes your Kaggle account into both metadata files")
    init.add_argument("--user", metavar="NAME", help="default: the account of the client's own configuration")
    init.add_argument("--weights-from", choices=("dataset", "prepare"), default="dataset",
                      help="where the notebook finds its weights (default %(default)s)")  # fmt: skip
    init.add_argument("--trained", action="store_true", help="the notebook asks the encoder of the train notebook")

    add_command(steps, notebooks_command, "builds the .ipynb of every source in notebooks/")
    add_command(steps, wheels_command, "fills wheels/ with what Kaggle's image lacks, checked against it")

    says = "gets a recipe's models, converts them to fp16, writes a weights folder"
    weights = add_command(steps, weights_command, says)
    weights.add_argument("--recipe", default=DEFAULT_RECIPE, choices=list(RECIPES))
    weights.add_argument("--captioners", nargs="+", default=[], metavar="NAME",
                         help="these, the best first, in place of the recipe's; 'captioners' lists all")  # fmt: skip
    weights.add_argument("--out", type=Path, default=KAGGLE_WEIGHTS, metavar="DIR", help="default %(default)s")
    download_options(weights, "; may lie on another disk", "each file")
    weights.add_argument("--matching", action="store_true",
                         help="with the model that caption_weighting=itm and itc ask")  # fmt: skip
    weights.add_argument("--encode", action="store_true",
                         help="then encodes the word banks; minutes on a GPU, hours without")  # fmt: skip
    bank_option(weights, "then puts this prompt bank into the folder")
    weights.add_argument("--encoder", action="append", default=[], type=Path, metavar="ENCODER", dest="encoders",
                         help="then puts this trained encoder in, by its folder's name; repeatable")  # fmt: skip

    add_prompts(steps)
    add_pairs(steps)

    dataset = add_command(steps, dataset_command, "stages, shows and uploads the weights dataset, the code's or pairs")
    kinds = dataset.add_mutually_exclusive_group()
    kinds.add_argument("--code", action="store_true", help="the code dataset instead")
    kinds.add_argument("--pairs", type=Path, metavar="FOLDER", help="a pair set of tars to train on instead")
    dataset.add_argument("--weights", type=Path, default=KAGGLE_WEIGHTS, metavar="DIR", help="default %(default)s")
    dataset.add_argument("--stage-only", action="store_true", help="stages and shows, sends nothing")

    push = add_command(steps, push_command, "checks everything, sends the notebook, optionally waits for its end")
    push.add_argument("--wait", action="store_true", help="follows the run to its end")
    push.add_argument("--pin", action="store_true", help="on the image of the last run that worked")
    others = push.add_mutually_exclusive_group()
    others.add_argument("--prepare", action="store_true", help="the prepare notebook instead, with the internet on")
    others.add_argument("--train", action="store_true", help="the train notebook instead; it goes on where it ended")

    submit = add_command(steps, submit_command, "submits the pushed version and waits for its score")
    submit.add_argument("-m", "--message", default="", help="shown beside the score")
    submit.add_argument("--version", type=int, metavar="N", help="default: the version pushed last")

    rehearse = add_command(steps, rehearse_command, "the whole way on this machine, offline, on the image's versions")
    rehearse.add_argument("--images", type=int, default=16_000, metavar="N", help="of the rerun (default %(default)s)")
    weights_option(rehearse, "miniature weights")
    rehearse.add_argument("--out", type=Path, default=Path("build/rehearsal"), metavar="DIR")
    rehearse.add_argument("--variant", action="append", metavar="NAME", dest="variants",
                          help="repeatable; default: all")  # fmt: skip
    rehearse.add_argument("--layout", action="append", metavar="NAME", dest="layouts", help="old, new; default: both")
    rehearse.add_argument("--this-python", action="store_true",
                          help="on the Python that runs this command, not on the image's versions")  # fmt: skip


def add_prompts(steps: argparse._SubParsersAction) -> None:
    says = "gets public prompts to build a prompt bank from, filtered and sampled"
    prompts = add_command(steps, prompts_command, says)
    prompts.add_argument("--source", action="append", metavar="NAME", dest="sources",
                         help=f"repeatable; --list shows all (default {PromptSettings.sources[0]})")  # fmt: skip
    prompts.add_argument("--mix", type=shares, default={}, metavar="NAME=SHARE,...",
                         help="sources by shares, in place of --source: sd-4.4M=0.5,coco=0.5")  # fmt: skip
    prompts.add_argument("--accept-licence", action="append", default=[], metavar="NAME", dest="accepted",
                         help="takes this source though it states no licence; repeatable")  # fmt: skip
    prompts.add_argument("--out", type=Path, default=PROMPTS, metavar="FILE", help=".parquet (default %(default)s)")
    prompts.add_argument("--count", type=int, default=PromptSettings.count, metavar="N",
                         help="different prompts at most (default %(default)s)")  # fmt: skip
    prompts.add_argument("--seed", type=int, default=PromptSettings.seed, metavar="S")
    prompts.add_argument("--min-words", type=int, default=PromptSettings.min_words, metavar="N",
                         help="default %(default)s")  # fmt: skip
    prompts.add_argument("--max-words", type=int, default=PromptSettings.max_words, metavar="N",
                         help="default %(default)s: CLIP reads no more")  # fmt: skip
    prompts.add_argument("--language", choices=LANGUAGES, default=PromptSettings.language, help="default %(default)s")
    prompts.add_argument("--max-nsfw", type=float, default=PromptSettings.max_nsfw, metavar="SCORE",
                         help="0 to 1, where the source has scores (default %(default)s)")  # fmt: skip
    download_options(prompts, ", which are kept", "the sources' files")
    prompts.add_argument("--list", action="store_true", help="only shows the sources with licence, size, repository")


def add_pairs(steps: argparse._SubParsersAction) -> None:
    says = "gets public pictures with their prompts, resized and filtered, as a pair set to train on"
    pairs = add_command(steps, pairs_command, says)
    pairs.add_argument("source", metavar="SOURCE",
                       help="sd-4.4M, diffusiondb, or OWNER/NAME of a dataset repository of tars")  # fmt: skip
    out_option(pairs, "FOLDER", "the pair set; a killed command goes on")
    weights_option(pairs, "weights folder, whose MiniLM finds near duplicates")
    pairs.add_argument("--size", type=positive, default=PairSettings.size, metavar="PIXELS",
                       help="short side at most (default %(default)s)")  # fmt: skip
    pairs.add_argument("--limit", type=positive, metavar="N", help="pictures at most; default: all")
    pairs.add_argument("--near", type=float, default=PairSettings.near, metavar="COSINE",
                       help="of prompts this near only the first is taken (default %(default)s)")  # fmt: skip
    pairs.add_argument("--scratch", type=Path, default=DOWNLOADS, metavar="DIR",
                       help="for one download at a time (default %(default)s)")  # fmt: skip
    pairs.add_argument("--pins", type=Path, default=PINS, metavar="FILE", help="default %(default)s")
    device_option(pairs, "where prompts are compared (default %(default)s)")
    engine_option(pairs, "resizes the pictures")


def shares(text: str) -> dict[str, float]:
    """Example: shares("coco=0.6,vizwiz=0.4") == {"coco": 0.6, "vizwiz": 0.4}"""
    pairs = [own.partition("=") for own in text.split(",")]
    return {name.strip(): float(share) for name, _, share in pairs}


def download_options(command: Parser, kept: str, files: str) -> None:
    """Where they go, and the pins that they must fit."""
    command.add_argument("--scratch", type=Path, default=DOWNLOADS, metavar="DIR",
                         help=f"for downloads{kept} (default %(default)s)")  # fmt: skip
    command.add_argument("--pins", type=Path, default=PINS, metavar="FILE", help="default %(default)s")
    command.add_argument("--pin", action="store_true",
                         help=f"only writes the hub's size and hash of {files} into the pins")  # fmt: skip


def init_command(options: argparse.Namespace) -> None:
    from kernel.publish.kaggle.metadata import initialise

    print(initialise(PROJECT, options.user, options.weights_from, options.trained))


def notebooks_command(options: argparse.Namespace) -> None:
    from kernel.publish.kaggle.notebooks import build_notebooks

    print(*build_notebooks(PROJECT), sep="\n")


def wheels_command(options: argparse.Namespace) -> None:
    from kernel.publish.wheels import fill_wheels

    print(*fill_wheels(PROJECT), sep="\n")


def weights_command(options: argparse.Namespace) -> None:
    from kernel.models.image_text_matching import MATCHING
    from kernel.publish.hub.download import pin_repositories
    from kernel.publish.hub.pins import MODELS, captioners_asked
    from kernel.publish.hub.weights import publish_weights

    asked = captioners_asked(options.captioners)
    if options.pin:
        keys = ["clip", *asked, "sentences"] if asked else MODELS.named
        for repository in pin_repositories(options.pins, keys=[*keys, *([MATCHING] if options.matching else [])]):
            print(f"{repository}: {len(repository.files)} files")
        print(f"{options.pins}: every file has its size and hash; look at the change and commit it")
        return
    recipe = recipe_named(options.recipe)
    folder = publish_weights(recipe, options.out, options.scratch, options.pins, asked=asked, matching=options.matching)
    if options.encode:
        from kernel.banks.into_weights import encode_word_banks

        encode_word_banks(folder)
    if options.bank:
        from kernel.banks.into_weights import add_bank

        add_bank(folder, options.bank)
    for encoder in options.encoders:
        from kernel.models.encoders.into_weights import add_encoder

        add_encoder(folder, encoder)
    print(folder)


def prompts_command(options: argparse.Namespace) -> None:
    from kernel.banks.cost import cost_lines
    from kernel.publish.hub.download import pin_repositories
    from kernel.publish.hub.prompt_sources import PROMPTS, chosen_sources, listing
    from kernel.publish.hub.prompts import publish_prompts, record_path

    names = tuple(options.sources or options.mix or PromptSettings.sources)
    if options.list:
        print("\n".join(listing(options.pins)))
        return
    if options.pin:
        sources = chosen_sources(names, accepted=names)  # looking at a source takes nothing of it
        on_hub = [source.name for source in sources if not source.address]
        for repository in pin_repositories(options.pins, PROMPTS, on_hub):
            print(f"{repository.key}: {repository}, {len(repository.files)} files")
        print(f"{options.pins}: every file has its size and hash; look at the change and commit it")
        return
    given = {setting.name: getattr(options, setting.name) for setting in fields(PromptSettings)}
    settings = PromptSettings(**{**given, "sources": names, "accepted": tuple(options.accepted)})
    record = publish_prompts(settings, options.out, options.scratch, options.pins)
    counts = record["counts"]
    for source in record["sources"]:
        where = f"by {source['credit']}" if "credit" in source else f"{source['repository']} at {source['revision']}"
        print(f"{source['name']}: {where}, licence {source['licence']}")
    print(f"{options.out}: {counts['written']:,} of {counts['read']:,} prompts; {record_path(options.out)} says whence")
    for reason, count in counts["dropped"].items():
        print(f"  {count:>10,} left out: {reason}")
    print("\n".join(cost_lines(counts["written"], record["bytes"])))
    print(f"next: python -m kernel bank {options.out} --weights {KAGGLE_WEIGHTS} --out {BANK}")


def pairs_command(options: argparse.Namespace) -> None:
    from kernel.pipeline.workers.engines import engine_named
    from kernel.publish.hub.pairs.publish import publish_pairs

    settings = PairSettings(options.source, options.size, options.limit, options.near)
    asked = (settings, options.out, options.weights, options.scratch, options.pins, options.device)
    if options.engine == LOCAL:
        record = publish_pairs(*asked)
    else:
        with engine_named(options.engine, "cpu", options.address) as engine:  # nothing of it is a GPU's
            record = publish_pairs(*asked, engine)
    print(f"{record['source']}: {record['repository']} at {record['revision']}, licence {record['licence']}")
    print(f"{options.out}: {record['pictures']:,} of {record['read']:,} pictures, {record['prompts']:,} prompts")
    for reason, count in record["left_out"].items():
        print(f"  {count:>10,} left out: {reason}")
    print(f"next: python -m kernel train {options.out} --weights {options.weights} --out ENCODER")


def rehearse_command(options: argparse.Namespace) -> int:
    from kernel.publish.rehearsal.rehearse import rehearse

    return rehearse(
        PROJECT,
        options.weights,
        options.out,
        images=options.images,
        variants=options.variants,
        layouts=options.layouts,
        this_python=options.this_python,
    )


def dataset_command(options: argparse.Namespace) -> None:
    from kernel.publish.kaggle.client import connect
    from kernel.publish.kaggle.datasets import publish_dataset
    from kernel.publish.kaggle.metadata import read_metadata
    from kernel.publish.kaggle.push import RECORDS
    from kernel.publish.kaggle.staging import commit_of, stage_code, stage_dataset, stage_pairs

    metadata = read_metadata(PROJECT)
    if options.code:
        staged = stage_code(PROJECT, PROJECT / "build" / "code", metadata.owner)
    elif options.pairs:
        staged = stage_pairs(options.pairs, PROJECT / "build" / "pairs-dataset", metadata.owner)
    else:
        staged = stage_dataset(PROJECT, options.weights, PROJECT / "wheels", PROJECT / "build" / "dataset")
    for name, size in staged.entries:
        print(f"{size:>15,} bytes  {name}")
    print(f"{sum(size for _, size in staged.entries):>15,} bytes in {len(staged.entries)} top-level entries")
    if options.stage_only:
        print(f"{staged.folder}: staged; nothing was sent")
        return
    dataset = publish_dataset(connect(), staged, f"commit {commit_of(PROJECT)}", PROJECT / RECORDS)
    print(f"{dataset} is ready")


def push_command(options: argparse.Namespace) -> None:
    from kernel.publish.kaggle.push import push

    push(PROJECT, wait=options.wait, pin=options.pin, prepare=options.prepare, train=options.train)


def submit_command(options: argparse.Namespace) -> None:
    from kernel.publish.kaggle.submit import submit

    submit(PROJECT, options.message, options.version)
