"""The README's picture: the report of a finished quickstart sweep.

python tests/helpers/screenshot.py [results/quickstart] [results/quickstart.png]
"""

import sys
import tempfile
from pathlib import Path

from browser import chromium, open_page, set_size, wait

from qprune.report.commands import write_report

VIEW = "#min=0.98&prefer=cheapest"


def main(folder: str = "results/quickstart", picture: str = "results/quickstart.png") -> None:
    path = write_report(Path(folder))
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as driver:
        set_size(driver, 1280, 900)
        open_page(driver, path, VIEW)
        wait(driver, "document.querySelectorAll('.marks text').length > 0")
        driver.save_screenshot(picture)
    print(f"-> {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
