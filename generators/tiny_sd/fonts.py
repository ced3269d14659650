"""The openly licensed fonts that the tiny model was trained on, and how to fetch them.

The fonts are not part of this package. `fonts.json` names, for each face, the npm package and
version it comes from, the SHA-256 of the file, its family, its licence and its group:

* `handwritten`, `printed`: the training faces;
* `held_out`: handwriting faces kept from training, for the judge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

GROUPS = ("handwritten", "printed", "held_out")
_BATCH = 20  # packages in one npm call


class FontError(RuntimeError):
    """A font is missing, differs from the recorded file, or cannot be fetched."""


@dataclass(frozen=True)
class Font:
    """One face; the fields are those of its entry in fonts.json."""

    package: str
    version: str
    file: str
    sha256: str
    family: str
    group: str
    licence: str

    @property
    def file_name(self) -> str:
        """Name of the file in a font folder."""
        return Path(self.file).name


def font_list() -> list[Font]:
    """Read fonts.json."""
    text = Path(__file__).with_name("fonts.json").read_text(encoding="utf-8")
    return [Font(**entry) for entry in json.loads(text)]


def font_files(folder: Path, group: str) -> list[Path]:
    """Check and return the font files of one group.

    Args:
        folder: where `fetch` put the fonts.
        group: one of `GROUPS`.

    Raises:
        FontError: a file is absent or its SHA-256 is not the recorded one.
    """
    fonts = [font for font in font_list() if font.group == group]
    bad = [font.file_name for font in fonts if not _is_good(folder, font)]
    if bad:
        raise FontError(
            f"{len(bad)} of {len(fonts)} {group} fonts are missing from {folder} or differ from "
            f"fonts.json, the first is {bad[0]}; fetch them with "
            f"`python -m generators.tiny_sd.fonts --out {folder}`"
        )
    return [folder / font.file_name for font in fonts]


def fetch(folder: Path) -> int:
    """Fetch every font that the folder lacks with `npm pack`, and check all fonts.

    Args:
        folder: made if absent; good files in it are kept.

    Returns:
        Number of fonts that were fetched.

    Raises:
        FontError: npm is missing or fails, or a file is not the recorded one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [font for font in font_list() if not _is_good(folder, font)]
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        with tempfile.TemporaryDirectory() as scratch:
            _npm_pack(batch, Path(scratch))
            for font in batch:
                (folder / font.file_name).write_bytes(_unpack(font, Path(scratch)))
    for group in GROUPS:
        font_files(folder, group)
    return len(wanted)


def _is_good(folder: Path, font: Font) -> bool:
    path = folder / font.file_name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == font.sha256


def _npm_pack(fonts: list[Font], folder: Path) -> None:
    specs = [f"{font.package}@{font.version}" for font in fonts]
    try:
        done = subprocess.run(
            ["npm", "pack", "--silent", *specs], cwd=folder, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise FontError("npm was not found; the fonts are fetched with `npm pack`") from None
    if done.returncode:
        reason = (done.stderr or done.stdout).strip() or "no message"
        raise FontError(f"npm pack failed for {specs[0]} and {len(specs) - 1} more: {reason}")


def _unpack(font: Font, folder: Path) -> bytes:
    stem = font.package.removeprefix("@").replace("/", "-")
    archive = folder / f"{stem}-{font.version}.tgz"
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"package/{font.file}")
            data = member.read() if member else b""
    except (OSError, KeyError, tarfile.TarError) as error:
        raise FontError(f"{font.package}@{font.version} holds no {font.file}: {error}") from error
    if hashlib.sha256(data).hexdigest() != font.sha256:
        raise FontError(f"{font.file} of {font.package}@{font.version} is not the recorded file")
    return data


def main() -> None:
    """Fetch the fonts into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder for the font files")
    args = parser.parse_args()
    try:
        count = fetch(args.out)
    except FontError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{count} fonts fetched, {len(font_list())} checked in {args.out}")


if __name__ == "__main__":
    main()
