"""Compare verdicts with what readers said about them: `cxr evaluate --reviews`.

The readers are the reference, not the truth: most of them saw the verdict first, and they chose what to read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from textwrap import wrap
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, Field

from model.data import patient_of
from model.evaluate.bootstrap import METHOD, Bootstrap, Mask, Metric
from pipeline.errors import UsageError
from pipeline.judge import SeenVerdict, read_verdict
from pipeline.names import INBOX, OUTBOX, REVIEWS, is_review, is_verdict
from pipeline.ports import FullStore
from pipeline.reviews.kept import latest, read_review
from pipeline.reviews.review import Review
from pipeline.verdict import Label, Warning

Reference = Literal["pneumonia", "not_pneumonia", "unsure", "tied"]
_AT_ONCE, _CHUNK = 16, 4096  # objects read in parallel, and handed to the threads together
_BIAS = (
    "The readers are the reference, not the truth. Unless they read blind, they saw the verdict first, and "
    "tend to follow it. They chose what to read: where verdicts of one label were read more often than those "
    "of another, sensitivity and specificity are biased (verification bias); the predictive values are not, "
    "if the verdicts of each label were read regardless of what the X-rays show."
)


class Agreement(BaseModel):
    """Compare a group of verdicts with their readers."""

    name: str
    verdicts: int = Field(description="that were read")
    agreed: Metric | None = Field(
        description="share that readers agree with, of those where both decided; null when there are none"
    )
    pneumonia: int = Field(description="where readers see pneumonia")
    not_pneumonia: int = Field(description="where they see none")
    undecided: int = Field(description="where they are unsure, or as many say one thing as the other")


class ReaderFigures(BaseModel):
    """Hold the figures of verdicts against what readers said, each verdict counted once.

    Of several readers the majority counts; those who are unsure have no vote. Intervals by bootstrap over
    patients, as far as file names tell them.
    """

    verdicts: int = Field(description="with a finding, that stand now")
    read: int = Field(description="of those in these figures: verdicts that somebody read")
    unread: int = Field(description="verdicts that stand now and that nobody read")
    of_replaced: int = Field(description="verdicts that were read and then replaced")
    read_by_label: dict[Label, Metric | None] = Field(description="share of the verdicts that was read")
    readers: int = Field(description="names; where the page knows no users, all count as one")
    several: int = Field(description="verdicts with more than one reader")
    tied: int = Field(description="verdicts about which as many readers say one thing as the other")
    unsure: int = Field(description="verdicts about which all readers are unsure")
    called: dict[Label, dict[Reference, int]] = Field(description="by the verdict, then by the readers")
    agreed: Metric | None = Field(description="share that readers agree with, where both decided")
    sensitivity: Metric | None = Field(
        description="share called `pneumonia`, where readers see it and the label is not `uncertain`"
    )
    specificity: Metric | None = Field(
        description="share called `normal`, where readers see no pneumonia and the label is not `uncertain`"
    )
    ppv: Metric | None = Field(description="share of `pneumonia` where readers see it")
    npv: Metric | None = Field(description="share of `normal` where readers see no pneumonia")
    by_label: list[Agreement]
    by_warning: list[Agreement]
    by_way: list[Agreement] = Field(description="read blind by all readers, or not")
    note: str = _BIAS


@dataclass(frozen=True)
class Case:
    """Hold one verdict with the last answer of each of its readers."""

    key: str
    label: Label
    warnings: tuple[Warning, ...]
    answers: tuple[Review, ...]

    @property
    def reference(self) -> Reference:
        """Return what the majority of readers sees."""
        votes = Counter(one.sees for one in self.answers)
        for_it, against = votes["pneumonia"], votes["not_pneumonia"]
        if for_it == against:
            return "tied" if for_it else "unsure"
        return "pneumonia" if for_it > against else "not_pneumonia"


def evaluate_reviews(store: FullStore, everything: bool = False) -> ReaderFigures:
    """Read all reviews and verdicts of an outbox and compare them.

    Reviews of verdicts that were replaced since count only with `everything`. Raises UsageError when nobody
    has read anything.
    """
    reviews: dict[tuple[str, str], list[Review]] = {}
    for one in _read(store, REVIEWS):
        if isinstance(one, Review):
            reviews.setdefault((one.key, one.verdict_etag), []).append(one)
    cases: list[Case] = []
    unread: list[Case] = []
    for seen in _read(store, OUTBOX):
        if isinstance(seen, SeenVerdict) and seen.verdict and seen.verdict.finding:
            key, finding = seen.verdict.source.key, seen.verdict.finding
            answers = _standing(reviews.pop((key, seen.etag or ""), []))
            case = Case(key, finding.label, tuple(seen.verdict.warnings), answers)
            (cases if case.answers else unread).append(case)
    replaced = [_replaced(found) for found in reviews.values() if _standing(found)]
    chosen = cases + (replaced if everything else [])
    if not chosen:
        more = "; with --all, reviews of replaced verdicts count, too" if replaced else ""
        raise UsageError(f"nobody has reviewed a verdict of this outbox: there is nothing to compare{more}")
    return _figures(chosen, cases, unread, len(replaced))


def _read(store: FullStore, prefix: str) -> Iterator[Review | SeenVerdict | None]:
    """Yield the reviews or the verdicts under a prefix, several at a time."""
    wanted = is_review if prefix == REVIEWS else is_verdict
    places = (job.key for job in store.names(prefix) if wanted(job.key))

    def read(place: str) -> Review | SeenVerdict | None:
        return read_review(store, place) if prefix == REVIEWS else read_verdict(store, place)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while chunk := list(islice(places, _CHUNK)):
            yield from pool.map(read, chunk)


def _standing(reviews: Iterable[Review]) -> tuple[Review, ...]:
    in_order = sorted(reviews, key=lambda one: one.at)
    return tuple(one for one in latest(in_order) if one.answer != "withdrawn")


def _replaced(reviews: Sequence[Review]) -> Case:
    first = reviews[0]
    return Case(first.key, first.label, tuple(first.warnings), _standing(reviews))


def _figures(chosen: list[Case], cases: list[Case], unread: list[Case], replaced: int) -> ReaderFigures:
    draws = Bootstrap([_patient(case) for case in chosen])
    label = np.array([case.label for case in chosen])
    reference = np.array([case.reference for case in chosen])
    ill, well = reference == "pneumonia", reference == "not_pneumonia"
    called, cleared = label == "pneumonia", label == "normal"
    right, both = (called & ill) | (cleared & well), (called | cleared) & (ill | well)

    def group(name: str, among: Mask) -> Agreement:
        return Agreement(
            name=name,
            verdicts=int(among.sum()),
            agreed=draws.share(right, among & both),
            pneumonia=int((among & ill).sum()),
            not_pneumonia=int((among & well).sum()),
            undecided=int((among & ~ill & ~well).sum()),
        )

    blind = np.array([all(one.blind for one in case.answers) for case in chosen])
    warnings = [word for word in get_args(Warning) if any(word in case.warnings for case in chosen)]
    with_warning = {word: np.array([word in case.warnings for case in chosen]) for word in warnings}
    with_warning["no warning"] = np.array([not case.warnings for case in chosen])
    return ReaderFigures(
        verdicts=len(cases) + len(unread),
        read=len(chosen),
        unread=len(unread),
        of_replaced=replaced,
        read_by_label=_read_by_label(cases, unread),
        readers=len({one.user for case in chosen for one in case.answers}),
        several=sum(len(case.answers) > 1 for case in chosen),
        tied=int((reference == "tied").sum()),
        unsure=int((reference == "unsure").sum()),
        called={
            word: {said: int(((label == word) & (reference == said)).sum()) for said in get_args(Reference)}
            for word in get_args(Label)
        },
        agreed=draws.share(right, both),
        sensitivity=draws.share(called, ill & both),
        specificity=draws.share(cleared, well & both),
        ppv=draws.share(ill, called & both),
        npv=draws.share(well, cleared & both),
        by_label=[group(word, label == word) for word in get_args(Label)],
        by_warning=[group(word, among) for word, among in with_warning.items() if among.any()],
        by_way=[group("blind", blind), group("verdict shown", ~blind)],
    )


def _read_by_label(cases: list[Case], unread: list[Case]) -> dict[Label, Metric | None]:
    everything = [*cases, *unread]
    if not everything:
        return {}
    draws = Bootstrap([_patient(case) for case in everything])
    read = np.array([bool(case.answers) for case in everything])
    label = np.array([case.label for case in everything])
    return {word: draws.share(read, label == word) for word in get_args(Label)}


def _patient(case: Case) -> str:
    folder, _, name = case.key.removeprefix(INBOX).rpartition("/")
    return patient_of(name, folder)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def readers_table(found: ReaderFigures) -> str:
    """Build the tables for people."""
    rows = {
        "agreement": found.agreed,
        "sensitivity": found.sensitivity,
        "specificity": found.specificity,
        "right when `pneumonia`": found.ppv,
        "right when `normal`": found.npv,
    }
    said: dict[Reference, str] = {
        "pneumonia": "pneumonia",
        "not_pneumonia": "no pneumonia",
        "unsure": "unsure",
        "tied": "tied",
    }
    head = "".join(f"{word:>14}" for word in said.values())
    groups = [*found.by_label, *found.by_warning, *found.by_way]
    return "\n".join(
        [
            f"{_counted(found.read, 'verdict')} read by {_counted(found.readers, 'reader')}; "
            f"{found.unread} of the {found.verdicts} that stand now are unread",
            f"{found.several} with several readers (the majority counts), {found.tied} tied, {found.unsure} "
            f"unsure; {found.of_replaced} read verdicts were replaced since",
            f"95 % intervals {METHOD}",
            "uncertain verdicts count in the tables alone",
            *(f"  {name:24} {figure or 'unknown'}" for name, figure in rows.items()),
            "share of the verdicts that was read",
            *(f"  {word:24} {share or 'unknown'}" for word, share in found.read_by_label.items()),
            f"{'verdict, by what readers see':28}{head}",
            *(
                f"  {word:26}" + "".join(f"{counts[one]:14}" for one in said)
                for word, counts in found.called.items()
            ),
            f"{'agreement by group':28}{'verdicts':>10}  share",
            *(f"  {one.name:26}{one.verdicts:10}  {one.agreed or 'unknown'}" for one in groups),
            *wrap(found.note, 100),
        ]
    )
