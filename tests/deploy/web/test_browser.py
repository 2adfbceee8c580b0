"""The page in headless Chromium as somebody uses it: choose a picture, move the slider, make mistakes."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser, programs  # noqa: E402
from small_model import info, write_model  # noqa: E402

from mmdet_mobileformer.deploy.web.engine_files import engine_files  # noqa: E402
from mmdet_mobileformer.deploy.web.server import make_server  # noqa: E402
from mmdet_mobileformer.deploy.web.site import write_site  # noqa: E402
from mmdet_mobileformer.runtime import Detector  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(programs() is None, reason="needs chromium and chromium-driver"),
]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = make_server(folder, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


class Page:
    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.model = folder.parent / "small.onnx"

    def choose(self, file: Path) -> None:
        self.browser.type("#file", str(file))

    def results(self) -> list[tuple[str, float, list[float]]]:
        """Name, score and box of what the page lists."""
        script = """return [...document.querySelectorAll("#found li")].map((item) =>
            [item.textContent, Number(item.dataset.score), item.dataset.box.split(" ").map(Number)])"""
        return [(name, score, box) for name, score, box in self.browser.run(script)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    try:
        engine_files()
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(str(error))
    write_site(folder / "site", write_model(folder / "small.onnx"))
    return folder / "site"


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[Page]:
    with served(site) as url:
        browser.size(1100, 800)
        browser.open(url)
        browser.wait(lambda: browser.text("#status") == "Ready.")
        yield Page(browser, site)


def picture(file: Path, width: int = 201, height: int = 133) -> Path:
    generator = np.random.default_rng(3)
    small = generator.integers(0, 255, (7, 9, 3), dtype=np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(file), large)
    return file


@pytest.mark.parametrize(("name", "most"), [("some.png", 0.002), ("some.jpg", 0.3)])
def test_boxes_are_the_runtime_s(page: Page, tmp_path: Path, name: str, most: float) -> None:
    """Of a PNG to the last digit that the page keeps; JPEG decoders differ by a grey level."""
    file = picture(tmp_path / name)
    page.choose(file)
    found = page.browser.wait(page.results)
    expected = Detector(page.model).predict(file, threshold=0.25)
    assert len(found) == len(expected) == 2
    for (text, score, box), label, own_score, own_box in zip(
        found, expected.names, expected.scores, expected.boxes
    ):
        assert text == f"{label} {own_score:.2f}"
        assert score == pytest.approx(float(own_score), abs=most / 100)
        np.testing.assert_allclose(box, own_box, atol=most)
    assert page.browser.text("#status") == f"{name}, 201 × 133 pixels"
    assert "ms" in page.browser.text("#times") and not page.browser.shown("#error")
    painted = page.browser.run("""const c = document.getElementById("canvas"); return [c.width, c.height,
        [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data].some((v, i) => i % 4 === 3 && v === 255)]""")
    assert painted == [760, 503, True], "small pictures are shown larger"


def test_threads_are_there(page: Page) -> None:
    assert page.browser.run("return crossOriginIsolated") is True


def test_slider_by_keyboard(page: Page, tmp_path: Path) -> None:
    page.choose(picture(tmp_path / "some.png"))
    page.browser.wait(page.results)
    assert page.browser.text("#threshold-value") == "0.25", "the model's own"
    page.browser.run('document.getElementById("threshold").focus()')
    page.browser.press("Home")
    assert len(page.results()) == 3 and page.browser.text("#threshold-value") == "0.00"
    page.browser.press("End")
    assert page.results() == [] and page.browser.text("#summary") == "Nothing with this score."
    page.browser.press("Left")
    assert page.browser.text("#threshold-value") == "0.99"


def test_wrong_file_is_said_and_forgotten(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "letter.jpg"
    bad.write_text("Dear reader")
    page.choose(bad)
    page.browser.wait(lambda: page.browser.shown("#error"))
    assert "“letter.jpg” is no picture that this browser can read" in page.browser.text("#error")
    page.choose(picture(tmp_path / "narrow.png", 3000, 40))
    page.browser.wait(lambda: "too narrow" in page.browser.text("#error"))
    page.choose(picture(tmp_path / "some.png"))
    page.browser.wait(page.results)
    assert not page.browser.shown("#error")


def test_tab_reaches_every_control(page: Page) -> None:
    page.browser.run("document.activeElement.blur()")
    reached = []
    for _ in range(3):
        page.browser.press("Tab")
        reached.append(page.browser.run("return document.activeElement.id"))
    assert reached == ["file", "camera", "threshold"]
    nameless = page.browser.run("""return [...document.querySelectorAll("input, button")].filter((control) =>
        !(control.labels?.length || control.textContent.trim() || control.ariaLabel)).length""")
    assert nameless == 0


def test_camera_starts_and_stops(page: Page) -> None:
    page.browser.click("#camera")
    page.browser.wait(page.results)
    assert page.browser.run('return document.getElementById("camera").ariaPressed') == "true"
    assert "pictures per second" in page.browser.text("#times")
    page.browser.click("#camera")
    assert page.browser.text("#camera") == "Use the camera"
    assert page.browser.text("#status") == "The camera is off."


def test_phone(page: Page, tmp_path: Path) -> None:
    page.browser.size(375, 700)
    page.choose(picture(tmp_path / "some.png", 900, 600))
    page.browser.wait(page.results)
    width, least = page.browser.run("""return [document.documentElement.scrollWidth, Math.min(...
        [...document.querySelectorAll(".button, #threshold")].map((c) => c.getBoundingClientRect().height))]""")
    assert width <= 375, "nothing is cut off at the right"
    assert least >= 44, "a finger hits it"


def truncate(site: Path) -> None:
    content = (site / "model.onnx").read_bytes()
    (site / "model.onnx").write_bytes(content[: len(content) // 2])


def forget(site: Path) -> None:
    (site / "model.onnx").unlink()


def scramble(site: Path) -> None:
    (site / "model.json").write_text("{}")


def exchange(site: Path) -> None:
    write_model(site / "model.onnx", outputs=("a", "b", "c"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (truncate, "model.onnx is damaged"),
        (forget, "model.onnx cannot be fetched (404"),
        (scramble, "model.json, is damaged or of another version"),
        (exchange, "model.onnx has other inputs and outputs"),
    ],
)
def test_wrong_model_is_said(
    browser: Browser, site: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    shutil.copytree(site, tmp_path / "site")
    spoil(tmp_path / "site")
    with served(tmp_path / "site") as url:
        browser.open(url)
        browser.wait(lambda: browser.shown("#error"))
    assert browser.text("#error").startswith("The model cannot be loaded: ")
    assert sentence in browser.text("#error")
    assert browser.run('return document.getElementById("file").disabled') is True


def test_normalisation_outside_the_model(browser: Browser, site: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "small.onnx", info(normalized_inside=False))
    write_site(tmp_path / "site", model)
    file = picture(tmp_path / "some.png")
    with served(tmp_path / "site") as url:
        browser.open(url)
        browser.wait(lambda: browser.text("#status") == "Ready.")
        page = Page(browser, tmp_path / "site")
        page.choose(file)
        found = browser.wait(page.results)
    expected = Detector(model).predict(file, threshold=0.25)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose([box for _, _, box in found], expected.boxes, atol=0.002)
