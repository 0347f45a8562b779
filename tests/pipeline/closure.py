"""Which files of this repository a stage script really imports, directly or through others."""

from __future__ import annotations

import ast
from pathlib import Path


def imported_files(script: Path, root: Path) -> set[str]:
    """Repository files that `script` imports, itself included, as POSIX paths relative to `root`.

    Package files (`__init__.py`) are left out: here they hold nothing but a docstring.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in _names(path):
            parts = name.split(".")
            for place in (root.joinpath(*parts), root.joinpath("stages", *parts), root.joinpath(*parts[:-1])):
                if place.with_suffix(".py").is_file():
                    waiting.append(place.with_suffix(".py"))
                    break
    return {path.relative_to(root).as_posix() for path in found}


def _names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names
