"""What a run came to, in figures and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aio_provider.api.amounts import in_credits
from aio_provider.frames.progress import clock


@dataclass
class Report:
    """What a run came to."""

    run_id: str
    kind: str
    rows: int
    statuses: dict[str, int]
    credits: float
    reused: int
    saved: float
    seconds: float
    #: credits that pending rows of this run will likely have cost; the run that collects them pays nothing
    in_flight: float = 0.0
    #: models whose charges were not what was estimated: prices change
    drift: tuple[str, ...] = ()

    @property
    def succeeded(self) -> int:
        """How many rows have their result."""
        return self.statuses.get("succeeded", 0)

    def summary(self) -> str:
        """The figures for people, and what to do about rows without an end."""
        count = self.statuses
        if not self.rows:
            return f"{self.kind}: 0 rows: nothing to do."
        parts = [
            "1 row" if self.rows == 1 else f"{self.rows:,} rows",
            f"{self.succeeded:,} succeeded",
        ]
        parts += [
            f"{n:,} {name.replace('_', ' ')}" for name, n in sorted(count.items()) if name != "succeeded"
        ]
        if self.reused:
            parts.append(f"{self.reused:,} reused (saved {in_credits(self.saved)})")
        more = f" and about {in_credits(self.in_flight)} in flight" if self.in_flight else ""
        parts.append(f"{in_credits(self.credits)} spent{more}")
        lines = [f"{self.kind}: {', '.join(parts)}, in {clock(self.seconds)}."]
        if count.get("unknown"):
            lines.append(
                "Rows that may have been charged are held; `aio ledger show` says how to settle them."
            )
        if count.get("pending"):
            lines.append("What is pending was submitted: the same call again collects it, and pays nothing.")
        if self.drift:
            lines.append(f"Prices: {'; '.join(self.drift)}.")
        return " ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for a file's metadata and for ``out.attrs["aio"]``."""
        return {
            "run_id": self.run_id,
            "kind": self.kind,
            "rows": self.rows,
            "statuses": dict(self.statuses),
            "credits": self.credits,
            "reused": self.reused,
            "saved_credits": self.saved,
            "in_flight_credits": self.in_flight,
        }
