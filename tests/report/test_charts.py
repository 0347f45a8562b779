from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline_lib.report.charts import carry_over, class_bars, dots, filters, levels, validation_curves
from pipeline_lib.report.embedding_map import MapPoints, embedding_maps, project


def history(last: float) -> pd.DataFrame:
    return pd.DataFrame({"epoch": [1, 2, 3], "val_accuracy": [0.125, 0.2, last]})


def test_every_run_is_a_curve_in_its_panel_in_percent_beside_chance() -> None:
    figure = validation_curves({"cross": {"a": history(0.3), "b": history(0.4)}, "photo": {"c": history(0.5)}})
    first, second = figure.axes
    assert [line.get_label() for line in first.lines][:2] == ["a", "b"]
    assert first.lines[1].get_ydata()[-1] == pytest.approx(40.0)  # type: ignore[index]
    assert list(first.lines[-1].get_ydata()) == [12.5, 12.5]  # type: ignore[arg-type]
    assert len(second.lines) == 2


def test_more_panels_than_fit_side_by_side_go_on_below_without_an_empty_one() -> None:
    figure = validation_curves({title: {"a": history(0.3)} for title in "abcd"})
    assert [axes.get_title("left") for axes in figure.axes] == list("abcd")
    tops = [axes.get_subplotspec().rowspan.start for axes in figure.axes]  # type: ignore[union-attr]
    assert tops == [0, 0, 0, 1]


def test_bars_stand_at_the_estimates_and_their_whiskers_at_the_interval() -> None:
    figure = class_bars(
        {"ours": {"cat": (0.2, 0.1, 0.4), "dog": (0.5, 0.5, 0.5)}, "other": {"cat": (0, 0, 0), "dog": (1, 1, 1)}}, "t"
    )
    axes = figure.axes[0]
    heights = [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
    assert heights == pytest.approx([20.0, 50.0, 0.0, 100.0])
    whisker = axes.collections[0].get_segments()[0]  # type: ignore[attr-defined]
    assert whisker[:, 1].tolist() == pytest.approx([10.0, 40.0])


def test_filters_fill_a_mosaic_each_scaled_to_its_own_range() -> None:
    kernels = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    image = np.asarray(filters({"before": kernels}, columns=3).axes[0].images[0].get_array())
    assert image.shape == (10, 15, 3)
    first = image[:4, :4]
    assert first.min() == 0.0
    assert first.max() == 1.0
    expected = (kernels[3] - kernels[3].min()) / np.ptp(kernels[3])
    np.testing.assert_allclose(image[5:9, :4], expected.transpose(1, 2, 0), atol=1e-6)


def test_a_run_is_one_point_of_each_plot() -> None:
    table = pd.DataFrame(
        {
            "pretext_accuracy": [0.2, 0.3],
            "instance_hit_at_5": [0.01, 0.02],
            "class_hit_at_5": [0.1, 0.2],
            "domain": ["cross", "photo"],
        }
    )
    left, right = carry_over(table).axes
    assert [tuple(c.get_offsets()[0]) for c in left.collections] == [(20.0, 1.0), (30.0, 2.0)]  # type: ignore[index, arg-type]
    assert len(right.collections) == 2


def test_a_map_keeps_groups_together_and_draws_a_line_for_each_pair() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(3, 8), 20, axis=0) * 10 + rng.normal(size=(60, 8))
    places = project(vectors.astype(np.float32), 0)
    centres = np.array([places[n : n + 20].mean(0) for n in (0, 20, 40)])
    spread = max(places[n : n + 20].std() for n in (0, 20, 40))
    assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > spread
    classes = np.repeat(["a", "b", "c"], 20)
    points = MapPoints(vectors.astype(np.float32), np.arange(60) % 2 == 0, classes, np.array([[0, 1], [2, 3]]))
    figure = embedding_maps({"before": points, "after": points}, 0)
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    assert len(figure.axes[0].collections) == 6


def hits(name: str, series: str, value: float) -> dict[str, str | float]:
    return {"name": name, "series": series, "hits": value, "hits_low": value - 0.1, "hits_high": value + 0.1}


def test_dots_stand_at_their_values_from_the_top_and_the_last_series_has_its_interval() -> None:
    table = pd.DataFrame(
        [hits("a", "first", 0.2), hits("a", "last", 0.3), hits("b", "first", 0.4), hits("b", "last", 0.5)]
    )
    axes = dots(table, {"hits": "hits, %"}, ["first", "last"], "b").axes[0]
    first, last, spread = axes.collections
    assert np.asarray(first.get_offsets()).tolist() == [[20.0, 0.0], [40.0, -1.0]]
    assert np.asarray(last.get_offsets()).tolist() == [[30.0, 0.0], [50.0, -1.0]]
    assert spread.get_segments()[0][:, 0].tolist() == pytest.approx([20.0, 40.0])  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert list(axes.lines[0].get_xdata()) == pytest.approx([50.0, 50.0])  # type: ignore[arg-type]


def test_levels_are_joined_through_the_mean_of_seeds() -> None:
    rows = [("x", "none", 0.1), ("x", "none", 0.3), ("x", "conv5", 0.4), ("y", "conv1", 0.5)]
    axes = levels(pd.DataFrame(rows, columns=["series", "pretrained", "hits"]), {"hits": "hits, %"}).axes[0]
    assert [line.get_label() for line in axes.lines] == ["x", "y"]
    means = np.asarray(axes.lines[0].get_ydata())
    assert means[[0, 5]] == pytest.approx([20.0, 40.0])
    assert np.isnan(means[1:5]).all()
    assert len(axes.collections[0].get_offsets()) == 3  # type: ignore[arg-type]
