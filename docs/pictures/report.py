"""Takes pictures of the report page of a finished run, as the docs show them.

python docs/pictures/report.py runs/demo docs/pictures

Needs Chromium (``chromium`` on the PATH, or DATAGEN_CHROMIUM) and playwright.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("DATAGEN_CHROMIUM") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
#: name, width, height, scheme, and the element that stands at the top.
VIEWS = (
    ("report-triplets", 1200, 900, "light", "#rows"),
    ("report-funnel", 1200, 760, "dark", "#funnel"),
    ("report-scores", 1200, 700, "light", "#scores"),
    ("report-phone", 390, 800, "dark", "#rows"),
)


def main(run, folder):
    page_at = (Path(run) / "report" / "index.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, width, height, scheme, top in VIEWS:
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(page_at)
            page.wait_for_timeout(1000)
            page.evaluate("id => document.querySelector(id)?.scrollIntoView()", top)
            page.wait_for_timeout(1000)
            page.screenshot(path=Path(folder) / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
