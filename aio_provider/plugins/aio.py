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
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="{colour}" '
    'stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"><ellipse cx="9" cy="6.5" rx="6" '
    'ry="2.8"/><path d="M3 6.5v5c0 1.5 2.7 2.8 6 2.8M3 11.5v5c0 1.5 2.7 2.8 6 2.8M15 6.5v2.2"/>'
    '<circle cx="16.5" cy="15.5" r="5"/><path d="M16.5 13v5M14.8 15.5h3.4"/></svg>'
)


def _icon(colour: str) -> str:
    return f"data:image/svg+xml,{quote(_ICON.format(colour=colour))}"


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
            "icon": _icon("#3f3f46"),
            "icon_dark_mode": _icon("#e4e4e7"),
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
