"""Cross-attention of a compiled 16-bit network on a GPU, as one Triton kernel.

Each key and value is the sum of two 16-bit numbers, see networks.py. torch's own attention reads
one number of each. With it every query would have to be repeated, and every answer would come out
twice as wide and would have to be summed.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

LOG2_E = 1.4426950408889634
MOST_TOKENS, WIDEST_HEAD = 128, 128  # so that a head's text fits into a multiprocessor's memory
QUERIES, WARPS = 128, 8  # of one Triton program


@triton.jit
def _kernel(
    q,
    k,
    v,
    out,
    n_queries,
    n_tokens,
    scale,
    q_image,
    q_row,
    text_image,
    text_part,
    text_row,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Answer QUERIES rows of one head of one image.

    q, k, v and out are pointers. The parameters after scale are strides. WIDTH and TOKENS are DIM
    and n_tokens rounded up to powers of two, at least 16.
    """
    image, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    rows = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    tokens, dims = tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    column = head * DIM + dims
    in_rows = (rows < n_queries)[:, None] & (dims < DIM)[None, :]
    in_text = (tokens < n_tokens)[:, None] & (dims < DIM)[None, :]
    at_rows = image * q_image + rows[:, None] * q_row + column[None, :]
    first = image * text_image + tokens[:, None] * text_row + column[None, :]
    second = first + text_part

    # Issue all loads before the first product, because the product waits for its operands.
    query = tl.load(q + at_rows, mask=in_rows, other=0.0)
    first_key = tl.load(k + first, mask=in_text, other=0.0)
    second_key = tl.load(k + second, mask=in_text, other=0.0)
    first_value = tl.load(v + first, mask=in_text, other=0.0)
    second_value = tl.load(v + second, mask=in_text, other=0.0)

    logits = tl.dot(query, tl.trans(first_key))
    logits = tl.dot(query, tl.trans(second_key), logits) * scale
    logits = tl.where((tokens < n_tokens)[None, :], logits, float("-inf"))
    shares = tl.exp2(logits - tl.max(logits, 1)[:, None])
    total = tl.sum(shares, 1)
    shares = shares.to(query.dtype)
    answer = tl.dot(shares, first_value)
    answer = tl.dot(shares, second_value, answer) / total[:, None]
    width = HEADS * DIM
    own = image * n_queries * width + rows[:, None] * width + column[None, :]
    tl.store(out + own, answer.to(query.dtype), mask=in_rows)


def fits(q: Tensor, k: Tensor, heads: int) -> bool:
    """Whether `attend` can take tensors of these sizes and this dtype."""
    _, parts, n_tokens, width = k.shape
    small = n_tokens <= MOST_TOKENS and width // heads <= WIDEST_HEAD
    return parts == 2 and small and q.dtype.itemsize == 2


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q·(k₁ + k₂)ᵀ/√d)·(v₁ + v₂) of each head, summed in float32.

    Args:
        q: [B, S, H·d] in 16 bits; rows contiguous.
        k, v: [B, 2, L, H·d], with the same strides; rows contiguous.

    Returns:
        [B, S, H·d], contiguous.
    """
    batch, n_queries, width = q.shape
    dim, n_tokens = width // heads, k.shape[2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _kernel[(batch * heads, triton.cdiv(n_queries, QUERIES))](
        q,
        k,
        v,
        out,
        n_queries,
        n_tokens,
        LOG2_E * dim**-0.5,
        *q.stride()[:2],
        *k.stride()[:3],
        HEADS=heads,
        DIM=dim,
        WIDTH=max(16, triton.next_power_of_2(dim)),
        QUERIES=QUERIES,
        TOKENS=max(16, triton.next_power_of_2(n_tokens)),
        num_warps=WARPS,
    )
    return out


operator = torch.library.custom_op("deepal_galot::attend", attend, mutates_args=())


@operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)
