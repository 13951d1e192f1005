import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import UserError
from kernel.system.deadline import duration, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("9h", 32400), ("8h30m", 30600), ("45m", 2700), ("90s", 90), ("1h1s", 3601)]
)
def test_a_time_is_read_by_its_units(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "9", "30m8h", "-1h", "1.5h", "9 h", "h", "nonsense"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(UserError, match="such as 9h, 8h30m or 90s"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45s"), (119, "119s"), (1530, "0h26m"), (32400, "9h00m"), (3599, "1h00m")]
)
def test_seconds_are_written_for_people(seconds, text):
    assert duration(seconds) == text


@given(st.integers(min_value=2, max_value=10**5))
def test_whole_minutes_come_back_as_they_were_written(minutes):
    assert seconds_of(duration(minutes * 60)) == minutes * 60
