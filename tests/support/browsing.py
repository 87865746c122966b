"""What the tests in a real browser share."""

from playwright.sync_api import Page


def complaints_of(page: Page) -> list[str]:
    """What the page will complain of: errors of its script and of the console, and dialogs."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
    return complaints
