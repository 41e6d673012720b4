"""``@task.aio_image`` and its siblings: a function that returns the prompt, or the fields of the request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from aio_provider.links.aio import no_links_yet
from aio_provider.operators.aio import (
    AioBaseOperator,
    AioChatOperator,
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

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator


class _Decorated(DecoratedOperator):
    """What all decorated operators share; :func:`_decorated` joins it with an operator.

    The function runs on the worker, when the task is executed, and again on a retry: it has to return the
    same then, since a changed request is a new job. What it returns is never rendered as a template: text
    from elsewhere may hold braces, which must neither fail the task nor reach Airflow's variables and
    connections.
    """

    operator: ClassVar[type[AioBaseOperator]]

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    def execute(self, context: Context) -> Any:
        """Call the function, then run the operator with what it returned."""
        no_links_yet(self)  # here too: the function may fail, or skip the task
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        self._take(self.python_callable(*self.op_args, **kwargs))
        return self.operator.execute(self, context)  # type: ignore[arg-type]

    def _take(self, returned: Any) -> None:
        fields = self.operator.request_fields
        if isinstance(returned, str) and fields:
            returned = {fields[0]: returned}
        elif not isinstance(returned, Mapping):
            wanted = (
                f"a text ({fields[0]}) or a dict of request fields" if fields else "a dict of request fields"
            )
            raise AirflowFailException(
                f"{self.python_callable.__name__} must return {wanted}, not {type(returned).__name__}. "
                "Nothing was sent."
            )
        extra = dict(getattr(self, "request_params", None) or {})
        for name, value in returned.items():
            if name == "model" or name in fields:
                setattr(self, name, value)
            else:
                extra[name] = value
        self.request_params = extra or None


def _decorated(operator: type[AioBaseOperator], name: str) -> Callable[..., TaskDecorator]:
    # What the function fills in is not templated; the operator's other fields are.
    rendered = [field for field in operator.template_fields if field not in operator.request_fields]
    joined = type(
        f"_{operator.__name__}Decorated",
        (_Decorated, operator),
        {
            "__module__": __name__,
            "operator": operator,
            "template_fields": (*DecoratedOperator.template_fields, *rendered),
            "template_fields_renderers": {
                **operator.template_fields_renderers,
                **DecoratedOperator.template_fields_renderers,
            },
            "custom_operator_name": f"@task.{name}",
        },
    )
    globals()[joined.__name__] = joined  # by its name, as pickling and Airflow's serializer look it up

    def decorator(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
        return task_decorator_factory(
            python_callable=python_callable, decorated_operator_class=joined, **kwargs
        )

    decorator.__name__ = decorator.__qualname__ = f"{name}_task"
    decorator.__doc__ = (
        f"``@task.{name}``: run :class:`~aio_provider.operators.aio.{operator.__name__}` with what the "
        "function returns, "
        + (f"a text (its ``{operator.request_fields[0]}``) or " if operator.request_fields else "")
        + "a dict of request fields.\n\n:param python_callable: the function.\n"
        ":param kwargs: the operator's other arguments."
    )
    return decorator


aio_image_task = _decorated(AioGenerateImageOperator, "aio_image")
aio_video_task = _decorated(AioGenerateVideoOperator, "aio_video")
aio_music_task = _decorated(AioGenerateMusicOperator, "aio_music")
aio_speech_task = _decorated(AioGenerateSpeechOperator, "aio_speech")
aio_remove_background_task = _decorated(AioRemoveBackgroundOperator, "aio_remove_background")
aio_swap_face_task = _decorated(AioSwapFaceOperator, "aio_swap_face")
aio_remove_video_background_task = _decorated(AioRemoveVideoBackgroundOperator, "aio_remove_video_background")
aio_upscale_image_task = _decorated(AioUpscaleImageOperator, "aio_upscale_image")
aio_chat_task = _decorated(AioChatOperator, "aio_chat")
aio_generate_task = _decorated(AioGenerateOperator, "aio_generate")
