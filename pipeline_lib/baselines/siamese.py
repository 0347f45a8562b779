"""Siamese and triplet networks (Sangkloy et al. 2016), a row each.

What they start from shows whether context prediction helps as pretraining: `siamese_alexnet` and `triplet_alexnet`
start from the very network that the pipeline starts from, the rows `..._from_context` from the same network after it
has learned to predict context.
"""

from __future__ import annotations

from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.baselines.supervised.system import PairNetwork


def _system(name: str, recipe: Recipe) -> PairNetwork:
    uses_model = recipe.start != "none"
    return PairNetwork(name, "pairs", paired=True, uses_model=uses_model, forms=("none",), processes=1, recipe=recipe)


SIAMESE, TRIPLET = 1.0, 0.3
SYSTEMS = (
    _system("siamese_alexnet", Recipe(loss="contrastive", start="imagenet", margin=SIAMESE)),
    _system("triplet_alexnet", Recipe(loss="triplet", start="imagenet", margin=TRIPLET)),
    _system("siamese_alexnet_from_context", Recipe(loss="contrastive", start="context", margin=SIAMESE)),
    _system("triplet_alexnet_from_context", Recipe(loss="triplet", start="context", margin=TRIPLET)),
    _system("triplet_alexnet_two_branches", Recipe(loss="triplet", start="imagenet", margin=TRIPLET, shared=False)),
    # From random weights: torchvision's for this layout can't be had from a package registry.
    _system("siamese_resnet18_scratch", Recipe(loss="contrastive", start="none", margin=SIAMESE, layout="resnet18")),
    _system("triplet_resnet18_scratch", Recipe(loss="triplet", start="none", margin=TRIPLET, layout="resnet18")),
)
