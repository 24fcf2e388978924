"""Each format of tune.formatting by its examples, its limits among them."""

import pytest

from tune.formatting import (
    format_duration,
    format_hours,
    format_mean_std,
    format_number,
    format_p_value,
    format_params,
    format_size,
    join_first,
)


@pytest.mark.parametrize(
    ("format_one", "value", "text"),
    [
        *(
            (format_number, *each)
            for each in [(0.123, "0.12"), (1.26, "1.3"), (9.96, "10"), (10.4, "10"), (123, "123")]
        ),
        *((format_size, *each) for each in [(0, "0 MB"), (2.34e6, "2.3 MB"), (99.6e6, "100 MB"), (1.23e8, "0.1 GB")]),
        *((format_duration, *each) for each in [(0, "0:00"), (65.9, "1:05"), (3599, "59:59"), (3600, "1:00:00")]),
        (format_duration, 90061, "25:01:01"),
        *((format_p_value, *each) for each in [(0.0004, "p below 0.001"), (0.0042, "p = 0.004"), (0.02, "p = 0.02")]),
        (format_p_value, 0.314, "p = 0.31"),
        (join_first, ["a", "b", "c"], "a, b, c"),
        (join_first, ["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)
def test_one_value(format_one, value, text):
    assert format_one(value) == text


def test_several_values():
    assert format_hours(0.5, "GPU-hours") == "30.0 GPU-minutes"
    assert [format_hours(hours, "core-hours") for hours in (0.0, 12.345)] == ["0.0 core-hours", "12.3 core-hours"]
    assert format_mean_std(0.531, 0.00421) == "53.10 ± 0.42"
    params = {"optim.lr": 0.000314159, "model.heads": 4, "model.fusion": "gate"}
    assert format_params(params) == "lr 0.000314, heads 4, fusion gate"
