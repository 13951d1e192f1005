"""Processes of this machine, as /proc tells of them."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process started, as long as it lives."""
    return [int(own) for own in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process still does something: one that nobody has waited for yet has ended too."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def parent(pid: int) -> int:
    """The process that started one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
