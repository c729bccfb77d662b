import pytest

from callbacks.baselines import JudgementWords


@pytest.mark.parametrize(
    ("accuracy", "balanced", "said"),
    [
        (0.75, 0.6, ["test: accuracy 0.75, better than the same answer for all (majority 0.7)."]),
        (0.7, 0.6, ["test: accuracy 0.7, no better than the same answer for all (majority 0.7)."]),
        (
            0.7,
            0.5,
            [
                "test: accuracy 0.7, no better than the same answer for all (majority 0.7).",
                "test: balanced accuracy 0.5; guessing has 0.5.",
            ],
        ),
    ],
)
def test_the_majority_stands_beside_the_accuracy(accuracy: float, balanced: float, said: list[str]) -> None:
    figures = {"test/accuracy": accuracy, "test/majority": 0.7, "test/balanced_accuracy": balanced, "val/majority": 1.0}
    assert JudgementWords().sentences(figures, "test") == said


def test_figures_that_are_not_there_are_not_talked_about() -> None:
    assert JudgementWords().sentences({"val/loss": 1.0}, "val") == []
