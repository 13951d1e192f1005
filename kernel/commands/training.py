"""`train` makes an image encoder of pairs, `fit` the shares of the estimates on pairs that no part was trained on."""

import argparse
from pathlib import Path

from kernel.commands.options import add_command, bank_option, device_option, json_option, out_option, weights_option
from kernel.system.terminal.output import json_text


def add_train(commands: argparse._SubParsersAction) -> None:
    train = add_command(commands, train_command, "an image encoder that answers with the prompt's vector, from pairs")
    train.add_argument("pairs", type=Path, help="a folder with images/ and prompts.csv (imgId,prompt), or with tars")
    weights_option(train)
    out_option(train, "ENCODER", "new or own folder; a killed training goes on")
    train.add_argument("--tower", default="clip", metavar="clip|FOLDER",
                       help="the weights folder's CLIP, or a folder with a model of timm (default %(default)s)")  # fmt: skip
    device_option(train)
    json_option(train, "encoder.json on stdout")


def train_command(options: argparse.Namespace) -> None:
    from kernel.training.train import train

    content = train(options.pairs, options.weights, options.out, options.tower, options.device)
    if options.json:
        return print(json_text(content))
    for name, mean in content["validation"].items():
        print(f"{name:<12} {mean:.4f} on the validation pairs{', taken' if name == content['tier'] else ''}")
    held_out = content["held_out"]
    low, high = held_out["ci95"]
    print(
        f"{options.out}: {held_out['mean']:.4f} ({low:.4f} to {high:.4f}) on {held_out['pictures']} pictures of "
        f"{held_out['prompts']} prompts that are near to none trained on"
    )


def add_fit(commands: argparse._SubParsersAction) -> None:
    fit = add_command(commands, fit_command, "fits the shares of recipe text on images with known prompts")
    fit.add_argument("pairs", type=Path, help="a folder with images/ and prompts.csv (imgId,prompt)")
    weights_option(fit)
    bank_option(fit, "prompt bank; fusion.json is written there", required=True)
    out_option(fit, "RUN", "run folder of the estimates")
    device_option(fit)


def fit_command(options: argparse.Namespace) -> None:
    from kernel.training.fit import fit

    result = fit(options.pairs, options.weights, options.bank, options.out, options.device)
    for name, share in result["shares"].items():
        print(f"{name:<12} share {share:.4f}, alone {result['alone'][name]:.4f}")
    low, high = result["held_out"]["ci95"]
    print(f"fitted shares {result['held_out']['mean']:.4f} on images held out ({low:.4f} to {high:.4f})")
    print(f"published shares {result['published_shares']:.4f}; {options.bank / 'fusion.json'}")
