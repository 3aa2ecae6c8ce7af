r"""How sharp the heads of an attention layer are: the largest logit and the entropy of their rows.

A row of attention weights is a softmax over keys. Its entropy over :math:`\ln` (number of keys) is 1 where a query
attends to all alike and 0 where it attends to one. Logits that grow without bound drive it to 0, and no gradient comes
back through a softmax that is one-hot: *attention entropy collapse* (Zhai et al. 2023, arXiv:2303.06296); the growth
itself is seen before that (Wortsman et al. 2023, arXiv:2309.14322).
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SEQUENCES, _QUERIES = 4, 64
_MASKED = -1e8  # scores below are of keys that are masked out
_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
_UNUSUAL = ("bias_k", "bias_v", "add_zero_attn", "static_k", "static_v")


def sampled_scores(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return scores [sequences, ..., queries, keys] of a call of ``scaled_dot_product_attention``.

    The function never shows them, so they are computed here for at most 4 sequences and 64 queries of each; those of
    keys that are masked out are -inf. None if the call is unusual.
    """
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    query, key, mask = given["query"].detach(), given["key"].detach(), given.get("attn_mask")
    if given.get("enable_gqa") and query.dim() > 3 and query.shape[-3] % key.shape[-3] == 0:
        key = key[:_SEQUENCES].repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    elif query.shape[:-2] != key.shape[:-2]:
        return None
    if query.dim() < 3:
        return None
    shape = (*query.shape[:-1], key.shape[-2])
    stride = -(-query.shape[-2] // _QUERIES)
    query, key = query[:_SEQUENCES, ..., ::stride, :], key[:_SEQUENCES]
    scale = given.get("scale") or query.shape[-1] ** -0.5
    scores: Tensor = (scale * query.float() @ key.float().transpose(-2, -1)).float()  # autocast has it in half
    if given.get("is_causal"):
        positions = torch.arange(key.shape[-2], device=key.device)
        queries = stride * torch.arange(query.shape[-2], device=key.device)
        scores = scores.masked_fill(positions > queries[:, None], -torch.inf)
    if mask is not None:
        mask = mask.detach().expand(shape)[:_SEQUENCES, ..., ::stride, :]
        scores = _masked(scores, ~mask if mask.dtype == torch.bool else mask)
    return scores


@torch.no_grad()
def projected_scores(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the same of a call of ``multi_head_attention_forward``, which is what ``nn.MultiheadAttention`` is.

    It projects its inputs itself; that is done here for the few that are looked at.
    """
    given = _SIGNATURE.bind(*args, **kwargs).arguments
    query, key, heads = given["query"], given["key"], given["num_heads"]
    if query.dim() != 3 or any(given.get(name) is not None and given[name] is not False for name in _UNUSUAL):
        return None
    if given.get("use_separate_proj_weight"):
        weights = given["q_proj_weight"], given["k_proj_weight"]
    else:
        weights = given["in_proj_weight"].chunk(3)[:2]
    biases = (None, None) if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)[:2]
    stride = -(-query.shape[0] // _QUERIES)
    sampled = query[::stride, :_SEQUENCES], key[:, :_SEQUENCES]
    projected = [
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3).float()
        for x, weight, bias in zip(sampled, weights, biases, strict=True)
    ]
    scores = (projected[0].shape[-1] ** -0.5 * projected[0] @ projected[1].transpose(-2, -1)).float()
    mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
    if mask is not None:
        mask = mask if mask.dim() == 2 else mask.unflatten(0, (-1, heads))[:_SEQUENCES]
        scores = _masked(scores, mask[..., ::stride, :])
    return scores if padding is None else _masked(scores, padding[:_SEQUENCES, None, None])


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def sampled_rows(scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return those of at most 4 sequences and 64 queries of each, of a softmax [sequences, heads, queries, keys]."""
    stride = -(-scores.shape[-2] // _QUERIES)
    return scores.detach()[:_SEQUENCES, :, ::stride].float(), probabilities.detach()[:_SEQUENCES, :, ::stride].float()


def head_sharpness(scores: Tensor, probabilities: Tensor) -> Tensor:
    """Return [2, heads]: the largest logit, and the mean entropy of a row over that of equal weights.

    Rows with one possible key do not count; a head of nothing but such rows has entropy 1.

    Args:
        scores: [sequences, heads, queries, keys], below -1e8 where a key is masked out; without a dimension of heads
            there is one.
        probabilities: their softmax over keys.
    """
    if scores.dim() == 3:
        scores, probabilities = scores.unsqueeze(1), probabilities.unsqueeze(1)
    keys = (scores > _MASKED).sum(-1)
    largest = scores.amax(-1)
    # ln of the sum of exponentials is the largest score less ln of its probability: no logarithm of each is needed.
    total = largest - probabilities.amax(-1).log()
    entropy = total - (probabilities * scores.clamp(min=_MASKED)).sum(-1)
    chooses = keys > 1
    share = torch.where(chooses, entropy / keys.clamp(min=2).log(), 0.0).sum((0, 2))
    rows = chooses.sum((0, 2))
    return torch.stack([largest.amax((0, 2)), torch.where(rows > 0, share / rows.clamp(min=1), 1.0)])
