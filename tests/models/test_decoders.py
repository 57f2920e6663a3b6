"""Language models of transformers: their cache, generation and files after a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from spacelang import Depth, Skip, Width, profile, searchable
from spacelang.costs import expected_cost
from tests.models.networks import randomised

TOKENS = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(0))
SPECIAL = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=32, **SPECIAL)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        **SPECIAL,
    )
    return transformers.LlamaForCausalLM(config)


CHOICES = {
    gpt2: {
        "transformer.h.*": Skip(),
        "transformer.h.*.attn": Width([0.5, 1.0], label="heads"),
        "transformer.h.*.mlp.c_fc": Width([0.5, 1.0], label="mlp"),
    },
    llama: {
        "model.layers.*": Skip(),
        "model.layers.*.self_attn": Width([0.5, 1.0], label="heads"),
        "model.layers.*.mlp.gate_proj": Width([0.5, 1.0], label="mlp"),
    },
}


@pytest.mark.parametrize("make", list(CHOICES), ids=lambda make: make.__name__)
@pytest.mark.parametrize("skipped", [(), (0,), (1,), (0, 2)])
def test_decoding_with_a_cache_is_decoding_without(make: Any, skipped: tuple[int, ...]) -> None:
    space = searchable(randomised(make()), CHOICES[make], TOKENS)
    layers = [d.label for d in space.decisions if d.candidates == ("keep", "skip")]
    arch: dict[str, Any] = {label: "skip" if i in skipped else "keep" for i, label in enumerate(layers)}
    arch |= {"heads": 2, "mlp": 64} if make is gpt2 else {"heads": 1, "mlp": 32}
    frozen: Any = space.freeze(arch)
    assert expected_cost(space, "flops", TOKENS).of(arch) == profile(frozen, TOKENS).flops
    with torch.no_grad():
        past = frozen(TOKENS[:, :-1], use_cache=True).past_key_values
        cached = frozen(TOKENS[:, -1:], past_key_values=past).logits[:, -1]
        assert torch.allclose(cached, frozen(TOKENS).logits[:, -1], rtol=0, atol=1e-5)
        mask = torch.ones_like(TOKENS)
        mask[0, :3] = 0
        assert frozen(TOKENS, attention_mask=mask).logits.isfinite().all()


def test_a_cut_model_generates_and_keeps_its_ties_and_its_file(tmp_path: Path) -> None:
    space = searchable(randomised(gpt2()), CHOICES[gpt2], TOKENS)
    arch = {f"transformer.h.{i}": "skip" if i == 0 else "keep" for i in range(3)} | {"heads": 2, "mlp": 64}
    frozen: Any = space.freeze(arch)
    assert type(frozen) is transformers.GPT2LMHeadModel
    assert frozen.lm_head.weight is frozen.transformer.wte.weight
    assert frozen.transformer.h[1].attn.config is frozen.config  # settings changed later reach every layer
    generated = frozen.generate(TOKENS[:, :4], max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert generated.shape == (2, 9)
    frozen.save_pretrained(tmp_path)
    weights = transformers.modeling_utils.load_state_dict(str(tmp_path / "model.safetensors"))
    other: Any = space.freeze(arch)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(weights, strict=False)
    assert torch.equal(other(TOKENS).logits, frozen(TOKENS).logits)


def test_depth_of_a_decoder() -> None:
    space = searchable(randomised(llama()), {"model.layers": Depth([1, 2, 3])}, TOKENS)
    frozen: Any = space.freeze({"model.layers": 2})
    assert sum("layers.2" in name for name in frozen.state_dict()) == 0
    assert frozen(TOKENS).logits.shape == (2, 9, 100)
