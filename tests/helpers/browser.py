"""A headless Chromium without a network, for tests of the report."""

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@contextmanager
def chromium(folder: Path, width: int = 1280, height: int = 1000):
    """A driver whose downloads and profile go to this folder. Fails where Chromium or its driver is missing."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    driver = webdriver.Chrome(options=options, service=Service(program("chromedriver")))
    try:
        driver.set_script_timeout(60)
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver
    finally:
        driver.quit()


def program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed: apt install chromium chromium-driver"
    return path


def set_size(driver, width: int, height: int) -> None:
    """The size of the page's view, exactly."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def set_scheme(driver, scheme: str) -> None:
    """What the system prefers: "light" or "dark". The page's charts have followed when this returns."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.execute_async_script("setTimeout(arguments[0], 300)")


def open_page(driver, path: Path, fragment: str = "") -> None:
    """Open a report afresh and wait until it is drawn."""
    driver.get("about:blank")
    driver.get(path.resolve().as_uri() + fragment)
    wait(driver, "document.documentElement.dataset.ready === 'yes'")


def wait(driver, condition: str, seconds: float = 30):
    """Wait until a JavaScript expression is true; returns its value."""
    end = time.monotonic() + seconds
    while not (value := driver.execute_script(f"return {condition}")):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        time.sleep(0.02)
    return value


def find(driver, selector: str):
    """The first element of a CSS selector."""
    return driver.find_element(By.CSS_SELECTOR, selector)


def errors(driver) -> list[str]:
    """What the console has of errors and warnings since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
