"""Process rows in parts that fit into memory; the parts shrink when memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from deepal_galot.device import empty_cache, is_out_of_memory
from deepal_galot.errors import UserError, said

Result = TypeVar("Result")


class MicroBatches:
    """Splits rows into parts. Each time a part does not fit, the part size is halved for good.

    Attributes:
        rows: largest number of rows in a part.
        what: name of the work, for the message that its parts shrank.
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
                failure = said(error)  # the error's tensors are freed only after this block
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
