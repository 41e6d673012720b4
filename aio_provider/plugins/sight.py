"""Who may see which rows of a ledger, as Airflow's own auth manager says.

A row of a DAG that this Airflow knows is seen by those who may read that DAG. Any other row (a notebook's, a
script's, one of a DAG that is gone or is another Airflow's) is seen by those who may read the connection that
names the ledger: they could open it themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser


@dataclass(frozen=True)
class Sight:
    """What one user may see of one connection's ledger.

    :param readable: DAGs that the user may read.
    :param known: all DAGs of this Airflow.
    :param connection: whether the user may read the connection.
    """

    readable: frozenset[str]
    known: frozenset[str]
    connection: bool

    @property
    def whole(self) -> bool:
        """Whether nothing is hidden."""
        return self.connection and self.known <= self.readable

    def sees(self, dag: str | None) -> bool:
        """Whether rows of this DAG, or of none, are shown."""
        return dag in self.readable if dag in self.known else self.connection

    def of(self, dags: Iterable[str | None]) -> frozenset[str]:
        """The DAGs among these whose rows are shown; ``""`` stands for rows without a DAG."""
        return frozenset(dag or "" for dag in dags if self.sees(dag or None))


def sight(user: BaseUser, conn_id: str) -> Sight:
    """What the user may see, asked of Airflow anew each time."""
    import sqlalchemy as sa
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        known = frozenset(session.scalars(sa.select(DagModel.dag_id)))
        readable = frozenset(get_auth_manager().get_authorized_dag_ids(user=user, session=session))
    return Sight(readable & known, known, conn_id in connections_of(user, [conn_id]))


def connections_of(user: BaseUser, conn_ids: Iterable[str]) -> set[str]:
    """Those of these connections that the user may read."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.models.connection import Connection

    team_of = getattr(Connection, "get_team_name", lambda _: None)  # Airflow 3.1 knows no teams
    teams: dict[str | None, set[str]] = {}
    for conn_id in conn_ids:
        teams.setdefault(team_of(conn_id), set()).add(conn_id)
    found: set[str] = set()
    for team, ids in teams.items():
        extra: dict[str, Any] = {} if team is None else {"team_name": team}
        found |= get_auth_manager().filter_authorized_connections(conn_ids=ids, user=user, **extra)
    return found
