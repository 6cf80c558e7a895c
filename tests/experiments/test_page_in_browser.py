"""The page in Chromium, opened from disk with no network: its DOM, and whether there is anything to see."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imread

from experiments import plot
from experiments.figures.style import COLOURS
from experiments.job import run

from .conftest import SHORT, composed
from .parsed import Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")
HEIGHT = 9000


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for optimizer in ("mcmc", "sgd"):
        for seed in (0, 1):
            run(composed(f"optimizer={optimizer}", f"out={out}", f"seed={seed}", *SHORT[optimizer]))
    return plot.plot([out], tmp_path_factory.mktemp("page"))


def browse(page, tmp_path, *options):
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size=1200,{HEIGHT}", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path).stdout


def test_browser_sees_all_figures_and_rows(page, tmp_path):
    source = page.read_text(encoding="utf-8")
    dom = Page(browse(page, tmp_path, "--dump-dom"))
    written = Page(source)
    assert dom.tables == written.tables
    assert dom.tags.count("svg") == dom.tags.count("figure") == len(list(page.parent.glob("*.svg"))) > 5
    assert [len(dom.tables[name]) for name in ("summary", "pruning", "differences", "runs")] == [3, 3, 2, 5]
    assert dom.tags.count("path") > 100
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", source)
    assert all(address.startswith("#") for address in dom.addresses)
    assert not {"script", "link", "img", "iframe", "object"} & set(dom.tags)


def test_every_figure_can_be_seen(page, tmp_path):
    def clusters(file):
        """Return how many parts of a screenshot, one below the other, have lines of the first two methods."""
        browse(file, tmp_path, f"--screenshot={tmp_path / 'page.png'}")
        image = np.round(255 * imread(tmp_path / "page.png")[..., :3]).astype(int) @ (1 << 16, 1 << 8, 1)
        assert image.shape == (HEIGHT, 1200)
        seen = [(image == int(colour[1:], 16)).sum(1) > 2 for colour in COLOURS[:2]]
        rows = np.flatnonzero(seen[0] & seen[1])
        return image, 0 if not len(rows) else 1 + int((np.diff(rows) > 90).sum())

    image, found = clusters(page)
    figures = len(list(page.parent.glob("*.svg")))
    assert found >= figures
    assert len(np.unique(image)) > 200
    blank = page.with_name("blank.html")
    blank.write_text(re.sub(r"<svg.*?</svg>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), encoding="utf-8")
    assert clusters(blank)[1] == 0
