"""``df.aio``: the same calls as methods of a DataFrame. Importing this loads no pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from aio_provider.frames.estimates import FrameEstimate
    from aio_provider.frames.gallery import Gallery

_registered = False


class AioAccessor:
    """Generations over the rows of a DataFrame; every method takes what :func:`aio_provider.generate` takes.

    >>> out = df.aio.image(prompt="caption", model="flux-2")     # doctest: +SKIP
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def generate(self, kind: str, **arguments: Any) -> pd.DataFrame:
        """See :func:`aio_provider.generate`."""
        from aio_provider.frames.calls import generate

        out: pd.DataFrame = generate(self._frame, kind, **arguments)
        return out

    async def agenerate(self, kind: str, **arguments: Any) -> pd.DataFrame:
        """See :func:`aio_provider.agenerate`."""
        from aio_provider.frames.calls import agenerate

        out: pd.DataFrame = await agenerate(self._frame, kind, **arguments)
        return out

    def image(self, **arguments: Any) -> pd.DataFrame:
        """A picture for each row: ``prompt=``."""
        return self.generate("image", **arguments)

    def video(self, **arguments: Any) -> pd.DataFrame:
        """A video for each row: ``prompt=``, perhaps ``image=``."""
        return self.generate("video", **arguments)

    def music(self, **arguments: Any) -> pd.DataFrame:
        """Music for each row: ``prompt=`` (lyrics or style) or ``gpt_description_prompt=``."""
        return self.generate("music", **arguments)

    def speech(self, **arguments: Any) -> pd.DataFrame:
        """Speech for each row: ``prompt=`` is one line of dialogue."""
        return self.generate("speech", **arguments)

    def chat(self, **arguments: Any) -> pd.DataFrame:
        """A chat answer for each row: ``prompt=`` is one message of the user."""
        return self.generate("chat", **arguments)

    def remove_background(self, **arguments: Any) -> pd.DataFrame:
        """Each row's picture without its background: ``image=``."""
        return self.generate("remove_background", **arguments)

    def swap_face(self, **arguments: Any) -> pd.DataFrame:
        """Each row's picture with another face: ``image=``, ``face_image=``."""
        return self.generate("swap_face", **arguments)

    def remove_video_background(self, **arguments: Any) -> pd.DataFrame:
        """Each row's video without its background: ``video=``."""
        return self.generate("remove_video_background", **arguments)

    def upscale_image(self, **arguments: Any) -> pd.DataFrame:
        """Each row's picture in more pixels: ``image=``."""
        return self.generate("upscale_image", **arguments)

    def estimate(self, kind: str, **arguments: Any) -> FrameEstimate:
        """See :func:`aio_provider.estimate`."""
        from aio_provider.frames.estimates import estimate

        return estimate(self._frame, kind, **arguments)

    def show(self, **arguments: Any) -> Gallery:
        """See :func:`aio_provider.frames.show`."""
        from aio_provider.frames.gallery import show

        return show(self._frame, **arguments)

    def download(self, folder: str, **arguments: Any) -> pd.DataFrame:
        """See :func:`aio_provider.download`."""
        from aio_provider.frames.downloads import download

        out: pd.DataFrame = download(self._frame, folder, **arguments)
        return out


def register() -> None:
    """Make ``df.aio`` work; saying it twice is no harm. Imports pandas."""
    global _registered
    import pandas as pd

    if _registered or not hasattr(pd, "api"):  # without api, pandas itself is still being imported
        return
    pd.api.extensions.register_dataframe_accessor("aio")(AioAccessor)
    _registered = True
