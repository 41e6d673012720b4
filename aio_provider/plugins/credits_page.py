"""The HTML of the *Credits* page: the accounting page with a form, links to the same as files, and messages.

No script. Every link is relative, so that the page works below any path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aio_provider.plugins.credits_figures import GROUPS, Question

if TYPE_CHECKING:
    from aio_provider.plugins.credits_figures import Shown

_STYLE = """
form.ask{display:flex;flex-wrap:wrap;align-items:flex-end;gap:10px 14px;margin:-8px 0 30px}
form.ask label{display:flex;flex-direction:column;gap:3px;font-size:12.5px;color:var(--soft)}
form.ask input,form.ask select,form.ask button,.ask .file{font:inherit;font-size:13.5px;height:33px;\
padding:0 9px;border:1px solid var(--line);border-radius:6px;background:var(--page);color:var(--ink)}
form.ask label input,form.ask label select{min-width:0;width:132px}
form.ask label.dag select{width:186px}
form.ask label.by select{width:116px}
form.ask button{background:var(--s1);border-color:var(--s1);color:var(--page);padding:0 14px;font-weight:550;\
cursor:pointer}
.ask .files{margin-left:auto;display:flex;gap:8px}
.ask .file{display:flex;align-items:center;text-decoration:none}
.ask .file:hover{border-color:var(--soft)}
.ask :focus-visible{outline:2px solid var(--s1);outline-offset:1px}
.problem{border-left:3px solid var(--warn);padding:2px 0 2px 14px}
@media print{form.ask{display:none}}
"""


def page(shown: Shown, conn_id: str, connections: Sequence[str], asked: Question) -> str:
    """The whole document."""
    from aio_provider.accounting.page import render

    controls = _form(conn_id, connections, asked, shown.dags) + _files(conn_id, asked) + "</form>"
    return render(shown.report, controls=controls, style=_STYLE)


def message(
    text: str, conn_id: str = "", connections: Sequence[str] = (), asked: Question | None = None
) -> str:
    """A page that says why there are no figures, with the form to ask again where that may help."""
    style = files("aio_provider.accounting").joinpath("page.css").read_text(encoding="utf-8") + _STYLE
    form = _form(conn_id, connections, asked, ()) + "</form>" if asked else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Credits</title><style>{style}</style></head><body><main><header><h1>Credits</h1></header>"
        f"{form}<p class=problem>{escape(text)}</p></main></body></html>\n"
    )


def _form(conn_id: str, connections: Sequence[str], asked: Question, dags: Sequence[str]) -> str:
    several = len({*connections, conn_id}) > 1
    connection = (
        _choice("Ledger of connection", "conn_id", sorted({*connections, conn_id}), conn_id)
        if several
        else f'<input type=hidden name=conn_id value="{escape(conn_id)}">'
    )
    chosen = asked.dags[0] if asked.dags else ""
    return (
        f'<form class=ask method=get action="./">{connection}'
        + _choice("DAG", "dag", ["", *sorted({*dags, *asked.dags})], chosen, none="all")
        + _date("From", "since", asked.since)
        + _date("Before", "until", asked.until)
        + _choice("Table by", "by", GROUPS, asked.by)
        + "<button>Show</button>"
    )


def _choice(title: str, name: str, values: Iterable[str], chosen: str, *, none: str = "") -> str:
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(value or none)}</option>"
        for value in values
    )
    return f"<label class={name}>{title}<select name={name}>{options}</select></label>"


def _date(title: str, name: str, value: str) -> str:
    # A day is picked; what a link gives may be any time that can be read.
    kind = "date" if not value or len(value) == 10 else "text"
    return f'<label>{title}<input type={kind} name={name} value="{escape(value)}"></label>'


def _files(conn_id: str, asked: Question) -> str:
    fields = [("conn_id", conn_id), *(("dag", dag) for dag in asked.dags)]
    fields += [("since", asked.since), ("until", asked.until), ("by", asked.by)]
    query = escape(urlencode([(name, value) for name, value in fields if value]))
    return (
        f'<span class=files><a class=file href="credits.csv?{query}" download>CSV</a>'
        f'<a class=file href="credits.json?{query}" download>JSON</a></span>'
    )
