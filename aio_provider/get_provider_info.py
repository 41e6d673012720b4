"""What Airflow is told of this provider: the connection type and its form, operators, links, decorators."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "API in One"

#: Fields of the connection form beside Airflow's own; they are stored in the connection's extra.
CONN_FIELDS: dict[str, dict[str, Any]] = {
    "requests_per_minute": {
        "label": "Requests per minute",
        "description": "The key's limit, polls included. 60 where empty; 0: no limit.",
        "schema": {"type": ["integer", "null"], "minimum": 0},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "For one HTTP request. 60 where empty.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "ledger_url": {
        "label": "Ledger URL",
        "description": (
            "Database that records every paid job, so that none is paid twice: "
            "postgresql://user:password@host/db, or sqlite:////path/on/a/disk/all/workers/share.sqlite."
        ),
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "limiter_url": {
        "label": "Limiter URL",
        "description": (
            "Where machines that share the key share its limit: redis://host:6379 or postgresql://host/db. "
            "Empty: the processes of one machine share it through a file."
        ),
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "allow_insecure": {
        "label": "Allow plain HTTP",
        "description": "Send the key over plain http:// to a host that is not loopback. Leave it off.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "on_server_error": {
        "label": "On server error",
        "description": (
            "hold (default): a submission answered by a 5xx may have been charged and waits for you; "
            "retry: send it again, as the service's documentation advises."
        ),
        "schema": {"type": ["string", "null"], "enum": ["hold", "retry"]},
    },
    "team": {
        "label": "Team",
        "description": "Whose credits these are, for budgets and reports, where a task does not say.",
        "schema": {"type": ["string", "null"]},
    },
}

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["login"],
    "relabeling": {"host": "API address", "password": "API key", "schema": "API path"},
    "placeholders": {
        "host": "apiin.one (or a full URL: https://apiin.one/api/v1)",
        "schema": "api/v1",
        "password": "aio_...",
        "requests_per_minute": "60",
        "timeout": "60",
        "on_server_error": "hold",
    },
}

_DECORATORS = (
    "image",
    "video",
    "music",
    "speech",
    "remove_background",
    "swap_face",
    "remove_video_background",
    "upscale_image",
    "chat",
    "generate",
)


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "aio-provider",
        "name": _INTEGRATION,
        "description": (
            "`API in One <https://apiin.one/>`__ generations (images, videos, music, speech, chat): "
            "never paid twice, paced, accounted for."
        ),
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://apiin.one/docs",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": ["aio_provider.hooks.aio"]}],
        "operators": [{"integration-name": _INTEGRATION, "python-modules": ["aio_provider.operators.aio"]}],
        "sensors": [{"integration-name": _INTEGRATION, "python-modules": ["aio_provider.sensors.aio"]}],
        "triggers": [{"integration-name": _INTEGRATION, "python-modules": ["aio_provider.triggers.aio"]}],
        "connection-types": [
            {
                "connection-type": "aio",
                "hook-class-name": "aio_provider.hooks.aio.AioHook",
                "hook-name": _INTEGRATION,
                "conn-fields": CONN_FIELDS,
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
            }
        ],
        "extra-links": ["aio_provider.links.aio.AioTaskLink", "aio_provider.links.aio.AioOutputLink"],
        "task-decorators": [
            {"name": f"aio_{name}", "class-name": f"aio_provider.decorators.aio.aio_{name}_task"}
            for name in _DECORATORS
        ],
    }
