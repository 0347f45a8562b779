"""The source's claims, each with a rule, a verdict and its figures: metrics/ablation/*.json -> metrics/claims.md.

Rules are stated in the text, so that a reader can disagree with them. A claim whose rows are not made yet has no
verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from experiments.recipes import ROOT, Recipes
from experiments.table import KIND, finished, history, percent
from pipeline_lib.files import write_text

DEFAULT: Final = "cross-conv5-bn-s0"
"""The row that others change one thing in; its network is kept, and start weights are measured beside it."""
UNTRAINED, START = f"{DEFAULT}-untrained", f"{DEFAULT}-start"
HARDLY = 0.20
"""A net 'hardly learns' below this accuracy; chance is 0.125, and one patch alone gives 0.2 to 0.26 away."""
FEWEST = 6
"""Settings below which a rank correlation says nothing."""
LEVELS = ("none", "conv1", "conv2", "conv3", "conv4", "conv5", "fc6")
ALIKE = 0.8
"""Correlation of two curves from which they resemble one another."""
EPOCHS = 26
LONG = f", {EPOCHS} epochs or more"
DOMAINS = ("cross", "photo", "edges")

Record = dict[str, Any]
Records = dict[str, Record]


class Verdict(NamedTuple):
    """What became of a claim."""

    word: str
    figures: list[str]


Judge = Callable[[Records], Verdict | None]
CLAIMS: Final[list[tuple[str, str, Judge]]] = []
"""Each claim with its rule and its judge, in the order of this file."""


def claim(words: str, rule: str) -> Callable[[Judge], Judge]:
    """Adds the function below it as the judge of a claim."""

    def add(judge: Judge) -> Judge:
        CLAIMS.append((words, rule, judge))
        return judge

    return add


def accuracy(record: Record) -> list[float]:
    """Pretext accuracy with its interval."""
    return [record["pretext"]["accuracy"], *record["pretext"]["accuracy_ci95"]]


def seeds_of(records: Records, stem: str) -> list[Record]:
    """The runs of one setting, all seeds that are made."""
    return [records[f"{stem}-s{seed}"] for seed in range(3) if f"{stem}-s{seed}" in records]


def tell(records: list[Record]) -> list[str]:
    """A line per run."""
    return [f"`{record['name']}`: {percent(accuracy(record))}" for record in records]


def mean_of(records: list[Record]) -> float:
    """Mean accuracy over seeds."""
    return float(np.mean([accuracy(record)[0] for record in records]))


def hold(*, condition: bool) -> str:
    """The word for a rule that was checked."""
    return "held" if condition else "did not hold"


@claim(
    "Without pretraining and without BatchNorm the cross-domain task hardly learns; with BatchNorm it escapes.",
    f"Hardly: below {100 * HARDLY:.0f} % for all seeds. Escapes: its lower ends above the others' upper ends.",
)
def claim_escape(records: Records) -> Verdict | None:
    """Claim 1."""
    plain, norm = seeds_of(records, "cross-none-plain"), seeds_of(records, "cross-none-bn")
    if not (plain and norm):
        return None
    hardly = max(accuracy(record)[0] for record in plain) < HARDLY
    escapes = min(accuracy(record)[1] for record in norm) > max(accuracy(record)[2] for record in plain)
    word = f"without BatchNorm hardly learns: {hold(condition=hardly)}; with it escapes: {hold(condition=escapes)}"
    return Verdict(word, tell(plain + norm))


@claim(
    "Full pretraining gives the highest accuracy; resetting the higher layers costs 2-3 points each.",
    (
        "The highest mean over seeds among the levels made; 2 to 3 points a layer from none to the fullest level. "
        "Without fc6 where its weights were not at hand."
    ),
)
def claim_levels(records: Records) -> Verdict | None:
    """Claim 2."""
    lines, verdicts = [], []
    for suffix in ("bn", "plain"):
        made = {level: runs for level in LEVELS if (runs := seeds_of(records, f"cross-{level}-{suffix}"))}
        if not {"none", "conv5"} < set(made):
            continue
        lines.append(f"{suffix}: " + ", ".join(f"{level} {100 * mean_of(runs):.1f}" for level, runs in made.items()))
        best, full = max(made, key=lambda level: mean_of(made[level])), list(made)[-1]
        step = (mean_of(made[full]) - mean_of(made["none"])) / LEVELS.index(full)
        lines.append(f"{suffix}: {100 * step:+.1f} points a layer, from none to {full}")
        verdicts.append(
            f"{suffix}: highest at {best}, {hold(condition=best == full)}; 2 to 3 points a layer, "
            f"{hold(condition=0.02 <= round(step, 3) <= 0.03)}"
        )
    return Verdict("; ".join(verdicts), lines) if verdicts else None


@claim("BatchNorm lowers the accuracy at higher levels of pretraining.", "Intervals apart.")
def claim_norm_costs(records: Records) -> Verdict | None:
    """Claim 3."""
    norm, plain = seeds_of(records, "cross-conv5-bn"), seeds_of(records, "cross-conv5-plain")
    if not (norm and plain):
        return None
    lowers = mean_of(norm) < mean_of(plain)
    apart = min(accuracy(r)[1] for r in plain) > max(accuracy(r)[2] for r in norm)
    word = hold(condition=lowers and apart) + ("" if lowers == apart else " (lower, but the intervals overlap)")
    return Verdict(word, tell(norm + plain))


@claim(
    "On edges alone even the net without pretraining learns something.",
    "Both patches tell more than one alone, interval above zero, for all seeds.",
)
def claim_edges(records: Records) -> Verdict | None:
    """Claim 4."""
    runs = seeds_of(records, "edges-none-plain")
    if not runs:
        return None
    gains = [record["pretext"]["accuracy_gain_over_one_patch_ci95"][0] for record in runs]
    figures = tell(runs)
    gain = "accuracy_gain_over_one_patch"
    for pretext in (record["pretext"] for record in runs):
        figures.append(f"minus one patch alone: {percent([pretext[gain], *pretext[f'{gain}_ci95']])}")
    return Verdict(hold(condition=min(gains) > 0), figures)


@claim(
    "fc6 of the context predictor retrieves better than frozen ImageNet AlexNet.",
    "Paired interval of class hit@5 over the source's ten classes above zero. AlexNet is its pool5 at 224 px.",
)
def claim_retrieval(records: Records) -> Verdict | None:
    """Claim 5."""
    if DEFAULT not in records or not records[DEFAULT]["minus"]["none"]:
        return None
    record, figures, words = records[DEFAULT], [], []
    for kind in ("none", KIND):
        for part, found in record["minus"][kind][START].items():
            figures.append(
                f"fc6 minus pool5, {part}, alignment {kind}: "
                + ", ".join(f"{name.replace('_hit_at_5', '@5')} {percent(v)}" for name, v in found.items())
            )
        found = record["minus"][kind][START]["all ten"]
        words.append(f"{kind}: {hold(condition=found['class_hit_at_5'][1] > 0)} (class@5, ten classes)")
    return Verdict("; ".join(words), [*figures, "", *class_table(record)])


def class_table(record: Record) -> list[str]:
    """hit@5 per class, fc6 beside frozen pool5, no alignment."""
    ours, other = (record["per_class"]["none"][name] for name in (DEFAULT, START))
    lines = ["| class | instance fc6 / pool5 | in class fc6 / pool5 | class fc6 / pool5 |", "|---|---|---|---|"]
    for name, found in ours.items():
        cells = [
            f"{100 * found[column][0]:.1f} / {100 * other[name][column][0]:.1f}"
            for column in ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def before_and_after(records: Records) -> list[tuple[str, Record, Record]]:
    """Per alignment how the default's domains lay before and after training; empty where that row is not made."""
    if DEFAULT not in records or UNTRAINED not in records[DEFAULT]["domains"]["none"]:
        return []
    found = records[DEFAULT]["domains"]
    return [(kind, found[kind][UNTRAINED], found[kind][DEFAULT]) for kind in ("none", KIND)]


@claim(
    "Domains are less separated after training.",
    "More of the other domain among neighbours, a weaker domain classifier, a better place of the true photo.",
)
def claim_domains(records: Records) -> Verdict | None:
    """Claim 6."""
    figures, words = [], []
    for kind, before, after in before_and_after(records):
        figures += [
            f"{kind}, {title}: {before[key]:.3f} before, {after[key]:.3f} after"
            for key, title in (
                ("cross_domain_share", "share of the other domain among the 10 nearest"),
                ("domain_accuracy", "linear domain classifier"),
                ("partner_place", "mean place of the true photo, 0 first and 0.5 by chance"),
            )
        ]
        moved = (
            after["cross_domain_share"] - before["cross_domain_share"],
            before["domain_accuracy"] - after["domain_accuracy"],
            before["partner_place"] - after["partner_place"],
        )
        words.append(f"{kind}: {sum(by > 0 for by in moved)} of 3 numbers moved that way, by {max(moved):.3f} at most")
    return Verdict("; ".join(words), figures) if words else None


def rank_correlation(settings: list[list[Record]], name: str) -> tuple[float, float, float]:
    """Spearman's between pretext accuracy and hits, seeds averaged, and its 95 % interval from resampled settings."""
    pretext = np.array([mean_of(rows) for rows in settings])
    hits = np.array([np.mean([row["retrieval"][KIND][name][0] for row in rows]) for rows in settings])
    draws = np.random.default_rng(0).integers(0, len(pretext), (2000, len(pretext)))
    spread = [spearmanr(pretext[draw], hits[draw]).statistic for draw in draws if len(set(pretext[draw])) > 2]
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return float(spearmanr(pretext, hits).statistic), float(low), float(high)


@claim(
    "Doing well on the pretext task carries over to retrieval.",
    (
        "Rank correlation over all settings, seeds averaged, interval (resampling settings) above zero; so over "
        "those of 26 epochs or more."
    ),
)
def claim_carries_over(records: Records) -> Verdict | None:
    """Claim 7; seeds of one setting are no rows of their own, or what has three would count three times."""
    settings: dict[str, list[Record]] = {}
    for name, record in records.items():
        settings.setdefault(re.sub(r"-s\d$", "", name), []).append(record)
    if len(settings) < FEWEST:
        return None
    everything = list(settings.values())
    # A few networks trained for a fifth of the time are the worst at both, and would decide it by themselves.
    parts = {"": everything, LONG: [rows for rows in everything if rows[0]["epochs"] >= EPOCHS]}
    # A domain is a task of its own, of its own difficulty: within one the question is another.
    parts |= {f", {domain} alone": [rows for rows in parts[LONG] if rows[0]["domain"] == domain] for domain in DOMAINS}
    figures, words = [], []
    for name in ("instance_hit_at_5", "class_hit_at_5"):
        found = {part: rank_correlation(rows, name) for part, rows in parts.items() if len(rows) >= FEWEST}
        for part, (rho, low, high) in found.items():
            figures.append(f"{name}{part}: Spearman {rho:.2f} [{low:.2f}, {high:.2f}] over {len(parts[part])} settings")
        lowest = min(found[part][1] for part in ("", LONG) if part in found)
        words.append(f"{name.replace('_hit_at_5', '@5')}: {hold(condition=lowest > 0)}")
    return Verdict("; ".join(words), figures)


@claim(
    "Embeddings cluster by content, not by domain.",
    (
        "k-means clusters (k = number of classes) tell more of the class than of the domain, by homogeneity above "
        "chance (1: all of it). Normalised mutual information of 100 clusters with two domains ends near 0.26."
    ),
)
def claim_clusters(records: Records) -> Verdict | None:
    """Claim 8."""
    figures, words = [], []
    for kind, before, after in before_and_after(records):
        figures.append(
            f"{kind}: with class {before['nmi_class']:.3f} before, {after['nmi_class']:.3f} after; with domain "
            f"{before['nmi_domain']:.3f} before, {after['nmi_domain']:.3f} after"
        )
        if "told_class" in after:
            figures.append(
                f"{kind}: told of the class {before['told_class']:.3f} before, {after['told_class']:.3f} after; of the "
                f"domain {before['told_domain']:.3f} before, {after['told_domain']:.3f} after"
            )
            words.append(f"{kind}: {hold(condition=after['told_class'] > after['told_domain'])}")
    return Verdict("; ".join(words), figures) if words else None


@claim(
    "Even conv1 alone helps much on photos; the photo-only curves resemble the cross-domain ones.",
    (
        "At least 5 points over none. Held-out accuracy after each epoch correlates with the cross-domain run's by "
        f"at least {ALIKE} in every setting that was made in both."
    ),
)
def claim_conv1(records: Records) -> Verdict | None:
    """Claim 9."""
    none, conv1 = seeds_of(records, "photo-none-plain"), seeds_of(records, "photo-conv1-plain")
    if not (none and conv1):
        return None
    gain = mean_of(conv1) - mean_of(none)
    figures = [*tell(none + conv1), f"difference {100 * gain:+.1f} points"]
    figures += tell(seeds_of(records, "photo-conv5-plain") + seeds_of(records, "cross-conv5-plain"))
    words = [f"conv1 alone helps by at least 5 points: {hold(condition=gain >= 0.05)}"]
    likeness = curves_alike(records)
    if likeness:
        figures += [f"`{name}` beside photos alone, epoch by epoch: {value:.2f}" for name, value in likeness.items()]
        words.append(f"the curves resemble one another: {hold(condition=min(likeness.values()) >= ALIKE)}")
    return Verdict("; ".join(words), figures)


def curves_alike(records: Records) -> dict[str, float]:
    """Per cross-domain setting that photos alone were given too, the correlation of both curves over the epochs.

    A curve is `curve` of the rows: held-out accuracy after each epoch, the mean over seeds.
    """
    found = {}
    for level in LEVELS:
        for suffix in ("plain", "bn"):
            runs = [seeds_of(records, f"{domain}-{level}-{suffix}") for domain in ("cross", "photo")]
            if all(runs):
                cross, photo = (np.mean([record["curve"] for record in some], axis=0) for some in runs)
                found[f"cross-{level}-{suffix}"] = float(np.corrcoef(cross, photo)[0, 1])
    return found


def markdown(records: Records) -> str:
    """The content of metrics/claims.md."""
    lines = ["# The source's claims, checked", "", "Written by `make ablation` from its rows."]
    lines += ["Pretext accuracy on held-out photos, %, 95 % intervals over photos in brackets.", ""]
    for number, (claim, rule, check) in enumerate(CLAIMS, start=1):
        verdict = check(records)
        lines += [f"## {number}. {claim}", "", f"Rule: {rule}", ""]
        if verdict is None:
            lines += ["**Not measured yet**: its rows are not made.", ""]
            continue
        lines += [f"**{verdict.word}**", ""]
        table = False
        for figure in verdict.figures:
            table = table or not figure
            lines.append(figure if table else f"- {figure}")
        lines.append("")
    return "\n".join(lines)


def with_curve(record: Record) -> Record:
    """A row's record with its held-out accuracy after each epoch."""
    return record | {"curve": history(record["name"])["val_accuracy"].tolist()}


def write(recipes: Recipes) -> None:
    """Writes the page."""
    records = {record["name"]: with_curve(record) for record in finished(recipes) if "skipped" not in record}
    write_text(ROOT / "metrics" / "claims.md", markdown(records))
    print(f"claims: checked on {len(records)} rows")
