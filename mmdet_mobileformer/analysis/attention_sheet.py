"""What a detector sees in a picture as one PNG: less than the page, and for slides and papers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .attention import BlockMaps, Query, Seen, Step, over_uniform
from .attention_page import facts
from .heat import laid_over, levels
from .pictures import Colour, class_colours, draw_boxes, text_font

_INK: Colour = (34, 34, 34)
_GREY: Colour = (100, 108, 116)
_PAPER: Colour = (255, 255, 255)
_GAP, _CAPTION = 10, 22


def attention_sheet(seen: Seen, out: Path, panel: int = 230) -> None:
    """Draw the picture with its boxes, the ways of the queries, and the tokens of each stage's end.

    Args:
        seen: As :func:`mmdet_mobileformer.analysis.attention.look_at` returns it.
        out: The PNG.
        panel: Width of a small picture, in pixels.
    """
    size = (panel, max(1, round(panel * seen.picture.height / seen.picture.width)))
    small = seen.picture.resize(size, Image.Resampling.LANCZOS)
    scale = panel / seen.picture.width
    colours = class_colours([query.label for query in seen.queries], len(seen.classes))
    rows: list[Image.Image] = [_heading(seen), _whole(seen, colours, 3 * panel)]
    if seen.queries:
        rows.append(
            _text("Queries: the way of the box, and where its heads look (mean) in the last block of each scale")
        )
        rows += [_query_row(seen, query, small, scale, colours[query.label]) for query in seen.queries]
    blocks = _stage_ends(seen.blocks)
    reads = [_text("Mobile\u2192Former: where each token looks; \u00d7: peak over equal weights")]
    reads += [_token_row(block, small, True) for block in blocks]
    gives = [_text("Mobile\u2190Former: where each token is read; %: its share")]
    gives += [_token_row(block, small, False) for block in blocks]
    # Three tokens of both directions fit beside each other, six do not.
    if blocks[0].to_former.shape[1] <= 3:
        half = max(reads[1].width, reads[0].width) + 3 * _GAP
        rows += [_beside(*pair, half) for pair in zip(reads, gives)]
    else:
        rows += reads + gives
    width = max(row.width for row in rows) + 2 * _GAP
    sheet = Image.new("RGB", (width, sum(row.height + _GAP for row in rows) + _GAP), _PAPER)
    top = _GAP
    for row in rows:
        sheet.paste(row, (_GAP, top))
        top += row.height + _GAP
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def _beside(left: Image.Image, right: Image.Image, half: int) -> Image.Image:
    row = Image.new("RGB", (half + right.width, max(left.height, right.height)), _PAPER)
    row.paste(left, (0, 0))
    row.paste(right, (half, 0))
    return row


def _heading(seen: Seen) -> Image.Image:
    big, small = text_font(22), text_font(14)
    title, below = f"What the detector sees in {seen.title}", facts(seen)
    width = round(max(big.getlength(title), small.getlength(below))) + 4
    image = Image.new("RGB", (width, 54), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), title, font=big, fill=_INK)
    draw.text((0, 32), below, font=small, fill=_GREY)
    return image


def _text(text: str) -> Image.Image:
    font = text_font(16)
    image = Image.new("RGB", (round(font.getlength(text)) + 4, 36), _PAPER)
    ImageDraw.Draw(image).text((0, 12), text, font=font, fill=_INK)
    return image


def _whole(seen: Seen, colours: dict[int, Colour], width: int) -> Image.Image:
    scale = width / seen.picture.width
    image = seen.picture.resize(
        (width, max(1, round(seen.picture.height * scale))), Image.Resampling.LANCZOS
    )
    boxes = np.array([query.steps[-1].box for query in seen.queries]).reshape(-1, 4) * scale
    names = [f"{seen.classes[query.label]} {query.score:.2f}" for query in seen.queries]
    draw_boxes(image, boxes, [colours[query.label] for query in seen.queries], names)
    return image


def _query_row(
    seen: Seen, query: Query, small: Image.Image, scale: float, colour: Colour
) -> Image.Image:
    path = small.copy()
    draw = ImageDraw.Draw(path, "RGBA")
    last = max(len(query.steps) - 1, 1)
    for k, step in enumerate(query.steps):
        corners = tuple(value * scale for value in step.box)
        opacity = round(90 + 165 * k / last)
        draw.rectangle(_ordered(corners), outline=(*colour, opacity), width=1 + (2 * k) // last)
    captions = [f"{seen.classes[query.label]} {query.score:.2f}, query {query.index}"]
    images = [path]
    for step in _scale_ends(query.steps):
        if step.weights is None:
            continue
        mean = step.weights.mean(axis=0)
        image = laid_over(small, levels(mean, float(mean.max()), root=True))
        ImageDraw.Draw(image).rectangle(
            _ordered(tuple(value * scale for value in step.box)), outline=colour, width=2
        )
        images.append(image)
        captions.append(f"{step.name}: {seen.classes[step.label]} {step.score:.2f}")
    return _captioned(images, captions)


def _ordered(corners: tuple[float, ...]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = corners
    return x1, y1, max(x1, x2), max(y1, y2)


def _scale_ends(steps: list[Step]) -> list[Step]:
    """The last block of each scale, and the closing layer."""
    looked = [step for step in steps if step.weights is not None]
    scales = [step.name.split()[0] for step in looked]
    kept = []
    for index, step in enumerate(looked):
        following = looked[index + 1] if index + 1 < len(looked) else None
        ends = following is None or scales[index + 1] != scales[index] or "closing" in following.name
        if ends:
            kept.append(step)
    return kept


def _stage_ends(blocks: list[BlockMaps]) -> list[BlockMaps]:
    """The last block at each stride."""
    return list({block.out_stride: block for block in blocks}.values())


def _token_row(block: BlockMaps, small: Image.Image, to_former: bool) -> Image.Image:
    maps = (block.to_former if to_former else block.to_mobile).mean(axis=0)
    stride = block.stride if to_former else block.out_stride
    images, captions = [], []
    for token, one in enumerate(maps):
        top = float(one.max()) if to_former else 1.0
        images.append(laid_over(small, levels(one, top, root=to_former)))
        said = f"\u00d7{over_uniform(one):.0f}" if to_former else f"{one.mean():.0%}"
        captions.append(f"block {block.index}, 1/{stride}, token {token + 1}: {said}")
    return _captioned(images, captions)


def _captioned(images: list[Image.Image], captions: list[str]) -> Image.Image:
    width = sum(image.width + _GAP for image in images) - _GAP
    height = max(image.height for image in images) + _CAPTION
    row = Image.new("RGB", (width, height), _PAPER)
    draw, font, x = ImageDraw.Draw(row), text_font(12), 0
    for image, caption in zip(images, captions):
        row.paste(image, (x, 0))
        draw.text((x, image.height + 4), caption, font=font, fill=_GREY)
        x += image.width + _GAP
    return row
