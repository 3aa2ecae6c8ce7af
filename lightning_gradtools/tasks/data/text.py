"""Characters of the Python standard library's own sources."""

import os
import string
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError, integer
from lightning_gradtools.tasks.data.in_memory import InMemoryDataModule, Splits
from lightning_gradtools.tasks.data.loading import Batch, BatchedDataset

UNKNOWN = 0
ALPHABET = "\t\n" + string.digits + string.ascii_letters + string.punctuation + " "  # ids 1 to 97
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def source_files() -> Iterator[Path]:
    """Yield the standard library's modules, each folder's by name and then its subfolders' by name."""
    for folder, subfolders, files in os.walk(sysconfig.get_path("stdlib")):
        subfolders[:] = sorted(set(subfolders) - _NOT_THE_LIBRARY)
        yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


def standard_library_text(max_chars: int) -> str:
    """Return the first ``max_chars`` characters of the standard library's sources, file after file."""
    pieces: list[str] = []
    missing = max_chars
    for path in source_files():
        pieces.append(path.read_text(encoding="utf-8", errors="replace")[:missing])
        missing -= len(pieces[-1])
        if not missing:
            break
    return "".join(pieces)


def encode(text: str) -> Tensor:
    """Return the id of each character (len(text),): its place in `ALPHABET` from 1, or `UNKNOWN`."""
    table = torch.full((128,), UNKNOWN)
    table[[ord(character) for character in ALPHABET]] = torch.arange(1, len(ALPHABET) + 1)
    codes = torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32).long()
    return torch.where(codes < 128, table[codes.clamp(max=127)], UNKNOWN)


def decode(ids: Tensor) -> str:
    """Return the text of ids (length,); `UNKNOWN` becomes U+FFFD."""
    return "".join("\N{REPLACEMENT CHARACTER}" if i == UNKNOWN else ALPHABET[i - 1] for i in ids.tolist())


class Windows(BatchedDataset):
    """The windows of ``length`` ids at every ``stride``-th place, with their next ids as targets."""

    def __init__(self, ids: Tensor, length: int, stride: int) -> None:
        self.ids = ids  # (characters,)
        self.stride = stride
        self.span = torch.arange(length + 1)

    def __len__(self) -> int:
        """Return the number of whole windows."""
        return (len(self.ids) - len(self.span)) // self.stride + 1

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return inputs and targets, each (batch, length); the targets are the inputs one place on."""
        places = torch.as_tensor(indices)[:, None] * self.stride + self.span
        windows = self.ids[places]
        return windows[:, :-1], windows[:, 1:]


class TextData(InMemoryDataModule):
    """Next-character prediction on the sources of the Python that runs.

    The alphabet is fixed (tab, newline and printable ASCII; id 0 stands for any other character), so a model
    fits whatever version of Python wrote the text. The split is contiguous: validation and test modules are
    not trained on.

    A batch is (ids, next ids), both int64 (batch, context_length). Each training window is one sample with
    one index, so that the order of an epoch, its share for each rank and its place after a resume are the
    sampler's.

    Args:
        context_length: characters in a window.
        batch_size: windows in a batch, on each rank.
        stride: places between the starts of training windows. None is ``context_length``: an epoch is one
            pass over the text. 1 takes the window at every place, and makes an epoch ``context_length`` times
            as long. Validation and test windows never overlap.
        max_chars: how much text is read, in characters.
        fractions: the shares of train, val and test.
        seed: in a single process, fixes each epoch's order.
        num_workers: processes that load. 0 is fastest for data in memory.

    Raises:
        ArgumentError: if an argument is out of its range, a split is shorter than a window, a rank's training
            set is smaller than a batch, or this Python has no sources.
    """

    def __init__(
        self,
        context_length: int = 128,
        batch_size: int = 32,
        stride: int | None = None,
        max_chars: int = 1_000_000,
        fractions: Sequence[float] = (0.9, 0.05, 0.05),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, fractions, seed, num_workers)
        self.context_length = integer("context_length", context_length, at_least=1)
        self.stride = context_length if stride is None else integer("stride", stride, at_least=1)
        self.max_chars = integer("max_chars", max_chars, at_least=1)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(ALPHABET) + 1

    def load(self) -> Splits:
        """Return the windows of three contiguous parts of the text."""
        text = standard_library_text(self.max_chars)
        if not text:
            raise ArgumentError(
                f"the text data is the standard library's sources: none in {sysconfig.get_path('stdlib')}"
            )
        parts = encode(text).split(self.split_sizes(len(text)))
        for name, part in zip(Splits._fields, parts, strict=True):
            if len(part) <= self.context_length:
                raise ArgumentError(
                    f"context_length={self.context_length}: must be below {len(part)}, "
                    f"the characters in the {name} split"
                )
        train, val, test = parts
        return Splits(
            Windows(train, self.context_length, self.stride),
            Windows(val, self.context_length, self.context_length),
            Windows(test, self.context_length, self.context_length),
        )
