"""Every system on every benchmark, by one command that resumes: `python -m experiments.comparison`.

Reads finished runs of the pipeline (`make source`, `make voc-sketchy`; of the default's method `make repro`, `make
fast`), keeps vectors, scores and what systems learned in `data/comparison/`, and writes comparison.csv,
comparison.md, paired.csv and per_class.csv to `metrics/comparison/`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pipeline_lib.baselines import benchmarks as bench
from pipeline_lib.baselines.measure import Measured, chance, measure, oracle
from pipeline_lib.baselines.run import RECORD, SKIPPED, run_module
from pipeline_lib.baselines.system import Benchmark, Run, system_modules
from pipeline_lib.baselines.tables import Bootstrap, comparison, markdown, paired, per_class, with_li_parts
from pipeline_lib.data.files import read_json, resolve_path, write_text
from pipeline_lib.data.tasks import _end_with_parent
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import earlier
from pipeline_lib.params import Params, parse

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "data" / "runs"  # where tools.keep puts them
# Of the tables, from the first: Sketchy and its parts, Li 2014 and its subsets, the embedded set.
ORDER = (
    *("sketchy", "sketchy_test", "sketchy_test_unseen", "sketchy_community_test"),
    *(f"{name}{subset}" for name in ("li2014", "li2014_img") for subset in ("", "_last3", "_14", "_14_last3")),
    "openmoji",
)
NAMES = ("openmoji", "sketchy", "li2014", "li2014_img")


def main() -> None:
    """Runs what is not finished, then measures everything."""
    options = arguments()
    try:
        benchmarks = open_benchmarks(options)
        failed = run_all(benchmarks, options)
        write_tables(benchmarks, options.store, options.metrics)
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
    if failed:
        sys.exit("error: not every system ran; the rest is measured, run again:\n" + "\n".join(failed))


def arguments() -> argparse.Namespace:
    """The command line; relative paths are taken from the repository root."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openmoji", type=Path, default=RUNS / "source", help="artefacts of `make source`")
    parser.add_argument("--sketchy", type=Path, default=RUNS / "voc_sketchy", help="of `make voc-sketchy`")
    parser.add_argument("--joint-openmoji", type=Path, default=ROOT / "data", help="artefacts of the default's run")
    parser.add_argument("--joint-sketchy", type=Path, default=RUNS / "fast", help="of `make fast`")
    parser.add_argument("--image-size", type=int, default=224, help="at which --sketchy embedded, px (default: 224)")
    parser.add_argument("--root", type=Path, help="the images of --sketchy, with li2014/ (default: ../shared/data)")
    parser.add_argument("--store", type=Path, default=ROOT / "data" / "comparison", help="what is kept between runs")
    parser.add_argument("--metrics", type=Path, default=ROOT / "metrics" / "comparison", help="where tables go")
    parser.add_argument("--benchmark", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument("--threads", type=int, help="of torch, fewer where other work runs beside (default: the run's)")
    parser.add_argument("--file", action="append", choices=system_modules(), help="run only the systems of this file")
    return parser.parse_args()


def open_benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """The benchmarks that were asked for; without asking, all whose data are there."""
    wanted = options.benchmark or NAMES
    root = options.root or resolve_path("../shared/data", ROOT, "--root")
    threads = {"threads": options.threads} if options.threads else {}
    common = {"train": threads, "embed": threads}
    found = []
    if "openmoji" in wanted:
        run = Run(settings_of(options.openmoji, common), options.openmoji, ROOT)
        found.append(bench.openmoji(run, joint_of(options.joint_openmoji, common)))
    if set(wanted) - {"openmoji"}:
        # What that run changed and embedding depends on.
        catalog = {"dataset": "voc_sketchy", "root": str(root)}
        changes = {**common, "catalog": catalog, "embed": {**threads, "image_size": options.image_size}}
        run = Run(settings_of(options.sketchy, changes), options.sketchy, ROOT)
        sketchy = bench.sketchy(run, root, joint_of(options.joint_sketchy, common))
        found += [sketchy] if "sketchy" in wanted else []
        if "li2014" in wanted:
            found.append(bench.li2014(root, "cropped", sketchy.training))
        if "li2014_img" in wanted:
            found.append(bench.li2014(root, "img", sketchy.training))
    return found


def joint_of(data: Path, changes: dict[str, dict[str, Any]]) -> Run | None:
    """The run of the default's method, where there is one; it embeds at the size that params.yaml names."""
    return Run(settings_of(data, changes), data, ROOT) if (data / "model" / "meta.json").exists() else None


def settings_of(data: Path, changes: dict[str, dict[str, Any]]) -> Params:
    """The params of a finished run: params.yaml, what `changes` says, and what the model was really trained with."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    trained = read_json(data / "model" / "meta.json")["params"]
    for name, before in earlier.SECTIONS.items():
        trained[name] = {**before, **trained.get(name, {})}
    for section in (trained, changes):
        for name, part in section.items():
            values[name] = {**values[name], **part}
    return parse(values, source=f"params.yaml with {data / 'model' / 'meta.json'}")


def run_all(benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> list[str]:
    """Runs each file of systems in a process of its own; the failures in words."""
    failed = []
    spawn = multiprocessing.get_context("spawn")
    bar = tqdm(options.file or system_modules(), desc="systems", unit="file")
    for module in bar:
        bar.set_postfix_str(module)
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_parent) as pool:
            try:
                pool.submit(run_module, module, benchmarks, options.store).result()
            except PipelineError as failure:
                failed.append(f"  {module}: {failure}")
            except BrokenProcessPool:
                failed.append(f"  {module}: its process died (out of memory?)")
    return failed


def write_tables(benchmarks: Sequence[Benchmark], store: Path, metrics: Path) -> None:
    """Measures all results in the store and writes the tables."""
    rows: list[Measured] = []
    skipped: list[tuple[str, str, str]] = []
    draws = Bootstrap(2000, 0)
    for benchmark in benchmarks:
        for part in benchmark.parts:
            rows.append(chance(benchmark, part))
            if benchmark.ratings is not None:
                rows.append(oracle(benchmark, part))
        homes = sorted(path.parent for name in (RECORD, SKIPPED) for path in store.glob(f"*/{benchmark.name}/{name}"))
        for folder in tqdm(homes, desc=f"measure {benchmark.name}", unit="system"):
            rows += measure(folder, benchmark)
            if (folder / SKIPPED).exists():
                skipped.append((folder.parent.name, benchmark.name, read_json(folder / SKIPPED)["reason"]))
    rows = sorted(with_li_parts(rows), key=lambda row: ORDER.index(row.dataset))
    table = comparison(rows, draws)
    tables = {"comparison": table, "paired": paired(rows, draws), "per_class": per_class(rows, draws)}
    for name, content in tables.items():
        write_text(metrics / f"{name}.csv", content.to_csv(index=False, lineterminator="\n"))
    write_text(metrics / "comparison.md", markdown(table, skipped))
    print(f"{len(table)} rows: {metrics / 'comparison.md'}")


if __name__ == "__main__":
    main()
