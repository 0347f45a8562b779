from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline_lib.errors import PipelineError
from pipeline_lib.report.results import (
    BEGIN,
    CHOSEN_ON,
    END,
    FINAL,
    FOLDERS,
    ablation,
    results,
    study,
    with_results,
)
from tools.readme import BEST, FITTED, WHOLE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_of_the_readme_are_those_of_the_committed_metrics() -> None:
    block = results({title: ROOT / folder for title, folder in FOLDERS.items()})
    assert block in README
    assert ablation(ROOT / "metrics/ablation.csv") in README
    table = ROOT / "metrics/retrieval_study.csv"
    assert study(table, WHOLE, BEST) in README
    assert study(table, (CHOSEN_ON, *FINAL), FITTED) in (ROOT / "docs/retrieval.md").read_text(encoding="utf-8")


def test_writing_the_results_replaces_the_block_and_nothing_else() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_results(text, f"{BEGIN}\nnew\n{END}", "a.md") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(PipelineError, match=r"b\.md: lacks the lines"):
        with_results("no block", "x", "b.md")


def test_results_whose_tables_lack_a_row_name_file_and_row(tmp_path: Path) -> None:
    for name in ("pretext.json", "comparison.csv", "paired.csv"):
        shutil.copy(ROOT / "metrics" / name, tmp_path)
    assert "OpenMoji" in results({"OpenMoji": tmp_path})
    for name in ("paired.csv", "comparison.csv"):
        rows = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if "untrained_fc6" not in row]
        (tmp_path / name).write_text("\n".join(kept), encoding="utf-8")
        with pytest.raises(PipelineError, match=rf"{name}: lacks the rows? .*untrained_fc6"):
            results({"OpenMoji": tmp_path})


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/architecture.md",
        "docs/method.md",
        "docs/comparison.md",
        "docs/supervised.md",
        "docs/dpm.md",
        "docs/retrieval.md",
    ],
)
def test_every_link_to_a_file_leads_to_one(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README, re.MULTILINE))
    assert len(named) >= 4
    for target in {first or second for first, second in named}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make repro" in shown
    assert "make test" in shown
