"""What is said of an error on one line."""

import pytest

from kernel.errors import first_line, kind_and_line


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
