"""Makes a run of a recipe: `make run RECIPE=NAME [ROOT=/data]`, or `python -m experiments.run NAME [--root /data]`.

A run is a DVC experiment in a copy of the tree, so neither the workspace nor another run's artefacts change. DVC's run
cache supplies every stage that any run has finished with the same inputs, and training goes on from its checkpoint:
after an interruption the same command continues. The artefacts are fetched to data/runs/NAME/, and the metrics of
recipes at the top of recipes/ to metrics/NAME/, which git keeps.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from experiments.recipes import DEFAULT, RECIPES, ROOT, Recipes
from pipeline_lib.errors import INTERRUPTED, PipelineError, in_words
from pipeline_lib.files import (
    digest_of,
    exclusive,
    parse_yaml,
    publish_folder,
    read_json,
    read_yaml,
    replacing_folder,
    resolve_path,
)
from pipeline_lib.run import RECORD, Run
from tools.show import main as show

RUNS: Final = ROOT / "data" / "runs"
METRICS: Final = ROOT / "metrics"
DVC: Final = (sys.executable, "-m", "dvc")
# Experiments are commits that nobody reads; git may not have been told an author.
AUTHOR: Final = {f"GIT_{who}_{what}": "dvc@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
LEFT: Final = ("data/patches",)
"""Artefacts that stay in DVC's cache: only training reads them."""
UNREAD: Final = (*LEFT, "data/pairs")
"""Artefacts that no measurement of a row reads."""
STOPPED: Final = "the same command again goes on where it stopped"


def make(
    name: str, recipes: Recipes, more: Mapping[str, Any], targets: Sequence[str] = (), left: Sequence[str] = LEFT
) -> Path:
    """Makes a run and publishes it; an older run of that name is replaced at the end and not before.

    Args:
        name: of the recipe, one of `recipes`.
        recipes: all of them.
        more: values of leaf keys that come on top of the recipe, such as `catalog.root`.
        targets: stages to end with; empty for the whole pipeline.
        left: artefacts that are not fetched.

    Raises:
        PipelineError: the recipe can't be used, the tree can't hold experiments, or a stage failed.
    """
    from tools.recover import recover  # noqa: PLC0415  loads DVC, which takes a second

    if name == DEFAULT:
        raise PipelineError("the recipe default is params.yaml itself: make it with `make repro`; its run is data/")
    if not has_commit():
        raise PipelineError(
            f"{ROOT}: is no git repository with a commit, and a run is a DVC experiment, which is based on one: "
            "clone the repository, or `git init && git add -A && git commit -m start`"
        )
    more = absolute(name, recipes, more)
    params, outs = recipes.params_of(name, more), outs_of(targets)
    settings = {"name": name, **recipes.changes(name), **more}
    # ++: an objective that params.yaml does not list is added.
    values = [part for key, value in settings.items() for part in ("-S", f"++{key}={spelled(value)}")]
    network = params.model_dump(mode="json", include={"catalog", "edges", "patches", "train", "contrast"})
    scratch = RUNS / f".{digest_of(network)[:12]}"
    with exclusive(scratch):  # whoever waits here finds the network in DVC's run cache afterwards
        sys.stderr.writelines(f"{words}\n" for words in recover(ROOT))
        subprocess.run([*DVC, "exp", "remove", "-q", name], cwd=ROOT, capture_output=True, check=False)
        if call([*DVC, "exp", "run", "--temp", "--name", name, *values, *targets]):
            raise PipelineError(f"{name} is not finished: see the message above; {go_on(name)}")
        return fetch(name, [out for out in outs if out not in left], scratch)


def made(name: str, recipes: Recipes, root: str, targets: Sequence[str]) -> Run:
    """The run of a row of a table, made now unless it is there with the row's params.

    Arguments and errors are those of `make`; `root` is the folder of images, empty for the recipe's own.
    """
    more = absolute(name, recipes, {"catalog.root": root or recipes.params_of(name).catalog.root})
    if (RUNS / name / RECORD).exists():
        run, wanted = Run.open(RUNS / name), recipes.params_of(name, more)
        there = all((run.folder / out.removeprefix("data/")).exists() for out in outs_of(targets) if out not in UNREAD)
        if there and run.params.model_copy(update={"machine": wanted.machine}) == wanted:
            return run
    return Run.open(make(name, recipes, more, targets, UNREAD))


def rows_command(
    about: str,
    groups: Collection[str],
    folder: Path,
    make_row: Callable[[str, Recipes, str], None],
    tables: Callable[[Recipes], None],
) -> None:
    """The command line that makes rows, recipes of some groups whose records lie in a folder, and then their tables."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("names", nargs="*", help="recipes; without any, all rows that are not made yet")
    parser.add_argument("--root", default="", help="folder that holds VOCdevkit/ and sketchy/ (default: as the recipe)")
    parser.add_argument("--table", action="store_true", help="make no row")
    given = parser.parse_args()
    failed = []
    try:
        recipes = Recipes()
        there = {record["name"] for record in records_of(recipes, groups, folder) if "skipped" not in record}
        names = given.names or [name for name in recipes.rows(groups) if name not in there]
        for name in names:
            recipes.params_of(name)  # an unknown recipe is told before hours of work
        for name in [] if given.table else names:
            try:
                make_row(name, recipes, given.root)
            except PipelineError as failure:
                failed.append(str(failure))
        tables(recipes)
    except PipelineError as failure:
        failed.append(str(failure))
    except KeyboardInterrupt:
        sys.exit(stopped(STOPPED))
    if failed:
        sys.exit("error: " + "\n".join(failed))


def records_of(recipes: Recipes, groups: Collection[str], folder: Path) -> list[dict[str, Any]]:
    """The records of rows of some groups, in their order: those that are made, and those skipped, with the reason."""
    paths = [folder / f"{name}.json" for name in recipes.rows(groups)]
    return [read_json(path) for path in paths if path.exists()]


def absolute(name: str, recipes: Recipes, more: Mapping[str, Any]) -> dict[str, Any]:
    """Adds what DVC must see whole: where the images are, and the weights of other runs that take part.

    Raises:
        PipelineError: a folder of images must be named and is not, or a run that takes part is missing.
    """
    recipe, changes, found = recipes[name], recipes.changes(name) | dict(more), dict(more)
    if recipe.root and "catalog.root" not in more:
        raise PipelineError(f"{name} needs ROOT=/path (--root): {recipe.root}")
    if "catalog.sketches" in more and changes.get("catalog.dataset") != "folder":
        raise PipelineError(f"{name}: SKETCHES (--sketches) goes with a folder of your own photos; leave it out")
    if "catalog.root" in changes:
        found["catalog.root"] = str(resolve_path(changes["catalog.root"], ROOT, "catalog.root"))
    if "embed.beside" in changes:
        found["embed.beside"] = [
            text
            if "@" in text
            else f"{text}@{Run.open(resolve_path(text, ROOT, 'embed.beside')).record['weights'][:16]}"
            for text in changes["embed.beside"]
        ]
    return found


def has_commit() -> bool:
    """Whether the tree is a git repository with a commit."""
    command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    return (
        bool(shutil.which("git")) and not subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
    )


def call(command: Sequence[str]) -> int:
    """Runs a command in the repository, live, and stops it with this process; returns its exit status."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**AUTHOR, **os.environ, "PATH": path}
    # The same as Ctrl-C; which a shell's jobs in the background would ignore, and DVC and its stage with them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as running:
        try:
            return running.wait()
        except KeyboardInterrupt:
            os.killpg(running.pid, signal.SIGINT)  # DVC does not pass signals on to its stage
            running.wait()
            raise


def spelled(value: object) -> str:
    """A value as Hydra reads it in `dvc exp run -S`: strings are quoted, since paths may hold commas and blanks."""
    if isinstance(value, str):
        return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (m[2] and "\\'"), value) + "'"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spelled, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def outs_of(targets: Sequence[str]) -> list[str]:
    """What the stages up to `targets` write, by dvc.yaml; all stages where there are no targets."""
    stages: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")["stages"]
    outs: dict[str, list[str]] = {}
    for name, stage in stages.items():
        entries = [*stage.get("outs", []), *stage.get("metrics", [])]
        outs[name] = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    waiting, wanted = list(targets or stages), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in stages:
            raise PipelineError(f"--targets: there is no stage {name}; stages are {', '.join(stages)}")
        wanted.add(name)
        waiting += [other for other in stages if other not in wanted and set(stages[name]["deps"]) & set(outs[other])]
    return [out for name in stages if name in wanted for out in outs[name]]


def fetch(name: str, outs: Iterable[str], aside: Path) -> Path:
    """Copies artefacts of a finished experiment to data/runs/NAME/, by way of a scratch folder."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]  # noqa: PLC0415  takes a second to load

    shutil.rmtree(aside)  # may hold what a killed process left
    files = DVCFileSystem(str(ROOT), rev=name)
    for out in outs:
        place = aside / out.removeprefix("data/")
        place.parent.mkdir(parents=True, exist_ok=True)
        files.get(out, str(place), recursive=files.isdir(out))
    publish_folder(aside, RUNS / name)
    return RUNS / name


def stopped(then: str) -> int:
    """Says how to go on after Ctrl-C; the exit status."""
    sys.stderr.write(f"stopped; {then}\n")
    return INTERRUPTED


def go_on(name: str) -> str:
    """How an unfinished run is continued."""
    return f"{STOPPED} (make run RECIPE={name}, or python -m experiments.run)"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="makes a run of a recipe, in data/runs/NAME/")
    parser.add_argument("name", help="a recipe: the name of a file below recipes/")
    parser.add_argument("--root", type=os.path.abspath, help="folder of images (catalog.root)")
    parser.add_argument("--sketches", type=os.path.abspath, help="sketches of your own photos: a folder or a CSV")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a leaf key of params.yaml")
    parser.add_argument("--targets", nargs="+", default=[], metavar="STAGE", help="stages to end with (default: all)")
    given = parser.parse_args()
    places = {"catalog.root": given.root, "catalog.sketches": given.sketches}
    more = {key: place for key, place in places.items() if place}
    more |= {key: parse_yaml(value) for key, _, value in (text.partition("=") for text in given.set)}
    try:
        recipes, metrics = Recipes(), "none for git"
        folder = make(given.name, recipes, more, given.targets)
        # Neither variations of recipes nor rows of tables nor private photos.
        public = recipes.places[given.name].parent == RECIPES and not given.set and not given.targets
        if public and recipes.params_of(given.name).catalog.dataset != "folder":
            metrics = str(METRICS / given.name)
            with replacing_folder(METRICS / given.name) as aside:
                shutil.copytree(folder / "metrics", aside)
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
    except OSError as failure:
        sys.exit(f"error: {in_words(failure)}; {go_on(given.name)}")
    except KeyboardInterrupt:
        sys.exit(stopped(go_on(given.name)))
    if (folder / "metrics" / "comparison.csv").exists():
        show(folder / "metrics")
    print(f"run: {folder}\nmetrics: {metrics}\nparams that differ from HEAD:", flush=True)
    call([*DVC, "params", "diff", "HEAD", given.name])


if __name__ == "__main__":
    main()
