"""Every trigger of this provider, under one import path that stays."""

from __future__ import annotations

from aio_provider.triggers.batch import AioBatchTrigger
from aio_provider.triggers.task import AioTaskTrigger

__all__ = ["AioBatchTrigger", "AioTaskTrigger"]
