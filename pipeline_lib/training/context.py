"""Context prediction: in which of 8 directions a second patch lies (Doersch, Gupta and Efros 2015, across domains)."""

from torch import Tensor

from pipeline_lib.training.objective import Objective
from pipeline_lib.training.streams import PatchOutputs, pair_losses


class ContextPrediction(Objective):
    """The pretext task of the source."""

    def loss(self, outputs: PatchOutputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Both heads; the figures are those of the pair head, accuracy in 0..1."""
        found = pair_losses(outputs.logits, outputs.pairs)
        right = (found.correct * outputs.pairs.weights).mean()
        return found.pair + found.one_patch, {"train_loss": found.pair, "train_accuracy": right}
