"""One request to make something: a frozen value, checked when it is made, with a constructor an endpoint."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from aio_provider.api.catalog import KINDS, load_catalog
from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.validation import check_params, plain, resolve_model

#: how a request is written down for its fingerprint
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class GenerationRequest:
    """What to ask the service for. Make one with a classmethod: they check every documented bound.

    Fields that take a URL want a public http(s) URL; one URL may stand for a list of one. A number may stand
    for its text (and the reverse) where models disagree on the type of ``duration``. A field set to None is
    left out. Models and parameters that the catalog does not know pass through with a ``UserWarning``.

    :param kind: one of :data:`aio_provider.api.catalog.KINDS`, or ``custom``.
    :param endpoint: the route below the base URL, such as ``/images/generations``.
    :param model: the value of the body's ``model`` field; None sends none.
    :param params: the other fields of the body, as JSON values; read-only.
    """

    kind: str
    endpoint: str
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(_copied(self.params)))

    def with_texts(self, texts: Mapping[str, str], fingerprint: str) -> GenerationRequest:
        """The same with other, checked texts; past the constructor, as rows come by the million.

        :param fingerprint: what :attr:`fingerprint` will say.
        """
        other = object.__new__(GenerationRequest)
        params = MappingProxyType({**self.params, **texts})
        other.__dict__.update(self.__dict__, params=params, fingerprint=fingerprint)
        return other

    def body(self) -> dict[str, Any]:
        """The JSON object to send, as a copy that may be changed."""
        params = _copied(self.params)
        return params if self.model is None else {"model": self.model, **params}

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the canonical JSON of route and body: equal requests have equal fingerprints."""
        # no copy, unlike body(): a million rows are fingerprinted when a batch is resumed
        body = dict(self.params) if self.model is None else {"model": self.model, **self.params}
        canonical = CANONICAL.encode({"endpoint": self.endpoint, "body": body})
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[GenerationRequest], tuple[Any, ...]]:
        return GenerationRequest, (self.kind, self.endpoint, self.model, dict(self.params))

    @classmethod
    def image(cls, prompt: str | None = None, *, model: str = "flux-2", **params: Any) -> GenerationRequest:
        """A picture: ``POST /images/generations``.

        :param prompt: what to show, 3 to 5000 characters.
        :param model: a slug or a model value, such as ``imagen4-ultra`` or ``seedream/4.5-edit``.
        :param params: ``aspect_ratio``, ``type``, ``resolution``, ``seed`` … as the model's page documents
            them.
        :raises InvalidRequestError: when a field is missing, of a wrong type, or out of its documented
            bounds.
        """
        return cls._checked("image", model, {"prompt": prompt, **params})

    @classmethod
    def video(cls, prompt: str | None = None, *, model: str = "kling-3", **params: Any) -> GenerationRequest:
        """A video: ``POST /videos/generations``.

        :param prompt: what happens, up to 2500 characters for most models.
        :param model: a slug or a model value, such as ``hailuo/2-3-image-to-video-pro``.
        :param params: ``duration`` (seconds), ``aspect_ratio``, ``sound`` … as the model's page documents
            them.
        :raises InvalidRequestError: when a field is missing, of a wrong type, or out of its documented
            bounds.
        """
        return cls._checked("video", model, {"prompt": prompt, **params})

    @classmethod
    def music(cls, prompt: str | None = None, *, model: str = "suno", **params: Any) -> GenerationRequest:
        """A song: ``POST /audio/music``.

        :param prompt: lyrics for Suno (3000 characters, 5000 from v4.5), style for MiniMax.
        :param model: ``suno``, one of its tiers (``chirp-v5`` …) or ``minimax-music``.
        :param params: ``gpt_description_prompt``, ``style``, ``title``, ``make_instrumental`` …
        :raises InvalidRequestError: when a field is missing, of a wrong type, or out of its documented
            bounds.
        """
        return cls._checked("music", model, {"prompt": prompt, **params})

    @classmethod
    def speech(
        cls,
        dialogue: str | Sequence[Mapping[str, str]] | None = None,
        *,
        model: str = "elevenlabs-v3",
        voice: str | None = None,
        **params: Any,
    ) -> GenerationRequest:
        """Speech: ``POST /audio/speech``.

        :param dialogue: ``[{"text": …, "voice": …}, …]``, or one text to be said.
        :param voice: the voice of a single text.
        :param params: ``stability`` (0 to 1), ``language_code`` …
        :raises InvalidRequestError: when a field is missing, of a wrong type, or out of its documented
            bounds.
        """
        if isinstance(dialogue, str):
            return cls._checked("speech", model, _say(dialogue, voice, model, params))
        if voice is not None:
            params["voice"] = voice
        return cls._checked("speech", model, {"dialogue": dialogue, **params})

    @classmethod
    def chat(
        cls,
        messages: str | Sequence[Mapping[str, Any]] | None = None,
        *,
        model: str = "gemini",
        **params: Any,
    ) -> GenerationRequest:
        """A chat completion: ``POST /chat/completions``. ``stream`` is False unless asked for.

        :param messages: ``[{"role": …, "content": …}, …]``, or one text from the user.
        :param params: ``include_thoughts``, ``reasoning_effort`` (low, high), ``tools``, ``response_format``.
        :raises InvalidRequestError: when a field is missing, of a wrong type, or out of its documented
            bounds.
        """
        if isinstance(messages, str):
            messages = _ask(messages)
        # The API's own default is a stream, unlike OpenAI's; a stored answer should not depend on that.
        return cls._checked("chat", model, {"messages": messages, "stream": False, **params})

    @classmethod
    def remove_background(cls, image: str | None = None, **params: Any) -> GenerationRequest:
        """The picture without its background: ``POST /images/tools/remove-bg``. ``image`` is a URL."""
        return cls._checked("remove_background", params.pop("model", None), {"image": image, **params})

    @classmethod
    def swap_face(
        cls, image: str | None = None, face_image: str | None = None, **params: Any
    ) -> GenerationRequest:
        """Another face in a picture: ``POST /images/tools/face-swap``.

        :param image: URL of the picture to change.
        :param face_image: URL of the face to put in.
        :param params: ``target_index`` (0 to 10: which face), ``output_format`` (jpeg, png, webp).
        """
        given = {"image": image, "face_image": face_image, **params}
        return cls._checked("swap_face", given.pop("model", None), given)

    @classmethod
    def remove_video_background(cls, video: str | None = None, **params: Any) -> GenerationRequest:
        """A video without its background, or with ``background_image``: ``POST /videos/tools/bg-remover``."""
        return cls._checked("remove_video_background", params.pop("model", None), {"video": video, **params})

    @classmethod
    def upscale_image(cls, image: str | None = None, **params: Any) -> GenerationRequest:
        """The picture in more pixels: ``POST /images/tools/upscale``. ``image`` is a URL."""
        return cls._checked("upscale_image", params.pop("model", None), {"image": image, **params})

    @classmethod
    def build(cls, kind: str, *, model: str | None = None, **params: Any) -> GenerationRequest:
        """A request of any kind, by name; ``model=None`` takes the endpoint's usual one.

        For speech a text ``prompt`` (and ``voice``) is one line of dialogue; for chat it is one user message.

        :raises InvalidRequestError: for an unknown kind, or as the constructor of that kind does.
        """
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidRequestError(f"kind: {kind!r} is not one of {', '.join(KINDS)}{hint}", field="kind")
        model = model if model is not None else load_catalog().endpoint(kind).default_model
        if kind in ("speech", "chat") and params.get("prompt") is not None:
            target = "dialogue" if kind == "speech" else "messages"
            if params.get(target) is not None:
                raise InvalidRequestError(
                    f"prompt: give either 'prompt' or {target!r}, not both", field="prompt"
                )
            prompt = _text(params.pop("prompt"))
            if kind == "speech":
                params = _say(prompt, params.pop("voice", None), model, params)
            else:
                params["messages"] = _ask(prompt)
        if kind == "chat":
            params.setdefault("stream", False)
        return cls._checked(kind, model, params)

    @classmethod
    def custom(cls, path: str, **params: Any) -> GenerationRequest:
        """A POST to a route that has no kind of its own, such as Suno's ``/audio/music/extend``.

        Documented routes are checked; others are sent as they are.

        :param path: the route below the base URL.
        :raises InvalidRequestError: for a path that is not one, a value JSON cannot say, or a documented
            bound.
        """
        if not isinstance(path, str) or "://" in path or not path.strip("/ "):
            raise InvalidRequestError(
                f"path: {path!r} is not a route such as '/audio/music/extend'", field="path"
            )
        path = "/" + path.strip("/ ")
        model = params.pop("model", None)
        route = load_catalog().route(path)
        if route:
            checked = check_params(params, route.params, model=model, known=None, what=path)
        else:
            checked = {name: plain(value, name) for name, value in params.items() if value is not None}
        return cls("custom", path, model, checked)

    @classmethod
    def _checked(cls, kind: str, model: str | None, given: Mapping[str, Any]) -> GenerationRequest:
        catalog = load_catalog()
        value, known = resolve_model(kind, model, given)
        specs = catalog.params(kind, known)
        checked = check_params(given, specs, model=value, known=known, what=model or kind)
        return cls(kind, catalog.endpoint(kind).path, value, checked)


def _copied(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing that can change."""
    copied = dict(params)
    for value in copied.values():
        if isinstance(value, (list, dict)):
            return copy.deepcopy(copied)
    return copied


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(
            f"prompt: must be text (a string), got {type(value).__name__} {value!r:.60}", field="prompt"
        )
    if not value.strip():
        raise InvalidRequestError("prompt: empty; it needs some text", field="prompt")
    return value


def _ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _say(text: str, voice: str | None, model: str | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """One spoken line, in the field that the model reads: ``dialogue``, or ``text`` for the older ones."""
    known = load_catalog().model(model)
    if known is not None and "text" in known.params:
        return {"text": text, **({"voice": voice} if voice is not None else {}), **params}
    line = {"text": text} if voice is None else {"text": text, "voice": voice}
    return {"dialogue": [line], **params}
