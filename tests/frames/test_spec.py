from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.requests import GenerationRequest
from aio_provider.frames.columns import col, lit, template
from aio_provider.frames.spec import Invalid, Nothing, make_spec

FRAME = pd.DataFrame(
    {
        "caption": ["a red chair", None, "a blue lamp"],
        "seed": [1, None, 3],
        "photo": ["https://example.com/a.png", "https://example.com/b.png", None],
        "which": ["flux-2", "flux-2", "imagen4"],
    }
)


def rows(kind: str, frame: pd.DataFrame = FRAME, **arguments: Any) -> list[Any]:
    options = {name: arguments.pop(name) for name in ("model", "params") if name in arguments}
    spec = make_spec(kind, fields=arguments, **options)
    spec.check_columns(list(frame.columns))
    return list(spec.requests(frame))


def test_columns_constants_and_nulls() -> None:
    first, second, third = rows(
        "image", model="flux-2", prompt="caption", params={"aspect_ratio": "16:9", "seed": col("seed")}
    )
    assert first == GenerationRequest.image("a red chair", model="flux-2", aspect_ratio="16:9", seed=1)
    assert isinstance(second, Nothing)
    assert "'caption'" in second.reason
    # the seed column became floats for want of a null among ints; the request is the same as with an int
    assert (
        third.fingerprint == GenerationRequest.image("a blue lamp", aspect_ratio="16:9", seed=3).fingerprint
    )


def test_null_optional_field_is_left_out() -> None:
    frame = FRAME.assign(caption="a chair")
    assert [item.body().get("seed") for item in rows("image", frame, prompt="caption", seed="seed")] == [
        1,
        None,
        3,
    ]


def test_model_of_each_row() -> None:
    first, _, third = rows("image", prompt="caption", model=col("which"))
    assert (first.model, third.model) == ("flux-2", "imagen4")


def test_null_model_fails_the_row_rather_than_taking_a_default() -> None:
    frame = pd.DataFrame({"p": ["a chair", "a lamp"], "m": ["flux-2", None]})
    first, second = rows("image", frame, prompt="p", model=col("m"))
    assert first.model == "flux-2"
    assert isinstance(second, Invalid)
    assert second.error.field == "model"


def test_speech_and_chat_take_a_prompt() -> None:
    frame = pd.DataFrame({"line": ["Hello there"]})
    (speech,) = rows("speech", frame, prompt="line")
    assert speech.body()["dialogue"] == [{"text": "Hello there"}]
    (chat,) = rows("chat", frame, prompt="line")
    assert chat.body()["messages"] == [{"role": "user", "content": "Hello there"}]
    assert chat.body()["stream"] is False


def test_nested_expressions_in_params() -> None:
    frame = pd.DataFrame({"q": ["Why?", None]})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": col("q")}]
    first, second = rows("chat", frame, params={"messages": messages})
    assert first.body()["messages"][1] == {"role": "user", "content": "Why?"}
    assert isinstance(second, Nothing)


def test_tools_need_no_model_and_skip_null_pictures() -> None:
    first, _, third = rows("remove_background", image="photo")
    assert first.body() == {"image": "https://example.com/a.png"}
    assert isinstance(third, Nothing)


def test_a_list_field_takes_one_url() -> None:
    (first, *_) = rows("image", FRAME.assign(caption="a chair"), prompt="caption", input_urls="photo")
    assert first.body()["input_urls"] == ["https://example.com/a.png"]


def test_music_needs_either_prompt() -> None:
    frame = pd.DataFrame({"lyrics": [None, None], "idea": ["a calm song", None]})
    first, second = rows("music", frame, prompt="lyrics", gpt_description_prompt="idea")
    assert first.body()["gpt_description_prompt"] == "a calm song"
    assert isinstance(second, Nothing)


@pytest.mark.parametrize(
    "bad", [12, 1.5, True, ["a", "b"], {"a": 1}, pd.Timestamp("2026-01-01"), b"bytes", "ab", " ", "x" * 5001]
)
def test_a_bad_prompt_fails_its_row_only(bad: object) -> None:
    frame = pd.DataFrame({"p": pd.Series(["a chair", bad, "a lamp"], dtype=object)})
    first, second, third = rows("image", frame, prompt="p")
    assert isinstance(second, Invalid)
    assert second.error.field == "prompt"
    assert isinstance(first, GenerationRequest)
    assert isinstance(third, GenerationRequest)


def test_local_file_where_a_url_is_needed() -> None:
    (item,) = rows("remove_background", pd.DataFrame({"f": ["photos/chair.png"]}), image="f")
    assert isinstance(item, Invalid)
    assert "URL" in str(item.error)


def test_missing_column_guesses_and_tells_how_to_pass_a_constant() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        rows("image", prompt="captoin")
    assert caught.value.field == "prompt"
    assert "Did you mean 'caption'?" in str(caught.value)
    assert "aio.lit('captoin')" in str(caught.value)


def test_missing_column_in_template_params_and_model() -> None:
    with pytest.raises(InvalidRequestError, match="no column 'prodct'"):
        rows("image", prompt=template("a {prodct}"))
    with pytest.raises(InvalidRequestError, match="no column 'sed'"):
        rows("image", prompt="caption", params={"seed": col("sed")})
    with pytest.raises(InvalidRequestError, match="no column 'whch'"):
        rows("image", prompt="caption", model=col("whch"))


def test_a_number_is_a_column_name_too() -> None:
    with pytest.raises(InvalidRequestError, match=r"params=\{'seed': 42\}"):
        rows("image", prompt="caption", seed=42)
    (item,) = rows("image", pd.DataFrame({0: ["a red chair"]}), prompt=0)
    assert item.body()["prompt"] == "a red chair"


def test_lit_is_the_same_in_every_row() -> None:
    assert {item.body()["prompt"] for item in rows("image", prompt=lit("a red chair"))} == {"a red chair"}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"kind": "imgae"}, InvalidRequestError, "Did you mean 'image'"),
        ({"kind": 3}, TypeError, "kind must be one of"),
        ({"fields": {"promt": "caption"}}, TypeError, "did you mean 'prompt'"),
        ({"fields": {"prompt": True}}, TypeError, r"aio\.lit\(True\)"),
        ({"fields": {"prompt": ["caption"]}}, TypeError, r"aio\.lit"),
        ({"fields": {}}, InvalidRequestError, "prompt: not given"),
        ({"fields": {"prompt": "caption"}, "params": {"prompt": "x"}}, InvalidRequestError, "give it once"),
        ({"fields": {"prompt": "caption"}, "params": {"model": "x"}}, InvalidRequestError, "model="),
        ({"fields": {"prompt": "caption"}, "params": ["x"]}, TypeError, "params must be a dict"),
        ({"fields": {"prompt": "caption"}, "params": {1: "x"}}, TypeError, "name is text"),
        ({"fields": {"prompt": "caption"}, "model": 3}, TypeError, "model must be"),
        ({"fields": {"prompt": "caption"}, "model": " "}, InvalidRequestError, "model"),
        ({"fields": {"prompt": "caption"}, "model": "kling-3"}, InvalidRequestError, "video"),
        ({"kind": "remove_background"}, InvalidRequestError, "image: not given"),
        ({"kind": "swap_face", "fields": {"image": "photo"}}, InvalidRequestError, "face_image: not given"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_spec(**{"kind": "image", **arguments})


def test_a_constant_that_no_row_could_use_is_found_at_once() -> None:
    spec = make_spec("image", model="flux-2", params={"aspect_ratio": 7}, fields={"prompt": "caption"})
    with pytest.raises(InvalidRequestError) as caught:
        spec.check_constants(FRAME)
    assert caught.value.field == "aspect_ratio"
    make_spec("image", fields={"prompt": "seed"}).check_constants(FRAME)  # a bad row is not a bad constant


def test_check_rows_counts_the_bad_ones() -> None:
    spec = make_spec("image", fields={"prompt": "caption"})
    frame = pd.DataFrame({"caption": ["ok then", "x", "y"]}, index=["r1", "r2", "r3"])
    with pytest.raises(
        InvalidRequestError, match="2 of 3 rows cannot be sent and nothing was; the first is row 'r2'"
    ):
        spec.check_rows([frame])


def test_describe_tells_a_column_from_a_constant() -> None:
    by_column = make_spec("image", fields={"prompt": "caption"}).describe()
    by_constant = make_spec("image", fields={"prompt": lit("caption")}).describe()
    assert by_column != by_constant


@pytest.mark.parametrize(
    "captions",
    [
        pd.Series(["a red chair", None], dtype=object),
        pd.Series(["a red chair", None], dtype="string"),
        pd.Series(["a red chair", None], dtype="category"),
        pd.Series(["a red chair", None], dtype=pd.ArrowDtype(pa.string())),
        pd.Series(["a red chair", None], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
    ],
    ids=lambda series: str(series.dtype),
)
def test_texts_of_every_dtype_make_the_same_request(captions: pd.Series) -> None:
    first, second = rows("image", pd.DataFrame({"caption": captions}), prompt="caption")
    assert first.fingerprint == GenerationRequest.image("a red chair").fingerprint
    assert isinstance(second, Nothing)


@pytest.mark.parametrize(
    "seeds",
    [
        pd.Series([7, None], dtype="float64"),
        pd.Series([7, None], dtype="Int64"),
        pd.Series([7, None], dtype=object),
        pd.Series([7, None], dtype=pd.ArrowDtype(pa.int32())),
        pd.Series([7, None], dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    ],
    ids=lambda series: str(series.dtype),
)
def test_numbers_of_every_dtype_make_the_same_request(seeds: pd.Series) -> None:
    frame = pd.DataFrame({"caption": ["a red chair", "a red chair"], "seed": seeds})
    first, second = rows("image", frame, prompt="caption", seed="seed")
    assert first.fingerprint == GenerationRequest.image("a red chair", seed=7).fingerprint
    assert "seed" not in second.body()


def test_lists_of_urls_and_dates_in_templates() -> None:
    urls = ["https://example.com/a.png", "https://example.com/b.png"]
    frame = pd.DataFrame(
        {
            "day": pd.to_datetime(["2026-11-22", None]),
            "urls": pd.Series([urls, None], dtype=pd.ArrowDtype(pa.list_(pa.string()))),
        }
    )
    first, second = rows(
        "image", frame, prompt=template("A calendar page for {day:%d %B %Y}"), input_urls="urls"
    )
    assert first.body()["prompt"] == "A calendar page for 22 November 2026"
    assert first.body()["input_urls"] == urls
    assert isinstance(second, Nothing)
