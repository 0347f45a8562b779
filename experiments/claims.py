"""The source's claims, each with a rule, a verdict and its figures: metrics/ablation/*.json -> metrics/claims.md.

`python -m experiments.claims`. A claim whose rows are not made yet says so. Rules are stated in the text, so that a
reader can disagree with them.
"""

from __future__ import annotations

from collections.abc import Callable

from experiments.grid import ROOT, read_grid
from experiments.table import finished, history
from experiments.verdicts import (
    ALIKE,
    HARDLY,
    Record,
    Records,
    Verdict,
    claim_carries_over,
    claim_clusters,
    claim_conv1,
    claim_domains,
    claim_edges,
    claim_escape,
    claim_levels,
    claim_norm_costs,
    claim_retrieval,
)
from pipeline_lib.data.files import write_text

CLAIMS: tuple[tuple[str, str, Callable[[Records], Verdict | None]], ...] = (
    (
        "Without pretraining and without BatchNorm the cross-domain task hardly learns; with BatchNorm it escapes.",
        f"Hardly: below {100 * HARDLY:.0f} % for all seeds. Escapes: its lower ends above the others' upper ends.",
        claim_escape,
    ),
    (
        "Full pretraining gives the highest accuracy; resetting the higher layers costs 2-3 points each.",
        (
            "The highest mean over seeds among the levels made; 2 to 3 points a layer from none to the fullest level. "
            "Without fc6 where its weights were not at hand."
        ),
        claim_levels,
    ),
    ("BatchNorm lowers the accuracy at higher levels of pretraining.", "Intervals apart.", claim_norm_costs),
    (
        "On edges alone even the net without pretraining learns something.",
        "Both patches tell more than one alone, interval above zero, for all seeds.",
        claim_edges,
    ),
    (
        "fc6 of the context predictor retrieves better than frozen ImageNet AlexNet.",
        "Paired interval of class hit@5 over the source's ten classes above zero. AlexNet is its pool5 at 224 px.",
        claim_retrieval,
    ),
    (
        "Domains are less separated after training.",
        "More of the other domain among neighbours, a weaker domain classifier, a better place of the true photo.",
        claim_domains,
    ),
    (
        "Doing well on the pretext task carries over to retrieval.",
        (
            "Rank correlation over all settings, seeds averaged, interval (resampling settings) above zero; so over "
            "those of 26 epochs or more."
        ),
        claim_carries_over,
    ),
    (
        "Embeddings cluster by content, not by domain.",
        (
            "k-means clusters (k = number of classes) tell more of the class than of the domain, by homogeneity above "
            "chance (1: all of it). Normalised mutual information of 100 clusters with two domains ends near 0.26."
        ),
        claim_clusters,
    ),
    (
        "Even conv1 alone helps much on photos; the photo-only curves resemble the cross-domain ones.",
        (
            "At least 5 points over none. Held-out accuracy after each epoch correlates with the cross-domain run's by "
            f"at least {ALIKE} in every setting that was made in both."
        ),
        claim_conv1,
    ),
)


def markdown(records: Records) -> str:
    """The content of metrics/claims.md."""
    lines = [
        "# The source's claims, checked",
        "",
        "Made by `python -m experiments.claims` from the rows of the ablation.",
    ]
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


def main() -> None:
    """Writes the page."""
    records = {record["name"]: with_curve(record) for record in finished(read_grid()) if "skipped" not in record}
    write_text(ROOT / "metrics" / "claims.md", markdown(records))
    print(f"claims: checked on {len(records)} rows")


if __name__ == "__main__":
    main()
