from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline_lib import params
from pipeline_lib.baselines.system import Benchmark, Part, Training
from pipeline_lib.data.source import FileSource
from pipeline_lib.files import digest_of_file
from pipeline_lib.run import Run


@pytest.fixture
def benchmark_of(
    tmp_path: Path, pairs_folder: Path, make_params: Callable[..., params.Params]
) -> Callable[..., Benchmark]:
    """Twelve photos of plain colours in two classes, and a sketch of each in nearly the same colour."""

    def make(name: str = "sketchy", unseen: bool = True, ratings: Any = None) -> Benchmark:
        rng = np.random.default_rng(0)
        colours = rng.integers(20, 230, (12, 3))
        frames = []
        for domain, shift in (("photo", 0), ("sketch", 3)):
            rows = []
            for number, colour in enumerate(colours):
                path = tmp_path / "images" / domain / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), np.full((20, 30, 3), colour + shift, np.uint8))
                rows.append({
                    "image_id": f"{domain}/{number:02d}", "class_name": "cow" if number < 6 else "cat",
                    "instance_id": f"photo/{number:02d}", "path": f"{domain}/{number:02d}.png", "domain": domain,
                    "content": digest_of_file(path),
                })  # fmt: skip
            frames.append(pd.DataFrame(rows))
        source = FileSource(tmp_path / "images", 100_000)
        run = Run(tmp_path, make_params(), tmp_path)
        assert run.pairs == pairs_folder
        run.model.mkdir(exist_ok=True)
        run.weights.write_bytes(b"weights")
        nothing = frames[0].iloc[:0]
        catalog = pd.DataFrame({"image_id": [f"image/{n:02d}" for n in range(14)], "role": "pretext"})
        training = Training("t", run, source, catalog, nothing, nothing)  # type: ignore[arg-type]
        part = Part(name, frozenset(frames[0]["image_id"]), frozenset(frames[1]["image_id"]), unseen)
        return Benchmark(name, training, source, frames[0], frames[1], (part,), ratings)

    return make
