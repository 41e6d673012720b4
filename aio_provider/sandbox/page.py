"""The page at ``/``: what the sandbox serves, and the latest tasks with their pictures."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from aio_provider.api.amounts import in_digits
from aio_provider.sandbox import files, media, rules
from aio_provider.sandbox.tasks import SUCCESS, SandboxTask

if TYPE_CHECKING:
    from aio_provider.sandbox.app import Service

_LATEST = 24

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #6a5acd; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
p { margin: .3rem 0 1rem; opacity: .8; } code { font-size: .88em; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; }
.figures div { border: 1px solid var(--line); border-radius: .6rem; padding: .6rem 1.1rem; min-width: 8rem; }
.figures b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tasks { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1rem; }
.task { border: 1px solid var(--line); border-radius: .7rem; overflow: hidden; }
.task img, .task video { display: block; width: 100%; height: 170px; object-fit: cover; background:
  repeating-conic-gradient(#8882 0 25%, #8881 0 50%) 0 0 / 20px 20px; }
.task audio { width: 100%; padding: 4rem .6rem 1rem; height: 170px; background: var(--soft); }
.task .wait { height: 170px; display: grid; place-items: center; background: var(--soft); }
.task div.words { padding: .6rem .8rem; font-size: .88rem; overflow-wrap: anywhere; }
.task small { display: block; opacity: .7; } table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: .35rem .6rem .35rem 0; }
"""


def render(service: Service) -> str:
    """The page as HTML; every word that came with a request is escaped."""
    account = service.account
    now = service.settings.clock.time()
    latest = list(account.tasks.values())[-_LATEST:][::-1]
    cards = "".join(_card(service, task, now) for task in latest)
    figures = "".join(
        f"<div><b>{value}</b>{label}</div>"
        for label, value in (
            ("credits left", f"{account.balance:,.0f}"),
            ("credits charged", f"{account.charged:,.0f}"),
            ("submissions", f"{len(account.tasks):,}"),
            ("requests", f"{account.counts['requests']:,}"),
        )
    )
    rows = "".join(
        f"<tr><td><code>POST /api/v1{route.path}</code></td><td>{route.kind.replace('_', ' ')}</td></tr>"
        for route in rules.routes()
    )
    empty = "<p>None yet. Point <code>AIO_BASE_URL</code> here and send one.</p>"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API in One sandbox</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>API in One sandbox</h1>
<p>Base URL <code>{service.origin}/api/v1</code>. Nothing here costs money; nothing leaves this machine.</p>
<div class="figures">{figures}</div>
<h2>Latest tasks</h2>{f'<div class="tasks">{cards}</div>' if cards else empty}
<h2>What it serves</h2><table>{rows}
<tr><td><code>GET /api/v1/tasks/{{task_id}}</code></td><td>status and result</td></tr>
<tr><td><code>GET /photos/{{name}}.jpg</code></td><td>a product photo</td></tr>
<tr><td><code>GET /sandbox/state</code>, <code>/sandbox/submissions</code></td><td>what was charged</td></tr>
<tr><td><code>POST /sandbox/faults</code>, <code>/sandbox/credits</code>, <code>/sandbox/reset</code></td>
<td>change its mind</td></tr></table></body></html>"""


def _card(service: Service, task: SandboxTask, now: float) -> str:
    status = task.status(now)
    words = escape(
        media.describe(task.body)[:140] or str(task.body.get("image") or task.body.get("video") or "")
    )
    label = escape(f"{task.model or task.kind} · {status} · {in_digits(task.cost(now))} credits")
    return (
        f'<div class="task">{_preview(service, task, status)}'
        f'<div class="words">{words}<small>{label}</small><small>{escape(task.task_id)}</small></div></div>'
    )


def _preview(service: Service, task: SandboxTask, status: str) -> str:
    if status != SUCCESS or task.kind == "chat":
        return (
            f'<div class="wait">{"chat" if task.kind == "chat" else status.lower().replace("_", " ")}</div>'
        )
    url = escape(files.urls(service, task)[0])
    if url.endswith(".mp4"):
        return f'<video src="{url}" muted loop autoplay playsinline></video>'
    return (
        f'<audio src="{url}" controls></audio>'
        if url.endswith(".wav")
        else f'<img src="{url}" alt="" loading="lazy">'
    )
