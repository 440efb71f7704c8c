import math
import re
import xml.etree.ElementTree as ET

from tunemake.reports.plots import Curve, histogram, plot, smoothed, thinned


def test_a_plot_has_the_pages_colours_and_fits_its_place():
    svg = plot("one", [Curve([1, 2, 3], [3.0, 2.0, 1.0], 2, dots=True)], "loss", bounds=[1.5], chosen=3)
    root = ET.fromstring(svg)  # noqa: S314 - drawn here
    assert "width" not in root.attrib
    assert root.attrib["viewBox"]
    assert "var(--s2)" in svg
    assert "currentColor" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "loss" in [element.text for element in root.iter("text")]


def test_plots_of_one_page_share_no_names():
    ids = [re.findall(r' id="([^"]+)"', plot(name, [Curve([1, 2], [1.0, 2.0], dots=True)], "y")) for name in "ab"]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_the_same_curve_is_drawn_by_the_same_bytes():
    assert len({plot("one", [Curve([1, 2], [1.0, 2.0])], "y") for _ in range(2)}) == 1


def test_what_is_no_number_is_not_drawn():
    assert plot("one", [Curve([1, 2], [math.nan, math.inf])], "y") == ""
    assert plot("one", [Curve([1, 2, 3], [1.0, math.nan, 2.0])], "y")
    assert histogram("one", [], "tokens") == ""
    assert "<svg" in histogram("one", [5], "tokens", limit=9)


def test_many_points_become_the_means_of_neighbours():
    rows = [{"iteration": n, "loss": float(n % 2)} for n in range(1, 1001)]
    few = thinned(rows, ["iteration", "loss"], most=100)
    assert len(few) == 100
    assert few[0] == {"iteration": 5.5, "loss": 0.5}
    assert thinned(rows[:3], ["loss"]) == [{"loss": 1.0}, {"loss": 0.0}, {"loss": 1.0}]


def test_the_moving_average_begins_at_the_first_value_and_passes_over_none():
    assert smoothed([4.0, 4.0, 0.0], 3) == [4.0, 4.0, 2.0]
    assert smoothed([4.0, math.nan, 0.0], 3) == [4.0, 4.0, 2.0]
