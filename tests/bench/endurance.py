"""Many images, and little time: figures of whole runs over drawn pictures, each in a process of its own.

`scale`: time by stage and peak memory over many images beside a tenth of them. `deadlines`: runs under ever longer
budgets, what each one leaves, and by how much it goes over.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from kernel.config import DEFAULT_WEIGHTS
from kernel.errors import UserError
from kernel.miniature.world.folders import ENDURANCE_SEED, draw_folder
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission
from kernel.system.files import write_json
from kernel.system.processes import child_environment
from tests.bench.machine import machine_named

MOST_GROWTH = 1.25  # of peak memory, ten times the images
MOST_OVER = 1.0  # seconds: a batch of miniature pictures and the end of a process
BUDGETS = (5, 8, 12, 16, 20, 25, 30, 40, 60, 90)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.endurance", description=__doc__)
    parser.add_argument("what", choices=("scale", "deadlines"))
    parser.add_argument("--images", type=int, default=None, help="default 16000 for scale, 200 for deadlines")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, metavar="SECONDS")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("build/endurance"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args()
    number = options.images or {"scale": 16_000, "deadlines": 200}[options.what]
    images = options.out / f"images-{number}"
    draw_folder(images, ENDURANCE_SEED, number)
    more = [word for setting in options.settings for word in ("--set", setting)]
    figures = scale if options.what == "scale" else deadlines
    good, record = figures(images, number, options, more)
    write_json(options.out / f"{options.what}.json", {"date": str(date.today()), "machine": machine_named(), **record})
    print(f"{machine_named()}, {date.today()}: {'as it should be' if good else 'NOT as it should be'}")
    return 0 if good else 1


def run(images: Path, out: Path, options: argparse.Namespace, more: list[str]) -> tuple[int, float]:
    """A fresh run: exit code and seconds."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "kernel", "run", str(images), "--weights", str(options.weights), "--out", str(out)]
    start = time.perf_counter()
    code = subprocess.run([*command, *more], env=child_environment()).returncode
    return code, time.perf_counter() - start


def scale(images: Path, number: int, options: argparse.Namespace, more: list[str]) -> tuple[bool, dict[str, Any]]:
    """Whether the peak of `number` images stays within MOST_GROWTH of a tenth's, and the figures of both."""
    ids = [image.id for image in list_images(images)]
    record: dict[str, Any] = {}
    for count in (number // 10, number):
        out = options.out / f"run-{count}"
        code, seconds = run(images, out, options, [*more, "--limit", str(count)])
        if code:
            raise UserError(f"{out}: the run over {count} images ended with exit code {code}; expected 0")
        check_submission(out / "submission.csv", ids[:count])
        content = json.loads((out / "run.json").read_text(encoding="utf-8"))
        peak = max(stage["host"] for stage in content["memory"].values())
        record[str(count)] = {"wall_seconds": round(seconds, 1), "peak_bytes": peak, "plan": content["plan"]}
        record[str(count)] |= {key: content[key] for key in ("counts", "seconds", "memory")}
        print(f"{count:,} images: {seconds:,.0f} s, peak {peak / 1e6:,.0f} MB; by stage {content['seconds']}")
    growth = record[str(number)]["peak_bytes"] / record[str(number // 10)]["peak_bytes"]
    print(f"peak memory of {number:,} images is {growth:.3f} x that of {number // 10:,} (at most {MOST_GROWTH})")
    return growth <= MOST_GROWTH, {**record, "growth": growth}


def deadlines(images: Path, number: int, options: argparse.Namespace, more: list[str]) -> tuple[bool, dict[str, Any]]:
    """Whether every budget after the constant answer's time ends with a valid submission and none is overrun by more
    than a batch; and what each budget gave."""
    ids = [image.id for image in list_images(images)]
    rows, cheapest = [], None
    for budget in options.budgets:
        out = options.out / f"run-{budget}s"
        code, seconds = run(images, out, options, [*more, "--deadline", f"{budget}s"])
        valid = is_valid(out / "submission.csv", ids)
        content = json.loads((out / "run.json").read_text(encoding="utf-8")) if (out / "run.json").is_file() else {}
        counts = content.get("counts", {})
        row = {
            "budget": budget, "seconds": round(seconds, 2), "over": round(seconds - budget, 2), "exit_code": code,
            "valid": valid, "no_features": counts.get("no_features"), "fewer_captions": counts.get("fewer_captions"),
            "no_captions": counts.get("no_captions"), "problems": content.get("problems"),
        }  # fmt: skip
        rows.append(row)
        cheapest = budget if valid and cheapest is None else cheapest
        print({key: value for key, value in row.items() if key != "problems"})
    ended_well = cheapest is not None and all(row["valid"] for row in rows if row["budget"] >= cheapest)
    good = ended_well and all(row["over"] <= MOST_OVER for row in rows)
    return good, {"images": number, "cheapest": cheapest, "rows": rows}


def is_valid(path: Path, ids: list[str]) -> bool:
    try:
        check_submission(path, ids)
    except UserError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
