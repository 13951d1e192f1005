"""Ratios, the table and the chart of bench.json's figures."""

from pathlib import Path
from typing import Any

from tests.bench.near_duplicates import minutes_per_million

GIGABYTE = 1e9
# a submission of a few images says nothing: it is among the single steps, at its full size
STAGES = ("decode", "clip", "rank", "captions", "sentences", "fusion")
TITLES = {
    "floor": "floor (bare models)",
    "ours": "this package",
    "clip_interrogator": "clip-interrogator 0.6.0",
    "seed": "seed deck's way",
}
DESCRIBED = {
    "fast": "fast, miniature models, all words",
    "best": "best, miniature models, all words, 8 terms at most",
    # as many as tests/bench/describing.py says
    "best_true_shape": "best, random ViT-B-32, captions given, one term of 513",
}
# of each ratio what it must reach, and whether that is the least or the most
REACH = {
    "total_to_floor": (0.8, "most"),
    "blip2_total_to_floor": (0.9, "most"),
    "start_to_clip_interrogator": (0.8, "most"),
    "rank_to_product": (1.2, "most"),
    "rank_speedup_seed": (150, "least"),
    "rank_speedup_clip_interrogator": (30, "least"),
    "submission_speedup_pandas": (8, "least"),
    "total_speedup_clip_interrogator": (1, "least"),
    "between_stages_to_total": (0.03, "most"),
    "peak_memory_to_largest_model": (1.05, "most"),
    "training_to_bare": (0.9, "least"),
    "describe_speedup_fast": (5, "least"),
    "describe_speedup_best": (8, "least"),
    "describe_speedup_best_true_shape": (10, "least"),
    "near_duplicates_minutes_per_million": (12, "most"),
    "near_duplicates_recall": (0.99, "least"),
}
# what is aimed at and not reached yet: told beside the others, and nothing fails by it
AIMS = {"encoder_to_forward": (1.05, "most")}


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """How many times as long, or as fast; `total_to_floor` is the worse of BLIP's jobs, `peak_memory_to_largest_model`
    the worst job's (peak - 1 GB) / largest model, and `between_stages_to_total` what is no stage's of the time after
    the start, that of loading models aside. Near duplicates' are those of real prompts, where there were any."""
    jobs = {name: job["contenders"] for name, job in found["jobs"].items()}
    an_image = {name: {who: own["seconds_an_image"] for who, own in job.items()} for name, job in jobs.items()}
    rank, submission, training, encoder = (
        found["parts"][name] for name in ("rank", "submission", "training", "encoder")
    )
    to_floor = {name: own["ours"] / own["floor"] for name, own in an_image.items()}
    long, starts = found["long"], {who: own["start_seconds"] for who, own in jobs["classic"].items()}
    describe = {mode: own["seconds"] for mode, own in found["describe"].items()}
    return {
        "total_to_floor": max(to_floor["classic"], to_floor["deck"]),
        "blip2_total_to_floor": to_floor["blip2"],
        "rank_to_product": rank["ours"] / rank["product"],
        "rank_speedup_seed": rank["seed"] / rank["ours"],
        "rank_speedup_clip_interrogator": rank["clip_interrogator"] / rank["ours"],
        "submission_speedup_pandas": submission["pandas"] / submission["ours"],
        "total_speedup_clip_interrogator": an_image["classic"]["clip_interrogator"] / an_image["classic"]["ours"],
        "start_to_clip_interrogator": starts["ours"] / starts["clip_interrogator"],
        "between_stages_to_total": 1 - sum(long["stages"].values()) / long["seconds_an_image"],
        "peak_memory_to_largest_model": max(
            (job["contenders"]["ours"]["peak_bytes"] - GIGABYTE) / job["largest_model_bytes"]
            for job in found["jobs"].values()
        ),
        "training_to_bare": training["bare"] / training["ours"],
        "encoder_to_forward": encoder["ours"] / encoder["bare"],
        **(near_duplicates_ratios(found["near_duplicates"]) if "near_duplicates" in found else {}),
        **{f"describe_speedup_{mode}": own["clip_interrogator"] / own["ours"] for mode, own in describe.items()},
    }


def near_duplicates_ratios(own: dict[str, float]) -> dict[str, float]:
    minutes = minutes_per_million(own["row"], own["pair"])
    return {"near_duplicates_minutes_per_million": minutes, "near_duplicates_recall": own["recall"]}


def missed(found: dict[str, Any]) -> list[str]:
    """The names of ratios that were measured and do not reach what they must."""
    values = found["ratios"]
    return [
        name
        for name, (bound, kind) in REACH.items()
        if name in values and (values[name] > bound if kind == "most" else values[name] < bound)
    ]


def table(found: dict[str, Any]) -> str:
    """Markdown: stages and totals of each job, then single steps, then the ratios beside what they must reach."""
    minutes, turns = sum(found["took"].values()) / 60, found["rounds"]
    lines = [
        f"Measured {found['date']} on {found['machine']}, in {minutes:.0f} minutes; medians of {turns} turns.",
        "",
    ]
    for name, job in found["jobs"].items():
        whos = list(job["contenders"])
        fewer = [
            f"{TITLES[who]} {own['images']:.0f}"
            for who, own in job["contenders"].items()
            if own["images"] != job["images"]
        ]
        told = f" ({', '.join(fewer)})" if fewer else ""
        lines += [f"Job `{name}`, {job['images']} pictures{told}, seconds a picture:", ""]
        lines += [f"| | {' | '.join(TITLES[who] for who in whos)} |", "|---" * (len(whos) + 1) + "|"]
        for stage in STAGES:
            cells = [job["contenders"][who]["stages"].get(stage) for who in whos]
            if any(cell is not None for cell in cells):
                lines.append(f"| {stage} | {' | '.join('' if cell is None else f'{cell:.4f}' for cell in cells)} |")
        figures = list(job["contenders"].values())
        lines += [
            row("**all, after the start**", [f"**{own['seconds_an_image']:.3f}**" for own in figures]),
            row("pictures a second", [f"{1 / own['seconds_an_image']:.3f}" for own in figures]),
            row("start to first picture, s", [f"{own['start_seconds']:.1f}" for own in figures]),
            row("peak memory without libraries' code, GB", [f"{own['peak_bytes'] / GIGABYTE:.2f}" for own in figures]),
            "",
        ]
        if "captions" in job:
            same = job["captions"]
            lines += [f"Captions that this package says as the floor: {same['identical']} of {same['compared']}.", ""]
    rank, submission, decode, training, encoder = (
        found["parts"][name] for name in ("rank", "submission", "decode", "training", "encoder")
    )
    lines += [
        "| single steps | seconds |",
        "|---|---|",
        f"| rank 100,952 phrases of 1,024 dimensions, an image: this package | {rank['ours']:.5f} |",
        f"| the same, bare product and top-k | {rank['product']:.5f} |",
        f"| the same, seed deck's loop | {rank['seed']:.3f} |",
        f"| the same, clip-interrogator | {rank['clip_interrogator']:.3f} |",
        f"| submission of 16,000 images, written, synced, checked: this package | {submission['ours']:.2f} |",
        f"| the same by pandas, not checked | {submission['pandas']:.2f} |",
        f"| decode a 512 px PNG and make CLIP's pixels: this package | {decode['ours']:.4f} |",
        f"| the same, one by one | {decode['single']:.4f} |",
        f"| `train --tier full` of ViT-S/16, a picture from its file: this package | {training['ours']:.4f} |",
        f"| the same, forward and backward alone, pixels in memory | {training['bare']:.4f} |",
        f"| rows of an own encoder, ViT-S/16, a 512 px PNG from its file: this package | {encoder['ours']:.4f} |",
        f"| the same, forward alone, pixels in memory | {encoder['bare']:.4f} |",
        *near_duplicates_lines(found.get("near_duplicates")),
        f"| `python -m kernel --help`, CPU time | {found['help_cpu_seconds']:.2f} |",
        "",
        "| `describe`: seconds a picture | this package | clip-interrogator | same |",
        "|---|---|---|---|",
        *(describe_row(mode, own) for mode, own in found["describe"].items()),
        "",
        "| ratio | measured | to reach |",
        "|---|---|---|",
    ]
    for name, (bound, kind) in REACH.items():
        value = f"{found['ratios'][name]:.3g}" if name in found["ratios"] else "not measured"
        lines.append(f"| `{name}` | {value} | at {kind} {bound} |")
    for name, (bound, kind) in AIMS.items():
        lines.append(f"| `{name}` | {found['ratios'][name]:.3g} | aimed at: at {kind} {bound} |")
    return "\n".join(lines) + "\n"


def near_duplicates_lines(own: dict[str, float] | None) -> list[str]:
    if own is None:
        return []
    return [
        f"| near duplicates, a real prompt's row made ready to be compared, one core | {own['row']:.7f} |",
        f"| the same, compared with another one | {own['pair']:.2e} |",
    ]


def describe_row(mode: str, own: dict[str, Any]) -> str:
    cells = [f"{own['seconds'][who]:.4f} ({own['images'][who]} pictures)" for who in ("ours", "clip_interrogator")]
    return row(DESCRIBED[mode], [*cells, f"{own['identical']} of {own['compared']}"])


def row(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def chart(found: dict[str, Any], path: Path) -> None:
    """Bars of seconds a picture by stage, contender beside contender."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found["jobs"]), figsize=(5 * len(found["jobs"]), 3.2))
    for axis, (name, job) in zip(axes, found["jobs"].items(), strict=True):
        left = [0.0] * len(job["contenders"])
        titles = [TITLES[who] for who in job["contenders"]]
        for stage in STAGES:
            widths = [own["stages"].get(stage, 0.0) for own in job["contenders"].values()]
            axis.barh(titles, widths, left=left, label=stage)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axis.set_title(f"{name}: seconds a picture")
        axis.invert_yaxis()
    axes[-1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
