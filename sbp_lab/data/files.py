"""Finding a data set's files, and what is said when they are missing or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where a data set comes from and how its files are laid out: what a person is told who has none yet.

    Attributes:
        title: what its authors call it.
        url: where to get it.
        size: of the download and unpacked, in words.
        folders: below the folder of data, where the files may lie; the first is named in the message.
        layout: the files in that folder, in words.
        archives: names of the downloads, for somebody who has not unpacked them.
    """

    title: str
    url: str
    size: str
    folders: tuple[str, ...]
    layout: str
    archives: tuple[str, ...] = ()

    def places(self, folder: Path | None) -> Iterator[Path]:
        """Yield the folders that may hold the files: those below ``folder``, then itself.

        Raises:
            FileNotFoundError: no folder was said, or there is none.
        """
        if folder is None or not folder.exists():
            raise self.missing(folder)
        yield from (folder / below for below in self.folders)
        yield folder

    def missing(self, folder: Path | None) -> FileNotFoundError:
        """Return the error that says where to get the data and how to lay it out.

        Example:
            >>> toy = Published(title="Toy", url="https://example.org", size="1 MB", folders=("toy",), layout="toy.bin")
            >>> print(toy.missing(None))
            Toy is read from files, and no folder of data was said (--data-folder DATA or SBP_DATA).
            Get it from https://example.org (1 MB); it belongs in DATA/toy: toy.bin
        """
        where = Path("DATA") if folder is None else folder
        if folder is None:
            head = f"{self.title} is read from files, and no folder of data was said (--data-folder DATA or SBP_DATA)."
        elif not folder.exists():
            head = f"{self.title} is not here: there is no folder {folder}."
        else:
            head = f"{self.title} is not in {folder}: looked in {', '.join((*self.folders, 'the folder itself'))}."
            for name in self.archives:
                if (folder / name).is_file():
                    unpack = "unzip" if name.endswith(".zip") else "tar -xf"
                    return FileNotFoundError(f"{head}\n{name} is there, still packed: cd {folder} && {unpack} {name}")
        get = f"Get it from {self.url} ({self.size}); it belongs in {where / self.folders[0]}: {self.layout}"
        return FileNotFoundError(f"{head}\n{get}")


def damaged(path: Path, place: str, found: str, expected: str) -> ValueError:
    """Return the error for a file that is not what it should be: which, where in it, what is there and what should be.

    Example:
        >>> print(damaged(Path("train.bin"), "byte 0, record 0", "label 12", "a label of 0 .. 9"))
        train.bin, byte 0, record 0: expected a label of 0 .. 9, found label 12
    """
    return ValueError(f"{path}, {place}: expected {expected}, found {found}")


def read_file(path: Path, published: Published) -> bytes:
    """Return the content of a file that a data set cannot do without.

    Raises:
        FileNotFoundError: there is none; the message says where the data set comes from.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {published.title} has it ({published.layout}); get it from {published.url} "
            f"({published.size})"
        )
    return path.read_bytes()
