"""Links from a task instance in the Airflow UI to its generation, and to its output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

XCOM_KEY = "aio_link"
#: attribute of an operator that runs: its links so far
_PUSHED = "_aio_links"


class AioTaskLink(BaseOperatorLink):
    """To the first result once there is one, before that to the task at the API (which wants the key)."""

    name = "API in One result"

    @property
    def xcom_key(self) -> str:
        """Where the link is kept, so that it is there before the task has ended."""
        return XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The link of one task instance, or an empty string where none was pushed yet."""
        return _link(operator, ti_key, XCOM_KEY)

    @staticmethod
    def persist(context: Context, url: str) -> None:
        """Push the link. Result URLs are untrusted: only ``http`` and ``https`` become a link.

        :param url: address to link to.
        """
        if urlsplit(url).scheme.lower() in ("http", "https"):
            _push(context, XCOM_KEY, url)


OUTPUT_XCOM_KEY = "aio_output"
_CONSOLES = {
    "s3": "https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}",
    "gs": "https://console.cloud.google.com/storage/browser/_details/{bucket}/{key}",
}


class AioOutputLink(BaseOperatorLink):
    """To the output of a batch or a report: the console of its object store, or the file on a disk."""

    name = "Output"

    @property
    def xcom_key(self) -> str:
        """Where the link is kept."""
        return OUTPUT_XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The link of one task instance, or an empty string where there is none."""
        return _link(operator, ti_key, OUTPUT_XCOM_KEY)

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
        _push(context, OUTPUT_XCOM_KEY, url)


def no_links_yet(operator: BaseOperator) -> None:
    """Say that an attempt has begun, whose links only this process pushes.

    Airflow asks a worker's operator for its links whenever it stops, a deferral included. It is answered from
    here: a look for an XCom that is not there is an error line in Airflow's log. An attempt that ends before
    this (a template that does not render) looks like a resumed one, whose link must stay: it is looked for.
    """
    setattr(operator, _PUSHED, {XCOM_KEY: "", OUTPUT_XCOM_KEY: ""})


def _push(context: Context, key: str, url: str) -> None:
    ti: Any = context["ti"]
    ti.xcom_push(key=key, value=url)
    pushed = getattr(context.get("task"), _PUSHED, None)
    if pushed is not None:
        pushed[key] = url


def _link(operator: BaseOperator, ti_key: TaskInstanceKey, key: str) -> str:
    pushed = getattr(operator, _PUSHED, None)
    return (XCom.get_value(ti_key=ti_key, key=key) or "") if pushed is None else pushed[key]
