"""The link from a task instance in the Airflow UI to its generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

XCOM_KEY = "aio_link"


class AioTaskLink(BaseOperatorLink):
    """To the first result once there is one, before that to the task at the API (which wants the key)."""

    name = "API in One result"

    @property
    def xcom_key(self) -> str:
        """Where the link is kept, so that it is there before the task has ended."""
        return XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The link of one task instance, or an empty string where none was pushed yet."""
        return XCom.get_value(ti_key=ti_key, key=XCOM_KEY) or ""

    @staticmethod
    def persist(context: Context, url: str) -> None:
        """Push the link. Result URLs are untrusted: only ``http`` and ``https`` become a link.

        :param url: address to link to.
        """
        if urlsplit(url).scheme.lower() in ("http", "https"):
            ti: Any = context["ti"]
            ti.xcom_push(key=XCOM_KEY, value=url)
