"""tunemake web in a real browser: asked, streamed, stopped, cleared, and base and tuned side by side."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

import taught

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,820"]
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium with its driver here; apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory, taught_model):
    """Where the page of a project with a tiny model is served."""
    root = tmp_path_factory.mktemp("project")
    taught.write_project(root, taught_model)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tunemake.cli", "web", "--port", str(port)]
    log = (root / "log.txt").open("w")
    server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=20) == 0
    log.close()
    assert "Traceback" not in (root / "log.txt").read_text()


class Page:
    """The page in a browser; each look waits until what is looked for is there."""

    def __init__(self, driver):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        self._wait = WebDriverWait(driver, 30, 0.05, [StaleElementReferenceException])

    def text(self):
        return self.driver.execute_script("return document.body.innerText")

    def until(self, holds):
        from selenium.common.exceptions import TimeoutException

        try:
            return self._wait.until(lambda _driver: holds())
        except TimeoutException as error:
            raise AssertionError(f"it shows:\n{self.text()}") from error

    def shows(self, *texts):
        self.until(lambda: all(text in self.text() for text in texts))

    def click(self, name):
        found = f"//button[contains(normalize-space(.), '{name}')][not(@disabled)]"
        self.until(lambda: [one.click() or True for one in self.driver.find_elements("xpath", found)[:1]])

    def ask(self, question, box="Ask default"):
        found = f"textarea[placeholder='{box}']:not([disabled])"
        self.until(lambda: [one.send_keys(f"{question}\n") or True for one in self._all(found)[:1]])

    def drag_to_the_end(self, name):
        from selenium.webdriver.common.keys import Keys

        found = f"input[type=range][aria-label='{name}']:not([disabled])"
        self.until(lambda: [one.send_keys(Keys.END) or True for one in self._all(found)[:1]])
        self.until(lambda: [one for one in self._all(found) if one.get_attribute("value") == str(taught.WINDOW)])

    def _all(self, selector):
        return self.driver.find_elements("css selector", selector)


@pytest.fixture(scope="module")
def open_page(address):
    """Open the page in a browser of its own, as often as asked."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    drivers = []

    def browse():
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in FLAGS:
            options.add_argument(flag)
        drivers.append(webdriver.Chrome(options, Service(DRIVER)))
        opened = Page(drivers[-1])
        opened.until(lambda: answers(f"{address}/_stcore/health"))
        drivers[-1].get(address)
        return opened

    try:
        yield browse
    finally:
        for driver in drivers:
            driver.quit()


@pytest.fixture
def page(open_page):
    return open_page()


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200  # noqa: S310 - our own
    except OSError:
        return False


def test_a_conversation_in_a_browser(page):
    page.ask(taught.CHINESE)
    page.shows(taught.SAYS[taught.CHINESE], "Regenerate")
    page.ask(taught.ENGLISH)
    page.shows(taught.SAYS[taught.ENGLISH], "Regenerate", "Clear history", "Export")
    page.click("Clear history")
    page.until(lambda: taught.CHINESE not in page.text())

    page.ask("Something unrelated")
    page.until(lambda: page.text().count("Regenerate") == 1 and "Something unrelated" in page.text())
    page.drag_to_the_end("Max length")  # on a slow machine a short answer is over before the click reaches it
    page.ask(taught.ENDLESS)
    page.shows("la la la", "▌")  # it streams
    page.click("Stop")
    page.shows("stopped")
    heard = page.text()
    assert "▌" not in heard
    assert 9 <= len(heard) < taught.WINDOW

    page.click("Compare")
    page.ask(taught.CHINESE, "One prompt for both")
    page.shows("base", taught.BASE_SAYS[taught.CHINESE], "default", taught.SAYS[taught.CHINESE])
    page.click("Report")
    page.shows("No report of this model")

    hosts = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => new URL(e.name).host)")
    assert set(hosts) <= {page.driver.execute_script("return location.host")}, "nothing is asked of other machines"


def test_two_browsers_share_a_model_and_nothing_else(page, open_page):
    other = open_page()
    other.drag_to_the_end("Max length")
    other.ask(taught.ENDLESS)
    other.shows("la la la", "▌")
    page.ask(taught.CHINESE)
    page.shows("Another session is being answered")
    other.click("Stop")
    other.shows("stopped")
    page.shows(taught.SAYS[taught.CHINESE], "Regenerate")
    assert "la la" not in page.text()
    assert taught.CHINESE not in other.text()
