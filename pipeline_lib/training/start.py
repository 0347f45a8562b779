"""How training starts and how fast it goes: start weights, optimiser, learning rates, seeds."""

import math
from pathlib import Path

import torch

from pipeline_lib import params
from pipeline_lib.models import weights
from pipeline_lib.models.calibration import calibrate
from pipeline_lib.models.context import ContextNet
from pipeline_lib.pretext.batches import PatchShards, pair_table
from pipeline_lib.training.streams import patch_inputs

CALIBRATION_IMAGES = 512
"""Images whose patches set the BatchNorm of pretrained layers: 4,096 patches, 2 million places at conv1."""


def learning_rate(step: int, steps: int, settings: params.Train) -> float:
    """Linear warm-up to the peak, then half a cosine to 0 (Loshchilov and Hutter 2017)."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def seed_of(settings: params.Train, step: int) -> int:
    """The seed of everything random in a step (dropout, colour dropping); step -1 draws the start weights."""
    return (settings.seed * 1_000_003 + step + 1) % (1 << 62)


def start_network(
    settings: params.Train, shards: PatchShards, base: Path, device: torch.device
) -> tuple[ContextNet, str]:
    """The network before its first step, and where its pretrained layers come from."""
    torch.manual_seed(seed_of(settings, -1))
    table = pair_table(settings.domain)
    model = ContextNet(settings, shards.size, torch.from_numpy(table.first), torch.from_numpy(table.second))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = weights.load(settings, base)
    if start is None:
        return model, "none (He initialisation)"
    weights.apply(start, model.encoder, settings.pretrained)
    if settings.batch_norm and settings.batch_norm_init == "calibrated" and not start.levels:
        batches = shards.epoch(0, settings.batch_images, shuffle=(settings.seed, "calibration"))
        limit = -(-CALIBRATION_IMAGES // settings.batch_images)
        calibrate(
            model.encoder,
            settings.pretrained,
            (patch_inputs(batch, settings, device, None) for _, batch in zip(range(limit), batches, strict=False)),
        )
    return model, start.origin


def make_optimiser(model: ContextNet, settings: params.Train) -> torch.optim.SGD:
    """SGD with momentum; pretrained layers may learn at a rate of their own, norms and biases do not decay."""
    pretrained = {
        id(value)
        for number in model.encoder.pretrained_convs(settings.pretrained)
        for value in model.encoder.stages[number - 1].parameters()
    }
    if settings.pretrained == "fc6":
        pretrained |= {id(value) for value in (*model.encoder.fc6.parameters(), *model.encoder.fc6_norm.parameters())}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for value in model.parameters():
        factor = settings.pretrained_rate if id(value) in pretrained else 1.0
        decay = settings.weight_decay if value.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(value)
    return torch.optim.SGD(
        [{"params": group, "factor": key[0], "weight_decay": key[1]} for key, group in groups.items()],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,  # reads and writes each weight once
    )
