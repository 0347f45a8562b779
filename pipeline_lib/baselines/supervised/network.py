"""Two branches, one per domain, into one space: encoder, embedding, classes. Shared weights or two sets."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.baselines.system import Domain
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.saved import START, load_encoder
from pipeline_lib.params import Params
from pipeline_lib.run import WEIGHTS

FILES = {"imagenet": START, "context": WEIGHTS}


class Branch(nn.Module):
    """Encoder to fc6, a linear layer to the embedding, a linear layer to the classes."""

    def __init__(self, encoder: Encoder, width: int, embedding: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed = nn.Linear(width, embedding)
        self.classify = nn.Linear(embedding, classes)
        nn.init.kaiming_normal_(self.embed.weight, nonlinearity="linear")
        nn.init.zeros_(self.embed.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding float[N, D] and logits of classes float[N, C] of normalised images float[N, 3, H, W]."""
        vectors = self.embed(functional.relu(self.encoder(images)))
        return vectors, self.classify(vectors)


class TwoBranches(nn.Module):
    """A branch per domain; both are one where weights are shared."""

    def __init__(self, photo: Branch, sketch: Branch) -> None:
        super().__init__()
        self.photo = photo
        self.sketch = sketch

    @property
    def shared(self) -> bool:
        """Whether both domains go through the same weights."""
        return self.photo is self.sketch

    def forward(self, photos: Tensor, sketches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of photos float[P, D] and of sketches float[S, D], and the logits of all, photos first."""
        if self.shared:
            # One pass, so that BatchNorm takes its moments over both domains, as in evaluation.
            vectors, logits = self.photo(torch.cat([photos, sketches]).contiguous(memory_format=torch.channels_last))
            return vectors[: len(photos)], vectors[len(photos) :], logits
        (first, one), (second, two) = self.photo(photos), self.sketch(sketches)
        return first, second, torch.cat([one, two])

    def embed(self, images: Tensor, domain: Domain) -> Tensor:
        """Embeddings float[N, D] of one domain."""
        branch = self.photo if domain == "photo" else self.sketch
        vectors: Tensor = branch(images)[0]
        return vectors


def build(recipe: Recipe, settings: Params, model: Path | None, classes: int) -> TwoBranches:
    """The network before its first step.

    Args:
        recipe: start, layout, sharing, sizes.
        settings: params of the pipeline's run.
        model: folder that the train stage wrote, for the start weights; None where a state will be loaded, or none is
            needed.
        classes: C.

    Raises:
        PipelineError: the start weights are not there.
    """
    torch.manual_seed(recipe.seed)
    branches = [_branch(recipe, settings, model, classes) for _ in range(1 if recipe.shared else 2)]
    return TwoBranches(branches[0], branches[-1])


def _branch(recipe: Recipe, settings: Params, model: Path | None, classes: int) -> Branch:
    if recipe.start == "none":
        change = {"encoder": recipe.layout, "pretrained": "none", "batch_norm": True}
        train = settings.train.model_copy(update=change)
        encoder = Encoder(train, recipe.image_size)
    elif model is None:
        encoder = Encoder(settings.train, settings.patches.size)
    else:
        if settings.train.encoder != recipe.layout:
            raise PipelineError(
                f"{model}: its network is of the layout {settings.train.encoder}, not {recipe.layout}; run the "
                f"pipeline with train.encoder: {recipe.layout}"
            )
        encoder = load_encoder(model, settings, FILES[recipe.start], fold=False).encoder
    return Branch(encoder, settings.train.fc6, recipe.embedding, classes)


def save(network: TwoBranches, path: Path) -> None:
    """Writes the weights as safetensors, whole or not at all; shared ones once."""
    state = network.state_dict()
    if network.shared:
        state = {name: value for name, value in state.items() if name.startswith("photo.")}
    with replacing(path) as aside:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, str(aside))


def load(network: TwoBranches, path: Path) -> None:
    """Reads what `save` wrote into a network that was built alike.

    Raises:
        PipelineError: the file is missing, damaged, or of another network.
    """
    try:
        state = load_file(str(path))
        if network.shared:
            state |= {name.replace("photo.", "sketch.", 1): value for name, value in state.items()}
        network.load_state_dict(state)
    except (OSError, RuntimeError, SafetensorError) as failure:
        raise PipelineError(f"{path}: can't be used ({failure}); delete its folder and run again") from failure


def parameter_groups(network: TwoBranches, recipe: Recipe) -> list[dict[str, object]]:
    """Weights by rate and decay: pretrained ones get a smaller rate, biases and BatchNorm do not decay.

    An untrained fc6 counts as new: unlike the convolutions before it, it starts from random weights.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in network.named_parameters():
        learned = ".stages." in name if recipe.start == "imagenet" else ".encoder." in name
        factor = recipe.pretrained_rate if learned and recipe.start != "none" else 1.0
        decay = recipe.weight_decay if value.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(value)
    return [{"params": values, "factor": key[0], "weight_decay": key[1]} for key, values in groups.items()]
