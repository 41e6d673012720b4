"""How messages say what to write instead: in Python's words, or in those of the ``aio`` command."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One way of speaking; every method gives what a user would write.

    :param argument: an argument with its value, as in ``overwrite=True`` or ``--overwrite``.
    :param column: a field from a column.
    :param template: a field from a text.
    :param constant: a field that is the same in every row.
    :param quoting: a template itself, and ``text`` what to use instead where it is a constant.
    :param other_format: what to do for a result that is no Parquet file.
    :param other_input: what to do for an input of a kind that is not read.
    :param rest: where the rows are once a call has failed.
    :param run: what sets two runs of the same call apart.
    :param replacing: what it means to replace an output.
    """

    argument: Callable[[str, object], str]
    column: Callable[[str, str], str]
    template: Callable[[str, str], str]
    constant: Callable[[str, object], str]
    quoting: Callable[[str], str]
    text: str
    other_format: str
    other_input: str
    rest: str
    run: str = "reuse or run_id"
    replacing: str = ""


def _option(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    shown = str(value).replace("\t", "\\t")
    return option if value is True else f"{option} {shlex.quote(shown)}"


PYTHON = Words(
    argument=lambda name, value: f"{name}={value!r}",
    column=lambda name, column: f'{name}="{column}"',
    template=lambda name, text: f'{name}=aio.template("{text}")',
    constant=lambda name, value: f"{name}=aio.lit({value!r}) or params={{{name!r}: {value!r}}}",
    quoting=lambda text: f"aio.template({text!r})",
    text="aio.lit(...)",
    other_format="For another format, leave output out and write the returned DataFrame (out.to_csv(...)).",
    other_input="For another kind, read it with pandas and pass the DataFrame.",
    rest="All rows are in this exception's .frame.",
)
COMMAND = Words(
    argument=_option,
    column=lambda name, column: f"-c {name}={column}",
    template=lambda name, text: f'-t "{name}={text}"',
    constant=lambda name, value: f"-p {name}={_quoted(value)}",
    quoting=lambda text: f"--template {text!r}",
    text="-p FIELD=TEXT",
    other_format="pandas and DuckDB convert it to any other format.",
    other_input="For another kind, convert it first: pandas and DuckDB read most others.",
    rest="All rows are in the output file.",
)

#: names of Airflow operators' arguments, where they differ
_OPERATOR_NAMES = {"output": "output_path", "source": "input_path", "params": "request_params"}
OPERATOR = Words(
    argument=lambda name, value: f"{_OPERATOR_NAMES.get(name, name)}={value!r}",
    column=lambda name, column: f"fields={{{name!r}: {column!r}}}",
    template=lambda name, text: f"fields={{{name!r}: {text!r}}}",
    constant=lambda name, value: f"request_params={{{name!r}: {value!r}}}",
    quoting=lambda text: f"the text {text!r}",
    text="request_params",
    other_format="A task after this one can convert it.",
    other_input="For another kind, convert it in a task before this one.",
    rest="All rows are in output_path.",
    run="the DAG run or task that writes it (or reuse)",
    replacing=" (its rows are sent and paid for again, unless reuse='always' finds their results)",
)


def _quoted(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text


#: what messages speak; the command sets it for its own calls
words: ContextVar[Words] = ContextVar("words", default=PYTHON)
