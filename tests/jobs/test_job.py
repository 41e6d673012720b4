"""Job keys, settings, estimates and the credit limit."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from aio_provider.api.errors import ConfigurationError
from aio_provider.api.prices import CreditRange, price
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.budget import CreditLimit, estimate
from aio_provider.jobs.job import Job, Outcome, OutcomeStatus, job_key, jobs_for, keyed
from aio_provider.jobs.ledger import Finished, JobState, Ledger
from aio_provider.jobs.settings import Settings, key_id

LIVE = "https://apiin.one/api/v1"
CAT = GenerationRequest.image("A cat on a mat")


def test_equal_requests_are_variations_and_a_second_run_finds_them() -> None:
    first = [job.key for job in jobs_for([CAT, CAT, GenerationRequest.image("A dog")], scope=LIVE)]
    again = [job.key for job in jobs_for([CAT, CAT, GenerationRequest.image("A dog")], scope=LIVE)]
    assert first == again
    assert len(set(first)) == 3


def test_a_sandbox_never_answers_for_production() -> None:
    assert job_key(CAT, 0, scope=LIVE) != job_key(CAT, 0, scope="http://127.0.0.1:8000/api/v1")


@pytest.mark.parametrize("spelling", ["https://APIIN.one/api/v1/", "https://apiin.one:443/api/v1", LIVE])
def test_one_service_in_several_spellings(spelling: str) -> None:
    assert job_key(CAT, 0, scope=spelling) == job_key(CAT, 0, scope=LIVE)


def test_named_keys_keep_kinds_and_namespaces_apart() -> None:
    keys = {
        keyed("sku-1", "image", scope=LIVE),
        keyed("sku-1", "video", scope=LIVE),
        keyed("sku-1", "image", scope=LIVE, namespace="run-1"),
        keyed("sku-11", "image", scope=LIVE),
        job_key(CAT, 0, scope=LIVE),
    }
    assert len(keys) == 5
    assert keyed(7, "image", scope=LIVE) == keyed("7", "image", scope=LIVE)


def test_jobs_and_outcomes_pickle() -> None:
    job = Job(job_key(CAT, 0, scope=LIVE), CAT, {"dag_id": "d"})
    outcome = Outcome(job, OutcomeStatus.SUCCEEDED, urls=("https://files.example/a.png",), credits=5)
    again = pickle.loads(pickle.dumps(outcome))
    assert again == outcome
    assert again.key == job.key


# -- settings ------------------------------------------------------------------------------------------------


def test_arguments_go_before_the_environment() -> None:
    env = {"AIO_API_KEY": "aio_env", "AIO_REQUESTS_PER_MINUTE": "120", "AIO_LEDGER": "/tmp/l.sqlite"}
    settings = Settings.from_env(env, api_key="aio_arg", base_url=None)
    assert settings.api_key == "aio_arg"
    assert settings.requests_per_minute == 120
    assert settings.ledger == "/tmp/l.sqlite"
    assert settings.base_url == LIVE


def test_the_key_is_never_shown() -> None:
    settings = Settings(
        api_key="aio_secret", limiter_url="redis://:password@host", ledger="postgresql://u:pw@h/d"
    )
    assert "secret" not in repr(settings)
    assert "password" not in repr(settings)
    assert "pw" not in repr(settings)
    assert "aio_secret" not in settings.key_id


def test_key_ids_tell_keys_and_services_apart() -> None:
    assert key_id("a", LIVE) == key_id("a", LIVE + "/")
    assert len({key_id("a", LIVE), key_id("b", LIVE), key_id("a", "http://127.0.0.1:1/api/v1")}) == 3


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute"),
        ({"requests_per_minute": "60"}, "requests_per_minute"),
        ({"timeout": 0}, "timeout"),
        ({"ledger": 3.5}, "ledger must be text"),
        ({"api_key": ["aio_secret"]}, "api_key must be text"),
        ({"on_server_error": "ignore"}, "on_server_error"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Settings.from_env({}, **values)


def test_a_variable_that_is_no_number() -> None:
    with pytest.raises(ConfigurationError, match=r"AIO_REQUESTS_PER_MINUTE is 'many'"):
        Settings.from_env({"AIO_REQUESTS_PER_MINUTE": "many"})


# -- estimates -----------------------------------------------------------------------------------------------


def test_an_estimate_adds_up_and_says_where_it_is_from() -> None:
    video = GenerationRequest.video("A cat walks", model="kling-3", duration=5)
    total = estimate([CAT, CAT, video])
    assert total.requests == 3
    assert total.counts == {"flux-2": 2, "kling-3": 1}
    assert total.by_model["flux-2"].low == 2 * price(CAT).low
    assert total.total.low == pytest.approx(2 * price(CAT).low + price(video).low)
    assert total.total.source == "published"
    assert estimate([]).total == CreditRange(0, 0, 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_no_price_is_published_for_is_learned_or_unknown(tmp_path: Any) -> None:
    new = GenerationRequest.image("A cat", model="brand-new-model")
    unknown = estimate([CAT, new])
    assert unknown.total.likely is None
    assert unknown.total.high is None
    assert unknown.total.source == "unknown"
    assert "brand-new-model" in unknown.total.note
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        jobs = list(jobs_for([new] * 3, scope=LIVE))
        ledger.plan(jobs, owner="me")
        ledger.intend([job.key for job in jobs], owner="me")
        ledger.accept([(job.key, f"t{i}") for i, job in enumerate(jobs)])
        ledger.finish(
            Finished(job.key, JobState.SUCCEEDED, credits=c) for job, c in zip(jobs, (4, 6, 40), strict=True)
        )
        learned = estimate([CAT, new, new], ledger)
    past = learned.by_model["brand-new-model"]
    assert past == CreditRange(8, 12, 80, "learned", "3 past charges: 4 to 40")
    assert learned.total.source == "learned"


# -- the limit -----------------------------------------------------------------------------------------------


def _job(high: float | None, likely: float | None = None, n: int = 0) -> Job:
    return Job(f"k{n}", CAT, estimate=CreditRange(0, likely, high))


async def test_the_high_figure_is_reserved_and_the_difference_freed() -> None:
    limit = CreditLimit(100)
    first, second = _job(80), _job(60)
    assert await limit.reserve(first) == 80
    waiting = asyncio.create_task(limit.reserve(second))
    await asyncio.sleep(0)
    assert not waiting.done(), "80 are reserved: 60 more might go past 100"
    limit.settle(first, 80, charged=20)
    assert await waiting == 60
    assert (limit.spent, limit.reserved) == (20, 60)


async def test_what_never_fits_is_refused_once_nothing_is_in_flight() -> None:
    limit = CreditLimit(50)
    assert await limit.reserve(_job(40)) == 40
    waiting = asyncio.create_task(limit.reserve(_job(30)))
    await asyncio.sleep(0)
    limit.settle(_job(40), 40, charged=35)
    assert await waiting is None
    assert await limit.reserve(_job(15)) == 15, "a smaller one still fits"
    limit.free(15)
    limit.settle(_job(15), 0, charged=15)
    assert await limit.reserve(_job(0)) is None, "nothing is left, whatever the next is said to cost"


async def test_a_charge_that_stays_unknown_counts_as_spent() -> None:
    limit = CreditLimit(50)
    assert await limit.reserve(_job(40)) == 40
    limit.settle(_job(40), 40, charged=None)
    assert limit.spent == 40


async def test_the_first_job_of_a_model_without_a_bound_goes_alone() -> None:
    limit = CreditLimit(100)
    assert await limit.reserve(_job(None, 5)) == 100, "nobody knows what it will cost"
    waiting = [asyncio.create_task(limit.reserve(_job(None, likely))) for likely in (5, 30, 70)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    limit.settle(_job(None, 5), 100, charged=12)
    await asyncio.sleep(0)
    assert [one.done() and one.result() for one in waiting] == [12, 30, False], "the most that one has cost"
    limit.settle(_job(None, 5), 12, charged=12)
    limit.settle(_job(None, 30), 30, charged=30)
    assert await waiting[2] is None
    assert (limit.spent, limit.reserved) == (54, 0)


async def test_a_charge_without_a_bound_that_stays_unknown_counts_as_what_was_likely() -> None:
    limit = CreditLimit(100)
    amount = await limit.reserve(_job(None, 5))
    assert amount == 100
    limit.settle(_job(None, 5), amount, charged=None)
    assert (limit.spent, limit.reserved) == (5, 0)
    assert await limit.reserve(_job(None, 96)) is None
    assert await limit.reserve(_job(None, 5)) == 95, "what a model costs is not known yet"
