"""The embedding of whole images, as the embed stage and the search make it, against plain AlexNet up to its fc6.

Both see the same prepared images of the default's size. The limit is torchvision's AlexNet, by PyTorch alone; its fc6
has 4,096 numbers, and no BatchNorm stands between its layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models import alexnet

from benchmarks.timing import changed, compare, tell
from pipeline_lib.embedding.networks import fc6_of
from pipeline_lib.models.device import choose_device, keep_freed_memory, use_threads
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.saved import LoadedEncoder

TURNS = 9
IMAGES = 512


@torch.inference_mode()
def main() -> None:
    """Times the network alone."""
    values = changed({"train.pretrained": "none"})
    use_threads(values.embed.threads)
    keep_freed_memory()
    device = choose_device(values.train)
    torch.manual_seed(0)
    encoder = Encoder(values.train, values.patches.size).eval()
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = alexnet(weights=None).eval()
    plain.to(device, memory_format=torch.channels_last)
    images = torch.randn(values.embed.batch, 3, values.embed.largest, values.embed.largest)
    images = images.contiguous(memory_format=torch.channels_last)

    def bare(images: Tensor) -> Tensor:
        pooled: Tensor = plain.avgpool(plain.features(images.to(device)))
        fc6: Tensor = plain.classifier[1](pooled.flatten(1))
        return fc6

    def run(network: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        def images_a_second() -> float:
            started = time.perf_counter()
            for _ in range(IMAGES // len(images)):
                network(images).float().cpu().numpy()
            return IMAGES // len(images) * len(images) / (time.perf_counter() - started)

        return images_a_second

    row = compare(
        f"embedding: the default at {values.embed.largest} px / plain AlexNet",
        run(fc6_of(LoadedEncoder(encoder, values, {}, device), values.embed)),
        run(bare),
        unit="images/s",
        goal=0.9,
        turns=TURNS,
        sense="at least",
    )
    tell([row])


if __name__ == "__main__":
    main()
