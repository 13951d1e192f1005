"""Times as people write them: 9h, 8h30m, 45m, 90s."""

import re

from kernel.errors import UserError


def seconds_of(text: str) -> float:
    """Example: "8h30m" -> 30600. Raises UserError for anything but hours, minutes, seconds in this order, above 0."""
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", text)
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not seconds:
        raise UserError(f"{text!r} is no time above 0; expected hours, minutes, seconds, such as 9h, 8h30m or 90s")
    return float(seconds)


def duration(seconds: float) -> str:
    """Example: 1530 -> "0h26m", 45 -> "45s"."""
    if seconds < 120:
        return f"{seconds:.0f}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes:02d}m"
