"""Every system on every benchmark, by one command that resumes: `python -m experiments.comparison`.

Reads finished runs of the pipeline (`make run RECIPE=source`, `voc-sketchy`, `default-sketchy`; `make repro` for the
default), keeps vectors, scores and what systems learned in `data/comparison/`, and updates comparison.csv,
comparison.md, paired.csv and per_class.csv in `metrics/comparison/`: rows of systems and data sets that have no results
in the store stay.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from experiments.run import STOPPED, stopped
from pipeline_lib.baselines import benchmarks as bench
from pipeline_lib.baselines import tables
from pipeline_lib.baselines.measure import Measured, chance, measure, oracle
from pipeline_lib.baselines.run import run_module
from pipeline_lib.baselines.system import RECORD, SKIPPED, Benchmark, system_modules
from pipeline_lib.data.source import root_of
from pipeline_lib.data.workers import end_with_parent
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_json, write_text
from pipeline_lib.run import RECORD as RUN
from pipeline_lib.run import Run

ROOT = Path(__file__).resolve().parents[1]
RUNS = (*(ROOT / "data" / "runs" / name for name in ("source", "voc-sketchy", "default-sketchy")), ROOT / "data")
PRIMARY = {"openmoji": "source", "voc_sketchy": "voc-sketchy"}
"""By data set the run that systems learn from; another one where it was not given."""
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
    except KeyboardInterrupt:
        sys.exit(stopped(STOPPED))
    if failed:
        sys.exit("error: not every system ran; the rest is measured, run again:\n" + "\n".join(failed))


def arguments() -> argparse.Namespace:
    """The command line; relative paths are taken from the working directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", type=Path, help="a run folder; may be repeated (default: all known)")
    parser.add_argument("--root", type=Path, help="the images of VOC and Sketchy, with li2014/ (default: the run's)")
    parser.add_argument("--store", type=Path, default=ROOT / "data" / "comparison", help="what is kept between calls")
    parser.add_argument("--metrics", type=Path, default=ROOT / "metrics" / "comparison", help="where tables go")
    parser.add_argument("--benchmark", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument("--threads", type=int, help="of torch, fewer where other work runs beside (default: the run's)")
    parser.add_argument("--file", action="append", choices=system_modules(), help="run only the systems of this file")
    return parser.parse_args()


def open_benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """The benchmarks that were asked for; without asking, all that the given runs allow.

    Raises:
        PipelineError: a run or its images can't be used, or a benchmark that was asked for has no run.
    """
    runs: dict[str, list[Run]] = {}
    for folder in options.run or [folder for folder in RUNS if (folder / RUN).exists()]:
        run = _with(Run.open(folder, ROOT), options)
        runs.setdefault(run.params.catalog.dataset, []).append(run)
    for dataset, some in runs.items():
        some.sort(key=lambda run: run.name != PRIMARY.get(dataset))
    needed = {name: "openmoji" if name == "openmoji" else "voc_sketchy" for name in NAMES}
    for name in options.benchmark or ():
        if needed[name] not in runs:
            raise PipelineError(
                f"--benchmark {name}: no run on {needed[name]} was given; make one with "
                f"`make run RECIPE={PRIMARY[needed[name]]}`"
            )
    wanted = [name for name in options.benchmark or NAMES if needed[name] in runs]
    found = [bench.openmoji(runs["openmoji"])] if "openmoji" in wanted else []
    if set(wanted) - {"openmoji"}:
        primary = runs["voc_sketchy"][0]
        root = root_of(primary.params.catalog, primary.root)
        sketchy = bench.sketchy(runs["voc_sketchy"], root)
        found += [sketchy] if "sketchy" in wanted else []
        found += [bench.li2014(root, "cropped", sketchy.training)] if "li2014" in wanted else []
        found += [bench.li2014(root, "img", sketchy.training)] if "li2014_img" in wanted else []
    return found


def _with(run: Run, options: argparse.Namespace) -> Run:
    """The run as this machine reads its images and shares its cores."""
    params = run.params
    if options.root and params.catalog.dataset == "voc_sketchy":
        root = str(options.root.resolve())
        params = params.model_copy(update={"catalog": params.catalog.model_copy(update={"root": root})})
    if options.threads:
        threads = {"threads": options.threads}
        sections = {"train": params.train, "embed": params.embed}
        params = params.model_copy(update={name: part.model_copy(update=threads) for name, part in sections.items()})
    return replace(run, params=params)


def run_all(benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> list[str]:
    """Runs each file of systems in a process of its own; the failures in words."""
    failed = []
    spawn = multiprocessing.get_context("spawn")
    bar = tqdm(options.file or system_modules(), desc="systems", unit="file")
    for module in bar:
        bar.set_postfix_str(module)
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent) as pool:
            try:
                pool.submit(run_module, module, benchmarks, options.store).result()
            except PipelineError as failure:
                failed.append(f"  {module}: {failure}")
            except BrokenProcessPool:
                failed.append(f"  {module}: its process died (out of memory?)")
    return failed


def write_tables(benchmarks: Sequence[Benchmark], store: Path, metrics: Path) -> None:
    """Measures all results in the store, and writes the tables with these rows in them."""
    rows: list[Measured] = []
    page = metrics / "comparison.md"
    skipped = tables.kept_reasons(page.read_text(encoding="utf-8")) if page.exists() else {}
    for benchmark in benchmarks:
        for part in benchmark.parts:
            rows.append(chance(benchmark, part))
            if benchmark.ratings is not None:
                rows.append(oracle(benchmark, part))
        homes = sorted(path.parent for name in (RECORD, SKIPPED) for path in store.glob(f"*/{benchmark.name}/{name}"))
        for folder in tqdm(homes, desc=f"measure {benchmark.name}", unit="system"):
            rows += measure(folder, benchmark)
            skipped.pop((folder.parent.name, benchmark.name), None)
            if (folder / SKIPPED).exists():
                skipped[folder.parent.name, benchmark.name] = read_json(folder / SKIPPED)["reason"]
    rows = list(tables.with_li_parts(rows))
    draws = tables.Bootstrap(2000, 0)
    measured = {(tables.system_of(row.row), row.dataset) for row in rows}
    compared = {key for key in measured if (tables.AGAINST, key[1]) in measured}
    for name, over in (("comparison", measured), ("paired", compared), ("per_class", measured)):
        path = metrics / f"{name}.csv"
        write_text(path, tables.updated(path, getattr(tables, name)(rows, draws), over))
    table = pd.read_csv(metrics / "comparison.csv").astype({"dim": "Int64"})
    there = set(zip(table["system"], table["dataset"], strict=True))
    write_text(page, tables.markdown(table, {key: why for key, why in skipped.items() if key not in there}))
    if old := sorted({dataset for _, dataset in measured - compared}):
        print(f"paired.csv: on {', '.join(old)} as before: without {tables.AGAINST} in the store (--file alexnet)")
    print(f"{len(rows)} of {len(table)} rows measured: {page}")


if __name__ == "__main__":
    main()
