"""The page of the model card."""

import json
from pathlib import Path

from model.evaluate.card import shipped_card
from tests.support.webpage import Page, serve


def test_the_card_shows_what_was_measured_and_the_limits(tmp_path: Path) -> None:
    card = shipped_card()
    html = serve(tmp_path, json.loads(card.model_dump_json())).get("/model")
    assert card.sha256 in html
    assert f"{card.originals.auc.value:.3f}" in html
    assert card.limits[1] in html
    assert card.not_for in html


def test_a_network_without_a_card_says_so(page: Page) -> None:
    assert "no model card" in page.get("/model", 404)
