"""Report pages are whole without a network, hold what they were given, and escape all of it."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from browser import open_page
from PIL import Image

from multiposenet.report_charts import BarChart, LineChart, heat_picture, ticks
from multiposenet.report_page import Figure, Gallery, Items, Note, Page, Section, Table, Text, cell_text


def a_page() -> Page:
    curve = LineChart([0.0, 0.5, 1.0], {"a": [1.0, 0.5, 0.0], "b": [0.2, None, 0.1]}, "two curves", "recall", "x")
    bars = BarChart(["nose", "left ankle"], {"good": [3, 1], "bad": [1, 0]}, "stacked", digits=0)
    photo = Figure(np.zeros((60, 90, 3), np.uint8), "a black picture")
    heat = Figure(heat_picture(np.arange(12).reshape(3, 4), side=40), "counts", lossless=True)
    return Page(
        "A <title> & more",
        lead="What it is about.",
        sections=[
            Section("Words", [Text("one < two"), Items(["a", "b"]), Note("look & see", "bad")]),
            Section("Numbers", [Table(["name", "AP"], [["x", 0.5], ["y", None]], "a table"), curve, bars]),
            Section("Pictures", [Gallery([photo, heat])]),
        ],
    )


def test_a_page_needs_nothing_but_itself():
    html = a_page().html()
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert "<script" not in html
    assert "url(" not in html
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize("part", [
    Text("<b>"), Items(["<b>"]), Note("<b>"), Table(["<b>"], [["<b>"]], "<b>"),
    Figure(np.zeros((4, 4, 3), np.uint8), '<b>"'), LineChart([0, 1], {"<b>": [0, 1]}, "<b>", "<b>", "<b>"),
    BarChart(["<b>"], {"<b>": [1]}, "<b>"), Section("<b>", []),
])  # fmt: skip
def test_all_text_is_escaped(part):
    html = part.html("s0") if isinstance(part, Section) else part.html()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert 'alt="&lt;b&gt;&quot;"' in html or "alt=" not in html


def test_the_page_opens_in_a_browser_without_a_network_on_a_phone_and_in_the_dark(tmp_path):
    a_page().write(tmp_path / "page.html")
    screen = open_page(tmp_path / "page.html")
    assert screen.facts["title"] == "A <title> & more"
    counts = {name: screen.facts[name] for name in ("figures", "charts", "tables", "pictures", "broken", "unnamed")}
    assert counts == {"figures": 4, "charts": 2, "tables": 3, "pictures": 2, "broken": 0, "unnamed": 0}
    assert screen.complaints == []
    assert screen.requests == []
    phone = open_page(tmp_path / "page.html", width=360, dark=True)
    assert phone.facts["overflow"] == 0
    assert phone.complaints == []
    assert phone.facts["background"] != screen.facts["background"]


def test_the_browser_of_these_tests_sees_what_a_bad_page_does(tmp_path):
    bad = '<img src="http://example.invalid/a.png"><script>console.error("no"); missing()</script><figure></figure>'
    (tmp_path / "bad.html").write_text(bad)
    page = open_page(tmp_path / "bad.html")
    assert page.requests == ["http://example.invalid/a.png"]
    assert page.facts["broken"] == 1
    assert any('"no"' in complaint for complaint in page.complaints)
    assert any("missing is not defined" in complaint for complaint in page.complaints)


def test_pictures_are_embedded_shrunk_and_as_they_are():
    colours = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    data = re.search(r'base64,([^"]+)"', Figure(colours, "dots", lossless=True).html())[1]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), colours)
    assert 'width="50" height="25"' in Figure(Image.new("L", (200, 100)), "small", max_side=50).html()


def test_numbers_are_printed_alike_everywhere():
    cells = [1234567, 0.12345, None, "text", np.float32(0.5), np.int64(5000)]
    assert [cell_text(cell, 2) for cell in cells] == ["1,234,567", "0.12", "\N{EN DASH}", "text", "0.50", "5,000"]


def test_a_table_says_which_row_is_too_short():
    with pytest.raises(ValueError, match=r"rows\[1\] has 1 cells, there are 2 columns"):
        Table(["a", "b"], [["x", 1], ["y"]])
    with pytest.raises(ValueError, match="kind must be one of good, bad, plain, got 'worse'"):
        Note("text", "worse")


def test_a_curve_goes_where_its_values_are_and_leaves_gaps():
    html = LineChart([0, 1, 2], {"a": [0, 1, 0.5], "b": [0, float("nan"), 1]}, "c", "x", "y", (0, 1)).html()
    first, second = re.findall(r'<path d="(M[^H"]+)"', html)
    points = [tuple(map(float, point)) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", first)]
    left, middle, right = points
    assert left[0] < middle[0] < right[0]
    assert middle[0] - left[0] == pytest.approx(right[0] - middle[0], abs=0.2)
    assert left[1] - right[1] == pytest.approx(right[1] - middle[1], abs=0.2)
    assert second.count("M") == 2
    with pytest.raises(ValueError, match=r"lines\['a'\] has 1 values, x has 2"):
        LineChart([0, 1], {"a": [1]}, "c", "x", "y")


def test_bars_are_as_long_as_their_values_and_stack():
    html = BarChart(["a", "b"], {"one": [1, 2], "two": [3, 0]}, "c").html()
    bars = [tuple(map(float, bar)) for bar in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', html)]
    (first, one), (second, three), (third, two), _ = bars
    assert first == third
    assert second == pytest.approx(first + one, abs=0.2)
    assert three == pytest.approx(3 * one, abs=0.3)
    assert two == pytest.approx(2 * one, abs=0.3)
    assert BarChart([], {"one": []}, "nobody").html()
    with pytest.raises(ValueError, match=r"parts\['one'\] must be 1 numbers, none negative"):
        BarChart(["a"], {"one": [-1]}, "c")


def test_the_most_counts_are_the_lightest_and_cells_are_squares():
    picture = np.asarray(heat_picture(np.array([[0, 1], [4, 0]]), side=20))
    assert picture.shape == (20, 20, 3)
    brightness = picture.sum(-1)[5::10, 5::10]
    assert brightness[1, 0] > brightness[0, 1] > brightness[0, 0] == brightness[1, 1]
    assert heat_picture(np.zeros((1, 3))).size == (240, 80)
    with pytest.raises(ValueError, match=r"counts must be \[h, w\]"):
        heat_picture(np.zeros(3))


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.5, 0.95, [0.5, 0.6, 0.7, 0.8, 0.9]), (0, 23, [0, 5, 10, 15, 20]),
])  # fmt: skip
def test_ticks_are_round_numbers(low, high, expected):
    np.testing.assert_allclose(ticks(low, high), expected, rtol=0, atol=1e-12)
