"""``aio estimate``: what a run over a file would cost, before it is started."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import click

from aio_provider.api.amounts import in_digits
from aio_provider.cli_generate import generate, labelled, mapping, mapping_options, told

if TYPE_CHECKING:
    from aio_provider.frames.estimates import FrameEstimate


class _AsGenerate(click.Command):
    """Takes what else ``aio generate`` does, to no effect: one word turns such a line into its estimate."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        own = {option.name for option in self.params}
        for option in generate.params:
            if isinstance(option, click.Option) and option.name not in own:
                other = copy.copy(option)
                other.required, other.expose_value, other.hidden = False, False, True
                self.params.append(other)


@click.command(cls=_AsGenerate)
@mapping_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def estimate(
    inputs: tuple[str, ...],
    kind: str,
    columns: tuple[str, ...],
    templates: tuple[str, ...],
    params: tuple[str, ...],
    as_written: bool,
    model: str | None,
    as_json: bool,
    labels: tuple[str, ...],
    **options: Any,
) -> None:
    """Say what making something for every row of the INPUTs would cost. Sends nothing and needs no key.

    The source of each figure is said: the published price, learned from what the ledger has seen charged, or
    unknown. Rows whose result is on record cost nothing again. The other options of aio generate are taken
    too, and change nothing.

    \b
    aio estimate products.csv image -m flux-2 -c prompt=caption
    """  # noqa: D301 - click's own mark for a paragraph to leave alone
    with told():
        from aio_provider.frames.estimates import estimate as work_out

        given = mapping(kind, model, columns, templates, params, as_written=as_written)
        result = work_out(list(inputs), kind, **given, labels=labelled(labels), **options)
        if as_json:
            click.echo(json.dumps(_plain(result)))
        else:
            _print(result)


def _plain(result: FrameEstimate) -> dict[str, Any]:
    counts = {name: getattr(result, name) for name in ("rows", "requests", "reused", "skipped", "invalid")}
    total = {name: getattr(result, name) for name in ("low", "likely", "high")}
    models = json.loads(result.by_model.to_json(orient="records"))
    more = {"default_model": result.default_model, "drift": list(result.drift), "short": list(result.short)}
    more["first_invalid"] = result.first_invalid
    return {**total, **counts, "by_model": models, **more}


def _print(result: FrameEstimate) -> None:
    click.echo(result.headline())
    if result.requests:
        _print_models(result)
    for note in result.notes():
        click.echo(note)


def _print_models(result: FrameEstimate) -> None:
    from aio_provider.cli_tables import Column, show

    models = result.by_model
    show(
        [
            Column("model", models["model"].tolist()),
            Column("requests", [f"{count:,}" for count in models["requests"]], is_figure=True),
            *(
                Column(name, [_number(value) for value in models[name]], is_figure=True)
                for name in ("low", "likely", "high")
            ),
            Column("source", models["source"].tolist()),
            Column("note", models["note"].tolist(), leaves=1),
        ]
    )


def _number(value: float) -> str:
    return "?" if value != value else in_digits(value)
