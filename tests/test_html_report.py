"""The report's page: what it holds, that it is safe, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from otb_trees import boxes_of, make_sequence, write_rows

from lib.benchmarks import load_benchmark
from lib.commands import call
from lib.errors import UserError
from lib.eval_toolkit.page import NO_BOX, NO_OVERLAP, encode_boxes, encode_overlaps, epoch_of, write_page
from lib.eval_toolkit.protocols import score_results
from lib.eval_toolkit.report import remarks, warnings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 120_000  # ms: a page holds plotly's script, which a busy machine takes long to read
EVIL = "<img src=x onerror=alert(1)>&'\"</script>$b"


def picture(path: Path, shade: int) -> None:
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(path), np.full((96, 640, 3), shade, np.uint8))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a folder with two videos with images and three trackers: right, standing still, and with an evil name."""
    for name, count in (("walk & run", 40), ("still#1", 12)):
        folder = make_sequence(tmp_path / "data", name, count=count)
        for image in (folder / "img").iterdir():
            picture(image, 40 + int(image.stem))
        rows = boxes_of(count)
        lost = rows.copy()
        lost[count // 2 :] = np.nan
        for tracker, boxes in (("Right", rows), ("Ocean_checkpoint_e1", np.repeat(rows[:1], count, axis=0)),
                               ("Ocean_checkpoint_e2", lost), (EVIL.replace("/", "|"), rows + np.array([2, 2, 0, 0]))):
            write_rows(tmp_path / "res" / tracker / f"{name}.txt", boxes)
    return tmp_path


def page_of(folder: Path, *more: str, trackers: str = "*") -> Path:
    page = folder / "report.html"
    call("eval", ["--dataset_dir", str(folder / "data"), "--dataset", "MINE", "--tracker_result_dir",
                  str(folder / "res"), "--trackers", trackers, "--html", str(page), *more])
    return page


def data_of(page: Path) -> dict[str, Any]:
    content = page.read_text(encoding="utf-8")
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', content, re.DOTALL)
    assert text
    return json.loads(text[1])


class Reader(HTMLParser):
    """Collects tags, links and the text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# What the page holds, without a browser


def test_boxes_and_overlaps_survive_the_way_into_the_page() -> None:
    boxes = np.array([[1.25, -3.5, 20, 10], [np.nan] * 4, [9000, 0, 1, 1]])
    values = np.frombuffer(base64.b64decode(encode_boxes(boxes)), "<i2").reshape(-1, 4)
    assert values[0].tolist() == [5, -14, 80, 40]
    assert values[1].tolist() == [NO_BOX] * 4
    assert values[2, 0] == 32767
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], float)
    found = np.array([[0, 0, 5, 10], [np.nan] * 4, [0, 0, 5, 5]], float)
    assert list(base64.b64decode(encode_overlaps(truth, found))) == [100, NO_OVERLAP, NO_OVERLAP]


@pytest.mark.parametrize(("name", "family", "epoch"), [
    ("Ocean_checkpoint_e12", "Ocean", 12), ("checkpoint_e3", "checkpoint", 3), ("Ocean_e7", "Ocean", 7),
    ("Ocean", "Ocean", None), ("SiamBAN", "SiamBAN", None),
])  # fmt: skip
def test_epochs_are_read_off_names(name: str, family: str, epoch: int | None) -> None:
    assert epoch_of(name) == (family, epoch)


def test_the_page_is_whole_and_loads_nothing(results: Path) -> None:
    page = page_of(results)
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert not [link for link in reader.links if not link.startswith(("#", "data:"))]
    assert "default-src 'none'" in page.read_text(encoding="utf-8")
    text = " ".join(reader.text)
    for expected in ("Tracking results on MINE", "convention pysot", "26 broken boxes (walk & run 20, still#1 6)",
                     "Lead of Right", "Scores by sequence, worst first", "2/2 sequences"):
        assert expected in text
    assert '<td class="best" data-value="' in page.read_text(encoding="utf-8")
    content = data_of(page)
    assert content["trackers"][0]["name"] == "Right"
    assert {v["name"]: v["frames"] for v in content["videos"]} == {"walk & run": 40, "still#1": 12}
    assert content["videos"][0]["images"][0] == "data/still%231/img/0001.jpg"


def test_every_name_is_escaped(results: Path) -> None:
    reader = Reader()
    reader.feed(page_of(results).read_text(encoding="utf-8"))
    assert "img" not in reader.tags
    assert reader.handlers == []
    assert reader.tags.count("script") == 3
    assert EVIL.replace("/", "|") in " ".join(reader.text)


def test_embedding_puts_small_images_into_the_page(results: Path) -> None:
    videos = data_of(page_of(results, "--embed", "15"))["videos"]
    by_name = {video["name"]: video for video in videos}
    # The worst video comes first; 15 frames are enough for the short one and not for both.
    embedded = [name for name, video in by_name.items() if video["original"]]
    assert len(embedded) == 1
    video = by_name[embedded[0]]
    assert video["original"] == [640, 96]
    assert all(url.startswith("data:image/jpeg;base64,") for url in video["images"])
    cv2 = pytest.importorskip("cv2")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(video["images"][0].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 320, 3)


def test_a_broken_image_is_named(results: Path) -> None:
    (results / "data" / "still#1" / "img" / "0003.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"still#1/img/0003.jpg: cannot be read as an image"):
        page_of(results, "--embed")


def test_without_images_the_page_has_boxes_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (results / "data").iterdir():
        shutil.rmtree(folder / "img")
    content = data_of(page_of(results))
    assert [video["images"] for video in content["videos"]] == [[], []]
    assert "the page shows boxes without images" in capsys.readouterr().err


def test_one_tracker_needs_no_comparison(results: Path) -> None:
    page = page_of(results, trackers="Right")
    assert data_of(page)["differences"] == []
    text = page.read_text(encoding="utf-8").split('id="data"')[0]
    assert "Lead of" not in text
    assert "Mean success" not in text
    assert '<div class="warnings ">' in text
    assert "none: nothing is missing, invalid or repaired" in text


def test_speeds_and_the_mean_by_which_videos_are_sorted_are_told(results: Path) -> None:
    benchmark = load_benchmark("MINE", results / "data", images=False)
    scores = [score_results(benchmark, results / "res" / name, keep_rows=True)
              for name in ("Ocean_checkpoint_e1", "Right")]
    write_page(results / "r.html", benchmark, scores, dataset_dir=results / "data", speeds={"Right": 12.34})
    text = (results / "r.html").read_text(encoding="utf-8")
    head, *rows = [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
                   for row in re.findall(r"<tr>.*?</tr>", text.split('id="summary-table"')[1].split("</table>")[0])]
    speed = head.index("Frames/s")
    assert {row[0]: row[speed] for row in rows} == {"Right": "12.3", "Ocean_checkpoint_e1": "-"}
    means = re.findall(r'</th><td data-value="\d+">\d+</td><td class="bar" style="--v:(.*?)"', text)
    assert len(means) == 2
    assert means == sorted(means)


def test_warnings_leave_out_what_is_in_order(results: Path) -> None:
    benchmark = load_benchmark("MINE", results / "data", images=False)
    (results / "res" / "Ocean_checkpoint_e1" / "still#1.txt").unlink()
    scores = [score_results(benchmark, results / "res" / name, convention="pysot", allow_missing=True)
              for name in ("Right", "Ocean_checkpoint_e1", "Ocean_checkpoint_e2")]
    said = warnings(benchmark, scores)
    assert [text.split(":")[0] for text in said] == [
        "Ocean_checkpoint_e1", "Ocean_checkpoint_e2", "the trackers are scored on different sequences"]
    assert set(said) < set(remarks(benchmark, scores))


# In a real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium; the test is skipped where there is none to drive."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class View:
    """A page opened in the browser, with everything it complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_context(viewport={"width": 1300, "height": 900}, **options).new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.trouble: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append("dialog"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def column(self, table: str, index: int) -> list[str]:
        texts = f"rows => rows.map(row => row.cells[{index}].textContent)"
        return self.page.eval_on_selector_all(f"#{table} tbody tr", texts)

    def until(self, expression: str) -> None:
        """Wait for an expression to be true, by asking: the page's policy forbids what playwright would do."""
        for _ in range(TIMEOUT // 50):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never true: {expression}")

    def pixel(self, x: int, y: int) -> list[int]:
        """Return the colour of a pixel on the screen, so that images of the file system can be looked at, too."""
        cv2 = pytest.importorskip("cv2")
        data = self.page.locator("#screen").screenshot()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        scale = image.shape[1] / self.page.evaluate("document.getElementById('screen').width")
        return image[round(y * scale), round(x * scale)].tolist()


def add_videos(results: Path, count: int) -> None:
    """Add copies of the second video, with its results."""
    for n in range(count):
        shutil.copytree(results / "data" / "still#1", results / "data" / f"copy{n}")
        for folder in (results / "res").iterdir():
            shutil.copy(folder / "still#1.txt", folder / f"copy{n}.txt")


def test_the_page_in_a_browser(results: Path, browser: Any) -> None:
    add_videos(results, 8)  # ten in all, as many as an interval needs
    view = View(browser, page_of(results))
    page = view.page
    assert page.locator(".js-plotly-plot").count() == 5  # three curves, epochs, strips; no attributes: not drawn
    assert page.locator("#plot-attributes").is_hidden()

    # Sorting: as written by success; a click on precision sorts downwards, another one upwards.
    button = page.locator("#summary-table thead button", has_text="Success")
    button.click()
    down = view.column("summary-table", 1)
    assert down == sorted(down, reverse=True)
    assert page.locator("#summary-table th[aria-sort=descending]").inner_text().startswith("Success")
    button.click()
    assert view.column("summary-table", 1) == sorted(down)

    # Hovering over a curve says tracker and value.
    page.locator("#plot-success").scroll_into_view_if_needed()
    hover = page.locator("#plot-success .hoverlayer .hovertext")
    for share in itertools.count(0.1, 0.01):  # again, as the page may still be moving
        area = page.locator("#plot-success .nsewdrag").bounding_box()
        page.mouse.move(area["x"] + area["width"] * share, area["y"] + 3)
        page.wait_for_timeout(300)
        if hover.count():
            break
        assert share < 0.8, "no value under the mouse"
    assert re.search(r"0\.\d+ ", hover.first.text_content())

    # Epochs: the best success is a star, the other one has the interval of the difference.
    curve = "document.getElementById('plot-epochs').data[0]"
    marks, bars = (page.evaluate(f"{curve}.{what}") for what in ("marker.symbol", "error_y.arrayminus"))
    assert sorted(marks) == ["circle", "star"]
    assert bars[marks.index("star")] == 0 < bars[marks.index("circle")]

    # The strip of a video is drawn once it is seen: the still tracker loses the walker, the right one does not.
    strip = page.locator("canvas.strip").first
    strip.scroll_into_view_if_needed()
    view.until("document.querySelector('canvas.strip').height === 20")
    column = strip.evaluate("c => [...c.getContext('2d').getImageData(150, 0, 1, 20).data]")
    assert column[4 : 4 + 3] == [253, 234, 53]
    assert column[4 * 16 : 4 * 16 + 3] != [253, 234, 53]

    # Differences: the same pair in the other order has the other sign.
    page.select_option("#first", index=0)
    page.select_option("#second", index=1)
    forth = page.locator("#difference").inner_text()
    page.select_option("#first", index=1)
    page.select_option("#second", index=0)
    back = page.locator("#difference").inner_text()
    assert re.search(r"success \+0\.\d{3} \(95% interval", forth)
    assert re.search(r"success −0\.\d{3} \(95% interval", back)
    assert view.trouble == []
    assert all(url.startswith(("file:", "data:")) for url in view.asked)


def test_the_player(results: Path, browser: Any) -> None:
    view = View(browser, page_of(results))
    page = view.page
    page.locator("#video-table button.open", has_text="walk & run").click()
    assert page.locator("#video-name").inner_text() == "walk & run"
    assert page.locator("#position").inner_text() == "1 / 40"
    view.until("document.getElementById('screen').width === 640")
    assert view.pixel(300, 90) == pytest.approx([41] * 3, abs=3)  # frame 1 is grey 41
    values = page.locator("#legend .value").all_inner_texts()
    assert values[1] == "1.000"

    page.locator("#screen").focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    assert page.locator("#position").inner_text() == "26 / 40"
    page.wait_for_timeout(200)
    assert view.pixel(300, 90) == pytest.approx([66] * 3, abs=3)
    by_tracker = dict(zip(page.locator("#legend label").all_inner_texts(), range(9), strict=False))
    lost = next(text for text in by_tracker if text.startswith("Ocean_checkpoint_e2"))
    assert lost.endswith("–")  # lost since frame 21
    # The true box of frame 26 starts at 49 + 25, 59 + 25 and is drawn in its colour unless switched off.
    for label in page.locator("#legend label").all()[1:]:
        label.locator("input").uncheck()
    assert view.pixel(84, 84)[1] > 66 + 60
    page.locator("#legend input").first.uncheck()
    assert view.pixel(84, 84) == pytest.approx([66] * 3, abs=6)

    page.locator("#play").click()
    view.until("document.getElementById('position').textContent.startsWith('40 ')")
    view.until("document.getElementById('play').textContent === 'Play'")
    strip = page.locator("#plot-strips .nsewdrag").bounding_box()
    page.mouse.click(strip["x"] + strip["width"] / 2, strip["y"] + 5)
    assert page.locator("#position").inner_text() in ("20 / 40", "21 / 40")
    assert view.trouble == []


def test_many_trackers_share_a_legend_and_the_player_starts_with_the_best(results: Path, browser: Any) -> None:
    for epoch in range(3, 7):
        shutil.copytree(results / "res" / "Ocean_checkpoint_e1", results / "res" / f"Ocean_checkpoint_e{epoch}")
    view = View(browser, page_of(results))
    key = view.page.locator("#curve-keys button", has_text="Ocean e6")
    texts = view.page.locator("#curve-keys button").all_inner_texts()
    place = next(n for n, text in enumerate(texts) if text.startswith("Ocean e6"))
    assert re.fullmatch(r"Ocean e60\.\d{3} · 0\.\d{3} · 0\.\d{3}", texts[place])  # its scores stand in the legend
    key.click()
    for metric in ("success", "precision", "norm_precision"):
        assert view.page.evaluate(f"document.getElementById('plot-{metric}').data[{place}].visible") is False
    assert view.page.locator("#legend input:checked").count() == 4  # the truth and the best three
    view.page.locator("#legend button", has_text="all").click()
    assert view.page.locator("#legend input:checked").count() == 9
    assert view.trouble == []


def test_embedded_frames_need_no_data_set(results: Path, browser: Any) -> None:
    page = page_of(results, "--embed", "60")
    shutil.rmtree(results / "data")
    view = View(browser, page)
    view.page.locator("#video-table button.open", has_text="walk & run").click()
    view.page.wait_for_timeout(300)
    assert view.pixel(300, 90) == pytest.approx([41] * 3, abs=3)
    assert view.page.locator("#image-note").inner_text() == ""
    assert view.trouble == []


def test_missing_frames_are_said(results: Path, browser: Any) -> None:
    page = page_of(results)
    shutil.rmtree(results / "data")
    view = View(browser, page)
    view.until("document.getElementById('image-note').textContent.includes('0001.jpg was not found')")


def test_too_few_videos_for_an_interval_are_said_so(results: Path, browser: Any) -> None:
    view = View(browser, page_of(results))
    assert view.page.locator("#difference").inner_text().count("too few sequences for an interval") == 2
    assert view.page.evaluate("document.getElementById('plot-epochs').data[0].error_y") is None
    assert "too few videos" in view.page.locator("#epoch-bars").inner_text()
    assert view.trouble == []


def test_curves_of_one_attribute(tmp_path: Path, browser: Any) -> None:
    for name, count in (("Deer", 71), ("Man", 134)):
        make_sequence(tmp_path / "data" / "OTB2015", name, count=count, images=[])
        write_rows(tmp_path / "res" / "Right" / f"{name}.txt", boxes_of(count))
        write_rows(tmp_path / "res" / "Half" / f"{name}.txt", boxes_of(count) + (400 if name == "Man" else 0))
    call("eval", ["--dataset_dir", str(tmp_path / "data"), "--dataset", "OTB2015", "--tracker_result_dir",
                  str(tmp_path / "res"), "--allow-missing", "--html", str(tmp_path / "page.html")])
    view = View(browser, tmp_path / "page.html")
    names = "document.getElementById('plot-success').data.map(trace => trace.name)"
    assert view.page.evaluate(names) == ["0.952 Right", "0.476 Half"]
    view.page.select_option("#attribute", label="Fast Motion (1)")  # Deer has it, Man has not
    assert view.page.evaluate(names) == ["0.952 Right", "0.952 Half"]
    assert "Fast Motion" in view.page.locator("#plot-success .gtitle").text_content()
    assert "no sequence" in view.page.locator("#image-note").inner_text()  # why there are no pictures
    assert view.trouble == []


@pytest.mark.parametrize(("scheme", "paper", "ink"), [("light", "rgb(255, 255, 255)", "rgb(0, 0, 0)"),
                                                      ("dark", "rgb(22, 26, 34)", "rgb(255, 255, 255)")])
def test_dark_and_light_and_paper(results: Path, browser: Any, scheme: str, paper: str, ink: str) -> None:
    for number in range(4):  # the seventh colour is the one that the ground decides on
        shutil.copytree(results / "res" / "Ocean_checkpoint_e1", results / "res" / f"Tracker{number}")
    view = View(browser, page_of(results), color_scheme=scheme)
    key = "getComputedStyle([...document.querySelectorAll('#summary-table .key')][6]).backgroundColor"
    ground = "getComputedStyle(document.body).backgroundColor"
    assert (view.page.evaluate(ground), view.page.evaluate(key)) == (paper, ink)
    view.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    view.page.emulate_media(media="print")
    assert (view.page.evaluate(ground), view.page.evaluate(key)) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert view.page.evaluate("document.querySelector('#plot-success .main-svg').clientWidth") == 350  # two on a page
    assert view.page.locator("#plot-success").is_visible()
    assert view.page.locator("#player").is_hidden()
    assert view.trouble == []


def test_a_phone_scrolls_tables_not_the_page(results: Path, browser: Any) -> None:
    view = View(browser, page_of(results))
    view.page.set_viewport_size({"width": 390, "height": 800})
    view.page.reload()
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert view.page.locator("#curve-keys").is_visible()
    assert view.trouble == []


def test_the_tables_are_readable_without_javascript(results: Path, browser: Any) -> None:
    view = View(browser, page_of(results), java_script_enabled=False)
    assert view.page.locator("#summary-table tbody tr").count() == 4
    assert view.page.locator("#video-table tbody tr").count() == 2
    assert view.page.locator("body noscript").inner_text().startswith("Without JavaScript")
    assert view.page.locator("#player").is_hidden()
    assert view.page.locator("#curves").is_hidden()
