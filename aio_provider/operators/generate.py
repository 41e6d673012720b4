"""One operator for each kind of generation, and one for any other endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aio_provider.api.catalog import KINDS
from aio_provider.api.requests import GenerationRequest
from aio_provider.operators.base import AioBaseOperator


class AioGenerateImageOperator(AioBaseOperator):
    """
    Make a picture (``POST /images/generations``).

    See :class:`~aio_provider.operators.base.AioBaseOperator` for what it returns, raises, and never pays
    twice.

    :param prompt: what to show, 3 to 5000 characters (templated).
    :param model: such as ``flux-2``, ``seedream-4-5`` or ``imagen-4``.
    """

    template_fields: Sequence[str] = ("prompt", *AioBaseOperator.template_fields)
    kind = "image"
    request_fields = ("prompt",)

    def __init__(self, *, prompt: str | None = None, model: str | None = "flux-2", **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        self.prompt = prompt


class AioGenerateVideoOperator(AioBaseOperator):
    """
    Make a video (``POST /videos/generations``).

    :param prompt: what happens, up to 2500 characters for most models (templated).
    :param image: URL of the first frame, for the models that take one (templated).
    :param model: such as ``kling-3``, ``seedance-1-5-pro`` or ``hailuo-2-3``.
    """

    template_fields: Sequence[str] = ("prompt", "image", *AioBaseOperator.template_fields)
    kind = "video"
    request_fields = ("prompt", "image")

    def __init__(
        self,
        *,
        prompt: str | None = None,
        image: str | None = None,
        model: str | None = "kling-3",
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self.prompt = prompt
        self.image = image


class AioGenerateMusicOperator(AioBaseOperator):
    """
    Make music (``POST /audio/music``).

    :param prompt: lyrics (Suno) or style (MiniMax), templated.
    :param model: ``suno``, one of its tiers such as ``chirp-v5``, or ``minimax-music``.
    """

    template_fields: Sequence[str] = ("prompt", *AioBaseOperator.template_fields)
    kind = "music"
    request_fields = ("prompt",)

    def __init__(self, *, prompt: str | None = None, model: str | None = "suno", **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        self.prompt = prompt


class AioGenerateSpeechOperator(AioBaseOperator):
    """
    Say a text, or a dialogue (``POST /audio/speech``).

    :param dialogue: one text, or ``[{"text": ..., "voice": ...}, ...]`` (templated).
    :param voice: voice of a single text (templated).
    :param model: such as ``elevenlabs-v3``.
    """

    template_fields: Sequence[str] = ("dialogue", "voice", *AioBaseOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **AioBaseOperator.template_fields_renderers,
        "dialogue": "json",
    }
    kind = "speech"
    request_fields = ("dialogue", "voice")

    def __init__(
        self,
        *,
        dialogue: str | Sequence[Mapping[str, str]] | None = None,
        voice: str | None = None,
        model: str | None = "elevenlabs-v3",
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self.dialogue = dialogue
        self.voice = voice

    def _request_arguments(self) -> dict[str, Any]:
        given = super()._request_arguments()
        if isinstance(
            given.get("dialogue"), str
        ):  # one line; the request builder knows each model's form of it
            given["prompt"] = given.pop("dialogue")
        return given


class AioRemoveBackgroundOperator(AioBaseOperator):
    """
    Take the background off a picture (``POST /images/tools/remove-bg``).

    :param image: URL of the picture, which the service must be able to fetch (templated).
    """

    template_fields: Sequence[str] = ("image", *AioBaseOperator.template_fields)
    kind = "remove_background"
    request_fields = ("image",)

    def __init__(self, *, image: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image = image


class AioSwapFaceOperator(AioBaseOperator):
    """
    Put another face into a picture (``POST /images/tools/face-swap``).

    :param image: URL of the picture to change (templated).
    :param face_image: URL of the face to put in (templated).
    """

    template_fields: Sequence[str] = ("image", "face_image", *AioBaseOperator.template_fields)
    kind = "swap_face"
    request_fields = ("image", "face_image")

    def __init__(self, *, image: str | None = None, face_image: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image = image
        self.face_image = face_image


class AioRemoveVideoBackgroundOperator(AioBaseOperator):
    """
    Take the background off a video, or put another behind it (``POST /videos/tools/bg-remover``).

    :param video: URL of the video (templated).
    :param background_image: URL of the picture to put behind it (templated).
    """

    template_fields: Sequence[str] = ("video", "background_image", *AioBaseOperator.template_fields)
    kind = "remove_video_background"
    request_fields = ("video", "background_image")

    def __init__(
        self, *, video: str | None = None, background_image: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.video = video
        self.background_image = background_image


class AioUpscaleImageOperator(AioBaseOperator):
    """
    Enlarge a picture (``POST /images/tools/upscale``).

    :param image: URL of the picture (templated).
    """

    template_fields: Sequence[str] = ("image", *AioBaseOperator.template_fields)
    kind = "upscale_image"
    request_fields = ("image",)

    def __init__(self, *, image: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image = image


class AioGenerateOperator(AioBaseOperator):
    """
    Make anything: a kind chosen at run time, or an endpoint that has no operator of its own.

    :param endpoint: a kind (``image``, ``video``, ...), or a path below the API's address such as
        ``/audio/music/extend`` (templated). What is documented is checked; the rest is sent as it is. It must
        answer with a task.
    """

    template_fields: Sequence[str] = ("endpoint", *AioBaseOperator.template_fields)

    def __init__(self, *, endpoint: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.endpoint = endpoint

    def build_request(self) -> GenerationRequest:
        """The request, checked as far as its endpoint is documented."""
        arguments = self._request_arguments()
        if self.endpoint in KINDS:
            return GenerationRequest.build(self.endpoint, model=self.model, **arguments)
        if self.model is not None:
            arguments["model"] = self.model
        return GenerationRequest.custom(self.endpoint, **arguments)
