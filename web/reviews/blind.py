"""Blind mode: the page hides each verdict until this reader has said what the X-ray shows.

A cookie remembers the choice. The server leaves out what it hides, so that nothing is left to find in the
page, with or without script.
"""

from flask import Flask, Response, g, request

from pipeline.records import Row
from pipeline.reviews.review import Review

_COOKIE = "blind"
_YEAR = 365 * 24 * 3600


def is_blind() -> bool:
    """Return whether this visitor reads in blind mode."""
    return request.cookies.get(_COOKIE) == "1"


def hides(row: Row) -> bool:
    """Return whether a row of the worklist hides its verdict from this visitor."""
    return is_blind() and row.label is not None and all(one.user != reader() for one in row.answers)


def hides_verdict(reviews: list[Review]) -> bool:
    """Return whether a finding with these reviews is hidden from this visitor.

    Those who have said something have seen it, even where they took that back.
    """
    return is_blind() and all(one.user != reader() for one in reviews)


def reader() -> str | None:
    """Return the name of this visitor; None where the page knows no users."""
    name: str | None = g.get("user")
    return name


def set_blind(answer: Response, on: bool) -> None:
    """Remember in the browser whether its user reads in blind mode."""
    if on:
        answer.set_cookie(
            _COOKIE, "1", max_age=_YEAR, secure=request.is_secure, httponly=True, samesite="Lax"
        )
    else:
        answer.delete_cookie(_COOKIE, secure=request.is_secure, httponly=True, samesite="Lax")


def install_blind(app: Flask) -> None:
    """Make blind mode known to the templates."""
    app.jinja_env.globals.update(is_blind=is_blind, hides=hides, reader=reader)
