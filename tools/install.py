"""Installs what requirements files lead to, each package as requirements.lock pins it by version and hashes.

    python tools/install.py requirements-search.txt

It runs before anything is installed, so it needs Python and pip alone. `make lock` writes the lock file.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
TORCH = ("torch", "torchvision")
SOURCES = ("antlr4-python3-runtime",)
"""Packages that come as source alone; pip would build them with a setuptools that nothing has checked."""


class Locked(NamedTuple):
    """A package of the lock file."""

    lines: str  # as pip takes them: version, marker and hashes
    via: frozenset[str]  # what asks for it: packages, and requirements files by their names


def read(path: Path = LOCK) -> dict[str, Locked]:
    """The packages of a lock file as uv writes it, by their names."""
    found = {}
    for block in re.split(r"\n(?=\w)", path.read_text(encoding="utf-8")):
        name, is_, _ = block.partition("==")
        if is_:
            lines, _, via = block.partition("    # via")
            asks = (words.strip().removeprefix("-r ") for words in via.split("#"))
            found[name] = Locked(lines.rstrip(), frozenset(filter(None, asks)))
    return found


def with_included(name: str, root: Path = ROOT) -> set[str]:
    """A requirements file and those that it includes; the name of a package is itself."""
    text = (root / name).read_text(encoding="utf-8") if name.endswith(".txt") else ""
    return {name}.union(*(with_included(other, root) for other in re.findall(r"^-r (\S+)", text, re.MULTILINE)))


def wanted(locked: dict[str, Locked], roots: Collection[str], without: Collection[str] = ()) -> list[str]:
    """Names of the packages that requirements files, or packages, lead to.

    Args:
        locked: all packages.
        roots: names of files and packages.
        without: packages that come from elsewhere, with all that they alone bring along.
    """
    asking = set().union(*map(with_included, roots))
    found = asking & locked.keys()
    while more := {name for name, each in locked.items() if each.via & (asking | found)} - found - set(without):
        found |= more
    return sorted(found)


def unlocked(locked: dict[str, Locked], files: Collection[str], root: Path = ROOT) -> list[str]:
    """What requirements files ask for and the lock file does not hold."""
    pins = {each.lines.split()[0] for each in locked.values()}
    names = sorted(set().union(*(with_included(file, root) for file in files)))
    texts = [(root / name).read_text(encoding="utf-8") for name in names if name.endswith(".txt")]
    asked = re.findall(r"^[\w.-]+(?:\[.*\])?==[^\s#;]+", "\n".join(texts), re.MULTILINE)
    return [pin for pin in asked if _normal(pin) not in pins]


def _normal(pin: str) -> str:
    name, _, version = re.sub(r"\[.*\]", "", pin).partition("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"


def has_other_torch() -> bool:
    """Whether a build of PyTorch is installed that the lock file does not hold, such as 2.12.1+cpu."""
    try:
        return "+" in metadata.version(TORCH[0])
    except metadata.PackageNotFoundError:
        return False


def pip_install(words: Sequence[str]) -> None:
    """Calls pip; where that fails, its message has been printed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if code := subprocess.run([*pip, *words], check=False).returncode:
        sys.exit(code)


def is_installed(pin: str) -> bool:
    """Whether a package is there in the version of a pin; pip would say so too, after a minute for two hundred."""
    name, _, version = pin.partition("==")
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return False


def install(locked: dict[str, Locked], names: Sequence[str], *options: str) -> None:
    """Installs those packages of the lock file that are not there, and nothing else."""
    names = [name for name in names if not is_installed(locked[name].lines.split()[0])]
    if not names:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.txt")
        file.write_text("".join(f"{locked[name].lines}\n" for name in names), encoding="utf-8")
        pip_install(["--require-hashes", *options, "-r", str(file)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("roots", nargs="+", metavar="FILE", help="requirements files, or packages of the lock file")
    parser.add_argument(
        "--torch-index", metavar="ADDRESS",
        help="a package index whose builds of PyTorch are taken; these and what they bring along are not in the lock "
        "file, so that nothing checks their hashes",
    )  # fmt: skip
    given = parser.parse_args()
    locked = read()
    if missing := unlocked(locked, given.roots):
        sys.exit(f"error: {LOCK.name} does not hold {', '.join(missing)}; run `make lock`")
    names = wanted(locked, given.roots)
    if given.torch_index and set(TORCH) <= set(names):
        pins = [locked[name].lines.split()[0] for name in TORCH]
        pip_install([*pins, "--extra-index-url", given.torch_index])
    if given.torch_index or has_other_torch():
        names = wanted(locked, given.roots, TORCH)
    if sources := [name for name in SOURCES if name in names]:
        install(locked, ["setuptools"])
        install(locked, sources, "--no-build-isolation")
    install(locked, names)


if __name__ == "__main__":
    main()
