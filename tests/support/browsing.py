"""Help the tests that run in a real browser."""

from playwright.sync_api import Page


def complaints_of(page: Page) -> list[str]:
    """Return a list that collects the page's script errors, console errors and dialogs."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
    return complaints
