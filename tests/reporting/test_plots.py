"""Figures hold the numbers worked by hand, and every odd input still makes a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomaly_vae.core.errors import AnomalyVAEError
from anomaly_vae.reporting import plots
from anomaly_vae.reporting.plots import overlays, review

LABELS = np.array([0, 0, 0, 0, 1, 1])
SCORES = np.array([1.0, 2.0, 3.0, 5.0, 4.0, 6.0])  # of the 8 pairs 7 are in order: AUROC 7/8


def rendered(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def marked(axes: Axes) -> tuple[float, float]:
    (line,) = [line for line in axes.lines if line.get_marker() == "o"]
    return float(line.get_xdata()[0]), float(line.get_ydata()[0])


def test_roc_marks_the_chosen_point() -> None:
    figure = plots.roc(LABELS, SCORES, threshold=4.0)  # at or above 4: one of four normals, both anomalies
    assert marked(figure.axes[0]) == (0.25, 1.0)
    assert legend(figure.axes[0]) == ["AUROC 0.875", "threshold 4: FPR 0.250, TPR 1.000"]
    assert rendered(figure).startswith(b"\x89PNG")


def test_precision_recall_marks_the_chosen_point() -> None:
    figure = plots.precision_recall(LABELS, SCORES, threshold=4.0)
    recall, precision = marked(figure.axes[0])
    assert recall == 1.0
    assert precision == pytest.approx(2 / 3)
    # Average precision: half of the recall at precision 1, the other half at 2/3.
    assert legend(figure.axes[0])[:2] == ["chance 0.333", "AUPRC 0.833 (average precision)"]


def test_numbers_are_of_all_samples_however_many_are_drawn() -> None:
    rng = np.random.default_rng(0)
    labels, scores = np.arange(200_000) % 2, rng.normal(size=200_000)
    figure = plots.roc(labels, scores, threshold=0.0)
    assert marked(figure.axes[0])[0] == (scores[labels == 0] >= 0).mean()
    assert max(len(line.get_xdata()) for line in figure.axes[0].lines) <= plots.DRAWN


def test_one_class_says_so() -> None:
    for draw in (plots.roc, plots.precision_recall):
        (text,) = draw(np.zeros(5), np.arange(5), 1.0).axes[0].texts
        assert "5 normal and 0 anomalous" in text.get_text()


def test_the_histogram_counts_every_sample_of_each_class() -> None:
    figure = plots.score_histogram(SCORES[:4], SCORES[4:], threshold=4.0)
    axes = figure.axes[0]
    heights = [sum(bar.get_height() for bar in bars) for bars in axes.containers]
    assert heights == pytest.approx([100, 100])  # percent
    assert legend(axes)[0] == "normal: 4 samples, 25.0% at or above the threshold"
    assert legend(axes)[1] == "anomalous: 2 samples, 100.0% at or above the threshold"
    assert axes.get_xscale() == "linear"


def test_scores_over_decades_get_a_logarithmic_axis() -> None:
    figure = plots.score_histogram(np.linspace(-60, -40, 100), np.array([1e2, 1e4, 1e6]), threshold=-39.0)
    assert figure.axes[0].get_xscale() == "symlog"
    assert sum(bar.get_height() for bar in figure.axes[0].containers[1]) == pytest.approx(100)


@pytest.mark.parametrize(
    "figure",
    [
        plots.score_histogram(np.full(20, 3.0), None, 3.0),
        plots.score_histogram(np.full(20, -1e6), np.array([np.nan, np.inf]), 0.0),
        plots.score_histogram(np.array([]), np.array([]), 0.0),
        plots.roc(LABELS, np.ones(6), 1.0),
        plots.precision_recall(LABELS, SCORES, 99.0),
        plots.training({"loss": [1.0], "kl": [0.0], "beta": [0.0]}),
        plots.training({"loss": [float("nan")] * 3, "valid_loss": [float("nan")] * 3}),
        plots.training({}),
        plots.kl_per_dimension(np.zeros(0)),
        plots.kl_per_dimension(np.zeros(300)),
        plots.series(np.array([]), np.zeros((0, 2)), ["a", "b"], np.array([]), 1.0),
        plots.series(["x"], np.zeros((1, 1)), ["a"], [2.0], 1.0, [1]),
        plots.series(np.arange(9), np.full((9, 12), np.nan), list("abcdefghijkl"), np.full(9, np.nan), 1.0, np.ones(9)),
        plots.reconstructions(np.zeros((0, 1, 4, 4)), np.zeros((0, 1, 4, 4)), np.zeros((0, 4, 4)), [], 1.0),
        plots.reconstructions(
            np.zeros((1, 3, 4, 9)), np.ones((1, 3, 4, 9)), np.zeros((1, 4, 9)), ["one"], 1.0, np.eye(4, 9)[None] > 0
        ),
        plots.table_parts([], []),
        plots.table_parts(["$a_b$ with a name that is very much longer than any label can be"], [1.0]),
    ],
)
def test_odd_inputs_still_draw(figure: Figure) -> None:
    assert rendered(figure).startswith(b"\x89PNG")


def test_training_marks_the_best_epoch() -> None:
    figure = plots.training({"loss": [9.0, 5.0, 4.0], "valid_loss": [9.5, 5.5, 6.0], "beta": [0.0, 0.5, 1.0]})
    assert "best: 5.5 in epoch 2" in legend(figure.axes[0])


def test_active_dimensions_are_counted() -> None:
    figure = plots.kl_per_dimension(np.array([0.001, 2.0, 0.5]))
    assert legend(figure.axes[0]) == ["active: 2", "not active: 1"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "2", "0"]
    assert figure.axes[0].get_title(loc="left") == "KL of each latent dimension: 2.501 nats in all"


def test_a_peak_of_a_long_series_is_drawn_and_anomalies_are_shaded() -> None:
    steps = 100_000
    scores, labels = np.ones(steps), np.zeros(steps)
    scores[77_777], labels[77_777:77_780] = 50.0, 1
    times = np.datetime64("2025-01-01") + np.arange(steps) * np.timedelta64(1, "s")
    figure = plots.series(times.astype(str), np.zeros((steps, 1)), ["a"], scores, 10.0, labels)
    line = figure.axes[-1].lines[0]
    assert len(line.get_xdata()) <= plots.DRAWN
    assert line.get_ydata().max() == 50.0
    (span,) = figure.axes[-1].collections[0].get_paths()
    assert span.get_extents().width * 86_400 == pytest.approx(3, rel=1e-3)  # days to seconds


def test_of_many_sensors_those_that_tell_are_drawn() -> None:
    values = np.random.default_rng(0).normal(size=(200, 20))
    scores = np.zeros(200)
    scores[150:] = 9.0
    values[150:, 13] += 30
    figure = plots.series(np.arange(200), values, [f"s{i}" for i in range(20)], scores, 5.0)
    assert len(figure.axes) == plots.SENSORS + 1
    assert "s13" in [axes.get_ylabel() for axes in figure.axes]


def test_heat_leaves_cold_pixels_grey_and_colours_hot_ones() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 7.0
    drawn = overlays.heated(np.full((4, 4, 3), 128, np.uint8), heat, top=7.0)
    np.testing.assert_array_equal(drawn[0, 0], [128, 128, 128])  # 0.15 + 0.7 * 128 / 255, of 255
    red, _, blue = drawn[1, 2].astype(int)
    assert red > blue + 80


def test_the_overlay_draws_contour_and_mask_on_one_scale(tmp_path: Path) -> None:
    picture, heat = np.full((4, 4, 1), 128, np.uint8), np.zeros((4, 4), np.float32)
    mask = np.zeros((4, 4), bool)
    heat[0, 0], heat[2:, 2:], mask[2:, :2] = 2.0, 3.0, True
    drawn = plots.overlay(picture, heat, threshold=3.0, mask=mask)
    assert drawn.dtype == np.uint8
    plain, hot = drawn[:256, :256], drawn[:256, 264:520]  # each pixel enlarged to 64, a gap of 8
    white, blue = ((hot == colour).all(axis=2) for colour in (overlays.CONTOUR, overlays.MASK))
    inside, marked = heat >= 3, mask
    square = np.kron(np.ones((4, 4)), np.pad(np.zeros((62, 62)), 1, constant_values=1)) > 0  # the edges of pixels
    for line, region in ((white, inside), (blue, marked)):
        whole = np.kron(region, np.ones((64, 64))) > 0
        assert line.any() and (line <= whole).all()  # inside the region,
        assert (line <= square).all()  # along its edge
    assert ((plain == overlays.MASK).all(axis=2) == blue).all()
    assert not (plain == overlays.CONTOUR).all(axis=2).any()
    # the same nats have the same colour in another picture, however hot that is
    hotter = plots.overlay(picture, np.where(heat == 3, 50, heat), threshold=3.0)[:256, 264:520]
    np.testing.assert_array_equal(hotter[32, 32], hot[32, 32])
    assert hotter[160, 160].tolist() != hot[160, 160].tolist()
    plots.save_png(drawn, tmp_path / "map.png")
    np.testing.assert_array_equal(np.rint(255 * image.imread(tmp_path / "map.png")), drawn)
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    with pytest.raises(AnomalyVAEError, match="does not exist"):
        plots.save_png(drawn, tmp_path / "nowhere" / "map.png")


def test_reconstructions_outline_alarms_and_masks_along_the_edges_of_pixels() -> None:
    heat, mask = np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool)
    heat[0, 1:3, 0], mask[0, 0, 2:] = 5.0, True
    pictures = np.zeros((1, 1, 4, 4))
    figure = plots.reconstructions(pictures, pictures, heat, ["one"], threshold=5.0, masks=mask)
    original, _, excess = figure.axes[:3]
    edges = {"alarm": (-0.5, 0.5, 0.5, 2.5), "mask": (1.5, 3.5, -0.5, 0.5)}  # left, right, top, bottom
    for axes, lines in ((original, ["mask"]), (excess, ["alarm", "mask"])):
        assert axes.get_xlim() == (-0.5, 3.5)
        drawn = [np.concatenate([path.vertices for path in contour.get_paths()]) for contour in axes.collections]
        extents = [(*np.quantile(v[:, 0], (0, 1)), *np.quantile(v[:, 1], (0, 1))) for v in drawn]
        np.testing.assert_allclose(extents, [edges[name] for name in lines], atol=1 / 32)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (500, 2)])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1e-9, 2.0])
def test_an_overlay_of_any_shape_and_threshold_can_be_drawn(size: tuple[int, int], threshold: float) -> None:
    drawn = plots.overlay(np.zeros((*size, 3)), np.full(size, np.nan), threshold, np.ones(size, bool))
    assert drawn.shape[2] == 3


def test_no_figure_changes_the_style_of_another_program() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.kl_per_dimension(np.ones(3))
    assert dict(mpl.rcParams) == before


def test_the_band_of_many_rows_is_within_a_row_of_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = np.array([1, 3, 40, 198])
    exact = review._band(600, ranks, 200)
    monkeypatch.setattr(review, "EXACT", 0)
    for quantile, expected in zip(review._band(600, ranks, 200), exact, strict=True):
        np.testing.assert_allclose(quantile, expected, atol=1 / 600)
