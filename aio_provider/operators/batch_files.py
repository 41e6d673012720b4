"""Where a batch reads and writes: Airflow's paths and connections as plain fsspec URLs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowFailException


def plain_url(path: Any) -> str:
    """A path or URL as text that fsspec takes, without the connection id that Airflow's URLs may hold.

    :param path: text, ``os.PathLike``, or Airflow's ``ObjectStoragePath``.
    """
    text = _text(path)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return parts.path
    _, at, bucket = parts.netloc.rpartition("@")
    return text.replace(parts.netloc, bucket, 1) if at else text


@contextmanager
def airflow_storage(*paths: Any) -> Iterator[None]:
    """While this lasts, fsspec reaches these paths with the credentials of the connections they name.

    :raises AirflowFailException: two connections for one kind of storage, or one that Airflow does not know.
    """
    wanted: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in paths:
        text = _text(path)
        parts = urlsplit(text)
        conn_id = parts.netloc.rpartition("@")[0] or getattr(path, "conn_id", None)
        if not parts.scheme or not conn_id:
            continue
        known = wanted.get(parts.scheme)
        if known is not None and known[0] != conn_id:
            raise AirflowFailException(
                f"input_path and output_path are both {parts.scheme}:// and name two connections, "
                f"{known[0]!r} and {conn_id!r}; use one that may read and write both. Nothing was sent."
            )
        wanted[parts.scheme] = conn_id, _options(text)
    if not wanted:
        yield
        return
    import fsspec.config

    before = {scheme: fsspec.config.conf.get(scheme) for scheme in wanted}
    fsspec.config.conf.update({scheme: options for scheme, (_, options) in wanted.items()})
    try:
        yield
    finally:
        for scheme, options in before.items():
            if options is None:
                fsspec.config.conf.pop(scheme, None)
            else:
                fsspec.config.conf[scheme] = options


def make_folder(output: str) -> None:
    """Make the folder of an output on this machine's file system, so that it is there when rows are written.

    :raises OSError: it cannot be made.
    """
    parts = urlsplit(output)
    if parts.scheme in ("", "file"):
        Path(parts.path if parts.scheme else output).parent.mkdir(parents=True, exist_ok=True)


def output_of(output_path: Any, input_path: Any, map_index: int) -> str:
    """Where a task instance writes: a mapped one that is given a folder has a file of its own there."""
    output = _text(output_path)
    if map_index < 0 or not output.endswith("/"):
        return output
    stem = PurePosixPath(urlsplit(_text(input_path)).path).stem
    plain = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in stem)
    return f"{output}{plain}-{map_index}.parquet"


def _options(text: str) -> dict[str, Any]:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        return dict(ObjectStoragePath(text).fs.storage_options)
    except ValueError as error:
        raise AirflowFailException(
            f"{text!r} names a connection, and no installed provider has storage of that kind: {error}. "
            "Install it (for s3:// apache-airflow-providers-amazon), or leave the connection out. Nothing "
            "was sent."
        ) from error


def _text(path: Any) -> str:
    if isinstance(path, str):
        return path
    # Airflow 2.11's paths are os.PathLike for now, and warn whoever takes them for it.
    local = isinstance(path, os.PathLike) and not hasattr(path, "storage_options")
    return os.fspath(path) if local else str(path)
