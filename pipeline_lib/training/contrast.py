"""The contrastive objective: which drawing belongs to which photo, among all of a batch.

InfoNCE (van den Oord, Li and Vinyals 2018, eq. 4) in both directions, as in CLIP (Radford et al. 2021). The pairs are
an image's own photo and edge views, so it needs no label. With `contrast.mirror_negatives` a batch holds each image and
its horizontal flip, so that the flipped photo is a hard negative: the same content in another order.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_lib.training.objective import Objective
from pipeline_lib.training.streams import ViewOutputs


def info_nce(photos: Tensor, edges: Tensor, groups: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE in both directions.

    Args:
        photos: float[B, D], the embeddings of photo views; their length does not matter.
        edges: float[B, D], of the edge views, in the same order.
        groups: int64[B]; images of one group are not each other's negatives.
        temperature: what cosines are divided by.

    Returns:
        The loss, float[], and bool[B], whether a drawing's nearest photo of the batch is its own.
    """
    a, b = (functional.normalize(part.float(), dim=1) for part in (photos, edges))
    logits = b @ a.T / temperature
    same = groups[:, None] == groups[None, :]
    same.fill_diagonal_(fill_value=False)
    logits = logits.masked_fill(same, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    return loss, logits.argmax(dim=1) == own


class Contrast(Objective):
    """InfoNCE on the views of a batch."""

    def loss(self, outputs: ViewOutputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the share of drawings whose own photo is the nearest, 0..1."""
        loss, correct = info_nce(outputs.photos, outputs.edges, outputs.groups, outputs.temperature)
        return loss, {"contrast_loss": loss, "contrast_accuracy": correct.float().mean()}
