"""Batches that fit: rows are processed in parts, and the parts shrink when memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from deepal_galot.device import empty_cache, is_out_of_memory
from deepal_galot.errors import UserError, said

Result = TypeVar("Result")


class MicroBatches:
    """Cuts rows into parts; half as large for good, each time that one does not fit.

    Attributes:
        rows: of a part, at most.
        what: the work, for the line that says that it shrank.
    """

    def __init__(self, rows: int, what: str) -> None:
        self.rows, self.what = rows, what
        self._said = False

    def each(self, n: int, work: Callable[[slice], Result]) -> list[Result]:
        """work(part) for consecutive parts of n rows, in order.

        Raises:
            UserError: memory does not suffice for a single row.
        """
        results: list[Result] = []
        start, shrank = 0, False
        while start < n:
            part = slice(start, min(start + self.rows, n))
            try:
                results.append(work(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = said(error)  # what it held is free only behind this block
            else:
                failure = None
            if failure is None:
                start = part.stop
            else:
                self._shrink(part.stop - part.start, failure)
                shrank = True
        if shrank and not self._said:
            self._said = True
            tqdm.write(
                f"out of memory: {self.what} goes on with {self.rows} images at once",
                file=sys.stderr,
            )
        return results

    def _shrink(self, tried: int, failure: str) -> None:
        if tried == 1:
            raise UserError(
                f"out of memory: {self.what} does not fit with one image at once ({failure}); use "
                f"a smaller --resolution, --dtype bfloat16 or a device with more memory"
            )
        self.rows = tried // 2
        empty_cache()
