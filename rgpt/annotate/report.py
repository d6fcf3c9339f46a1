"""The report: one HTML file with crops, for people. It loads nothing, from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rgpt.annotate.questions import NAME, Question
from rgpt.annotate.records import Annotated
from rgpt.annotate.review import labelled, worth
from rgpt.annotate.sources import Source
from rgpt.errors import InputError
from rgpt.model.calibration import Bin, Calibration, calibration_error, equal_bins
from rgpt.regions import draw_regions, open_image
from rgpt.regions.close_up import close_up

SHOWN = 200
"""Objects with a crop, the first of the review queue."""
SIDE = 180
FEWEST = 60
"""Labelled objects from which on their own diagram says something."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; padding: 0 }
li { list-style: none; border: 1px solid #ddd; border-radius: 6px; padding: .6rem; overflow-wrap: anywhere }
li img { max-width: 100%; display: block; margin: 0 auto .4rem } small { color: #666 } .bad { color: #a00 }
figure { display: inline-block; margin: 0 2rem 1rem 0 } figcaption { max-width: 17rem }
dl { margin: 0 } dt { font-weight: 600 } dd { margin: 0 0 .3rem }
"""


def write_report(
    path: Path,
    source: Source,
    questions: Sequence[Question],
    queue: Sequence[Annotated],
    model: str,
    calibration: Mapping[str, Calibration],
) -> None:
    """Write the report of the objects in `queue`, least certain first."""
    names = next((q.choices for q in questions if q.key == NAME), ())
    parts = [f"<h1>{_e(source.path.name)}, asked of {_e(model)}</h1>", _facts(source, queue)]
    if names and (found := worth(queue, names)):
        parts.append(f"<p>{_e(str(found))}.</p>")
    parts.append(_diagrams(queue, names, calibration))
    parts.append(f"<h2>Least certain first</h2>{_shown(queue)}<ol>")
    paths = {picture.name: picture.path for picture in source.pictures()}
    parts += [_object(n, item, paths.get(item.picture), questions) for n, item in enumerate(queue[:SHOWN], 1)]
    body = "\n".join([*parts, "</ol>"])
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_e(source.path.name)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8", newline="\n")


def _e(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode())


def _facts(source: Source, queue: Sequence[Annotated]) -> str:
    pictures = len({item.picture for item in queue})
    told = [f"{len(queue)} objects on {pictures} pictures"]
    told += [f"{sum(bool(item.problems) for item in queue)} with a problem"]
    if any(item.others for item in queue):
        told.append(f"{sum(bool(item.differing) for item in queue)} on which two models differ")
    left_out = [f"{n} x {_e(reason)}" for reason, n in source.skipped.items()]
    told += [f"not asked about: {', '.join(left_out)}"] if left_out else []
    return f"<p>{'; '.join(told)}.</p>"


def _shown(queue: Sequence[Annotated]) -> str:
    return f"<p>The first {SHOWN} of {len(queue)}; all are in objects.csv.</p>" if len(queue) > SHOWN else ""


def _diagrams(
    queue: Sequence[Annotated], names: Sequence[str], calibration: Mapping[str, Calibration]
) -> str:
    found = []
    if names and (fitted := calibration.get("name")):
        found.append(
            _diagram(
                fitted.bins,
                f"Held-out answers of this model, on {fitted.pictures} pictures: calibration error "
                f"{fitted.error_after:.3f}, before calibration {fitted.error_before:.3f}.",
            )
        )
    pairs = labelled(queue, names)
    if len(pairs) >= FEWEST:
        bins = equal_bins(pairs)
        found.append(
            _diagram(
                bins,
                f"These {len(pairs)} objects, by the file's own labels: error {calibration_error(bins):.3f}.",
            )
        )
    title = "<h2>How sure, how right</h2>"
    if names and not found:
        return f"{title}<p>Nobody has calibrated this model: its shares order answers and say no more.</p>"
    return title + "".join(found) if found else ""


def _diagram(bins: Sequence[Bin], caption: str) -> str:
    """A reliability diagram: share said (across) against share right (up), a dot a bin of equal count."""
    dots = "".join(
        f'<circle cx="{20 + 200 * share:.1f}" cy="{220 - 200 * right:.1f}" r="4" fill="#06c">'
        f"<title>said {share:.2f}, right {right:.2f}, {n} answers</title></circle>"
        for share, right, n in bins
    )
    return (
        '<figure><svg width="250" height="250" role="img"><rect x="20" y="20" width="200" height="200" '
        'fill="none" stroke="#999"/><line x1="20" y1="220" x2="220" y2="20" stroke="#999" '
        'stroke-dasharray="4"/><text x="120" y="242" text-anchor="middle" font-size="12">share said</text>'
        '<text x="12" y="120" text-anchor="middle" font-size="12" transform="rotate(-90 12 120)">share right'
        f"</text>{dots}</svg><figcaption>{_e(caption)}</figcaption></figure>"
    )


def _object(number: int, item: Annotated, path: Path | None, questions: Sequence[Question]) -> str:
    rows = [f"<dt>file's label</dt><dd>{_e(item.target.label)}</dd>"] if item.target.label else []
    for question in questions:
        answer = item.answers[question.key]
        said = _e(answer.text()) if not answer.problem else f'<span class="bad">{_e(answer.problem)}</span>'
        if answer.shares:
            told = ", ".join(
                f"{_e(str(question.value(name)))} {share:.0%}" for name, share in answer.shares[:3]
            )
            said = f"{said} <small>{told}</small>"
        if question.key in item.differing:
            said += f'<br><span class="bad">the other model: {_e(item.others[question.key].text())}</span>'
        rows.append(f"<dt>{_e(question.key)}</dt><dd>{said}</dd>")
    sure = "" if item.sureness is None else f", {item.sureness:.0%} sure"
    head = f"<small>{number}. {_e(item.picture)} · {_e(item.target.key)}{sure}</small>"
    return f"<li>{_crop(item, path)}{head}<dl>{''.join(rows)}</dl></li>"


def _crop(item: Annotated, path: Path | None) -> str:
    try:
        image = open_image(path) if path else None
        if image is None:
            return ""
        drawn = draw_regions(image, {1: item.target.region})
        crop = close_up(drawn, item.target.region, 0.3, max_side=SIDE)
    except InputError:
        return ""
    buffer = io.BytesIO()
    crop.convert("RGB").save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'
