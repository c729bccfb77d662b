"""Scores of one class's masks over all pixels of a set, as change detection and road extraction report them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from tasks.metrics import as_bool, check_shapes, pixel_counts


class PixelScores(Metric):
    """Scores of binary masks from TP, FP, TN and FN, each summed over all pixels of all pictures first.

    As in Wang et al., "CDnet 2014: an expanded change detection benchmark dataset", CVPR workshops 2014, and `iou`.
    A score whose denominator is 0 is 0.

    - `f_measure`: 2 P R / (P + R) = 2 TP / (2 TP + FP + FN) of precision P and recall R. It is the `dice_global` of
      `tasks.metrics.DiceScores`, except that without any true or predicted pixel it is 0.
    - `precision`: TP / (TP + FP)
    - `recall`: TP / (TP + FN)
    - `specificity`: TN / (TN + FP)
    - `accuracy`: (TP + TN) / (TP + FP + TN + FN)
    - `iou`: TP / (TP + FP + FN)
    - `balanced_accuracy`: the mean of recall and specificity; only where it is asked for.

    Pixels are counted in integers, exact in any number of them and under several processes.

    Args:
        names: Which of the scores, in this order.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    true_negatives: Tensor

    def __init__(
        self, names: Sequence[str] = ("f_measure", "precision", "recall", "specificity", "accuracy", "iou")
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in ("true_positives", "false_positives", "false_negatives", "true_negatives"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: Predicted masks, (B, 1, H, W): bool, or numbers of which those above one half are 1.
            target: True masks, likewise.

        Raises:
            ValueError: A shape is not (B, 1, H, W), or the two differ.
        """
        check_shapes(1, prediction=prediction, target=target)
        predicted, true = as_bool(prediction), as_bool(target)
        overlap, predicted_pixels, true_pixels = (
            pixel_counts(mask).sum() for mask in (predicted & true, predicted, true)
        )
        self.true_positives += overlap
        self.false_positives += predicted_pixels - overlap
        self.false_negatives += true_pixels - overlap
        self.true_negatives += true.numel() - predicted_pixels - true_pixels + overlap

    def compute(self) -> dict[str, Tensor]:
        """Scores in [0, 1] by name, each a scalar."""
        # Python divides whole numbers of any size with one rounding; a tensor would round them to float32 first.
        tp, fp = int(self.true_positives), int(self.false_positives)
        fn, tn = int(self.false_negatives), int(self.true_negatives)
        fractions = {
            "f_measure": (2 * tp, 2 * tp + fp + fn),
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
            "specificity": (tn, tn + fp),
            "accuracy": (tp + tn, tp + fp + tn + fn),
            "iou": (tp, tp + fp + fn),
            "balanced_accuracy": (tp * (tn + fp) + tn * (tp + fn), 2 * (tp + fn) * (tn + fp)),
        }
        found = {name: part / whole if whole else 0.0 for name, (part, whole) in fractions.items()}
        device = self.true_positives.device
        return {name: torch.tensor(found[name], dtype=torch.float32, device=device) for name in self.names}
