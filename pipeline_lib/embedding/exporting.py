"""Exports a run's network to ONNX, as `exported.ExportedNetwork` runs it.

Needs torch, onnx and onnxscript; whoever searches needs none of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib.embedding.exported import VECTORS, outputs_of
from pipeline_lib.embedding.networks import Networks
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.folding import folded
from pipeline_lib.models.inputs import normalise
from pipeline_lib.params import Embed, Train

SMALL = 1024
"""Tensors of fewer numbers stay in float32: they take no room, and biases and scales are where rounding tells."""


class Whole(nn.Module):
    """Everything from pixels to a vector, in operations that every ONNX runtime has."""

    to_last: Tensor
    to_grid: Tensor
    shared: Tensor
    facing: Tensor

    def __init__(self, networks: Networks) -> None:
        """Takes over the one network of `networks`, with BatchNorm folded, and its projection."""
        super().__init__()
        own = networks.own
        self.embed: Embed = own.params.embed
        self.train_settings: Train = own.train
        self.encoder: Encoder = folded(own.encoder.cpu().float())
        with torch.inference_mode():
            before, last = self.encoder.last_two(torch.zeros(1, 3, networks.size, networks.size))
        side = last.shape[-1]
        self.register_buffer("to_last", averaging(before.shape[-1], side))
        self.register_buffer("to_grid", averaging(side, self.encoder.grid))
        projection = networks.projection
        self.kept = dict(projection.channels) if projection else {}
        for name, directions in self.kept.items():
            self.register_buffer(f"channels_{name}", torch.from_numpy(directions))
        if projection:
            self.register_buffer("shared", torch.from_numpy(projection.shared).T.contiguous())
            self.register_buffer("facing", torch.from_numpy(projection.facing).T.contiguous())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """From uint8[N, S, S, 3] the vectors, float32[N, D], as `Networks.vectors`, or what of each image joins them.

        Which, `outputs_of` says. With an image a and its mirror image b a projected vector is (a + b) S and (a - b) F
        side by side. That is a S + b S and a F - b F, so a S and a F are given, and the two can be shown on two cores.
        """
        shown = normalise(images, self.train_settings)
        own = self.layers(shown)
        if outputs_of(self.embed) != [VECTORS]:
            return own @ self.shared, own @ self.facing
        if self.embed.dimension:
            return (own @ self.shared,)
        return (torch.cat([own, self.layers(shown.flip(-1))], dim=1) if self.embed.facing else own,)

    def layers(self, images: Tensor) -> Tensor:
        """The layers of normalised images side by side, float32[N, W], each of length 1 where there are several."""
        before, last = self.encoder.last_two(images)
        fc6 = self.encoder.fc6_norm(self.encoder.fc6(averaged(last, self.to_grid).flatten(1)))
        found = {"fc6": fc6, "pool5": last, "conv4": averaged(before, self.to_last)}
        for name in self.kept:
            found[name] = torch.einsum("nchw,kc->nkhw", found[name], getattr(self, f"channels_{name}"))
        parts = [found[name].flatten(1) for name in self.embed.layers.split("+")]
        return parts[0] if len(parts) == 1 else torch.cat([functional.normalize(part) for part in parts], dim=1)


def averaging(places: int, fewer: int) -> Tensor:
    """The matrix, float32[fewer, places], by which adaptive average pooling takes means along a side."""
    found = torch.zeros(fewer, places)
    for number in range(fewer):
        first, end = number * places // fewer, -(-(number + 1) * places // fewer)
        found[number, first:end] = 1 / (end - first)
    return found


def averaged(maps: Tensor, matrix: Tensor) -> Tensor:
    """Maps, float32[N, C, H, H], averaged along both sides to float32[N, C, G, G]."""
    return torch.matmul(torch.matmul(matrix, maps), matrix.T)


def export_network(networks: Networks, path: Path) -> None:
    """Writes the network of a run, whole or not at all.

    Args:
        networks: of one run; the network is changed.
        path: the ONNX file.

    Raises:
        PipelineError: several networks take part, layers stand apart, or the libraries are not installed.
    """
    embed = networks.own.params.embed
    if len(networks.members) > 1 or embed.apart or len(embed.sizes) > 1:
        raise PipelineError(
            "embed.beside, embed.apart and several sizes can't be exported: a model to carry is one network that gives "
            "one vector; set embed.dimension"
        )
    try:
        import onnx  # noqa: PLC0415  whoever searches needs neither
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as failure:
        raise PipelineError(f"exporting needs {failure.name}; install the whole program with `make setup`") from failure
    whole = Whole(networks).eval()
    example = torch.zeros(2, networks.size, networks.size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        whole,
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=outputs_of(embed),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None  # noqa: S101  only without a path is something returned, and none was given
    model = program.model_proto
    without_notes(model)
    halve(model)
    onnx.checker.check_model(model)
    with replacing(path) as aside:
        onnx.save(model, str(aside))


def without_notes(model: Any) -> None:
    """Takes out what the exporter notes of the machine that it ran on: stack traces with paths, for debugging."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def halve(model: Any) -> None:
    """Stores a model's weights in float16; each is turned back to float32 before it is used, so sums lose nothing."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALL:
            continue
        name = tensor.name
        stored = numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
        tensor.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
