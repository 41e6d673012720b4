"""The *Credits* page in Airflow's own UI (3.1 and later), as a plugin.

Every process of Airflow imports this module: it holds names only. The page's app is built where it is served.
Airflow 2.11 loads the plugin too and finds nothing in it that it knows.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowPlugin

log = logging.getLogger(__name__)

#: where the page is, below Airflow's own address
PREFIX = "/aio-credits"

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="{fill}" stroke="{line}" '
    'stroke-width="1.7" stroke-linejoin="round"><path d="M3 6.5v11c0 1.7 3.1 3 7 3s7-1.3 7-3v-11z"/>'
    '<path d="M3 12c0 1.7 3.1 3 7 3s7-1.3 7-3" fill="none"/><ellipse cx="10" cy="6.5" rx="7" ry="3"/>'
    '<circle cx="17" cy="16.5" r="5"/><path d="M17 14v5M14.5 16.5h5" stroke-linecap="round"/></svg>'
)


def _icon(line: str, fill: str) -> str:
    return f"data:image/svg+xml,{quote(_ICON.format(line=line, fill=fill))}"


class AioPlugin(AirflowPlugin):
    """Puts *Credits* into the navigation, and the app that it shows under :data:`PREFIX`."""

    name = "aio_provider"
    external_views: list[Any] = [  # noqa: RUF012 - as Airflow declares it
        {
            "name": "Credits",
            # relative: it is below Airflow's address, whatever path that has
            "href": f"{PREFIX.strip('/')}/",
            "url_route": "credits",
            "destination": "nav",
            "icon": _icon("#33415c", "#ffffff"),
            "icon_dark_mode": _icon("#e4e4e7", "#27272a"),
        }
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The page's app; only Airflow's API server asks for it."""
        try:
            from aio_provider.plugins.credits_app import create_app
        except ImportError:  # an Airflow whose API server is built otherwise: it must start all the same
            log.exception("The Credits page is not served: this Airflow lacks what it needs")
            return []
        return [{"app": create_app(), "url_prefix": PREFIX, "name": "API in One credits"}]
