"""The figures of the *Credits* page: those of ``aio credits``, as far as the user may see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aio_provider.api.errors import ConfigurationError
from aio_provider.plugins.sight import Sight

if TYPE_CHECKING:
    from aio_provider.accounting.reporting import Report
    from aio_provider.jobs.ledger import Ledger

#: what the last table of the page can be grouped by
GROUPS = ("model", "dag", "task", "run", "day", "month", "kind", "team", "user", "label", "connection")
#: no DAG is called this: Airflow allows no slash in an id
_NONE = "/"


@dataclass(frozen=True)
class Question:
    """What the query string asks.

    :param since, until: as ``aio credits`` takes them; ``""``: no limit.
    :param dags: only these; empty: all.
    :param by: one of :data:`GROUPS`.
    """

    since: str = ""
    until: str = ""
    dags: tuple[str, ...] = ()
    by: str = "model"

    @classmethod
    def of(cls, since: str, until: str, dags: list[str], by: str) -> Question:
        """From the query string.

        :raises ConfigurationError: an unknown group, a time that cannot be read, or a period that ends before
            it begins.
        """
        from aio_provider.accounting.asked import Asked

        Asked.of((), since.strip() or None, until.strip() or None)
        if by not in GROUPS:
            raise ConfigurationError(f"by: {by!r} is none of {', '.join(GROUPS)}.")
        return cls(since.strip(), until.strip(), tuple(dag for dag in dags if dag), by)


@dataclass(frozen=True)
class Shown:
    """What one user is shown.

    :param dags: the DAGs to choose from: those in this period of the ledger that the user may see.
    """

    report: Report
    dags: tuple[str, ...]


def figures(book: Ledger, conn_id: str, asked: Question, sight: Sight) -> Shown:
    """Read them.

    :raises LedgerUnavailableError: the ledger, or an archive of it, cannot be read.
    """
    from aio_provider.accounting.figures import credits
    from aio_provider.accounting.reporting import report

    since, until = asked.since or None, asked.until or None
    there = credits(book, ("dag",), since, until)["dag"]
    seen = sight.of(dag if isinstance(dag, str) else None for dag in there)
    wanted = seen & set(asked.dags) if asked.dags else seen
    dags = None if sight.whole and not asked.dags else (sorted(wanted) or [_NONE])
    found = report(book, by=(asked.by,), since=since, until=until, dag=dags)
    _tell(found, conn_id, asked, sight)
    if not sight.whole:
        found = _partial(found, sight)
    return Shown(found, tuple(sorted(seen - {""})))


def _tell(found: Report, conn_id: str, asked: Question, sight: Sight) -> None:
    """Say which book it is by its connection's id, and what was asked without the names of what is hidden."""
    from aio_provider.accounting.asked import Asked

    note: dict[str, Any] = found.table.attrs["aio"]
    note["book"] = {**note["book"], "url": conn_id}
    note["filters"] = {"dag": list(asked.dags)} if asked.dags else {}
    what = Asked.of((), asked.since or None, asked.until or None, note["filters"]).described()
    note["what"] = what if sight.whole else f"{what}, {_PART[sight.connection]}"


#: what a user sees who does not see all -> by whether it includes rows without a DAG
_PART: Mapping[bool, str] = {
    False: "the DAGs that you may read",
    True: "without the DAGs that you may not read",
}


def _partial(found: Report, sight: Sight) -> Report:
    """Without what is about all rows of the book: others' budgets, and what was moved to archives."""
    note: dict[str, Any] = found.table.attrs["aio"]
    told = "Some older rows were moved to archive files that are not here: they are not in these figures."
    note["archived"] = {"told": told if note["archived"]["missing"] else ""}
    seen = (use for use in found.budgets if use.budget.scope == "dag" and sight.sees(use.budget.value))
    return replace(found, budgets=tuple(seen))
