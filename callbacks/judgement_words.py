"""Says in words where the judgements of photographs are no better than always giving the same answer."""

from collections.abc import Mapping

from callbacks.words import Words


class JudgementWords(Words):
    """Says after training, validation and test how accurate the majority's answer is, and whether that was beaten."""

    def sentences(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """The accuracy beside that of the same answer for all, and where half of each class is judged wrongly."""
        found = {name: figures.get(f"{stage}/{name}") for name in ("accuracy", "majority", "balanced_accuracy")}
        accuracy, majority, balanced = found.values()
        said = []
        if accuracy is not None and majority is not None:
            verdict = "better than" if accuracy > majority else "no better than"
            said.append(
                f"{stage}: accuracy {accuracy:.4g}, {verdict} the same answer for all (majority {majority:.4g})."
            )
        if balanced is not None and balanced <= 0.5:
            said.append(f"{stage}: balanced accuracy {balanced:.4g}; guessing has 0.5.")
        return said
