"""An auth manager for the tests: Airflow's simple one, with a user who may read one DAG only."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

from tests.e2e.people import ANALYST, ANALYSTS_DAG


class LimitedAuthManager(SimpleAuthManager):
    def is_authorized_dag(self, *, user: Any, details: Any = None, **request: Any) -> bool:
        allowed = super().is_authorized_dag(user=user, details=details, **request)
        if user.get_id() != ANALYST:
            return allowed
        return allowed and details is not None and details.id == ANALYSTS_DAG
