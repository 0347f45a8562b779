from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipeline_lib.errors import PipelineError
from pipeline_lib.report.results import BEGIN, END, compared, results, study, with_results
from tools.readme import COMPARISON, METRICS, PICTURES, Chart, charts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
LINES = {"README.md": 120, "docs/retrieval.md": 200, "docs/architecture.md": 150}


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The metrics of the last commit, which a user's own `make repro` leaves alone; of the tree without git."""
    folder = tmp_path_factory.mktemp("committed")
    archive = subprocess.run(["git", "archive", "HEAD", "metrics"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        return METRICS
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "metrics"


def shows(page: str, *places: Path) -> bool:
    """Whether a page shows the results of one of some folders of metrics."""
    return any(results(place) in page for place in places)


def test_the_results_of_the_readme_are_those_of_the_committed_metrics_or_of_those_to_be_committed(
    committed: Path,
) -> None:
    assert shows(README, committed, METRICS)
    assert len([line for line in results(committed).splitlines() if line.startswith("| ")]) == 1 + 5


def test_a_run_on_another_machine_leaves_the_readme_true_and_a_forgotten_readme_does_not(
    committed: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(committed, tmp_path / "metrics")
    table = pd.read_csv(own / "comparison.csv")
    table["instance_hit_at_5"] *= 0.9
    table.to_csv(own / "comparison.csv", index=False)
    page = with_results(README, results(committed), "README.md")
    assert shows(page, committed, own)
    assert not shows(page, own)


def test_the_tables_of_compared_systems_are_those_of_the_committed_metrics() -> None:
    page = COMPARISON.read_text(encoding="utf-8")
    assert with_results(page, compared(METRICS / "comparison"), str(COMPARISON)) == page


def test_the_table_of_the_study_is_that_of_its_metrics() -> None:
    assert study(METRICS / "retrieval_study.csv") == (METRICS / "retrieval_study.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["study.png", "study_changes.png", "ablation_levels.png", "ablation_changes.png"])
def test_the_charts_of_the_docs_show_the_committed_metrics(name: str) -> None:
    with Image.open(PICTURES / name) as picture:
        assert picture.info["Description"] == charts()[name].table.to_csv(index=False)
    assert name in "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)


def test_a_chart_carries_its_numbers(tmp_path: Path) -> None:
    chart = charts()["study_changes.png"]
    table = pd.DataFrame({"name": ["a"], "hits": [0.5]})
    Chart(chart.figure, table).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["Description"] == "name,hits\na,0.5\n"


def test_writing_the_results_replaces_the_block_and_nothing_else() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_results(text, f"{BEGIN}\nnew\n{END}", "a.md") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(PipelineError, match=r"b\.md: lacks the lines"):
        with_results("no block", "x", "b.md")


def test_results_whose_tables_lack_a_row_name_file_and_row(tmp_path: Path) -> None:
    for name in (
        "comparison.csv",
        "source/comparison.csv",
        "comparison/comparison.csv",
        "retrieval_study.csv",
        "own_photos.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(METRICS / name, tmp_path / name)
    assert results(tmp_path) == results(METRICS)
    rows = (tmp_path / "source/comparison.csv").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if not row.startswith("source,")]
    (tmp_path / "source/comparison.csv").write_text("\n".join(kept), encoding="utf-8")
    with pytest.raises(PipelineError, match=r"source/comparison\.csv: lacks the row source"):
        results(tmp_path)
    (tmp_path / "source/comparison.csv").unlink()
    with pytest.raises(PipelineError, match=r"source/comparison\.csv: is not there"):
        results(tmp_path)


@pytest.mark.parametrize(("page", "most"), LINES.items())
def test_pages_stay_short(page: str, most: int) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= most


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            assert not file or (path.parent / file).exists(), target
            assert not anchor or anchor in headings(path.parent / file if file else path), target


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {first or second for first, second in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE)}
    assert page != "README.md" or len(named) >= 4
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make repro" in shown
    assert "make test" in shown
