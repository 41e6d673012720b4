"""Links from a task instance in the Airflow UI to its generation, and to its output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

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


OUTPUT_XCOM_KEY = "aio_output"
_CONSOLES = {
    "s3": "https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}",
    "gs": "https://console.cloud.google.com/storage/browser/_details/{bucket}/{key}",
}


class AioOutputLink(BaseOperatorLink):
    """To the output of a batch: the console of its object store, or the file where it is on a disk."""

    name = "Output"

    @property
    def xcom_key(self) -> str:
        """Where the link is kept."""
        return OUTPUT_XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The link of one task instance, or an empty string where there is none."""
        return XCom.get_value(ti_key=ti_key, key=OUTPUT_XCOM_KEY) or ""

    @staticmethod
    def persist(context: Context, output: str) -> None:
        """Push the link of an output.

        :param output: path or URL, without credentials. Where no web page shows it there is no link.
        """
        parts = urlsplit(output)
        scheme = parts.scheme.lower()
        if scheme in ("http", "https"):
            url = output
        elif scheme in _CONSOLES:
            url = _CONSOLES[scheme].format(bucket=parts.netloc, key=quote(parts.path.lstrip("/")))
        elif scheme in ("", "file"):
            url = Path(parts.path).absolute().as_uri()
        else:
            return
        ti: Any = context["ti"]
        ti.xcom_push(key=OUTPUT_XCOM_KEY, value=url)
