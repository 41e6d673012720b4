"""The exceptions: what they carry, that they survive a pickle, and which status makes which."""

from __future__ import annotations

import pickle

import pytest

from aio_provider.api import errors
from aio_provider.api.errors import REFUSALS, AioError, error_for
from aio_provider.api.tasks import Task

EVERY = [
    AioError("m", status=418, type="teapot"),
    errors.AuthenticationError("m", status=401),
    errors.InsufficientCreditsError("m", status=402),
    errors.InvalidRequestError("m", field="prompt", status=400),
    errors.NotFoundError("m", status=404),
    errors.RateLimitError("m", retry_after=2.5, status=429),
    errors.ServerError("m", status=503, retry_after=1.0),
    errors.TransportError("m"),
    errors.ProtocolError("m"),
    errors.SubmissionUnknownError("m", status=502),
    errors.TaskFailedError("m", task=Task("n1")),
    errors.TaskTimeoutError("m", task_id="n1"),
    errors.BudgetExceededError("m"),
    errors.ConfigurationError("m"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_pickles_whole(error: AioError) -> None:
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert str(same) == "m"
    assert same.__dict__ == error.__dict__
    assert isinstance(error, AioError)


def test_bad_input_is_a_value_error_too() -> None:
    assert issubclass(errors.InvalidRequestError, ValueError)
    assert issubclass(errors.ConfigurationError, ValueError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        (401, errors.AuthenticationError),
        (402, errors.InsufficientCreditsError),
        (403, errors.AuthenticationError),
        (404, errors.NotFoundError),
        (413, errors.InvalidRequestError),
        (422, errors.InvalidRequestError),
        (429, errors.RateLimitError),
        (500, errors.ServerError),
        (502, errors.ServerError),
        (504, errors.ServerError),
        (409, errors.ProtocolError),
        (600, errors.ProtocolError),
    ],
)
def test_status_makes_the_exception(status: int, kind: type[AioError]) -> None:
    for payload in ({"error": {"message": "m"}}, {"message": "m"}, {"error": "m"}, None):
        error = error_for(status, payload, text="<html>m</html>")
        assert type(error) is kind
        assert error.status == status
        assert "m" in str(error)


def test_only_certain_refusals_count_as_such() -> None:
    assert {400, 401, 402, 404, 422, 429} <= REFUSALS
    assert not any(status in REFUSALS for status in (200, 302, 408, 409, 499, 500, 502, 503, 504))


def test_type_is_the_documented_one_for_json_and_none_for_a_page() -> None:
    assert error_for(404, {"message": "no"}).type == "not_found"
    assert error_for(404, {"error": {"type": "task_gone"}}).type == "task_gone"
    assert error_for(404, None, text="<html>").type is None


def test_page_is_quoted_to_500_characters() -> None:
    assert str(error_for(502, None, text="<html>" + "z" * 2000)).count("z") == 494
    page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n\r\n<body>\t</body></html>\r\n"
    said = (
        "502: unexpected answer: '<html> <head><title>502 Bad Gateway</title></head> <body> </body></html>'"
    )
    assert str(error_for(502, None, text=page)) == said
