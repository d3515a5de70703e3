"""Measurements from a CSV file, as text."""

from __future__ import annotations

from pathlib import Path

from glioma_pde.errors import GliomaError
from glioma_pde.io._files import file_errors

MOST_BYTES = 2**27


def read_table(path: str | Path) -> str:
    """The text of a table.

    Raises:
        GliomaError: if the file cannot be read, is no text, or is larger than 128 MiB.
    """
    path = Path(path)
    with file_errors(path, "read"), open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise GliomaError(f"{path}: the table is larger than {MOST_BYTES >> 20} MiB; thin the data, it would be slow.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise GliomaError(f"{path}: this is not UTF-8 text; save the table as CSV in UTF-8.") from None
