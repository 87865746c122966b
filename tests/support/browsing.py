"""Help the tests that run in a real browser."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def complaints_of(page: Page) -> list[str]:
    """Return a list that collects the page's script errors, console errors and dialogs."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
    return complaints


def assert_accessible(page: Page) -> None:
    """Assert that axe finds nothing to complain of in the dark theme, and in the colours of the light one."""
    # All else is the same in both.
    colours = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
    for theme, rules in (("dark", {}), ("light", colours)):
        assert page.locator("html").get_attribute("data-theme") == theme
        found = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
        page.locator("#theme").click()
