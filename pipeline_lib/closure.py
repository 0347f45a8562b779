"""Which files of this repository a script really imports, directly or through others, and the digest of their text.

Keys of stored results take their code from here, so that a changed file makes exactly those results void that it may
have had a say in.
"""

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

from pipeline_lib.files import LIBRARY

PACKAGE = LIBRARY.name
REGISTRY = Path(PACKAGE, "registry.py")


def imported_files(script: Path, root: Path) -> set[str]:
    """Files of a repository that a script imports, itself included.

    A module that imports the registry also counts what the registry names of its own room: `models/encoder.py` builds
    any of the trunks, though it imports none by name. Package files (`__init__.py`) are left out: here they hold
    nothing but a docstring.

    Args:
        script: in the repository.
        root: of the repository.

    Returns:
        POSIX paths relative to `root`.
    """
    return {path.relative_to(root).as_posix() for path in _reached(script, root)}


def digest_of_imports(*scripts: Path) -> str:
    """SHA-256 (hex) of scripts and of all files of this repository that they import, with their names.

    Args:
        scripts: in this repository or outside of it, such as a test's.
    """
    total = hashlib.sha256()
    for path in sorted(set().union(*(_reached(script, LIBRARY.parent) for script in scripts))):
        inside = path.is_relative_to(LIBRARY.parent)
        total.update((path.relative_to(LIBRARY.parent).as_posix() if inside else path.name).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _reached(script: Path, root: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        names = _names(path.read_text(encoding="utf-8"))
        if f"{PACKAGE}.registry" in names and path.is_relative_to(root / PACKAGE):
            names |= {name for name in _named(root / REGISTRY) if (root / PACKAGE / _room(name)) in path.parents}
        for name in names:
            parts = name.split(".")
            for place in (root.joinpath(*parts), root.joinpath("stages", *parts), root.joinpath(*parts[:-1])):
                if place.with_suffix(".py").is_file():
                    waiting.append(place.with_suffix(".py"))
                    break
    return found


@cache
def _names(text: str) -> frozenset[str]:
    """Modules, and names in them, that source text imports; kept by the text, since many scripts share most files."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names)


def _named(registry: Path) -> list[str]:
    """Modules that the registry names as "package.module:attribute"."""
    return re.findall(rf'"({PACKAGE}\.[\w.]+):\w+"', registry.read_text(encoding="utf-8"))


def _room(module: str) -> str:
    return module.split(".")[1]
