"""The page of statistics, and the same figures for programs: what was judged over time, and drift."""

from datetime import UTC, date, datetime

from flask import Blueprint, Flask, Response, abort, render_template, request
from flask.typing import ResponseReturnValue

from pipeline.statistics.daily import PropertyName
from pipeline.statistics.drift import LEAST, SHIFT, SOME
from pipeline.statistics.reader import LONG, SHORT, DriftReport, PeriodName, Span, Statistics, total
from web.schemas import SpanFigures, StatisticsFigures

PERIODS: dict[PeriodName, str] = {"30d": "30 days", "12m": "12 months"}
PROPERTY_NAMES: dict[PropertyName, str] = {
    "typicality": "Typicality",
    "evidence": "Probability",
    "brightness": "Brightness",
    "contrast": "Contrast",
    "aspect": "Width : height",
}
LEVEL_NAMES = {"few": "too few X-rays", "stable": "alike", "some": "some difference", "shift": "unlike"}


def statistics_blueprint(statistics: Statistics) -> Blueprint:
    """Return the page of statistics and its interface for programs."""
    blueprint = Blueprint("statistics", __name__)

    @blueprint.get("/statistics")
    def page() -> str:
        period, today = _period(), _today()
        spans = statistics.over(period, today)
        return render_template(
            "statistics.html",
            period=period,
            spans=spans,
            whole=total(spans),
            report=statistics.drift(today),
            PERIODS=PERIODS,
            LEVEL_NAMES=LEVEL_NAMES,
            limits={"some": SOME, "shift": SHIFT, "least": LEAST, "short": SHORT, "long": LONG},
        )

    @blueprint.get("/api/statistics")
    def figures() -> ResponseReturnValue:
        period, today = _period(), _today()
        spans = statistics.over(period, today)
        answer = StatisticsFigures(
            period=period,
            spans=[_figures(span) for span in spans],
            total=_figures(total(spans)),
            drift=statistics.drift(today),
        )
        return Response(answer.model_dump_json(), mimetype="application/json")

    return blueprint


def install_statistics(app: Flask, statistics: Statistics) -> None:
    """Make the report of drift known to the templates."""
    app.add_template_filter(day_name)
    app.add_template_filter(shift_in_words)
    app.jinja_env.globals.update(PROPERTY_NAMES=PROPERTY_NAMES, drift=lambda: statistics.drift(_today()))


def day_name(day: date) -> str:
    """Format a day with its weekday, without its year."""
    return f"{day:%A}, {day.day} {day:%B}"


def shift_in_words(report: DriftReport) -> str:
    """Say since when the X-rays differ from those that the network was checked on."""
    if report.since is None:
        return ""
    when = f"before {day_name(report.since)}" if report.is_older else day_name(report.since)
    return f"Unlike the data it was checked on since {when}"


def _figures(span: Span) -> SpanFigures:
    return SpanFigures(
        begins=span.begins,
        verdicts=span.verdicts,
        answers=span.group("answer"),
        reasons=span.group("reason"),
        warnings=span.group("warning"),
        uncertain=span.uncertain,
        no_call=span.no_call,
        mean_probability=span.mean_probability,
        reviews=span.group("review"),
        agreement=span.agreement,
    )


def _period() -> PeriodName:
    asked = request.args.get("period", "30d")
    if asked not in PERIODS:
        abort(400, "This address has a wrong `period`: it is `30d` or `12m`.")
    return next(period for period in PERIODS if period == asked)


def _today() -> date:
    return datetime.now(UTC).date()
