"""Graphs as text and as SVG."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import minigan as mg
from minigan import graph

SVG = "{http://www.w3.org/2000/svg}"
NO_GRAPH = (
    r"^graph\.{}: this tensor has no graph: nothing that led to it has requires_grad=True, "
    r"or it was computed inside no_grad\(\)$"
)


def leaf(*shape: int) -> mg.Tensor:
    return mg.Tensor(np.ones(shape), requires_grad=True)


def texts(drawing: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(drawing).iter(f"{SVG}text")]


def boxes(drawing: str) -> list[tuple[float, float, float, float, str]]:
    """(left, top, width, height, fill) of each node, in the order of creation."""
    _, *rects = ET.fromstring(drawing).iter(f"{SVG}rect")
    return [(*(float(r.attrib[k]) for k in ("x", "y", "width", "height")), r.attrib["fill"]) for r in rects]


def arrows(drawing: str) -> list[str]:
    return [p.attrib["d"] for p in ET.fromstring(drawing).iter(f"{SVG}path") if "marker-end" in p.attrib]


def penalty() -> tuple[mg.Tensor, dict[str, mg.Tensor]]:
    """A gradient penalty's gradient: a graph with long arrows, several leaves and shared nodes."""
    x, w, v = leaf(2, 6, 6, 1), leaf(3, 3, 1, 2), leaf(3, 3, 2, 1)
    score = mg.conv2d(mg.tanh(mg.conv2d(x, w, stride=2, padding=1)), v).sum()
    gx = mg.grad(score, x, create_graph=True)
    loss = ((mg.sqrt((gx * gx).sum((1, 2, 3)) + 1e-12) - 1) ** 2).mean()
    gw, gv = mg.grad(loss, [w, v], create_graph=True)
    return (gw * gw).sum() + (gv * gv).sum(), {"x": x, "w": w, "v": v}


def test_text_lists_shared_nodes_once_and_refers_to_them() -> None:
    w = leaf(3)
    square = w * w
    assert graph.text((square * square * 0.5).sum(), {"w": w, "square": square}) == (
        "w      = leaf                      (3,)\n"
        "square = multiply(w, w)            (3,)\n"
        "%1     = multiply(square, square)  (3,)\n"
        "%2     = multiply(%1, constant)    (3,)\n"
        "%3     = sum(%2)                   ()"
    )


def test_text_survives_the_release_of_the_graph() -> None:
    x = leaf(2)
    y = mg.exp(x).sum()
    before = graph.text(y)
    y.backward()
    assert graph.text(y) == before == "%1 = leaf     (2,)\n%2 = exp(%1)  (2,)\n%3 = sum(%2)  ()"


def test_a_leaf_is_a_graph_of_one_node() -> None:
    w = leaf(2)
    assert graph.text(w, {"w": w}) == "w = leaf  (2,)"
    assert texts(graph.svg(w, {"w": w})) == ["w", "(2,)"]


def test_names_of_tensors_that_are_nowhere_in_the_graph_are_ignored() -> None:
    w = leaf(2)
    assert graph.text(w, {"w": w, "other": leaf(3), "frozen": mg.ones(4)}) == "w = leaf  (2,)"


def test_a_chain_of_20000_ops_as_text() -> None:
    x = y = leaf(1)
    for _ in range(20_000):
        y = -y
    lines = graph.text(y, {"x": x}).splitlines()
    assert len(lines) == 20_001
    assert re.fullmatch(r"%20000 += negative\(%19999\) +\(1,\)", lines[-1])


def test_a_chain_of_2000_ops_as_svg() -> None:
    y = leaf(1)
    for _ in range(2_000):
        y = -y
    drawing = graph.svg(y)
    assert len(boxes(drawing)) == 2_001
    assert len({left + width / 2 for left, _, width, _, fill in boxes(drawing) if fill == "#eef1f6"}) == 1  # straight


def test_names_are_escaped() -> None:
    w, v = leaf(2), leaf(2)
    y = w * v
    names = {"<w&1>": w, "a\nb\0": v, '"&amp;"': y}
    assert texts(graph.svg(y, names))[::2] == ["<w&1>", r"'a\nb\x00'", '"&amp;" = multiply']
    assert graph.text(y, names).splitlines()[2] == '"&amp;"    = multiply(<w&1>, ' + r"'a\nb\x00')  (2,)"


def test_svg_draws_every_node_and_arrow_within_the_picture_and_apart() -> None:
    y, names = penalty()
    drawing = graph.svg(y, names)
    listing = graph.text(y, names).splitlines()
    assert len(boxes(drawing)) == len(listing) > 30
    assert len(arrows(drawing)) == sum(len(re.findall(r"(?<=[(, ])(?:%\d+|[xwv])(?=[,)])", line)) for line in listing)

    left, top, width, height = map(float, ET.fromstring(drawing).attrib["viewBox"].split())
    for i, (x, y_, w, h, _) in enumerate(boxes(drawing)):
        assert left < x < x + w < left + width
        assert top < y_ < y_ + h < top + height
        for x2, y2, w2, _, _ in boxes(drawing)[:i]:
            assert y_ != y2 or x + w < x2 or x2 + w2 < x, "two boxes overlap"


def test_every_arrow_points_down_and_crosses_no_box() -> None:
    y, names = penalty()
    drawing = graph.svg(y, names)
    for path in arrows(drawing):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path)]
        x, y_ = numbers[0], numbers[1]
        for vertical, *curve in re.findall(r"V(\S+?)C(\S+) \S+ \S+ \S+ (\S+) ([\d.]+)", path):
            assert float(curve[2]) - float(vertical) == graph.BETWEEN, "a curve does not stay between two rows"
            inside = [b for b in boxes(drawing) if b[1] == y_ and b[0] < x < b[0] + b[2]]
            assert y_ == float(vertical) or not inside, "an arrow runs through a box"
            x, y_ = float(curve[1]), float(curve[2])


def test_a_leaf_stands_right_above_its_first_use() -> None:
    early, late = leaf(2), leaf(2)
    y = mg.exp(mg.exp(mg.exp(early)) * late)
    tops = dict(zip(texts(graph.svg(y, {"late": late}))[::2], [box[1] for box in boxes(graph.svg(y))], strict=True))
    assert tops["leaf"] == min(tops.values())
    assert tops["late"] == tops["multiply"] - graph.BOX - graph.BETWEEN


def test_leaves_and_the_result_have_colours_of_their_own() -> None:
    w = leaf(2)
    assert [box[4] for box in boxes(graph.svg(mg.exp(-w)))] == ["#cfe8cf", "#eef1f6", "#ffd9a8"]


def test_arrows_enter_in_the_order_of_the_inputs() -> None:
    a, b = leaf(2), leaf(2)
    for y in (a - b, b - a):
        first, second, result = boxes(graph.svg(y, {"a": a, "b": b}))
        ends = [float(re.findall(r"-?[\d.]+", path)[-2]) for path in arrows(graph.svg(y, {"a": a, "b": b}))]
        assert result[0] < ends[0] < ends[1] < result[0] + result[2]
        assert (first[0] < second[0]) == (y.node.parents[0] is a.node), "the inputs are sorted like their ports"


def test_pictures_are_deterministic() -> None:
    assert graph.svg(*penalty()) == graph.svg(*penalty())


@pytest.mark.parametrize("function", [graph.text, graph.svg])
def test_a_tensor_without_a_graph_is_an_error(function) -> None:
    with pytest.raises(RuntimeError, match=NO_GRAPH.format(function.__name__)):
        function(mg.ones(2))
    w = leaf(2)
    with mg.no_grad():
        y = w * 2
    with pytest.raises(RuntimeError, match=NO_GRAPH.format(function.__name__)):
        function(y)
