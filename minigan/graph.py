"""A picture of a graph: which ops computed a tensor, and from which leaves. As text, or as SVG.

The text is a program, one node a line in the order of computation, so that what is used twice is listed once:

    >>> w = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> print(text((w * w * 0.5).sum(), {"w": w}))
    w  = leaf                    (3,)
    %1 = multiply(w, w)          (3,)
    %2 = multiply(%1, constant)  (3,)
    %3 = sum(%2)                 ()

The picture is laid out in rows (Sugiyama et al. 1981): every arrow points downwards, an arrow that skips rows gets a
lane of its own through each of them, and the rows are sorted and moved until the arrows are short. It is meant for
graphs of up to a hundred nodes. A constant is no node: the graph does not remember it.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from .autograd import Leaf, Node
from .tensor import Tensor

CHARACTER, BOX, GAP, LANE, BETWEEN = 7.3, 36, 16, 6, 36  # pixels: height of a box; between boxes, lanes and rows
SWEEPS = 24  # over all rows; the second half only straightens

Link = tuple[int, float]  # what an item is joined to, and where on it the arrow ends, from the centre


def text(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph that computed y, one line a node: its name, op, inputs and output shape. y comes last.

    names: what to call leaves, and any other tensors of the graph; the rest are numbered. RuntimeError if y has no
    graph.
    """
    nodes = _nodes("text", y)
    labels = _labels(names)
    for i, node in enumerate([n for n in nodes if n not in labels], 1):
        labels[node] = f"%{i}"
    width = max(len(labels[node]) for node in nodes)
    lines = []
    for node in nodes:
        inputs = ", ".join("constant" if p is None else labels[p] for p in node.parents)
        lines.append((f"{labels[node]:{width}} = {node}" + (f"({inputs})" if node.parents else ""), node.shape))
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:{width}}  {shape}" for line, shape in lines)


def svg(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph that computed y as a self-contained SVG drawing: leaves above, in green; y below, in orange.

    Arrows enter an op from left to right in the order of its inputs. Arguments and errors as in `text`.
    """
    nodes = _nodes("svg", y)
    labels = _labels(names)
    titles = [
        labels.get(n, "leaf") if isinstance(n, Leaf) else f"{labels[n]} = {n}" if n in labels else f"{n}" for n in nodes
    ]
    widths = [CHARACTER * (max(len(title), len(str(n.shape))) + 2) for title, n in zip(titles, nodes, strict=True)]
    rows, chains, x = _layout(nodes, widths)
    top = {item: GAP + i * (BOX + BETWEEN) for i, row in enumerate(rows) for item in row}
    left = min(x[i] - widths[i] / 2 for i in range(len(nodes))) - GAP
    right = max([x[i] + widths[i] / 2 for i in range(len(nodes))] + x[len(nodes) :]) + GAP
    left = min([left] + [at - GAP for at in x[len(nodes) :]])
    width, height = right - left, len(rows) * (BOX + BETWEEN) - BETWEEN + 2 * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="{left:.1f} 0 {width:.1f} {height}" font-family="monospace" font-size="12" text-anchor="middle">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        f'<rect x="{left:.1f}" width="{width:.1f}" height="{height}" fill="white"/>',
    ]
    for (start, *lanes, end), port in chains:
        at, level = x[start], top[start] + BOX
        path = f"M{at:.1f} {level}"
        for item, to in [*((lane, x[lane]) for lane in lanes), (end, x[end] + port)]:
            middle = level + BETWEEN / 2
            path += f"C{at:.1f} {middle} {to:.1f} {middle} {to:.1f} {top[item]}"
            at, level = to, top[item] + BOX
            path += "" if item == end else f"V{level}"
        parts.append(f'<path d="{path}" fill="none" stroke="#555" marker-end="url(#head)"/>')
    for i, (node, title) in enumerate(zip(nodes, titles, strict=True)):
        fill = "#cfe8cf" if isinstance(node, Leaf) else "#ffd9a8" if node is y.node else "#eef1f6"
        parts.append(
            f'<rect x="{x[i] - widths[i] / 2:.1f}" y="{top[i]}" width="{widths[i]:.1f}" height="{BOX}" rx="5" '
            f'fill="{fill}" stroke="#555"/>'
            f'<text x="{x[i]:.1f}" y="{top[i] + 15}">{escape(title)}</text>'
            f'<text x="{x[i]:.1f}" y="{top[i] + 29}" fill="#666">{node.shape}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _nodes(caller: str, y: Tensor) -> list[Node]:
    """All nodes that led to y, in the order of their creation."""
    if y.node is None:
        raise RuntimeError(
            f"graph.{caller}: this tensor has no graph: nothing that led to it has requires_grad=True, "
            "or it was computed inside no_grad()"
        )
    nodes, stack = {y.node}, [y.node]
    while stack:
        for parent in stack.pop().parents:
            if parent is not None and parent not in nodes:
                nodes.add(parent)
                stack.append(parent)
    return sorted(nodes, key=lambda n: n.number)


def _labels(names: Mapping[str, Tensor] | None) -> dict[Node, str]:
    """Names as they can be printed on one line. Those of tensors without a graph, frozen weights say, are left out."""
    return {t.node: n if n.isprintable() else repr(n) for n, t in (names or {}).items() if t.node is not None}


def _layout(
    nodes: Sequence[Node], widths: Sequence[float]
) -> tuple[list[list[int]], list[tuple[list[int], float]], list[float]]:
    """(rows, chains, x): the items of each row; the items that each arrow passes, with its port; their centres.

    Items 0 .. len(nodes)-1 are the nodes; the rest are lanes, which stand for an arrow in a row that it only crosses.
    """
    index = {node: i for i, node in enumerate(nodes)}
    edges = [
        (index[p], i, widths[i] * ((k + 1) / (len(node.parents) + 1) - 0.5))
        for i, node in enumerate(nodes)
        for k, p in enumerate(node.parents)
        if p is not None
    ]
    row = [0] * len(nodes)
    for start, end, _ in edges:  # sorted by end, so the row of each start is known
        row[end] = max(row[end], row[start] + 1)
    for i, node in enumerate(nodes):
        if isinstance(node, Leaf):  # just above whatever uses it first
            row[i] = min((row[end] for start, end, _ in edges if start == i), default=1) - 1
    rows: list[list[int]] = [[] for _ in range(max(row) + 1)]
    for i, r in enumerate(row):
        rows[r].append(i)
    space = [width + GAP for width in widths]
    chains = []
    for start, end, port in edges:
        chain = [start]
        for r in range(row[start] + 1, row[end]):
            rows[r].append(len(space))
            chain.append(len(space))
            space.append(2 * LANE)
        chains.append(([*chain, end], port))
    above: list[list[Link]] = [[] for _ in space]
    below: list[list[Link]] = [[] for _ in space]
    for chain, port in chains:
        for a, b in pairwise(chain):
            offset = port if b == chain[-1] else 0.0
            below[a].append((b, offset))
            above[b].append((a, -offset))
    return rows, chains, _place(rows, space, above, below)


def _place(
    rows: list[list[int]], space: list[float], above: list[list[Link]], below: list[list[Link]]
) -> list[float]:
    """Centres that keep arrows short and items apart. Sorts the rows."""
    x = [0.0] * len(space)
    for sweep in range(SWEEPS):
        downwards, straighten = sweep % 2 == 0, sweep >= SWEEPS // 2
        for row in rows if downwards else reversed(rows):
            wanted = {}
            for i in row:
                links = above[i] + below[i] if straighten else above[i] if downwards else below[i]
                wanted[i] = sum(x[j] + offset for j, offset in links) / len(links) if links else x[i]
            if not straighten:
                row.sort(key=wanted.__getitem__)
            for i, at in zip(row, _apart([wanted[i] for i in row], [space[i] for i in row]), strict=True):
                x[i] = at
    return x


def _apart(wanted: list[float], space: list[float]) -> list[float]:
    """The centres closest to the wanted ones (least squares) that keep their order and do not overlap.

    Less the space to its left, each centre is at least its predecessor: isotonic regression, by pooling neighbours.
    """
    offsets = [0.0]
    for a, b in pairwise(space):
        offsets.append(offsets[-1] + (a + b) / 2)
    pools: list[tuple[float, int]] = []  # mean, number of members
    for mean, n in [(at - offset, 1) for at, offset in zip(wanted, offsets, strict=True)]:
        while pools and pools[-1][0] > mean:
            other, m = pools.pop()
            mean, n = (mean * n + other * m) / (n + m), n + m
        pools.append((mean, n))
    shifts = [mean for mean, n in pools for _ in range(n)]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]
