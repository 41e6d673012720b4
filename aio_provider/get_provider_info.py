"""The provider's metadata, read by Airflow's providers manager through the entry point."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    return {"package-name": "aio-provider", "name": "API in One", "description": "x"}
