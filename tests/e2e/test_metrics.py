"""A real Airflow's worker and triggerer, and the StatsD server that they were told of."""

from __future__ import annotations

from collections import Counter

from tests.e2e.conftest import ExampleRun, Services


def test_a_run_is_counted_by_worker_and_triggerer(services: Services, example: ExampleRun) -> None:
    sums = example.metrics.sums()
    sent = Counter(submission.kind for submission in example.submissions)
    assert set(sent) == {"image", "remove_background", "video"}
    for name in ("aio.submissions", "aio.completions"):
        assert {kind: count for (of, kind), count in sums.items() if of == name} == dict(sent)
    assert sum(count for (of, _), count in sums.items() if of == "aio.credits") == example.charged > 0
    assert {of for of, _ in sums} == {"aio.submissions", "aio.completions", "aio.credits"}
    lags = [metric for metric in example.metrics.metrics() if metric.name == "aio.poll_lag"]
    assert len(lags) >= len(example.submissions)  # from the triggerer, which alone polls
    lines = "\n".join(services.statsd.lines)
    assert lines
    assert not [key for key in services.keys if key in lines]
