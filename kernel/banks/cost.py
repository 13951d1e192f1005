"""What a prompt bank costs, to be said before it is built: arithmetic of CLIP's text tower, time, bytes."""

from kernel.config import EMBEDDING_DIMENSIONS

# Of ViT-g-14, the real CLIP: its text tower (302 M parameters in its blocks x 77 tokens x 2, as in open_clip's
# model_profile.csv) and the length of its rows (embed_dim in open_clip's ViT-g-14.json).
TEXT_TOWER_GFLOPS = 47.0
CLIP_DIMENSIONS = 1024
BYTES_A_NUMBER = 2  # float16
# A comparison of two MiniLM rows on one core, in ns: measured on 40,000 real prompts at 0.9 with VNNI and without
# (Intel Xeon, 2026-11-30), see kernel/banks/near_duplicates.py.
NANOSECONDS_A_PAIR = (0.8, 1.9)
# Estimates that nobody measured: what a T4 sustains in fp16, and a laptop's cores in fp32, in TFLOP/s.
T4_TFLOPS = (14.0, 20.0)
LAPTOP_TFLOPS = (0.1, 0.3)


def text_tower_cost(count: int, gflops: float = TEXT_TOWER_GFLOPS) -> str:
    """Example: 1,000,000 prompts through CLIP's text tower at 47.00 GFLOPs each: 47.000 PFLOP"""
    return (
        f"{count:,} prompts through CLIP's text tower at {gflops:.2f} GFLOPs each: {petaflops(count, gflops):.3f} PFLOP"
    )


def petaflops(count: int, gflops: float = TEXT_TOWER_GFLOPS) -> float:
    return count * gflops / 1e6


def hours(count: int, tflops: tuple[float, float]) -> tuple[float, float]:
    """The fewest and the most hours at these speeds."""
    slow, fast = (petaflops(count) * 1000 / speed / 3600 for speed in tflops)
    return fast, slow


def bank_bytes(count: int, text_bytes: int = 0) -> int:
    """A bank's two matrices in float16 and its texts; the head and the record are a few megabytes more."""
    return count * (CLIP_DIMENSIONS + EMBEDDING_DIMENSIONS) * BYTES_A_NUMBER + text_bytes


def near_duplicate_pairs(count: int) -> float:
    """Comparisons of each of `count` prompts with all before it."""
    return count**2 / 2


def near_duplicate_hours(count: int) -> tuple[float, float]:
    """The fewest and the most hours of one core for those comparisons."""
    fast, slow = (near_duplicate_pairs(count) * nanoseconds / 1e9 / 3600 for nanoseconds in NANOSECONDS_A_PAIR)
    return fast, slow


def cost_lines(count: int, text_bytes: int = 0) -> list[str]:
    """What a bank of `count` prompts with the real CLIP costs at most, for people; the times are estimates.

    At most, as near duplicates are dropped before CLIP sees them.
    """
    t4, laptop = hours(count, T4_TFLOPS), hours(count, LAPTOP_TFLOPS)
    size = bank_bytes(count, text_bytes)
    return [
        f"a bank of all of them costs {text_tower_cost(count)} with ViT-g-14,",
        f"  by estimate {span(t4)} on a T4 or {span(laptop)} on a laptop's CPU; up to "
        f"{span(near_duplicate_hours(count))} of one core to find near duplicates;",
        f"  {size / 1e9:.2f} GB, and as much again while it is built" if size > 1e8 else f"  {size / 1e6:.1f} MB",
    ]


def span(times: tuple[float, float]) -> str:
    """A range of hours in the unit that fits. Example: (0.65, 0.93) -> "39-56 min"; (43.5, 131) -> "1.8-5.5 days" """
    units = (("s", 3600.0), ("min", 60.0), ("h", 1.0))
    name, factor = next((unit for unit in units if times[1] * unit[1] < 120), ("days", 1 / 24))
    return "-".join(f"{time * factor:.{0 if times[0] * factor >= 10 else 1}f}" for time in times) + f" {name}"
