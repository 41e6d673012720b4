"""Every operator of this provider, under one import path that stays."""

from __future__ import annotations

from aio_provider.operators.base import AioBaseOperator
from aio_provider.operators.chat import AioChatOperator
from aio_provider.operators.credit_report import AioCreditReportOperator
from aio_provider.operators.download import AioDownloadOperator
from aio_provider.operators.from_parquet import AioGenerateFromParquetOperator
from aio_provider.operators.generate import (
    AioGenerateImageOperator,
    AioGenerateMusicOperator,
    AioGenerateOperator,
    AioGenerateSpeechOperator,
    AioGenerateVideoOperator,
    AioRemoveBackgroundOperator,
    AioRemoveVideoBackgroundOperator,
    AioSwapFaceOperator,
    AioUpscaleImageOperator,
)

__all__ = [
    "AioBaseOperator",
    "AioChatOperator",
    "AioCreditReportOperator",
    "AioDownloadOperator",
    "AioGenerateFromParquetOperator",
    "AioGenerateImageOperator",
    "AioGenerateMusicOperator",
    "AioGenerateOperator",
    "AioGenerateSpeechOperator",
    "AioGenerateVideoOperator",
    "AioRemoveBackgroundOperator",
    "AioRemoveVideoBackgroundOperator",
    "AioSwapFaceOperator",
    "AioUpscaleImageOperator",
]
