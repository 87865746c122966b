"""Draw the charts of an evaluation: confusion, ranking by P, and calibration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from model.evaluate.bootstrap import Bootstrap, Floats, ImageWeights, Metric
from model.evaluate.measure import Cases, bins_of
from model.evaluate.metrics import CALLED, ECE_BINS, Metrics
from model.evaluate.pictures.figures import COLOURS, FAINT, NAMES, TEXT, Axes, MaxNLocator, canvas, headline

_GRID = np.linspace(0, 1, 501)  # the common x values of all curves
_STYLES = ("-", "--", "-.", ":")  # of the members' lines
_LINE = "#2a5d9f"  # colour of lines that belong to no class
_ENDS = (-7.6, 7.6)  # log odds: P of 0.0005 and 0.9995
_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}  # behind words on a curve
_DOTTED = (0, (2, 3))


def confusion(cases: Cases, metrics: Metrics, path: Path) -> None:
    """Draw the answers for the images of each class: by label, and at the decision threshold."""
    labels = [name for name in CALLED if name != "refused" or not cases.judged.all()]
    decided = np.where(cases.probability > cases.decisions, "pneumonia", "normal")
    with canvas(path, (10.5, 4.3), columns=2) as (figure, axes):
        headline(
            figure,
            "Answers for the images of each class",
            f"{metrics.images} images of {metrics.patients} patients; refused ones are only on the left",
        )
        _matrix(axes[0], cases.truth, cases.called, labels)
        axes[0].set_title("The label of the verdict")
        _matrix(axes[1], cases.truth[cases.judged], decided[cases.judged], list(NAMES))
        axes[1].set_title(f"At the decision threshold: pneumonia above P = {cases.decision:.3f}")


def _matrix(
    axes: Axes, truth: npt.NDArray[np.int_], called: npt.NDArray[np.str_], labels: Sequence[str]
) -> None:
    counts = np.array([[((truth == row) & (called == name)).sum() for name in labels] for row in (0, 1)])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else TEXT
        axes.text(column, row - 0.08, f"{count:,}", size=17, ha="center", va="center", color=colour)
        axes.text(
            column, row + 0.15, f"{shares[row, column]:.1%}", size=9, ha="center", va="center", color=colour
        )
    axes.set_xticks(range(len(labels)), labels, color=TEXT)
    axes.set_yticks((0, 1), NAMES, color=TEXT)
    axes.set(xlabel="answer", ylabel="label in the data")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(3) - 0.5, minor=True)
    axes.grid(visible=True, which="minor", color="white", linewidth=3)
    axes.tick_params(which="minor", length=0)


def curves(cases: Cases, draws: Bootstrap, metrics: Metrics, path: Path) -> None:
    """Draw ROC and precision-recall curves with bands that hold 95 % of the bootstrap draws."""
    roc, precision = curve_bands(cases, draws)
    with canvas(path, (11, 5.6), columns=2) as (figure, axes):
        headline(figure, "How well P ranks the images", "Bands: 95 % of the bootstrap draws of patients")
        _roc(axes[0], roc, metrics)
        _precision(axes[1], precision, metrics)


def curve_bands(cases: Cases, draws: Bootstrap) -> tuple[Floats, Floats]:
    """Return sensitivity over 1 - specificity, and precision over recall, with intervals: [3, 501] each."""
    judged = cases.judged
    truth, probability = cases.truth[judged], cases.probability[judged]

    def roc(weights: ImageWeights) -> Floats:
        false, true, _ = roc_curve(truth, probability, sample_weight=weights, drop_intermediate=False)
        return np.asarray(np.interp(_GRID, false, true))

    def precision(weights: ImageWeights) -> Floats:
        precise, recall, _ = precision_recall_curve(truth, probability, sample_weight=weights)
        step = np.searchsorted(recall[::-1], _GRID)  # no straight lines: Davis and Goadrich 2006
        return np.asarray(precise[::-1][step])

    def defined(curve: Callable[[ImageWeights], Floats]) -> Callable[[ImageWeights], Floats]:
        return lambda w: curve(w) if len(set(truth[w > 0])) == 2 else np.full_like(_GRID, np.nan)

    return draws.band(defined(roc), judged), draws.band(defined(precision), judged)


def _roc(axes: Axes, band: Floats, metrics: Metrics) -> None:
    axes.set(
        title=f"ROC: area {metrics.auc}",
        xlabel="normal images called pneumonia (1 - specificity)",
        ylabel="pneumonia found (sensitivity)",
    )
    _curve(axes, band)
    corner = axes.inset_axes((0.34, 0.13, 0.64, 0.62), xlim=(-0.004, 0.2), ylim=(0.8, 1.004))
    corner.set_title("the corner, enlarged", size=9, weight="normal", color=FAINT, pad=4)
    corner.set_xticks((0, 0.1, 0.2))
    corner.set_yticks((0.8, 0.9, 1))
    _curve(corner, band)
    spots = (
        (metrics.at_half, "at one half", (0.5, 0.25)),
        (metrics.at_decision, "the decision", (0.46, 0.12)),
    )
    for place, words, where in spots:
        spot = (1 - place.specificity.value, place.sensitivity.value)
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "relpos": (0, 0.5), "shrinkB": 4}
        label = f"{words}, P = {place.threshold:.2f}"
        corner.annotate(label, spot, where, textcoords="axes fraction", size=9, arrowprops=line, bbox=_HALO)
        for pane in (axes, corner):
            pane.plot(*spot, "o", color=TEXT, markersize=6, markeredgecolor="white")


def _precision(axes: Axes, band: Floats, metrics: Metrics) -> None:
    axes.set(
        title=f"Precision-recall: average {metrics.average_precision}",
        xlabel="pneumonia found (recall)",
        ylabel="pneumonia calls that are right (precision)",
    )
    judged = {name: sum(said.values()) - said["refused"] for name, said in metrics.called.items()}
    share = judged["pneumonia"] / sum(judged.values())
    axes.axhline(share, color=FAINT, linewidth=1, linestyle=_DOTTED)
    axes.text(0.01, share - 0.02, f"calling all images pneumonia: {share:.0%}", color=FAINT, size=9, va="top")
    _curve(axes, band)


def _curve(axes: Axes, band: Floats) -> None:
    value, low, high = band
    axes.fill_between(_GRID, low, high, color=_LINE, alpha=0.2, linewidth=0)
    axes.plot(_GRID, value, color=_LINE)
    if axes.get_xlim()[1] > 0.5:
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))


def reliability(cases: Cases, draws: Bootstrap, metrics: Metrics, path: Path) -> None:
    """Draw the share of pneumonia among images with similar P, and the number of those images."""
    with canvas(path, (6.6, 7.2), rows=2, ratios=(3.4, 1)) as (figure, (upper, lower)):
        headline(
            figure, "Calibration of P", f"Calibration error (ECE) {metrics.ece}; Brier score {metrics.brier}"
        )
        upper.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=_DOTTED)
        upper.text(0.76, 0.7, "perfect calibration", color=FAINT, size=9)
        for mean, share, count in _bins(cases, draws):
            reach, faint = [[share.value - share.low], [share.high - share.value]], min(1, 0.35 + count / 30)
            upper.errorbar(mean, share.value, reach, color=_LINE, linewidth=1.4, alpha=faint)
            size = 4 + 1.6 * np.log2(count)
            upper.plot(mean, share.value, "o", color=_LINE, alpha=faint, markersize=size, clip_on=False)
        upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean P of the bin")
        upper.set(ylabel="images with pneumonia, with 95 % interval")
        _counts(lower, cases)


def _bins(cases: Cases, draws: Bootstrap) -> Iterator[tuple[float, Metric, int]]:
    """Yield mean P, share of pneumonia and number of images of each bin that has any."""
    place = np.where(cases.judged, bins_of(np.nan_to_num(cases.probability)), -1)
    for index in range(ECE_BINS):
        among = place == index
        share = draws.share(cases.truth == 1, among)
        if share:
            yield float(cases.probability[among].mean()), share, int(among.sum())


def _counts(axes: Axes, cases: Cases) -> None:
    edges, bottom = np.linspace(0, 1, ECE_BINS + 1), np.zeros(ECE_BINS)
    for label, name in enumerate(NAMES):
        counts = np.histogram(cases.probability[cases.judged & (cases.truth == label)], edges)[0]
        axes.bar(
            edges[:-1], counts, 1 / ECE_BINS, bottom, align="edge", color=COLOURS[name], edgecolor="white"
        )
        bottom += counts
    axes.set(xlim=(-0.02, 1.02), ylabel="images", xlabel="P(pneumonia)")
    axes.grid(visible=False, axis="x")
    for label, (place, side) in enumerate(((0.1, "left"), (0.9, "right"))):
        axes.text(
            place,
            0.8,
            NAMES[label],
            transform=axes.transAxes,
            ha=side,
            weight="bold",
            color=COLOURS[NAMES[label]],
        )


def probabilities(cases: Cases, path: Path) -> None:
    """Draw the distribution of P in each class with the thresholds, on a scale that shows the extremes."""
    thresholds = cases.thresholds
    places = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    low, high = _logit(np.array([thresholds.normal_below, thresholds.pneumonia_above]))
    with canvas(path, (9, 5), rows=2) as (figure, axes):
        headline(
            figure,
            "P by class, and where the labels change",
            "In equal steps of log odds; values beyond the scale are in the outermost bars",
        )
        for label, pane in enumerate(axes):
            probability = cases.probability[cases.judged & (cases.truth == label)]
            values = np.clip(_logit(probability), *_ENDS)
            bins = np.linspace(*_ENDS, 61).tolist()
            pane.hist(values, bins, color=COLOURS[NAMES[label]], edgecolor="white", linewidth=0.5)
            pane.set_ylim(top=1.2 * pane.get_ylim()[1])  # room for the names of the labels
            pane.axvspan(low, high, color=COLOURS["uncertain"], alpha=0.14, linewidth=0)
            pane.set_title(f"{NAMES[label]}: {len(values):,} images", color=COLOURS[NAMES[label]])
            pane.set(ylabel="images", xlim=(_ENDS[0] - 0.1, _ENDS[1] + 0.1))
            pane.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            pane.set_xticks(_logit(places), [f"{place:g}" for place in places])
            pane.grid(visible=False, axis="x")
        for edge, words, side in ((low, "normal ", "right"), (high, " pneumonia", "left")):
            axes[0].text(
                edge, 0.92, words, transform=axes[0].get_xaxis_transform(), ha=side, size=9, color=FAINT
            )
        axes[0].text(
            (low + high) / 2, 0.92, "uncertain", transform=axes[0].get_xaxis_transform(), ha="center", size=9
        )
        axes[1].set(xlabel="P(pneumonia)")


def losses(histories: Sequence[Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw training and validation loss and validation AUC over the epochs, with each member's name."""
    with canvas(path, (10, 4.4), columns=2) as (figure, axes):
        headline(
            figure,
            "Learning curves",
            "Training: augmented images. Validation: averaged weights, plain images",
        )
        for member, (history, style) in enumerate(zip(histories, cycle(_STYLES), strict=False), 1):
            epochs = [entry["epoch"] for entry in history]
            for pane, key, name, colour in (
                (axes[0], "loss", "training", TEXT),
                (axes[0], "validation_loss", "validation", _LINE),
                (axes[1], "validation_auc", "validation", _LINE),
            ):
                values = [entry[key] for entry in history]
                label = f"member {member}, {name}: {values[-1]:.3f}"
                pane.plot(epochs, values, color=colour, linestyle=style, label=label)
        axes[0].set(title="Loss", xlabel="epoch", ylim=(0, None))
        axes[1].set(title="AUC", xlabel="epoch")
        for pane in axes:
            pane.legend(title="after the last epoch", alignment="left")


def _logit(probability: Floats) -> Floats:
    inside = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))
