"""Windows that are closed after the test."""

from collections.abc import Callable, Iterator

import pytest
from tests.browser.window import CHROMIUM, DRIVER, Page


@pytest.fixture
def windows() -> Iterator[Callable[..., Page]]:
    """Open windows of a kind (`Page` unless said), each with its options."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    pytest.importorskip("selenium")
    opened: list[Page] = []

    def make(kind: type[Page] = Page, **options) -> Page:
        opened.append(kind(**options))
        return opened[-1]

    yield make
    for page in opened:
        page.driver.quit()
