"""The source's claims, each with a rule, a verdict and its figures: metrics/ablation/*.json -> metrics/claims.md.

Each function of CLAIMS judges one: the first line of its docstring is the claim and the rest the rule, so that a reader
can disagree with it. It answers None where its rows are not made yet.
"""

import inspect
import re
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from experiments.recipes import ROOT
from experiments.table import KIND, PER_CLASS, REFERENCE, START, UNTRAINED, Record, history, percent
from pipeline_lib.files import write_text

FEWEST = 6  # settings; of fewer a rank correlation says nothing
LEVELS = ("none", "conv1", "conv2", "conv3", "conv4", "conv5", "fc6")
LONG = ", 26 epochs or more"
DOMAINS = ("cross", "photo", "edges")
SEPARATION = {
    "cross_domain_share": (+1, "share of the other domain among the 10 nearest"),
    "domain_accuracy": (-1, "linear domain classifier"),
    "partner_place": (-1, "mean place of the true photo, 0 first and 0.5 by chance"),
}
"""Which way each number moves where domains are less separated, and what it is."""

Records = dict[str, Record]
"""By name the rows that are made; `curve` holds the held-out accuracy after each epoch."""


class Verdict(NamedTuple):
    """What became of a claim; figures are lines of the page, those that begin with "|" of a table."""

    word: str
    figures: list[str]


def seeds_of(records: Records, stem: str) -> list[Record]:
    """The runs of one setting, all seeds that are made."""
    return [records[f"{stem}-s{seed}"] for seed in range(3) if f"{stem}-s{seed}" in records]


def pretext(runs: list[Record], name: str = "accuracy") -> NDArray[np.float64]:
    """A figure of the pretext task with the ends of its interval, a row per run: float64[R, 3]."""
    return np.array([[run["pretext"][name], *run["pretext"][f"{name}_ci95"]] for run in runs])


def tell(runs: list[Record]) -> list[str]:
    """A line per run."""
    return [f"`{run['name']}`: {percent(values)}" for run, values in zip(runs, pretext(runs), strict=True)]


def mean_of(runs: list[Record]) -> float:
    """Mean accuracy over seeds."""
    return float(pretext(runs)[:, 0].mean())


def hold(condition: object) -> str:
    """The word for a rule that was checked."""
    return "held" if condition else "did not hold"


def escape(records: Records) -> Verdict | None:
    """Without pretraining and without BatchNorm the cross-domain task hardly learns; with BatchNorm it escapes.

    Hardly: below 20 % for all seeds. Escapes: its lower ends above the others' upper ends.
    """
    plain, norm = seeds_of(records, "cross-none-plain"), seeds_of(records, "cross-none-bn")
    if not (plain and norm):
        return None
    # Chance is 12.5 %, and one patch alone gives 20 to 26 % away.
    highest, _, upper = pretext(plain).max(axis=0)
    escapes = pretext(norm)[:, 1].min() > upper
    word = f"without BatchNorm hardly learns: {hold(highest < 0.20)}; with it escapes: {hold(escapes)}"
    return Verdict(word, tell(plain + norm))


def levels(records: Records) -> Verdict | None:
    """Full pretraining gives the highest accuracy; resetting the higher layers costs 2-3 points each.

    The highest mean over seeds among the levels made; 2 to 3 points a layer from none to the fullest level. Without fc6
    where its weights were not at hand.
    """
    lines, words = [], []
    for suffix in ("bn", "plain"):
        means = {level: mean_of(runs) for level in LEVELS if (runs := seeds_of(records, f"cross-{level}-{suffix}"))}
        if not {"none", "conv5"} < set(means):
            continue
        best, full = max(means, key=means.__getitem__), list(means)[-1]
        step = (means[full] - means["none"]) / LEVELS.index(full)
        lines.append(f"{suffix}: " + ", ".join(f"{level} {100 * mean:.1f}" for level, mean in means.items()))
        lines.append(f"{suffix}: {100 * step:+.1f} points a layer, from none to {full}")
        words.append(f"{suffix}: highest at {best}, {hold(best == full)}")
        words.append(f"2 to 3 points a layer, {hold(0.02 <= round(step, 3) <= 0.03)}")
    return Verdict("; ".join(words), lines) if words else None


def norm_costs(records: Records) -> Verdict | None:
    """BatchNorm lowers the accuracy at higher levels of pretraining.

    Intervals apart.
    """
    norm, plain = seeds_of(records, "cross-conv5-bn"), seeds_of(records, "cross-conv5-plain")
    if not (norm and plain):
        return None
    lowers = mean_of(norm) < mean_of(plain)
    apart = pretext(plain)[:, 1].min() > pretext(norm)[:, 2].max()
    but = "" if lowers == apart else " (lower, but the intervals overlap)"
    return Verdict(hold(lowers and apart) + but, tell(norm + plain))


def edges(records: Records) -> Verdict | None:
    """On edges alone even the net without pretraining learns something.

    Both patches tell more than one alone, interval above zero, for all seeds.
    """
    runs = seeds_of(records, "edges-none-plain")
    if not runs:
        return None
    gains = pretext(runs, "accuracy_gain_over_one_patch")
    figures = [*tell(runs), *(f"minus one patch alone: {percent(gain)}" for gain in gains)]
    return Verdict(hold(gains[:, 1].min() > 0), figures)


def retrieval(records: Records) -> Verdict | None:
    """fc6 of the context predictor retrieves better than frozen ImageNet AlexNet.

    Paired interval of class hit@5 over the source's ten classes above zero. AlexNet is its pool5 at 224 px.
    """
    if REFERENCE not in records or not records[REFERENCE]["minus"]["none"]:
        return None
    record, figures, words = records[REFERENCE], [], []
    for kind in ("none", KIND):
        found = record["minus"][kind][START]
        for part, by_name in found.items():
            values = ", ".join(f"{name.replace('_hit_at_5', '@5')} {percent(v)}" for name, v in by_name.items())
            figures.append(f"fc6 minus pool5, {part}, alignment {kind}: {values}")
        words.append(f"{kind}: {hold(found['all ten']['class_hit_at_5'][1] > 0)} (class@5, ten classes)")
    head = " | ".join(f"{name.removesuffix('_hit_at_5').replace('_', ' ')} fc6 / pool5" for name in PER_CLASS)
    figures += ["", f"| class | {head} |", "|---|---|---|---|"]
    ours, other = (record["per_class"]["none"][name] for name in (REFERENCE, START))
    for name in ours:
        cells = (f"{100 * ours[name][column][0]:.1f} / {100 * other[name][column][0]:.1f}" for column in PER_CLASS)
        figures.append(f"| {name} | {' | '.join(cells)} |")
    return Verdict("; ".join(words), figures)


def before_and_after(records: Records) -> list[tuple[str, Record, Record]]:
    """Per alignment how the reference's domains lay before and after training; empty where that row is not made."""
    found = records[REFERENCE]["domains"] if REFERENCE in records else {}
    kinds = [kind for kind in ("none", KIND) if UNTRAINED in found.get(kind, {})]
    return [(kind, found[kind][UNTRAINED], found[kind][REFERENCE]) for kind in kinds]


def domains(records: Records) -> Verdict | None:
    """Domains are less separated after training.

    More of the other domain among neighbours, a weaker domain classifier, a better place of the true photo.
    """
    figures, words = [], []
    for kind, before, after in before_and_after(records):
        for key, (_, title) in SEPARATION.items():
            figures.append(f"{kind}, {title}: {before[key]:.3f} before, {after[key]:.3f} after")
        moved = [way * (after[key] - before[key]) for key, (way, _) in SEPARATION.items()]
        words.append(f"{kind}: {sum(by > 0 for by in moved)} of 3 numbers moved that way, by {max(moved):.3f} at most")
    return Verdict("; ".join(words), figures) if words else None


def rank_correlation(settings: list[list[Record]], name: str) -> tuple[float, float, float]:
    """Spearman's between pretext accuracy and hits, seeds averaged, and its 95 % interval from resampled settings."""
    told = np.array([mean_of(runs) for runs in settings])
    hits = np.array([np.mean([run["retrieval"][KIND][name][0] for run in runs]) for runs in settings])
    draws = np.random.default_rng(0).integers(0, len(told), (2000, len(told)))
    spread = [spearmanr(told[draw], hits[draw]).statistic for draw in draws if len(set(told[draw])) > 2]
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return float(spearmanr(told, hits).statistic), float(low), float(high)


def carries_over(records: Records) -> Verdict | None:
    """Doing well on the pretext task carries over to retrieval.

    Rank correlation over all settings, seeds averaged, interval (resampling settings) above zero; so over those of 26
    epochs or more.
    """
    # Seeds of one setting are no rows of their own, or what has three would count three times.
    settings: dict[str, list[Record]] = {}
    for name, record in records.items():
        settings.setdefault(re.sub(r"-s\d$", "", name), []).append(record)
    if len(settings) < FEWEST:
        return None
    everything = list(settings.values())
    # A few networks trained for a fifth of the time are the worst at both, and would decide it by themselves.
    parts = {"": everything, LONG: [runs for runs in everything if runs[0]["epochs"] >= 26]}
    # A domain is a task of its own, of its own difficulty: within one the question is another.
    parts |= {f", {domain} alone": [runs for runs in parts[LONG] if runs[0]["domain"] == domain] for domain in DOMAINS}
    figures, words = [], []
    for name in ("instance_hit_at_5", "class_hit_at_5"):
        found = {part: rank_correlation(runs, name) for part, runs in parts.items() if len(runs) >= FEWEST}
        for part, (rho, low, high) in found.items():
            figures.append(f"{name}{part}: Spearman {rho:.2f} [{low:.2f}, {high:.2f}] over {len(parts[part])} settings")
        lowest = min(found[part][1] for part in ("", LONG) if part in found)
        words.append(f"{name.replace('_hit_at_5', '@5')}: {hold(lowest > 0)}")
    return Verdict("; ".join(words), figures)


def clusters(records: Records) -> Verdict | None:
    """Embeddings cluster by content, not by domain.

    k-means clusters (k = number of classes) tell more of the class than of the domain, by homogeneity above chance (1:
    all of it). Normalised mutual information of 100 clusters with two domains ends near 0.26.
    """
    figures, words = [], []
    for kind, before, after in before_and_after(records):
        was = {key: f"{before[key]:.3f} before, {after[key]:.3f} after" for key in after}
        figures.append(f"{kind}: with class {was['nmi_class']}; with domain {was['nmi_domain']}")
        figures.append(f"{kind}: told of the class {was['told_class']}; of the domain {was['told_domain']}")
        words.append(f"{kind}: {hold(after['told_class'] > after['told_domain'])}")
    return Verdict("; ".join(words), figures) if words else None


def conv1(records: Records) -> Verdict | None:
    """Even conv1 alone helps much on photos; the photo-only curves resemble the cross-domain ones.

    At least 5 points over none. Held-out accuracy after each epoch correlates with the cross-domain run's by at least
    0.8 in every setting that was made in both.
    """
    stems = ("photo-none-plain", "photo-conv1-plain", "photo-conv5-plain", "cross-conv5-plain")
    none, first, *others = (seeds_of(records, stem) for stem in stems)
    if not (none and first):
        return None
    gain = mean_of(first) - mean_of(none)
    figures = [*tell(none + first), f"difference {100 * gain:+.1f} points", *tell(others[0] + others[1])]
    word = f"conv1 alone helps by at least 5 points: {hold(gain >= 0.05)}"
    likeness = {}
    for stem in (f"{level}-{suffix}" for level in LEVELS for suffix in ("plain", "bn")):
        cross, photo = (seeds_of(records, f"{domain}-{stem}") for domain in ("cross", "photo"))
        if cross and photo:
            curves = [np.mean([run["curve"] for run in runs], axis=0) for runs in (cross, photo)]
            likeness[stem] = float(np.corrcoef(*curves)[0, 1])
            figures.append(f"`cross-{stem}` beside photos alone, epoch by epoch: {likeness[stem]:.2f}")
    if likeness:
        word += f"; the curves resemble one another: {hold(min(likeness.values()) >= 0.8)}"
    return Verdict(word, figures)


Judge = Callable[[Records], Verdict | None]
CLAIMS: Final[list[Judge]] = [escape, levels, norm_costs, edges, retrieval, domains, carries_over, clusters, conv1]


def markdown(records: Records) -> str:
    """The content of metrics/claims.md."""
    lines = ["# The source's claims, checked", "", "Written by `make ablation` from its rows."]
    lines += ["Pretext accuracy on held-out photos, %, 95 % intervals over photos in brackets.", ""]
    for number, judge in enumerate(CLAIMS, start=1):
        claim, _, rule = inspect.cleandoc(judge.__doc__ or "").partition("\n\n")
        lines += [f"## {number}. {claim}", "", f"Rule: {' '.join(rule.split())}", ""]
        verdict = judge(records)
        if verdict is None:
            lines += ["**Not measured yet**: its rows are not made.", ""]
            continue
        lines += [f"**{verdict.word}**", ""]
        lines += [*(line if line[:1] in {"", "|"} else f"- {line}" for line in verdict.figures), ""]
    return "\n".join(lines)


def write(made: list[Record]) -> None:
    """Writes the page from the rows that are made."""
    records = {row["name"]: row | {"curve": history(row["name"])["val_accuracy"].tolist()} for row in made}
    write_text(ROOT / "metrics" / "claims.md", markdown(records))
    print(f"claims: checked on {len(records)} rows")
