"""What a detector sees in a picture as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from .attention import BlockMaps, Query, Seen, Step, over_uniform
from .heat import dim, heat_image, levels
from .pictures import Colour, class_colours

_TEMPLATE = Path(__file__).with_name("attention.html")
#: Longer side of the picture on the page, clear and dimmed, in pixels.
_CLEAR, _DIM = 960, 400


def attention_page(seen: Seen, out: Path) -> None:
    """Write the page.

    Args:
        seen: As :func:`mmdet_mobileformer.analysis.attention.look_at` returns it.
        out: The HTML file.
    """
    picture = seen.picture
    colours = class_colours([q.label for q in seen.queries], len(seen.classes))
    tokens = seen.blocks[0].to_former.shape[1]
    heads = seen.blocks[0].to_former.shape[0]
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"What the detector sees: {seen.title}"),
        name=html.escape(seen.title),
        facts=html.escape(facts(seen)),
        width=picture.width,
        height=picture.height,
        clear=_uri(_smaller(picture, _CLEAR), "JPEG"),
        dim=_uri(dim(_smaller(picture, _DIM)), "JPEG"),
        gradient="#57106e, #bb3754, #f98c0a, #fcffa4",
        shown=_shown(heads, _query_heads(seen)),
        whole=_whole(seen, colours),
        whole_caption=_whole_caption(seen),
        queries=_queries(seen, colours),
        tokens=tokens,
        equal=f"{1 / tokens:.0%}",
        token_heads=_select("tokens", heads),
        to_former="\n".join(_block(block, True) for block in seen.blocks),
        to_mobile="\n".join(_block(block, False) for block in seen.blocks),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def facts(seen: Seen) -> str:
    """One line about picture and model."""
    width, height = seen.input_size
    return (
        f"{seen.picture.width}\u00d7{seen.picture.height} px, seen by the model at {width}\u00d7{height}; "
        f"{len(seen.blocks)} blocks of the backbone with {seen.blocks[0].to_former.shape[1]} tokens"
        + (f"; {len(seen.queries)} best queries of the head" if seen.queries else "")
    )


def _shown(token_heads: int, query_heads: int) -> str:
    """CSS selectors of the maps to show: those of the chosen head."""
    found = []
    for kind, heads in (("tokens", token_heads), ("queries", query_heads)):
        names = ["mean", *(str(head) for head in range(1, heads + 1))]
        found += [f'body[data-{kind}="{name}"] .{kind}-{name}' for name in names]
    return ",\n".join(f"{selector}.map" for selector in found)


def _query_heads(seen: Seen) -> int:
    weights = [step.weights for query in seen.queries for step in query.steps]
    return next((w.shape[0] for w in weights if w is not None), 0)


def _select(kind: str, heads: int) -> str:
    options = ['<option value="mean">mean of all heads</option>']
    options += [f'<option value="{head}">head {head}</option>' for head in range(1, heads + 1)]
    return f'<select data-for="{kind}">{"".join(options)}</select>'


def _whole(seen: Seen, colours: dict[int, Colour]) -> str:
    rects, names = [], []
    for query in reversed(seen.queries):
        colour = colours[query.label]
        box = query.steps[-1].box
        rects.append(_rect(box, colour, 3.0, 1.0))
        left, top = 100 * box[0] / seen.picture.width, 100 * box[1] / seen.picture.height
        ink = "#222" if _light(colour) else "#fff"
        names.append(
            f'<span style="left:{left:.2f}%;top:{top:.2f}%;background:{_css(colour)};color:{ink}">'
            f"{html.escape(seen.classes[query.label])} {query.score:.2f}</span>"
        )
    boxes = _svg(seen, rects)
    return f'<div class="clear" role="img" aria-label="the picture with its boxes">{boxes}<div class="names">{"".join(names)}</div></div>'


def _whole_caption(seen: Seen) -> str:
    if not seen.queries:
        return "This detector has no queries to follow."
    low = min(query.score for query in seen.queries)
    return f"The {len(seen.queries)} queries of the highest scores, down to {low:.2f}; no NMS follows."


def _queries(seen: Seen, colours: dict[int, Colour]) -> str:
    if not seen.queries:
        return ""
    intro = (
        "<h2>Queries: from a guess to a box</h2>\n"
        "<p>Each query goes through the blocks of the head, from the coarse map (1/32) to the fine one, and predicts after every "
        "block. Left: its boxes, from the first (thin and pale) to the last. Right: where it looked in each block, and the box, class "
        "and score after it.</p>\n"
        '<p class="scale">no weight <span class="bar"></span> largest weight of this map (brightness is the square root of the '
        "share)</p>\n"
        f'<div class="controls"><label>Heads of the queries: {_select("queries", _query_heads(seen))}</label></div>'
    )
    return intro + "\n".join(_query(seen, query, colours[query.label]) for query in seen.queries)


def _query(seen: Seen, query: Query, colour: Colour) -> str:
    last = len(query.steps) - 1
    path = [
        _rect(step.box, colour, 1.0 + 2.5 * k / max(last, 1), 0.25 + 0.75 * k / max(last, 1))
        for k, step in enumerate(query.steps)
    ]
    frames = [
        _frame(seen, step, colour) for step in query.steps if step.weights is not None
    ]
    start = "its box on the grid, then " if query.steps[0].weights is None else ""
    name = html.escape(seen.classes[query.label])
    count = sum(step.weights is not None for step in query.steps)
    return (
        f'<section class="query"><h3>{name} {query.score:.2f} \u00b7 query {query.index}</h3><div class="row">'
        f'<figure><div class="clear" role="img" aria-label="the way of the box">{_svg(seen, path)}</div>'
        f"<figcaption>{start}{count} predictions</figcaption></figure>"
        f'<div class="film">{"".join(frames)}</div></div></section>'
    )


def _frame(seen: Seen, step: Step, colour: Colour) -> str:
    if step.weights is None:
        return ""
    maps = _maps("queries", step.weights, step.name, [float(w.max()) for w in _with_mean(step.weights)], True)
    box = _svg(seen, [_rect(step.box, colour, 2.0, 1.0)])
    said = f"{html.escape(seen.classes[step.label])} {step.score:.2f}"
    return f'<figure><div class="dim">{maps}{box}</div><figcaption>{step.name}<br>{said}</figcaption></figure>'


def _block(block: BlockMaps, to_former: bool) -> str:
    weights = block.to_former if to_former else block.to_mobile
    stride = block.stride if to_former else block.out_stride
    mean = weights.mean(axis=0)
    cells = []
    for token in range(weights.shape[1]):
        own = weights[:, token]
        if to_former:
            said = f"\u00d7{over_uniform(mean[token]):.0f}"
            maps = _maps("tokens", own, f"token {token + 1}", [float(w.max()) for w in _with_mean(own)], True)
        else:
            said = f"{mean[token].mean():.0%}"
            maps = _maps("tokens", own, f"token {token + 1}", [1.0] * (len(own) + 1), False)
        cells.append(
            f'<figure><div class="dim">{maps}</div><figcaption>token {token + 1} \u00b7 {said}</figcaption></figure>'
        )
    height, width = weights.shape[-2:]
    return (
        f'<section class="block"><h3>Block {block.index} <span>stride {stride}, {width}\u00d7{height} '
        f'positions</span></h3><div class="row tokens">{"".join(cells)}</div></section>'
    )


def _with_mean(weights: np.ndarray) -> list[np.ndarray]:
    """The mean over the heads, then each head."""
    return [weights.mean(axis=0), *weights]


def _maps(kind: str, weights: np.ndarray, alt: str, tops: Sequence[float], root: bool) -> str:
    """One image for the mean and one for each head of (heads, H, W); the page shows one of them."""
    found = []
    for index, (one, top) in enumerate(zip(_with_mean(weights), tops)):
        name = "mean" if index == 0 else str(index)
        uri = _uri(heat_image(levels(one, top, root)), "PNG")
        label = html.escape(f"{alt}, {'mean of the heads' if index == 0 else f'head {index}'}")
        found.append(f'<img class="map {kind}-{name}" alt="{label}" src="{uri}">')
    return "".join(found)


def _svg(seen: Seen, rects: Sequence[str]) -> str:
    size = f"0 0 {seen.picture.width} {seen.picture.height}"
    return f'<svg viewBox="{size}" preserveAspectRatio="none" aria-hidden="true">{"".join(rects)}</svg>'


def _rect(box: Sequence[float], colour: Colour, width: float, opacity: float) -> str:
    x1, y1, x2, y2 = box
    return (
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}" '
        f'stroke="{_css(colour)}" stroke-width="{width:.1f}" stroke-opacity="{opacity:.2f}"/>'
    )


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _light(colour: Colour) -> bool:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140


def _smaller(picture: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _uri(image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    if kind == "PNG":
        image.save(stream, "PNG", optimize=True, transparency=image.info["transparency"])
    else:
        image.save(stream, kind, quality=82)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{data}"
