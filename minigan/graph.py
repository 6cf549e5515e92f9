"""A picture of a graph: which ops computed a tensor, and from which leaves. As text, or as SVG.

The text is a program, one node a line in the order of computation, so that what is used twice is listed once:

    >>> w = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> print(text((w * w * 0.5).sum(), {"w": w}))
    w  = leaf                    (3,)
    %1 = multiply(w, w)          (3,)
    %2 = multiply(%1, constant)  (3,)
    %3 = sum(%2)                 ()

The picture is drawn in rows (Sugiyama et al. 1981): every arrow points down, one that skips rows gets a lane of its
own through each of them, and rows are sorted and moved until the arrows are short. Made for up to a hundred nodes.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from statistics import fmean

from .autograd import Leaf, Node
from .tensor import Tensor

CHARACTER, BOX, GAP, LANE, BETWEEN = 7.3, 36, 16, 12, 36  # pixels: a letter; a box's height; what lies between
SWEEPS = 24  # over all rows, up and down

# The items of the rows are numbers: first the nodes, then the lanes. An arrow passes items, from a node through lanes
# to a node, which it enters at a port: so far right of the centre.
Arrow = tuple[list[int], float]


def text(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph that computed y, one node a line: its name, op, inputs and output shape. y comes last.

    names: what to call leaves, and any other tensors of the graph; the rest are numbered. "constant" is an input that
    requires no gradient. RuntimeError if y has no graph.
    """
    nodes, labels = _nodes("text", y), _labels(names)
    for i, node in enumerate([n for n in nodes if n not in labels], 1):
        labels[node] = f"%{i}"
    width = max(len(labels[node]) for node in nodes)
    lines = []
    for node in nodes:
        inputs = ", ".join("constant" if p is None else labels[p] for p in node.parents)
        lines.append((f"{labels[node]:{width}} = {node}" + (f"({inputs})" if inputs else ""), node.shape))
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:{width}}  {shape}" for line, shape in lines)


def svg(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph that computed y as a self-contained SVG drawing: leaves above, in green; y below, in orange.

    Arrows enter an op from left to right in the order of its inputs; constants are not drawn. Arguments and errors
    as in `text`.
    """
    nodes, labels = _nodes("svg", y), _labels(names)
    titles = [labels.get(n, f"{n}") if isinstance(n, Leaf) or n not in labels else f"{labels[n]} = {n}" for n in nodes]
    widths = [CHARACTER * (max(len(title), len(f"{n.shape}")) + 2) for title, n in zip(titles, nodes, strict=True)]
    rows, arrows = _rows(nodes, widths)
    x = _centres(rows, arrows, widths)
    top = {item: GAP + r * (BOX + BETWEEN) for r, row in enumerate(rows) for item in row}
    halves = [w / 2 for w in widths] + [0.0] * (len(x) - len(widths))
    left = min(at - half for at, half in zip(x, halves, strict=True)) - GAP
    width = max(at + half for at, half in zip(x, halves, strict=True)) + GAP - left
    height = len(rows) * (BOX + BETWEEN) - BETWEEN + 2 * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="{left:.1f} 0 {width:.1f} {height}" font-family="monospace" font-size="12" text-anchor="middle">',
        '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker>',
        f'<rect x="{left:.1f}" width="{width:.1f}" height="{height}" fill="white"/>',
    ]
    for items, port in arrows:
        path = f"M{x[items[0]]:.1f} {top[items[0]] + BOX}"
        for a, b in pairwise(items):
            to, middle = x[b] + (port if b == items[-1] else 0), top[b] - BETWEEN / 2
            path += f"V{top[a] + BOX}C{x[a]:.1f} {middle} {to:.1f} {middle} {to:.1f} {top[b]}"
        parts.append(f'<path d="{path}" fill="none" stroke="#555" marker-end="url(#head)"/>')
    for i, (node, title) in enumerate(zip(nodes, titles, strict=True)):
        fill = "#ffd9a8" if node is y.node else "#cfe8cf" if isinstance(node, Leaf) else "#eef1f6"
        parts.append(
            f'<rect x="{x[i] - halves[i]:.1f}" y="{top[i]}" width="{widths[i]:.1f}" height="{BOX}" rx="5" '
            f'fill="{fill}" stroke="#555"/><text x="{x[i]:.1f}" y="{top[i] + 15}">{escape(title, quote=False)}</text>'
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
    """Names that fit on a line, by node. A tensor without one, a frozen weight for example, is nowhere in a graph."""
    return {t.node: n if n.isprintable() else repr(n) for n, t in (names or {}).items() if t.node is not None}


def _rows(nodes: Sequence[Node], widths: Sequence[float]) -> tuple[list[list[int]], list[Arrow]]:
    """The items of each row, and the arrows between them. An op is below all its inputs."""
    index = {node: i for i, node in enumerate(nodes)}
    inputs = [[index[p] for p in node.parents if p is not None] for node in nodes]
    level = [0] * len(nodes)
    for i, above in enumerate(inputs):
        level[i] = max((level[j] + 1 for j in above), default=0)
    first_use = {j: level[i] for i in sorted(range(len(nodes)), key=lambda i: -level[i]) for j in inputs[i]}
    for j, use in first_use.items():
        if not inputs[j]:
            level[j] = use - 1  # a leaf stands right above its first use
    rows: list[list[int]] = [[] for _ in range(max(level) + 1)]
    for i, row in enumerate(level):
        rows[row].append(i)
    items, arrows = len(nodes), []
    for i, above in enumerate(inputs):
        for k, j in enumerate(above):
            lanes = []
            for row in range(level[j] + 1, level[i]):
                rows[row].append(items)
                lanes.append(items)
                items += 1
            arrows.append(([j, *lanes, i], widths[i] * ((k + 1) / (len(above) + 1) - 0.5)))
    return rows, arrows


def _centres(rows: list[list[int]], arrows: Sequence[Arrow], widths: Sequence[float]) -> list[float]:
    """Where the items stand, so that arrows are short and items apart. Sorts the rows."""
    x = [0.0] * sum(map(len, rows))
    space = [width + GAP for width in widths] + [LANE] * (len(x) - len(widths))
    above: list[list[tuple[int, float]]] = [[] for _ in x]  # the items joined to this one, and their offsets
    below: list[list[tuple[int, float]]] = [[] for _ in x]
    for items, port in arrows:
        for a, b in pairwise(items):
            offset = port if b == items[-1] else 0.0
            below[a].append((b, offset))
            above[b].append((a, -offset))
    for sweep in range(SWEEPS):
        down = sweep % 2 == 1  # the last one too: then whatever has one input stands right below it
        links = above if down else below
        for row in rows if down else reversed(rows):
            wanted = {i: fmean(x[j] + offset for j, offset in links[i]) if links[i] else x[i] for i in row}
            row.sort(key=wanted.__getitem__)
            for i, at in zip(row, _apart([wanted[i] for i in row], [space[i] for i in row]), strict=True):
                x[i] = at
    return x


def _apart(wanted: Sequence[float], space: Sequence[float]) -> list[float]:
    """The centres closest to the wanted ones (least squares) that keep their order and their space.

    Less the space to its left, no centre is below its predecessor: isotonic regression, by pooling neighbours.
    """
    offsets = [0.0]
    for a, b in pairwise(space):
        offsets.append(offsets[-1] + (a + b) / 2)
    pools: list[tuple[float, int]] = []  # mean, number of members
    for at, offset in zip(wanted, offsets, strict=True):
        mean, n = at - offset, 1
        while pools and pools[-1][0] > mean:
            other, m = pools.pop()
            mean, n = (mean * n + other * m) / (n + m), n + m
        pools.append((mean, n))
    shifts = [mean for mean, n in pools for _ in range(n)]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]
