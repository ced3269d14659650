"""GALOT with another run's images, for --synthetic-from and for the report's pictures of finished
runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from generators.base import Generator, ImageRequest
from generators.image_store import Images, ImageStore

from .config import RunConfig
from .errors import UserError
from .galot import Galot, Journal, Logits, SyntheticBatch


class BorrowedGalot(Galot):
    """Another run's generated images, unchanged; they cost this run nothing.

    The generator is loaded only if images are missing in the store.
    """

    def __init__(
        self,
        config: RunConfig,
        load: Callable[[], Generator],
        store: ImageStore,
        journal: Journal,
        class_names: tuple[str, ...],
        image_shape: tuple[int, int, int],
        keys: Sequence[str],
    ) -> None:
        """
        Args:
            config, journal: the other run's; all its rounds are journaled.
            keys: for each round, the key of its images in the store.
        """
        super().__init__(config, _Late(load), store, journal, class_names, image_shape)
        self.keys = keys

    def needs_classifier(self, round: int) -> bool:
        return False

    def make_images(self, logits: Logits | None, round: int) -> SyntheticBatch:
        theirs = super().make_images(None, round)
        return replace(theirs, made=0, ascent_images=0, seconds_stored=0.0)

    def _alignment_cost(self) -> tuple[int, float]:
        return 0, 0.0  # paid by the other run

    def _images(self, request: ImageRequest) -> Images:
        """The stored images of a request.

        Raises:
            UserError: images are lost, and this generator would make others.
        """
        key = self.keys[request.round]
        found = self.store.find(key, request)
        if found is not None:
            return found
        if request.key(self.generator) != key:
            raise UserError(
                f"--synthetic-from: images of round {request.round} are gone from "
                f"{self.store.root}, and this machine's {self.config.generator} would make others "
                f"(other weights, number type or batch size)"
            )
        return super()._images(request)


class _Late:
    """A generator that is loaded on first access."""

    def __init__(self, load: Callable[[], Generator]) -> None:
        self._load = load

    @cached_property
    def _loaded(self) -> Generator:
        return self._load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)
