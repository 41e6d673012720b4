"""The price of a credit: an argument, ``AIO_CREDIT_PRICE``, or none, and then no money is shown."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Final

from aio_provider.api.errors import ConfigurationError

VARIABLE: Final = "AIO_CREDIT_PRICE"


@dataclass(frozen=True)
class CreditPrice:
    """What one credit costs.

    :param amount: of one credit.
    :param currency: its code or sign, shown as it is.
    """

    amount: float
    currency: str = "USD"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.currency} a credit"


#: What the service's newer model pages say (2026-11). Its older pages say about 0.002 USD, so it is only used
#: when asked for.
PUBLISHED: Final = CreditPrice(0.01, "USD")


def credit_price(given: object = None) -> CreditPrice | None:
    """The price from the argument, else ``$AIO_CREDIT_PRICE``, else ``None``: nobody has said.

    :param given: a number (US dollars), text such as ``"0.008 EUR"``, ``"published"``, or a price.
    :raises ConfigurationError: it cannot be read, or is negative.
    """
    if isinstance(given, CreditPrice):
        return given
    name = "credit_price"
    if given is None:
        name, given = VARIABLE, os.environ.get(VARIABLE, "").strip() or None
    if given is None:
        return None
    if isinstance(given, str) and given.strip().lower() == "published":
        return PUBLISHED
    text = str(given) if isinstance(given, (int, float, str)) and not isinstance(given, bool) else ""
    match = re.fullmatch(r"\s*(\d+(?:[.]\d*)?(?:[eE]-?\d+)?)\s*([^\W\d_]{1,5}|[$€£¥₺])?\s*", text)
    amount = float(match[1]) if match else math.nan
    if match is None or not math.isfinite(amount):
        raise ConfigurationError(
            f"{name}={given!r}: give what one credit costs, such as 0.01 or '0.008 EUR' (a dot for the "
            "decimals), or 'published'."
        )
    return CreditPrice(amount, match[2] or "USD")
