"""Published data sets, read from an offline copy in the data folder or from the published files."""

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
    """If a download fails, delete the folder that was made for it, unless something is in it."""
    new = not folder.exists()
    try:
        yield
    except UserError:
        if new:
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):  # the folder is not empty
                    os.rmdir(path)
        raise


class PublishedSet(Dataset):
    """Base of the published data sets; `<data-dir>/<name>.npz` is read first.

    Class attributes:
        mean, std: published pixel statistics; None computes them from the train part.
    """

    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None

    def load(self, data_dir: Path) -> DatasetSpec:
        with _made_in_vain(data_dir):
            arrays = self.arrays(data_dir)
        return spec_of(class_name(type(self)), arrays, self.class_names, self.mean, self.std)

    def arrays(self, data_dir: Path) -> Arrays:
        """Read x_train, y_train, x_test, y_test from the offline copy, else by `published`."""
        offline_copy = data_dir / f"{class_name(type(self))}.npz"
        return read_npz(offline_copy) if offline_copy.is_file() else self.published(data_dir)

    @abstractmethod
    def published(self, data_dir: Path) -> Arrays:
        """Read the four arrays from the published files in data_dir; download them if necessary.

        Raises:
            UserError: the files are missing and cannot be fetched, or are damaged.
        """

    def missing(self, data_dir: Path, error: Exception, elsewhere: str = "") -> UserError:
        """The error that says how to get this data set onto a machine without a network."""
        name = class_name(type(self))
        return UserError(
            f"{name} is not in {data_dir} and could not be downloaded ({type(error).__name__}: "
            f"{said(error)}): connect once, or put it there as {elsewhere}{data_dir / name}.npz "
            f"with arrays {', '.join(NPZ_KEYS)} (images uint8), or name its folder with --data-dir"
        )

    def download(self, url: str, file: Path, md5: str) -> Path:
        """Download a file into the data folder and check it, unless it is there already.

        Args:
            url: where it was published.
            file: its path in the data folder.
            md5: of the published file; a file that is there already is not checked.

        Raises:
            UserError: the file cannot be downloaded.
        """
        from torchvision.datasets.utils import download_url

        if not file.is_file():
            part = file.with_name(f"{file.name}.part")  # so that no broken download is read
            try:
                download_url(url, str(part.parent), part.name, md5)
                os.replace(part, file)
            except Exception as error:  # urllib, ssl, OSError, RuntimeError: the download failed
                raise self.missing(file.parent, error, f"{file} ({url}) or ") from error
        return file
