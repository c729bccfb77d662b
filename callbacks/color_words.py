"""Says in words what the figures of a colouring hide: that one colour for all would do as well, or that it is sepia."""

from collections.abc import Mapping

from callbacks.words import Words

BEST_HIGH = {"psnr": True, "ssim": True, "delta_e76": False, "delta_e2000": False}
"""Figures that are compared with those of the floors, and whether the best is the highest."""
FLOORS = {
    "grey": "leaving every picture grey",
    "mean": "one colour for everything",
    "mean_by_luminance": "one colour for each luminance",
}
SEPIA = 3
"""How many times as colourful the truth is from where on a colouring is called sepia."""


class ColorWords(Words):
    """Says after training, validation and test where a model is no better than what needs no model.

    A figure `<stage>/<figure>` is compared with `<stage>/<floor>_<figure>` of every floor that the task logs, and
    `<stage>/colorfulness` with `<stage>/colorfulness_true`.
    """

    def sentences(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """Where a model is no better than what needs no model, and where it is sepia."""
        sentences = []
        for floor, meaning in FLOORS.items():
            worse = []
            for figure, high in BEST_HIGH.items():
                own, other = figures.get(f"{stage}/{figure}"), figures.get(f"{stage}/{floor}_{figure}")
                if own is not None and other is not None and not (own > other if high else own < other):
                    worse.append(f"{figure} {own:.4g} against {other:.4g}")
            if worse:
                sentences.append(f"{stage}: no better than {meaning} ({floor}): {', '.join(worse)}.")
        found, true = (figures.get(f"{stage}/colorfulness{end}") for end in ("", "_true"))
        if found is not None and true is not None and SEPIA * found < true:
            sentences.append(
                f"{stage}: close to sepia, colorfulness {found:.4g}; that of the true pictures is {true:.4g}."
            )
        return sentences
