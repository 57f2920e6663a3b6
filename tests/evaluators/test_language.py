"""`Language`: losses and perplexities in closed form, padding, batches that do not fit, searches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, value_choice
from spacelang.errors import SpaceError
from spacelang.evaluators import Language, LanguageModule
from spacelang.evaluators.training.language_model import Perplexity
from spacelang.quiet import captured_log
from spacelang.strategies import DARTS
from spacelang.strategies.multi_trial import Grid
from spacelang.trials import Minimize

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

PAD = 3
# After 0 comes 0 with probability 1/2, and 1 or 2 with 1/4 each; after 1 and 2 comes 0; padding never.
BIGRAMS = torch.tensor([[0.5, 0.25, 0.25, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0.25] * 4])


def bigrams(probabilities: Tensor = BIGRAMS) -> nn.Embedding:
    """A model (B, T) -> (B, T, vocabulary) with these probabilities of the next token."""
    return nn.Embedding.from_pretrained(probabilities.log().clamp(min=-1e4), freeze=False)


def batches(*tensors: Any) -> DataLoader[Any]:
    """A loader of just these batches."""
    return DataLoader(tensors, batch_size=None)  # type: ignore[arg-type]


def validated(model: nn.Module, *given: Any, **arguments: Any) -> dict[str, float]:
    evaluator = Language(
        val_dataloaders=batches(*given), enable_progress_bar=False, accelerator="cpu", **arguments
    )
    return evaluator.validate(model)


def stepped(module: LanguageModule, model: nn.Module, batch: Any) -> Tensor:
    module.set_model(model)
    with captured_log(module):
        return module.training_step(batch, 0)


# ---- what it measures


@pytest.mark.parametrize("vocabulary", [2, 7, 50])
def test_a_uniform_model_has_the_vocabulary_as_perplexity(vocabulary: int) -> None:
    tokens = torch.randint(vocabulary, (4, 6), generator=torch.Generator().manual_seed(0))
    model = bigrams(torch.full((vocabulary, vocabulary), 1 / vocabulary))
    metrics = validated(model, tokens, tokens[:1])
    expected = {"val_loss": math.log(vocabulary), "val_perplexity": vocabulary}
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_perplexity_is_of_all_tokens_and_not_a_mean_over_batches() -> None:
    first, second = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 1]])  # 3 tokens of 1/2, 1 token of 1/4
    metrics = validated(bigrams(), first, second)
    assert metrics["val_loss"] == pytest.approx(5 / 4 * math.log(2))
    assert metrics["val_perplexity"] == pytest.approx(2 ** (5 / 4))  # the mean of 2 and 4 is another number


def test_a_tensor_is_shifted_and_a_pair_is_taken_as_it_is() -> None:
    tokens = torch.tensor([[0, 1, 0, 2, 0], [0, 0, 2, 0, 1]])
    shifted = validated(bigrams(), tokens)
    assert shifted == pytest.approx(validated(bigrams(), (tokens[:, :-1], tokens[:, 1:])))
    assert shifted == pytest.approx(validated(bigrams(), [tokens.int()]))  # as from a TensorDataset
    assert shifted["val_perplexity"] == pytest.approx(2 ** (9 / 8))  # 1/2 once, 1/4 four times, 1 three times


def test_padding_does_not_count() -> None:
    padded = torch.tensor([[0, 1, 0, 0], [0, 0, PAD, PAD]])
    rows = torch.tensor([[0, 1, 0, 0]]), torch.tensor([[0, 0]])
    metrics = validated(bigrams(), padded, ignore_index=PAD)
    assert metrics == pytest.approx(validated(bigrams(), *rows))
    assert metrics["val_loss"] == pytest.approx(4 / 4 * math.log(2))  # 1/4, 1, 1/2; 1/2
    targets = torch.tensor([[1, 0, 0, -100], [0, -100, -100, -100]])
    assert metrics == pytest.approx(validated(bigrams(), (padded, targets)))


def test_a_batch_of_padding_alone_changes_nothing() -> None:
    tokens, padding = torch.tensor([[0, 0, 0]]), torch.full((2, 3), PAD)
    metrics = validated(bigrams(), tokens, padding, ignore_index=PAD)
    assert metrics == pytest.approx({"val_loss": math.log(2), "val_perplexity": 2})
    model = bigrams()
    stepped(LanguageModule(ignore_index=PAD), model, padding).backward()
    assert model.weight.grad.abs().sum() == 0


def test_training_and_test_log_the_same_loss(quiet: Any) -> None:
    tokens = torch.tensor([[0, 0, 0, 0]])
    evaluator = Language(train_dataloaders=batches(tokens), max_epochs=1, **quiet)
    logged = evaluator.fit(bigrams()).callback_metrics
    assert {name: float(value) for name, value in logged.items()} == pytest.approx(
        {"train_loss": math.log(2)}
    )
    test = evaluator.test(bigrams(), batches(tokens))
    assert test == pytest.approx({"test_loss": math.log(2), "test_perplexity": 2})


def test_it_learns_the_bigrams(quiet: Any) -> None:
    tokens = torch.tensor([[0, 1, 2, 0, 1, 2, 0]])
    evaluator = Language(
        learning_rate=0.5, max_epochs=20, train_dataloaders=batches(tokens), val_dataloaders=batches(tokens),
        **quiet,
    )  # fmt: skip
    assert evaluator.evaluate(nn.Embedding.from_pretrained(torch.zeros(3, 3), freeze=False)) == pytest.approx(
        {"val_loss": 0, "val_perplexity": 1}, abs=0.01
    )


def test_perplexity_of_improbable_tokens_is_finite() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(120.0), 1)  # a probability that is 0 in float32
    metric.update(torch.tensor(0.0), 119)
    assert float(metric.compute()) == pytest.approx(math.e)


def test_half_precision_is_compared_in_single() -> None:
    output, _ = LanguageModule().compared(torch.zeros(1, 2, 3, dtype=torch.float16), torch.zeros(1, 2).long())
    assert output.dtype == torch.float32


# ---- batches and logits that do not fit

TOKENS = torch.zeros(2, 5).long()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (TOKENS[0], r"holds a tensor of shape \(5,\), torch.int64; expected tokens .*tokens\[None\]"),
        (TOKENS.float(), r"shape \(2, 5\), torch.float32; expected .*torch.int64.*tokens.long\(\)"),
        ((TOKENS, TOKENS.bool()), "torch.bool"),
        ((TOKENS, TOKENS[:, 1:]), r"inputs have shape \(2, 5\) and targets \(2, 4\); expected one shape"),
        (TOKENS[:, :1], r"\(2, 1\) have no next token; use rows of at least two"),
        ((TOKENS, TOKENS, TOKENS), r"a batch is a tuple of 3; expected tokens .*collate_fn"),
        ({"input_ids": TOKENS}, r"a batch is a dict; expected tokens \(batch, time\), or a pair"),
        ((TOKENS, [1, 2]), "holds a list of 2"),
    ],
)
def test_wrong_batches_are_named(batch: Any, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        stepped(LanguageModule(), bigrams(), batch)


class Fixed(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, tokens: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.zeros(2, 4), r"a tensor of shape \(2, 4\).*\(2, 5\); expected logits \(2, 5, vocabulary\)"),
        (torch.zeros(2, 4, 5), r"shape \(2, 4, 5\)"),  # (B, vocabulary, T)
        ((torch.zeros(2, 5, 4), None), "a tuple of 2 .* without a recurrent state"),
    ],
)
def test_wrong_logits_are_named(output: Any, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        stepped(LanguageModule(), Fixed(output), TOKENS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rate": -1}, "learning_rate=-1 must be a number above 0"),
        ({"ignore_index": None}, "ignore_index=None must be an integer"),
        ({"criterion": nn.CrossEntropyLoss()}, "no argument 'criterion'"),
    ],
)
def test_values_out_of_range(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        Language(**arguments)


# ---- searches


class Successor(nn.Module):
    """Certain that the next of five tokens is some steps on in the circle."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, tokens: Tensor) -> Tensor:
        return 10 * nn.functional.one_hot((tokens + self.steps) % 5, 5).float()


class Circle(ModelSpace):
    """A step to choose, and the tokens' frequencies to train."""

    def __init__(self) -> None:
        super().__init__()
        self.step = LayerChoice({"same": Successor(0), "next": Successor(1)}, label="step")
        self.frequencies = nn.Parameter(torch.zeros(5))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.step(tokens) + self.frequencies


def circles() -> dict[str, Any]:
    rows = (torch.arange(8)[:, None] + torch.arange(6)) % 5
    return dict.fromkeys(("train_dataloaders", "val_dataloaders"), DataLoader(TensorDataset(rows), 4))


def test_darts_finds_the_step(tmp_path: Path, quiet: Any) -> None:
    evaluator = Language(max_epochs=3, **circles(), **quiet)
    experiment = Experiment(Circle(), evaluator, DARTS(learning_rate=0.1), directory=tmp_path / "run", seed=0)
    experiment.run()
    assert experiment.best == {"step": "next"}


@pytest.mark.slow
def test_trials_find_the_step_together_with_hyper_parameters(tmp_path: Path, quiet: Any) -> None:
    evaluator = Language(
        learning_rate=value_choice([1e-4, 1e-3], label="lr"), max_epochs=1, **circles(), **quiet
    )
    assert evaluator.default_objective == Minimize("val_perplexity")
    experiment = Experiment(Circle(), evaluator, Grid(), max_trials=4, directory=tmp_path / "run", seed=0)
    experiment.run()
    assert experiment.best["step"] == "next"
    # one logit of 10 beside four of 0
    assert experiment.pareto[0].metrics["val_perplexity"] == pytest.approx(1 + 4 * math.exp(-10), abs=1e-5)
    assert evaluator.decided({"lr": 1e-4}).module.hparams["learning_rate"] == 1e-4
