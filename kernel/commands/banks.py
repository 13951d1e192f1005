"""`bank`: a prompt bank."""

import argparse

from kernel.commands.options import (
    add_command,
    device_option,
    engine_option,
    mirror_option,
    out_option,
    path_or_url,
    weights_option,
)
from kernel.config import BankSettings


def add_bank(commands: argparse._SubParsersAction) -> None:
    bank = add_command(commands, bank_command, "a prompt bank from files of prompts")
    bank.add_argument("prompts", type=path_or_url, nargs="+",
                      help=".txt, .csv, .tsv, .jsonl or .parquet files")  # fmt: skip
    weights_option(bank, kind=path_or_url)
    out_option(bank, "BANK", "new or own folder; a killed build goes on", path_or_url)
    bank.add_argument("--column", metavar="NAME", help="the column of tables (default: found)")
    bank.add_argument("--exclude", type=path_or_url, metavar="PROMPTS",
                      help="prompts that will be scored: equal and near ones stay out of the bank")  # fmt: skip
    bank.add_argument("--near", type=float, default=BankSettings.near, metavar="COSINE",
                      help="of prompts this near only the first is kept (default %(default)s)")  # fmt: skip
    device_option(bank)
    engine_option(bank)
    mirror_option(bank)


def bank_command(options: argparse.Namespace) -> None:
    from kernel.banks.build import ORDER, build_bank
    from kernel.pipeline.workers.engines import engine_named
    from kernel.system.stores.places import Places

    places = Places(options.mirror)
    with places.written(options.out, ORDER) as out:
        exclude = options.exclude and places.read(options.exclude)
        settings = BankSettings(list(map(places.read, options.prompts)), options.column, exclude, options.near)
        weights = places.read(options.weights)
        with engine_named(options.engine, options.device, options.address) as engine:
            record = build_bank(settings, weights, out, engine)
    print(f"{options.out}: {record['count']:,} of {record['read']:,} prompts")
    for reason, count in record["dropped"].items():
        print(f"  {count:>10,} dropped: {reason}")
    if found := record["excluded"]:
        count = found["equal"] + found["near"]
        print(f"  {count:>10,} kept out: equal ({found['equal']:,}) or near to {found['name']}")
