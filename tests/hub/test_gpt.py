"""`GPT`: its counts, that no word sees a later one, and the outputs of another library's GPT-2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spacelang import SpaceError, model_context
from spacelang.hub import GPT

TINY: dict[str, Any] = {
    "vocabulary": 11, "length": 6, "embed_dim": (8, 12), "num_heads": (2, 3), "mlp_ratio": (2.0, 4.0),
    "depth": (1, 2), "head_dim": 4,
}  # fmt: skip
LARGEST = {
    "embed_dim": 12, "depth": 2, "num_head_0": 3, "mlp_ratio_0": 4.0, "num_head_1": 3, "mlp_ratio_1": 4.0
}  # fmt: skip


def built() -> Any:
    torch.manual_seed(0)
    with model_context(LARGEST):
        return GPT(**TINY).double().eval()


def test_the_largest_network_is_gpt2_small() -> None:
    """124,439,808 parameters, and 50,257 x 768 of an output layer that shares no weight."""
    arch: dict[str, Any] = {"embed_dim": 768, "depth": 12}
    arch |= {f"num_head_{i}": 12 for i in range(12)} | {f"mlp_ratio_{i}": 4.0 for i in range(12)}
    with torch.device("meta"), model_context(arch):
        model = GPT()
    assert sum(p.numel() for p in model.parameters()) == 124_439_808 + 50_257 * 768
    with torch.device("meta"):
        space = GPT()
    assert space.size() == 3 * sum(9**depth for depth in (6, 8, 10, 12))


def test_no_word_sees_a_later_one() -> None:
    model, tokens = built(), torch.arange(6)[None]
    other = tokens.clone()
    other[0, 4:] = 10
    assert torch.equal(model(other)[:, :4], model(tokens)[:, :4])
    assert not torch.equal(model(other)[:, 4], model(tokens)[:, 4])
    torch.testing.assert_close(model(tokens[:, :3]), model(tokens)[:, :3], rtol=0, atol=1e-12)


def test_texts_that_are_too_long() -> None:
    with pytest.raises(SpaceError, match="a text of 7 words; this network reads at most length=6"):
        built()(torch.zeros(1, 7).long())


def test_gpt2_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=6, n_embd=12, n_layer=2, n_head=3, tie_word_embeddings=False
    )
    theirs, ours = transformers.GPT2LMHeadModel(config).double().eval(), built()
    names = {"ln_1": "attention_norm", "ln_2": "mlp_norm", "attn.c_proj": "attention.proj"}
    names |= {"mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}
    state = {"words.weight": "transformer.wte.weight", "positions.weight": "transformer.wpe.weight"}
    state |= {"head.weight": "lm_head.weight"}
    state |= {f"norm.{part}": f"transformer.ln_f.{part}" for part in ("weight", "bias")}
    source = theirs.state_dict()
    weights = {ours_name: source[name] for ours_name, name in state.items()}
    for i in range(2):
        for name, own in names.items():
            for part in ("weight", "bias"):
                tensor = source[f"transformer.h.{i}.{name}.{part}"]
                weights[f"layers.{i}.{own}.{part}"] = tensor.T if tensor.dim() == 2 else tensor
        for part in ("weight", "bias"):
            joined = source[f"transformer.h.{i}.attn.c_attn.{part}"].chunk(3, dim=-1)
            for own, tensor in zip("qkv", joined, strict=True):
                weights[f"layers.{i}.attention.{own}.{part}"] = tensor.T if part == "weight" else tensor
    ours.load_state_dict(weights)
    tokens = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-12)
