"""A headless Chromium that logs in to Airflow as a person does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server")


def require() -> None:
    """Skip, or fail where everything must be there, without a browser."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        reason = f"no {' and no '.join(missing)} (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("AIO_TEST_REQUIRE_SERVICES"):
            pytest.fail(reason)
        pytest.skip(reason)


class Browser:
    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def log_in(self, user: str, password: str) -> None:
        """Through Airflow's own form, which the page in view is."""
        self.find("input[name=username]").send_keys(user)
        self.find("input[name=password]").send_keys(password)
        self.find("button[type=submit]").click()

    def find(self, css: str) -> Any:
        return self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, css))[0]

    def texts(self, css: str) -> list[str]:
        return [element.text for element in self.driver.find_elements(By.CSS_SELECTOR, css)]

    def until(self, check: Callable[[], Any], seconds: float = 300.0) -> Any:
        return WebDriverWait(self.driver, seconds, poll_frequency=0.1).until(lambda _: check())

    def open_credits(self) -> None:
        """From the navigation, and into its frame."""
        self.until(lambda: self.driver.find_elements(By.PARTIAL_LINK_TEXT, "Credits"))[0].click()
        self.driver.switch_to.frame(self.find("iframe[title=Credits]"))
        self.find("form.ask")

    def choose(self, name: str, value: str) -> None:
        Select(self.find(f"select[name={name}]")).select_by_value(value)

    def pick(self, name: str, day: str) -> None:
        """A day, past the widget: what it makes of keys depends on the machine's language."""
        self.driver.execute_script("arguments[0].value = arguments[1]", self.find(f"[name={name}]"), day)

    def submit(self) -> None:
        """Ask, and wait for the answer."""
        before = self.find("form.ask")
        self.find("form.ask button").click()
        self.until(lambda: _is_gone(before))
        self.find("form.ask")


@contextmanager
def opened() -> Iterator[Browser]:
    require()
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*_OPTIONS, "--window-size=1440,1000"):
        options.add_argument(option)
    service = webdriver.ChromeService(str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _is_gone(element: Any) -> bool:
    from selenium.common.exceptions import StaleElementReferenceException

    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    return False
