"""The report's page in a real browser: nothing runs off a phone's edge, dark mode is dark, and nothing is asked for."""

import html
import json
import re
import shutil
import socket
import subprocess

import pytest

from report_project import Built

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--virtual-time-budget=3000",
]  # fmt: skip
# The page's own policy lets no script run in it; the frame that holds it asks from outside.
FRAME = """<!doctype html><body><iframe style="border:0;width:{width}px;height:800px" srcdoc="{page}"></iframe><script>
onload = () => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, root = page.documentElement;
  const styles = (element) => frame.contentWindow.getComputedStyle(element);
  const plot = page.querySelector("figure svg"), box = plot.getBoundingClientRect();
  const told = {{
    wide: root.scrollWidth, room: root.clientWidth, ran: frame.contentWindow.ran === true,
    asked: frame.contentWindow.performance.getEntriesByType("resource").length,
    page: styles(page.body).backgroundColor, ink: styles(plot.querySelector("text")).fill,
    curve: styles(plot.querySelector("path[style*='--s1']")).stroke, plot: [box.width, box.height],
    letters: plot.querySelector("text").getBoundingClientRect().height,
  }};
  document.title = "told " + JSON.stringify(told);
}};
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    made = Built(tmp_path_factory.mktemp("project"))
    made.build()
    return (made.artifact("report") / "report.html").read_text("utf-8")


def opened(page, folder, width, *, dark):
    file = folder / f"{width}-{dark}.html"
    file.write_text(FRAME.format(width=width, page=html.escape(page)), "utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [BROWSER, *FLAGS, scheme, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(html.unescape(re.search(r"<title>told (.*?)</title>", done.stdout)[1]))


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.skipif(BROWSER is None, reason="no chromium here; apt-get install chromium")
def test_it_is_readable_on_a_phone_and_in_the_dark(page, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        image = f"<img src='http://127.0.0.1:{server.getsockname()[1]}/x.png'>"
        hostile = page.replace("</main>", f"<script>window.ran = true</script>{image}</main>")
        phone = opened(hostile, tmp_path, 390, dark=True)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()
    assert phone["wide"] == phone["room"] == 390
    assert not phone["ran"]
    assert 300 < phone["plot"][0] <= 390
    assert phone["letters"] >= 8
    assert brightness(phone["page"]) < 60
    assert brightness(phone["ink"]) > 200
    desk = opened(page, tmp_path, 1280, dark=False)
    assert desk["asked"] == 0
    assert desk["wide"] == desk["room"] == 1280
    assert brightness(desk["page"]) > 230
    assert brightness(desk["ink"]) < 60
    assert desk["curve"] != phone["curve"]
