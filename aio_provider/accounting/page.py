"""A report as one HTML page that needs nothing else, no network and no script: light, dark and on paper.

:func:`render` is a pure function of a :class:`~.reporting.Report`. All text that comes from the ledger is
escaped: labels are whatever someone wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aio_provider.accounting import charts
from aio_provider.accounting.formats import aligned, money, number, percent, seconds, share, text
from aio_provider.accounting.reporting import Report
from aio_provider.api.amounts import in_credits

if TYPE_CHECKING:
    pass

#: rows of a list of bars; the rest is summed up in one line
_MOST = 12
#: rows of the table that was asked for; a browser has trouble with a hundred thousand
_ROWS = 1000
#: longer periods are drawn by month
_DAYS = 100
_TITLES = {"latency_median": "median", "latency_p95": "p95", "estimate_error": "est. error"}


def render(report: Report, *, title: str = "Credits", controls: str = "", style: str = "") -> str:
    """The page.

    :param controls: HTML of whoever serves the page, such as a form, below the head. Put in as it is.
    :param style: CSS for it, likewise.
    :returns: a whole HTML document, in UTF-8 when encoded.
    """
    note = report.note
    what, made = note["what"], note["made_at"].replace("T", " ").removesuffix("+00:00")
    head = (
        f"<header><h1>{escape(title)}</h1><p class=period>{escape(what[:1].upper() + what[1:])}</p>"
        f"<p class=book>Book: <code>{escape(note['book']['url'])}</code>, {escape(note['book']['what'])}. "
        f"Made {escape(made)} UTC.</p></header>"
    )
    parts = [head, controls, _archives(note)]
    if note["totals"]["tasks"]:
        parts += [
            _tiles(note),
            _over_time(report),
            _who(report),
            _budgets(report),
            _models(report),
            _asked(report),
        ]
    else:
        parts += [
            "<section class=empty><h2>Nothing was submitted</h2><p>The book has no task in this period that "
            "these filters let through. A wider period, or another ledger, may have.</p></section>",
            _budgets(report),
        ]
    parts.append(_foot(note))
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8") + style
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}: {escape(what)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _tiles(note: Mapping[str, Any]) -> str:
    t = {name: math.nan if value is None else value for name, value in note["totals"].items()}
    price = note["price"]
    cost = f"{money(t['money'])} {price['currency']}" if price else ""
    per_result = number(t["credits"] / t["succeeded"]) if t["succeeded"] else "–"
    tiles = [
        ("Credits", number(t["credits"]), cost or f"{per_result} a result", ""),
        ("Tasks", number(t["tasks"]), f"{share(t['succeeded'], t['tasks'])} succeeded{_in_flight(t)}", ""),
        (
            "Wasted",
            number(t["wasted"]),
            f"{percent(t['wasted'] / (t['credits'] or 1))} of credits; {number(t['failed'])} failed",
            "",
        ),
        (
            "Held",
            number(t["unknown"]),
            "; ".join(
                [
                    *([] if t["unknown"] else ["nothing to settle"]),
                    *([f"up to {in_credits(t['at_stake'])} at stake"] if t["at_stake"] else []),
                ]
            ),
            "warn" if t["unknown"] else "",
        ),
        (
            "Estimate error",
            percent(t["estimate_error"], sign=True),
            f"{number(t['estimated'])} credits were expected for results",
            "warn" if abs(t["estimate_error"]) > 0.1 else "",
        ),
        ("Latency", seconds(t["latency_median"]), f"median; p95 {seconds(t['latency_p95'])}", ""),
    ]
    return (
        "<section class=tiles>"
        + "".join(
            f'<div class="tile {kind}"><h2>{name}</h2><b>{value}</b><p>{escape(below)}</p></div>'
            for name, value, below, kind in tiles
        )
        + "</section>"
    )


def _in_flight(totals: Mapping[str, float]) -> str:
    count, credits = totals["in_flight"], totals["in_flight_credits"]
    return f"; {number(count)} in flight, about {in_credits(credits)}" if count else ""


def _over_time(report: Report) -> str:
    frame = report.by_day.dropna(subset=["day"])
    if frame.empty:
        return ""
    named = frame["model"].fillna(_unnamed(report))
    totals = frame["credits"].groupby(named).sum().sort_values(ascending=False, kind="stable")
    shown = [str(name) for name in totals.index[: charts.COLOURS]]
    classes = {name: f"s{place + 1}" for place, name in enumerate(shown)}
    left = len(totals) - len(shown)
    other = f"{left} other model{'s' if left > 1 else ''}"
    if len(totals) > len(shown):
        classes[other] = "rest"
    days = _days(str(frame["day"].min()), str(frame["day"].max()))
    unit, length = ("day", 10) if len(days) <= _DAYS else ("month", 7)
    slots = list(dict.fromkeys(day[:length] for day in days))
    at = {slot: place for place, slot in enumerate(slots)}
    parts = {name: [0.0] * len(slots) for name in classes}
    for day, name, credits in zip(frame["day"], named, frame["credits"], strict=True):
        parts[name if name in classes else other][at[day[:length]]] += credits
    whole = float(totals.sum()) or 1.0
    figures = aligned(sum(values) for values in parts.values())
    legend = "".join(
        f'<li title="{escape(name)}"><i class="{kind}"></i><span>{escape(name)}</span><b>{figure}</b>'
        f"<em>{percent(sum(parts[name]) / whole)}</em></li>"
        for (name, kind), figure in zip(classes.items(), figures, strict=True)
    )
    return (
        f"<section><h2>Credits by {unit}</h2><div class=wide>{charts.columns(slots, parts, classes)}</div>"
        f"<ul class=legend>{legend}</ul></section>"
    )


def _who(report: Report) -> str:
    blocks = []
    for frame, name, title, none in (
        (report.by_dag, "dag", "By DAG", "(no DAG)"),
        (report.by_team, "team", "By team", "(no team)"),
    ):
        if frame.empty or (name == "team" and frame["team"].isna().all()):
            continue
        rows = [
            (none if not isinstance(row[name], str) else row[name], row) for row in frame.to_dict("records")
        ]
        blocks.append(_bars(title, rows))
    return f"<div class=pair>{''.join(blocks)}</div>" if blocks else ""


def _bars(title: str, rows: Sequence[tuple[str, Mapping[Any, Any]]]) -> str:
    most = max((row["credits"] for _, row in rows), default=0.0) or 1.0
    lines: list[tuple[Any, ...]] = [(name, row["credits"], row["wasted"]) for name, row in rows[:_MOST]]
    left = rows[_MOST:]
    if left:
        sums = (sum(row[figure] for _, row in left) for figure in ("credits", "wasted"))
        lines.append((f"{len(left)} more", *sums))
    credits, wasted = (aligned(line[place] for line in lines) for place in (1, 2))
    body = "".join(
        f"<tr{' class=sum' if place == _MOST else ''}><th title='{escape(name)}'>{escape(name)}</th>"
        f"<td class=draw>{charts.bar(amount / most) if place < _MOST else ''}</td>"
        f"<td>{credits[place]}</td><td class=soft>{wasted[place] if waste else ''}</td></tr>"
        for place, (name, amount, waste) in enumerate(lines)
    )
    return (
        f"<section><h2>{title}</h2><table class=bars><thead><tr><th></th><th></th><th>credits</th>"
        f"<th>wasted</th></tr></thead><tbody>{body}</tbody></table></section>"
    )


def _budgets(report: Report) -> str:
    if not report.budgets:
        return ""
    rows = []
    charged, reserved, limits = (
        aligned(values)
        for values in zip(*((u.charged, u.reserved, u.budget.credits) for u in report.budgets), strict=True)
    )
    for place, use in enumerate(report.budgets):
        limit = use.budget.credits
        kind = "bad" if use.percent >= 100 else "warn" if use.percent >= 80 else "s1"
        shares = (use.charged / limit, use.reserved / limit) if limit else (1.0, 0.0)
        rows.append(
            f"<tr><th title='{escape(use.name)}'>{escape(use.name)}</th>"
            f"<td class=draw>{charts.bar(shares[0], kind, more=shares[1])}</td>"
            f"<td>{use.percent:,.0f} %</td><td>{charged[place]}</td><td>{reserved[place]}</td>"
            f"<td>{limits[place]}</td></tr>"
        )
    return (
        "<section><h2>Budgets, as they stand now</h2><table class=bars><thead><tr><th></th><th></th>"
        "<th>used</th><th>charged</th><th>reserved</th><th>limit</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _models(report: Report) -> str:
    rows = report.by_model.to_dict("records")
    off = max((abs(r["estimate_error"]) for r in rows if math.isfinite(r["estimate_error"])), default=0.0)
    slow = max((r["latency_p95"] for r in rows if math.isfinite(r["latency_p95"])), default=0.0)
    price = report.note["price"]
    heads = [
        "credits",
        *([escape(price["currency"])] if price else []),
        "tasks",
        "succeeded",
        "wasted",
        "held",
        "at stake",
    ]
    lines = []
    columns = {name: aligned(row[name] for row in rows) for name in ("credits", "wasted", "at_stake")}
    for place, row in enumerate(rows):
        name = _unnamed(report) if not isinstance(row["model"], str) else row["model"]
        error = row["estimate_error"]
        cells = [
            columns["credits"][place],
            *([money(row["money"])] if price else []),
            number(row["tasks"]),
            share(row["succeeded"], row["tasks"]),
            columns["wasted"][place] if row["wasted"] else "",
            number(row["unknown"]) if row["unknown"] else "",
            columns["at_stake"][place] if row["at_stake"] else "",
        ]
        lines.append(
            f"<tr><th title='{escape(name)}'>{escape(name)}</th>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f"<td class='draw short'>{charts.deviation(error, max(off, 0.1))}</td>"
            f"<td class='{'loud' if abs(error) > 0.1 else ''}'>{percent(error, sign=True)}</td>"
            f"<td class='draw short'>{charts.reach(row['latency_median'], row['latency_p95'], slow)}</td>"
            f"<td>{seconds(row['latency_median'])}</td><td>{seconds(row['latency_p95'])}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f"<section><h2>Models</h2><div class=wide><table class=figures><thead><tr><th>model</th>{head}"
        "<th colspan=2>estimate error</th><th></th><th>median</th><th>p95</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _asked(report: Report) -> str:
    """The groups that were asked for, where they are none of those above."""
    frame, by = report.table, report.note["by"]
    if not by or by == ["model"]:
        return ""
    names = [
        n for n in ("credits", "money", "tasks", "succeeded", "failed", "wasted", "unknown") if n in frame
    ]
    names += ["estimate_error", "latency_median", "latency_p95"]
    price = report.note["price"]
    titles = {**_TITLES, "unknown": "held", "money": price["currency"] if price else ""}
    head = "".join(f"<th class=name>{escape(n)}</th>" for n in by) + "".join(
        f"<th>{escape(titles.get(n, n))}</th>" for n in names
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td class=name>{escape(text(n, row[n]))}</td>" for n in by)
        + "".join(f"<td>{text(n, row[n])}</td>" for n in names)
        + "</tr>"
        for row in frame.head(_ROWS).to_dict("records")
    )
    left = len(frame) - _ROWS
    more = f"<p class=soft>and {left:,} more rows: a CSV or Parquet file has them all</p>" if left > 0 else ""
    return (
        f"<section><h2>By {escape(', '.join(by))}</h2><div class=wide><table class=figures><thead>"
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}</section>"
    )


def _archives(note: Mapping[str, Any]) -> str:
    told = note["archived"]["told"]
    return f"<p class=told>{escape(told)}</p>" if told else ""


def _foot(note: Mapping[str, Any]) -> str:
    more = ""
    if note["totals"]["no_charge"]:
        more = f" For {number(note['totals']['no_charge'])} results the service named no credits."
    if note["totals"]["in_flight"]:
        more += (
            f" {number(note['totals']['in_flight'])} tasks are in flight: what they cost, about "
            f"{in_credits(note['totals']['in_flight_credits'])}, is not in these figures yet."
        )
    return (
        "<footer><p>A task counts at the UTC time of its submission. Wasted: charged for failed and expired "
        "tasks and for attempts that a newer one replaced. Held: may have been charged, nobody knows. "
        "At stake: the most that held tasks, and ended ones of unknown charge, may have cost. "
        "Estimate error: what results cost beyond the likely estimate. Latency: submission to recorded "
        f"result.{more}</p></footer>"
    )


def _unnamed(report: Report) -> str:
    """What stands for rows without a model: tools need none. Never the name of a model that is there."""
    names = set(report.by_model["model"].dropna())
    name = "(no model)"
    while name in names:
        name = f"({name})"
    return name


def _days(first: str, last: str) -> list[str]:
    """Every day from the first to the last, those on which nothing happened too."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    return [(begin + timedelta(days=n)).isoformat() for n in range((end - begin).days + 1)]
