"""A headless Chromium that uses the page of `belvedere app`: for its tests, and for the pictures of it in docs/."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def missing() -> str:
    """Returns what is needed and not installed; "" if nothing is."""
    return " and ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """Yields selenium's driver of a new Chromium, which keeps a log of its requests; downloads go to a folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000",
                     "--disable-background-networking", "--disable-component-update"):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Returns the first true value of a condition.

    Raises:
        AssertionError: There is none in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = condition()
        except Exception:  # elements come and go while the page is drawn
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come true")


def drop(browser: Any, paths: Sequence[Path]) -> None:
    """Drops image files on the page."""
    until(lambda: browser.find_element("css selector", "#drop input[type=file]")).send_keys("\n".join(map(str, paths)))


def click(browser: Any, selector: str) -> None:
    """Clicks the first element of a CSS selector."""
    until(lambda: browser.find_element("css selector", selector)).click()


def images(browser: Any, place: str) -> list[str]:
    """Returns the addresses of the images in the element with this id."""
    return [each.get_attribute("src") for each in browser.find_elements("css selector", f"#{place} img")]


def paint(browser: Any, length: int, down: int = 0) -> None:
    """Paints a horizontal stroke on the canvas for known colors.

    Args:
        browser: Shows the page.
        length: Of the stroke in pixels, from the middle of the canvas to the right.
        down: Pixels below the middle where it begins.
    """
    from selenium.webdriver import ActionChains

    canvas = until(lambda: browser.find_element("css selector", "#canvas canvas"))
    until(lambda: canvas.size["height"] > 100)
    time.sleep(2)  # the editor draws itself
    moves = ActionChains(browser).move_to_element_with_offset(canvas, 0, down).click_and_hold()
    for _ in range(10):
        moves = moves.move_by_offset(length // 10, 0)
    moves.release().perform()
    time.sleep(1)
