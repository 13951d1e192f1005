"""What a service says, as it may stand in a line or a file of ours."""

from textwrap import shorten


def plain(text: str) -> str:
    """A text of the service without what a terminal would obey, or show in another order, than it stands there."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def one_line(text: str) -> str:
    return shorten(plain(text), 300, placeholder="...")
