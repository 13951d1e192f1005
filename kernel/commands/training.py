"""`train` makes an image encoder of pairs, `fit` the shares of the estimates on pairs that no part was trained on."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel.commands.options import (
    Parser,
    add_command,
    bank_option,
    device_option,
    engine_option,
    json_option,
    mirror_option,
    out_option,
    path_or_url,
    weights_option,
)
from kernel.config import LOCAL, NEAR_PROMPTS, TIERS, TrainingSettings, with_settings
from kernel.errors import UserError
from kernel.system.stores.urls import Place, Url
from kernel.system.terminal.output import json_text

if TYPE_CHECKING:
    from kernel.system.deadline import Deadline


def add_train(commands: argparse._SubParsersAction) -> None:
    train = add_command(commands, train_command, "an image encoder that answers with the prompt's vector, from pairs")
    pairs_argument(train, path_or_url)
    weights_option(train, kind=path_or_url)
    out_option(train, "ENCODER", "new or own folder; a killed training goes on", path_or_url)
    seen_by = (
        "the weights folder's CLIP, as by default, its BLIP-2's eyes, or a folder with a model of timm; repeatable"
    )
    train.add_argument(
        "--tower", action="append", type=tower_or_url, metavar="clip|blip2|FOLDER", dest="towers", help=seen_by
    )
    train.add_argument("--tier", default=TIERS[0], choices=TIERS, help="what is trained: the head on the frozen tower, "
                       "its upper layers too, matrices beside all, or all of it (default %(default)s)")  # fmt: skip
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                       help="a setting of all tiers but head, such as epochs=5; repeatable")  # fmt: skip
    train.add_argument("--deadline", metavar="TIME", help="such as 11h30m: by then it ends, to go on another time")
    train.add_argument("--near", type=float, default=NEAR_PROMPTS, metavar="COSINE",
                       help="prompts this near are held out together (default %(default)s)")  # fmt: skip
    device_option(train)
    engine_option(train, "trains")
    train.add_argument("--workers", type=fewest_and_most, metavar="MOST|FEWEST:MOST", help="of a Ray cluster's GPUs or "
                       "machines, how many train; lost ones are done without (default: all)")  # fmt: skip
    mirror_option(train)
    json_option(train, "encoder.json on stdout")


def fewest_and_most(text: str) -> tuple[int, int]:
    """Example: "4" -> (1, 4), "2:8" -> (2, 8). Raises ArgumentTypeError for anything else."""
    fewest, _, most = text.rpartition(":")
    try:
        found = int(fewest or 1), int(most)
    except ValueError:
        found = 0, 0
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers; expected such as 4, or 2:8 for 2 to 8")
    return found


def tower_or_url(text: str) -> str | Url:
    """Names of towers are none of paths."""
    found = path_or_url(text)
    return found if isinstance(found, Url) else text


def pairs_argument(command: Parser, kind: Callable[[str], Place] = Path) -> None:
    command.add_argument("pairs", type=kind, help="a folder with images/ and prompts.csv (imgId,prompt), or with tars")


def train_command(options: argparse.Namespace) -> None:
    from kernel.system.deadline import Deadline, seconds_of
    from kernel.system.stores.places import Places
    from kernel.training.tower.opened import CLIP
    from kernel.training.train import ORDER

    settings = with_settings(TrainingSettings(), options.settings)
    deadline = Deadline.after(None if options.deadline is None else seconds_of(options.deadline))
    if options.engine == LOCAL and options.workers:
        raise UserError("--workers: of a Ray cluster. Give --engine ray too, or start several processes by torchrun")
    places = Places(options.mirror)
    with places.written(options.out, ORDER) as out:
        towers = [str(places.read(own)) if isinstance(own, Url) else own for own in options.towers or (CLIP,)]
        asked = {"pairs": places.read(options.pairs), "weights": places.read(options.weights), "out": out,
                 "tier": options.tier, "towers": towers, "settings": settings, "device": options.device,
                 "near": options.near}  # fmt: skip
        content = trained(asked, options, deadline)
    if not content:
        return None  # the first process tells
    if options.json:
        return print(json_text(content))
    for why, count in content["left_out"].items():
        print(f"left out: {count:,} {why}", file=sys.stderr)
    for name, mean in content["validation"].items():
        print(f"{name:<12} {mean:.4f} on the validation pairs{', taken' if name == content['tier'] else ''}")
    held_out = content["held_out"]
    low, high = held_out["ci95"]
    print(
        f"{options.out}: {held_out['mean']:.4f} ({low:.4f} to {high:.4f}) on {held_out['pictures']} pictures of "
        f"{held_out['prompts']} prompts that are near to none trained on"
    )


def trained(asked: dict[str, Any], options: argparse.Namespace, deadline: "Deadline") -> dict[str, Any]:
    """By this machine's devices, or by a Ray cluster."""
    if options.engine == LOCAL:
        from kernel.training.train import train

        return train(**asked, deadline=deadline)
    from kernel.training.ray import train_by_ray

    return train_by_ray(asked, options.address, options.workers, deadline)


def add_fit(commands: argparse._SubParsersAction) -> None:
    fit = add_command(commands, fit_command, "fits the shares of recipes text and pairs on images with known prompts")
    pairs_argument(fit)
    weights_option(fit)
    bank_option(fit, "prompt bank; fusion.json is written there", required=True)
    out_option(fit, "FIT", "new or own folder for the run of the estimates; a killed fit goes on")
    device_option(fit)


def fit_command(options: argparse.Namespace) -> None:
    from kernel.training.fit import fit

    result = fit(options.pairs, options.weights, options.bank, options.out, options.device)
    for recipe, shares in result["shares"].items():
        print(f"recipe {recipe}, {result['images']} images:")
        for name, share in shares.items():
            print(f"  {name:<12} share {share:.4f}, alone {result['alone'][name]:.4f}")
        held_out = result["held_out"][recipe]
        low, high = held_out["ci95"]
        print(f"  fitted shares {held_out['mean']:.4f} on images held out ({low:.4f} to {high:.4f})")
        print(f"  published shares {result['published_shares'][recipe]:.4f}")
    print(options.bank / "fusion.json")
