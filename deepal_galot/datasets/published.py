"""Published data sets: an offline copy in the data folder, else what they were published as."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ..errors import UserError, said
from ..registry import class_name
from .arrays import NPZ_KEYS, Arrays, read_npz, spec_of
from .base import Dataset, DatasetSpec


@contextlib.contextmanager
def _made_in_vain(folder: Path) -> Iterator[None]:
    """A folder that was made for a download that failed, with nothing in it, goes again."""
    new = not folder.exists()
    try:
        yield
    except UserError:
        if new:
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):  # it is not empty
                    os.rmdir(path)
        raise


class PublishedSet(Dataset):
    """Base of the data sets that have a name; `<data-dir>/<name>.npz` is read first.

    Class attributes:
        mean, std: published pixel statistics; None to compute them from the train part.
    """

    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None

    def load(self, data_dir: Path) -> DatasetSpec:
        with _made_in_vain(data_dir):
            arrays = self.arrays(data_dir)
        return spec_of(class_name(type(self)), arrays, self.class_names, self.mean, self.std)

    def arrays(self, data_dir: Path) -> Arrays:
        """x_train, y_train, x_test, y_test from the offline copy, else from `published`."""
        offline_copy = data_dir / f"{class_name(type(self))}.npz"
        return read_npz(offline_copy) if offline_copy.is_file() else self.published(data_dir)

    @abstractmethod
    def published(self, data_dir: Path) -> Arrays:
        """The same from the published files below data_dir, downloading them if need be.

        Raises:
            UserError: they are not there and cannot be fetched, or they are damaged.
        """

    def missing(self, data_dir: Path, error: Exception, elsewhere: str = "") -> UserError:
        """The line that says how to get this data set onto a machine without a network."""
        name = class_name(type(self))
        return UserError(
            f"{name} is not in {data_dir} and could not be downloaded ({type(error).__name__}: "
            f"{said(error)}): connect once, or put it there as {elsewhere}{data_dir / name}.npz "
            f"with arrays {', '.join(NPZ_KEYS)} (images uint8), or name its folder with --data-dir"
        )

    def download(self, url: str, file: Path, md5: str) -> Path:
        """A file that lies in the data folder, or is downloaded there and checked.

        Args:
            url: where it was published.
            file: where it lies or goes.
            md5: of the published file; a file that lay there already is taken as it is.

        Raises:
            UserError: it cannot be had.
        """
        from torchvision.datasets.utils import download_url

        if not file.is_file():
            part = file.with_name(f"{file.name}.part")  # so that a broken download is never read
            try:
                download_url(url, str(part.parent), part.name, md5)
                os.replace(part, file)
            except Exception as error:  # urllib, ssl, OSError, RuntimeError: "not to be had"
                raise self.missing(file.parent, error, f"{file} ({url}) or ") from error
        return file
