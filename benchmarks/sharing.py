"""Shared encoding: 8 encoder passes serve the 24 pairs of an image; the limit encodes both patches of every pair anew.

Same network, same weights, same loss, forward and backward; here the "limit" is the plain loop that ours must beat.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.timing import changed, compare, tell
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import autocast, choose_device, choose_precision, use_threads
from pipeline_lib.pretext.batches import pair_table
from pipeline_lib.training.context import ContextPrediction
from pipeline_lib.training.objective import Weighted, weighted_loss
from pipeline_lib.training.start import make_optimiser
from pipeline_lib.training.streams import Pairs, PatchOutputs

TURNS = 5
OBJECTIVES = (Weighted(1.0, ContextPrediction()),)


def main() -> None:
    """Times steps that share encodings and steps that do not."""
    values = changed({"train.pretrained": "none"})
    settings, size, count = values.train, values.patches.size, values.train.batch_images
    use_threads(settings.threads)
    device = choose_device(settings)
    precision = choose_precision(settings, device)
    table = pair_table(settings.domain)
    pairs = Pairs.of(table, device)
    number = len(table.first)
    first, second = torch.from_numpy(table.first), torch.from_numpy(table.second)
    torch.manual_seed(0)
    shared = ContextNet(settings, size, first, second)
    # Told that every pair has patches of its own, the same network encodes them all.
    anew = ContextNet(settings, size, torch.arange(number), number + torch.arange(number))
    anew.load_state_dict(shared.state_dict())
    images = torch.rand(count, 8, 3, size, size, device=device)
    repeated = images[:, torch.cat([first, second])]
    for model in (shared, anew):
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    check_equal(shared, anew, images[:2], repeated[:2])

    def run(model: ContextNet, images: torch.Tensor, steps: int) -> Callable[[], float]:
        optimiser = make_optimiser(model, settings)
        patches = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        model.train()

        def steps_of() -> float:
            started = time.perf_counter()
            for _ in range(steps):
                optimiser.zero_grad(set_to_none=True)
                with autocast(device, precision):
                    logits = model(patches, count)
                loss, _ = weighted_loss(OBJECTIVES, PatchOutputs(logits, pairs))
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            return steps * count * number / (time.perf_counter() - started)

        return steps_of

    row = compare(
        "training: shared encoding / each pair anew",
        run(shared, images, 4),
        run(anew, repeated, 1),
        unit="pairs/s",
        goal=3.0,
        turns=TURNS,
        sense="at least",
    )
    tell([row])


@torch.inference_mode()
def check_equal(shared: ContextNet, anew: ContextNet, images: torch.Tensor, repeated: torch.Tensor) -> None:
    """Both ways must tell the same of every pair, or there is nothing to compare."""
    shared.eval()
    anew.eval()
    a = shared(images.flatten(0, 1), len(images)).pair
    b = anew(repeated.flatten(0, 1), len(images)).pair
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
