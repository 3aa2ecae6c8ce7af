import math
from functools import partial

import torch
import torch.nn.functional as F
from torch.optim import AdamW

from lightning_gradtools.tasks import GPT, LanguageModel, TextData
from lightning_gradtools.tasks.language_model import MeanTokenLoss


def test_a_small_gpt_learns_and_its_metrics_are_those_of_one_mean_loss(trainer):
    torch.manual_seed(0)
    data = TextData(context_length=32, batch_size=16, max_chars=50_000)
    task = LanguageModel(GPT(98, 32, depth=1, width=32, heads=2), partial(AdamW, lr=1e-2))
    run = trainer(max_steps=80, val_check_interval=80)
    run.fit(task, datamodule=data)
    logged = dict(run.callback_metrics)
    assert set(logged) == {"train/loss", "val/loss", "val/perplexity", "val/bits_per_character"}

    tokens, targets = data.splits.val.__getitems__(range(len(data.splits.val)))
    with torch.no_grad():
        loss = F.cross_entropy(task(tokens).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(logged["val/loss"], loss)
    torch.testing.assert_close(logged["val/perplexity"], loss.exp())
    torch.testing.assert_close(logged["val/bits_per_character"], loss / math.log(2))

    # Below the entropy of the characters' frequencies: it has learnt more than how often each occurs.
    frequency = torch.bincount(data.splits.val.ids, minlength=98) / len(data.splits.val.ids)
    assert loss < torch.special.entr(frequency).sum()

    (tested,) = run.test(task, datamodule=data, verbose=False)
    assert set(tested) == {"test/loss", "test/perplexity", "test/bits_per_character"}


def test_a_loss_that_is_not_a_number_is_logged_as_such(trainer):
    task = LanguageModel(GPT(98, 16, depth=1, width=8, heads=1))
    with torch.no_grad():
        task.net.norm.weight[0] = math.nan
    run = trainer()
    run.validate(task, datamodule=TextData(context_length=16, max_chars=5000), verbose=False)
    assert run.callback_metrics["val/loss"].isnan()


def test_mean_token_loss_weighs_batches_by_their_tokens():
    mean = MeanTokenLoss()
    mean.update(torch.tensor(1.0), 30)
    mean.update(torch.tensor(4.0), 10)
    assert mean.compute().item() == 1.75
