"""What is said of an error on one line."""

import pytest

from kernel.errors import MOST_SHOWN, first_line, kind_and_line, listed, shown


@pytest.mark.parametrize(
    ("error", "line", "with_kind"),
    [
        (ValueError("\n too wide \n see above"), "too wide ", "ValueError: too wide "),
        (ValueError(), "ValueError", "ValueError"),
        (KeyError(" "), "' '", "KeyError: ' '"),
        (RuntimeError("RuntimeError"), "RuntimeError", "RuntimeError: RuntimeError"),
    ],
)
def test_an_error_on_one_line(error, line, with_kind):
    assert (first_line(error), kind_and_line(error)) == (line, with_kind)


def test_texts_of_others_are_shown_without_what_a_terminal_obeys():
    assert shown("a\n\x1b[2J\u202eb") == "a  [2J b"
    assert first_line(ValueError("a\x1b[2J")) == "a [2J"


def test_of_a_long_text_the_beginning_is_shown():
    assert shown("x" * MOST_SHOWN) == "x" * MOST_SHOWN
    assert shown("x" * 10**6) == "x" * MOST_SHOWN + "..."


def test_names_of_others_are_listed_and_none_is_said():
    assert (listed(["id", "a\nb"]), listed([])) == ("id, a b", "none")
