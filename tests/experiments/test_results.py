from typing import Any

import pytest

from experiments import claims, table
from experiments.recipes import ABLATION, Recipes


def record(name: str, accuracy: float, hits: float = 0.1, **changes: Any) -> dict[str, Any]:
    """A finished row, as ablation.py writes it, with only what tables and claims read."""
    domain, pretrained, norm, seed = (*name.split("-"), "s0")[:4]
    interval = [hits, hits - 0.01, hits + 0.01]
    return {
        "name": name,
        "group": "claim",
        "note": "",
        "dataset": "sketchy",
        "encoder": "alexnet",
        "domain": domain,
        "pretrained": pretrained,
        "batch_norm": norm == "bn",
        "epochs": 26,
        "seed": int(seed[1:]),
        "training_images": 1800,
        "seconds": 10.0,
        "commit": "abc",
        "pretext": {
            "accuracy": accuracy,
            "accuracy_ci95": [accuracy - 0.01, accuracy + 0.01],
            "accuracy_one_patch": 0.2,
            "accuracy_one_patch_ci95": [0.19, 0.21],
            "accuracy_gain_over_one_patch": accuracy - 0.2,
            "accuracy_gain_over_one_patch_ci95": [accuracy - 0.21, accuracy - 0.19],
        },
        "retrieval": {table.KIND: dict.fromkeys(table.FIGURES, interval)},
        "domains": {"none": {}, table.KIND: {}},
        "minus": {"none": {}, table.KIND: {}},
        **changes,
    }


def by_name(*records: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in records}


def test_a_claim_without_its_rows_is_not_judged() -> None:
    page = claims.markdown({})
    assert page.count("**Not measured yet**") == len(claims.CLAIMS) == 9


@pytest.mark.parametrize(
    ("plain", "norm", "word"),
    [
        (0.15, 0.30, "hardly learns: held; with it escapes: held"),
        (0.30, 0.31, "hardly learns: did not hold; with it escapes: did not hold"),
        (0.15, 0.16, "hardly learns: held; with it escapes: did not hold"),
    ],
)
def test_escaping_the_plateau_needs_intervals_apart(plain: float, norm: float, word: str) -> None:
    verdict = claims.escape(by_name(record("cross-none-plain-s0", plain), record("cross-none-bn-s0", norm)))
    assert verdict is not None
    assert word in verdict.word


def test_one_bad_seed_is_enough_against_a_claim() -> None:
    runs = [record(f"edges-none-plain-s{seed}", accuracy) for seed, accuracy in enumerate((0.3, 0.3, 0.205))]
    good = claims.edges(by_name(*runs[:2]))
    bad = claims.edges(by_name(*runs))
    assert good is not None
    assert bad is not None
    assert (good.word, bad.word) == ("held", "did not hold")


def test_levels_are_compared_within_one_setting_of_batch_norm() -> None:
    rows = [record(f"cross-{level}-bn-s0", value) for level, value in (("none", 0.2), ("conv3", 0.4), ("conv5", 0.3))]
    verdict = claims.levels(by_name(*rows))
    assert verdict is not None
    assert "highest at conv3, did not hold" in verdict.word


def test_carrying_over_is_a_rank_correlation_over_settings_whatever_their_seeds() -> None:
    rows = [record(f"cross-conv{n}-bn-s0", 0.2 + n / 100, hits=0.1 + n / 50) for n in range(1, 6)]
    rows += [record(f"photo-conv{n}-bn-s0", 0.3 + n / 100, hits=0.3 + n / 50) for n in range(1, 6)]
    rows += [record(f"photo-conv1-bn-s{seed}", 0.31, hits=0.32) for seed in (1, 2)]
    verdict = claims.carries_over(by_name(*rows))
    assert verdict is not None
    assert "Spearman 1.00" in verdict.figures[0]
    assert "over 10 settings" in verdict.figures[0]
    assert verdict.word == "instance@5: held; class@5: held"


def test_curves_resemble_one_another_where_they_rise_together() -> None:
    rising = [0.1, 0.2, 0.25, 0.3]
    rows = [
        record(f"{domain}-{level}-plain-s0", 0.3, curve=rising)
        for domain in ("cross", "photo")
        for level in ("none", "conv1")
    ]
    held = claims.conv1(by_name(*rows))
    assert held is not None
    assert held.word.endswith("the curves resemble one another: held")
    assert any("`cross-conv1-plain` beside photos alone, epoch by epoch: 1.00" in line for line in held.figures)
    other = claims.conv1(by_name(*rows, record("photo-conv1-plain-s0", 0.3, curve=rising[::-1])))
    assert other is not None
    assert other.word.endswith("the curves resemble one another: did not hold")


def test_the_table_tells_what_is_made_skipped_and_missing() -> None:
    rows = [record("cross-conv5-bn-s0", 0.35), {"name": "cross-fc6-bn-s0", "group": "grid", "skipped": "no weights"}]
    page = table.markdown(Recipes().rows(ABLATION), rows)
    assert "| `cross-conv5-bn-s0` | 35.0 [34.0, 36.0] | 20.0 | 10.0 [9.0, 11.0] |" in page
    assert "- `cross-fc6-bn-s0`: no weights" in page
    assert "`cross-none-bn-s0`" in page.partition("## Not made yet")[2]
    line = table.flat(rows[0])
    assert {"dataset", "domain", "pretrained", "batch_norm", "epochs", "seed", "seconds"} <= set(line)
    assert {"pretext_accuracy", "pretext_accuracy_ci95", "instance_hit_at_5", "class_hit_at_10"} <= set(line)
