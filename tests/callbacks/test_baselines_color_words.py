import re

import pytest

from callbacks.baselines import ColorWords

GOOD = {
    "psnr": 22.0,
    "mean_psnr": 21.0,
    "delta_e76": 10.0,
    "mean_delta_e76": 12.0,
    "grey_delta_e76": 14.0,
    "mean_by_luminance_delta_e76": 11.0,
    "colorfulness": 20.0,
    "colorfulness_true": 40.0,
    "colorfulness_difference": -20.0,
}


def figures(**changes: float) -> dict[str, float]:
    return {f"val/{name}": value for name, value in (GOOD | changes).items()}


def test_a_model_above_all_floors_is_not_talked_about() -> None:
    assert ColorWords().sentences(figures(), "val") == []
    assert ColorWords().sentences(figures(delta_e76=99), "test") == []  # no such figures
    assert ColorWords().sentences({}, "val") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"delta_e76": 11.5},
            "val: no better than one colour for each luminance (mean_by_luminance): delta_e76 11.5 against 11.",
        ),
        (
            {
                "psnr": 20.25,
                "delta_e76": 11,
                "mean_by_luminance_delta_e76": 11.1,
                "mean_delta_e76": 11,
            },  # equal is no better
            "val: no better than one colour for everything (mean): psnr 20.25 against 21, delta_e76 11 against 11.",
        ),
        ({"colorfulness": 13}, "val: close to sepia, colorfulness 13; that of the true pictures is 40."),
    ],
)
def test_what_is_no_better_than_no_model_is_said(changes: dict[str, float], said: str) -> None:
    assert ColorWords().sentences(figures(**changes), "val") == [said]


def test_each_floor_has_its_sentence() -> None:
    found = ColorWords().sentences(figures(delta_e76=20, colorfulness=5), "val")
    assert [re.split(r" \(|,", sentence)[0] for sentence in found] == [
        "val: no better than leaving every picture grey",
        "val: no better than one colour for everything",
        "val: no better than one colour for each luminance",
        "val: close to sepia",
    ]


def test_a_third_of_the_truth_is_no_sepia() -> None:
    assert ColorWords().sentences(figures(colorfulness=15, colorfulness_true=45), "val") == []
