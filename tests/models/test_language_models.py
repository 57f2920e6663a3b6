"""Language models of transformers, cut: counts of parameters, and the functions that they then compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from spacelang import Skip, SpaceError, Width, profile, searchable
from spacelang.costs import expected_cost
from tests.models.networks import randomised, size

TOKENS = torch.randint(1, 1000, (2, 16), generator=torch.Generator().manual_seed(0))
SPECIAL = {"vocab_size": 1000, "bos_token_id": 0, "eos_token_id": 0}


def bert() -> Any:
    config = transformers.BertConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=1000,
        max_position_embeddings=64,
    )
    return transformers.BertModel(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=64, **SPECIAL)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        **SPECIAL,
    )
    return transformers.LlamaForCausalLM(config)


# Counts of parameters and tensors, computed from the shapes of the original's layers.
@pytest.mark.parametrize(
    ("make", "choices", "changed", "parameters", "tensors"),
    [
        (
            bert,
            {"encoder.layer.*.attention": Width([2]), "encoder.layer.*.intermediate.dense": Width([64])},
            {},
            123_296,
            55,
        ),
        (
            gpt2,
            {"transformer.h.*.attn": Width([2]), "transformer.h.*.mlp.c_fc": Width([128])},
            {},
            143_776,
            41,
        ),
        (llama, {"model.layers.1.self_attn.num_key_value_groups": Width([2])}, {}, 228_800, 30),
        (
            llama,
            {
                "model.layers.*.self_attn": Width([1]),
                "model.layers.*.mlp.gate_proj": Width([64]),
                "model.layers.1": Skip(),
            },
            {"model.layers.1": "keep"},
            180_672,
            30,
        ),
        (
            llama,
            {
                "model.layers.*.self_attn": Width([1]),
                "model.layers.*.mlp.gate_proj": Width([64]),
                "model.layers.1": Skip(),
            },
            {"model.layers.1": "skip"},
            163_136,
            21,
        ),
        (llama, {"model.embed_tokens": Width([32, 64])}, {"model.embed_tokens": 32}, 116_448, 30),
    ],
    ids=["bert", "gpt2", "queries", "groups", "groups and a layer", "residual sum"],
)
def test_counts_of_cut_models(
    make: Callable[[], Any], choices: Any, changed: dict[str, Any], parameters: int, tensors: int
) -> None:
    space = searchable(make(), choices, TOKENS)
    arch = space.canonical(space.default() | changed)
    frozen: Any = space.freeze(arch)
    assert (size(frozen), len(frozen.state_dict())) == (parameters, tensors)
    assert profile(frozen, TOKENS).flops == expected_cost(space, "flops", TOKENS).of(arch)


def test_queries_of_every_group_are_cut_alike() -> None:
    model = randomised(llama())
    label, groups = "model.layers.1.self_attn.num_key_value_groups", "model.layers.1.self_attn"
    space = searchable(model, {label: Width([1, 2, 4]), groups: Width([1, 2])}, TOKENS)
    whole: Any = space.freeze({label: 4, groups: 2})
    assert torch.allclose(whole(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=1e-6)
    mask = torch.ones_like(TOKENS)
    mask[0, -3:] = 0
    cut: Any = space.freeze({label: 2, groups: 2})
    assert cut.model.layers[1].self_attn.num_key_value_groups == 2
    with torch.no_grad():  # the third and fourth query head of both groups add nothing
        whole.model.layers[1].self_attn.o_proj.weight.view(64, 2, 4, 8)[:, :, 2:] = 0
    for implementation in ("sdpa", "eager"):
        cut.set_attn_implementation(implementation)
        found = cut(TOKENS, attention_mask=mask).logits
        expected = whole(TOKENS, attention_mask=mask).logits
        assert torch.allclose(found[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-6)
    both: Any = space.freeze({label: 1, groups: 1})
    attention = both.model.layers[1].self_attn
    assert [p.shape[0] for p in (attention.q_proj.weight, attention.k_proj.weight)] == [8, 8]
    assert both(TOKENS, attention_mask=mask).logits.isfinite().all()


def test_queries_that_share_no_key_are_refused() -> None:
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **SPECIAL
    )
    model = transformers.LlamaForCausalLM(config)
    with pytest.raises(SpaceError, match="neither returns channels of its own nor is it attention"):
        searchable(model, {"model.layers.0.self_attn.num_key_value_groups": Width([1])}, TOKENS)
