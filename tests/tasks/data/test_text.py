import sysconfig
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import TextData
from lightning_gradtools.tasks.data import text as module
from lightning_gradtools.tasks.data.text import ALPHABET, Windows, decode, encode, source_files


def test_the_files_are_the_librarys_own_in_a_fixed_order():
    files = list(source_files())
    assert files == list(source_files())
    root = Path(sysconfig.get_path("stdlib"))
    assert root / "argparse.py" in files
    assert root / "json" / "decoder.py" in files
    assert not any({"site-packages", "test", "tests"} & set(file.relative_to(root).parts) for file in files)


def test_text_is_the_files_one_after_the_other():
    files = islice(source_files(), 2)
    first, second = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    length = len(first) + 10
    assert module.standard_library_text(length) == first + second[:10]


def test_encoding_is_inverse_to_decoding_and_has_an_unknown():
    assert decode(encode(ALPHABET)) == ALPHABET
    assert sorted(encode(ALPHABET).tolist()) == list(range(1, TextData().vocab_size))
    assert encode("aé\N{GRINNING FACE}\x00a").tolist() == [encode("a").item(), 0, 0, 0, encode("a").item()]
    assert decode(torch.tensor([0])) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("stride", [1, 3, 4, 9])
def test_windows(stride):
    dataset = Windows(torch.arange(30), length=4, stride=stride)
    inputs, targets = dataset.__getitems__(range(len(dataset)))
    starts = [start for start in range(0, 30, stride) if start + 5 <= 30]
    assert inputs[:, 0].tolist() == starts
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs, torch.tensor(starts)[:, None] + torch.arange(4))


def test_splits_are_contiguous_disjoint_and_the_same_each_time():
    data = TextData(context_length=50, max_chars=20_000)
    parts = [split.ids for split in data.splits]
    assert decode(torch.cat(parts)) == module.standard_library_text(20_000)
    assert [len(part) for part in parts] == [18_000, 1000, 1000]


def test_an_epoch_covers_the_text_once_by_default():
    data = TextData(context_length=50, max_chars=20_000)
    inputs, _ = data.splits.train.__getitems__(range(len(data.splits.train)))
    assert torch.equal(inputs.flatten(), data.splits.train.ids[: inputs.numel()])
    assert inputs.numel() >= 18_000 - 50
    assert len(TextData(context_length=50, max_chars=20_000, stride=1).splits.train) == 18_000 - 50


def test_a_million_characters_load_in_a_moment():
    start = time.process_time()
    assert sum(len(split.ids) for split in TextData().splits) == 1_000_000
    assert time.process_time() - start < 2


def test_bad_arguments(monkeypatch):
    with pytest.raises(ArgumentError, match=r"^context_length=50: must be below 50, the characters in the val"):
        TextData(context_length=50, max_chars=1000).setup("fit")
    TextData(context_length=49, max_chars=1000, batch_size=1).setup("fit")
    with pytest.raises(ArgumentError, match=r"^stride=0: must be an integer >= 1"):
        TextData(stride=0)
    with pytest.raises(ArgumentError, match=r"^max_chars=0: must be an integer >= 1"):
        TextData(max_chars=0)
    monkeypatch.setattr(module, "source_files", lambda: iter(()))
    with pytest.raises(ArgumentError, match=r"standard library's sources: none in "):
        TextData().setup("fit")
