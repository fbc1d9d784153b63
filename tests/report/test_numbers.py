"""Numbers as a reader sees them."""

from __future__ import annotations

import math

import pytest

from glomflow.report import numbers

NAN = math.nan


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.number(0.8666), "0.87"),
        (numbers.number(-0.054), "−0.05"),
        (numbers.number(-0.001), "0.00"),
        (numbers.number(NAN), "–"),
        (numbers.number(None), "–"),
        (numbers.signed(0.06), "+0.06"),
        (numbers.signed(-0.06), "−0.06"),
        (numbers.signed(0.001), "0.00"),
        (numbers.signed(NAN), "–"),
        (numbers.percent(0.871), "87 %"),
        (numbers.percent(NAN), "–"),
        (numbers.spread(0.871, 0.04), "0.87 ± 0.04"),
        (numbers.spread(0.871, NAN), "0.87"),
        (numbers.interval(0.87, 0.78, 0.94), "0.87 (0.78–0.94)"),
        (numbers.interval(0.87, NAN, NAN), "0.87"),
        (numbers.signed_interval(0.06, -0.02, 0.14), "+0.06 (−0.02 to 0.14)"),
        (numbers.signed_interval(0.06, 0.02, 0.14), "+0.06 (0.02–0.14)"),
        (numbers.points_interval(0.06, -0.02, 0.14), "+6 (−2 to 14) points"),
        (numbers.percent_interval(0.78, 0.94), "78–94 %"),
        (numbers.percent_cell(0.87, 0.78, 0.94), "87 % (78–94)"),
        (numbers.percent_cell(NAN, NAN, NAN), "–"),
        (numbers.p_value(0.0004), "< 0.001"),
        (numbers.p_value(0.0123), "0.012"),
        (numbers.p_value(0.4567), "0.46"),
        (numbers.p_value(NAN), "–"),
        (numbers.p_text(0.0004), "P < 0.001"),
        (numbers.p_text(0.0123), "P = 0.012"),
        (numbers.count(1, "patient"), "1 patient"),
        (numbers.count(1200, "patient"), "1\u202f200 patients"),
        (numbers.count(2, "glomerulus", "glomeruli"), "2 glomeruli"),
        (numbers.listing([]), ""),
        (numbers.listing(["a"]), "a"),
        (numbers.listing(["a", "b", "c"]), "a, b and c"),
        (numbers.listing(["a", "b"], "or"), "a or b"),
    ],
)
def test_formats(shown, expected):
    assert shown.replace(numbers.NBSP, " ") == expected
