"""`Language`: losses and perplexities in closed form, padding, batches that do not fit, searches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, value_choice
from spacelang.errors import SpaceError
from spacelang.evaluators import AverageOnPlateau, Language, LanguageModule, Lightning, RateByLength
from spacelang.evaluators.data import Windows
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


# ---- windows of a text


class Counter(nn.Module):
    """Logits are the number of tokens read so far, with a weight; the state is that number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[float | None] = []

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.seen.append(None if state is None else state[0, -1, 0].tolist())
        before = 0.0 if state is None else state[:, -1:]
        count = before + torch.arange(1.0, tokens.shape[1] + 1)[None, :, None].expand(len(tokens), -1, 1)
        return self.weight * count, count + 0 * self.weight.sum()


TEXT = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])


def test_rows_and_windows_of_a_text() -> None:
    """Written out by hand: 17 tokens in two rows of 8, of which the last token is only a target."""
    windows = Windows(TEXT, 2, 3)
    assert len(windows) == 3
    found = [(w.inputs.tolist(), w.targets.tolist(), w.start) for w in windows]
    assert found == [
        ([[0, 1, 2], [2, 0, 1]], [[1, 2, 0], [0, 1, 2]], 0),
        ([[0, 1, 2], [2, 0, 1]], [[1, 2, 0], [0, 1, 2]], 3),
        ([[0], [2]], [[1], [0]], 6),
    ]


def test_varied_windows_cover_the_text_and_come_from_the_seed() -> None:
    text = torch.arange(20_001)
    windows = Windows(text, 1, 35, varied=True)

    def drawn(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return [window.inputs.shape[1] for window in windows]

    lengths = drawn(0)
    assert sum(lengths) == 20_000
    assert lengths == drawn(0) != drawn(1)
    assert min(lengths[:-1]) >= 5
    assert max(lengths) <= 55
    # int() rounds down.
    assert sum(lengths) / len(lengths) == pytest.approx(0.95 * 34.5 + 0.05 * 17, abs=0.6)
    with pytest.raises(TypeError, match="no fixed number"):
        len(windows)


def test_the_state_is_carried_within_a_pass_and_each_pass_has_its_own(quiet: Any) -> None:
    model = Counter()
    windows = Windows(TEXT, 2, 3)
    evaluator = Language(train_dataloaders=windows, val_dataloaders=windows, max_epochs=2, **quiet)
    evaluator.evaluate(model)
    passes = [None, 3, 6]
    assert model.seen[-12:] == passes * 4  # training and validation, twice; a sanity check before


def test_a_window_that_is_computed_again_begins_with_the_same_state() -> None:
    """As the four passes of a second-order step; the batches of the logits have a memory of their own."""
    model = Counter()
    module = LanguageModule()
    train, val = list(Windows(TEXT, 2, 3)), list(Windows(TEXT, 2, 3))
    for batch in (train[0], val[0], train[0], train[0], train[1], val[1], train[1], val[2], train[2]):
        stepped(module, model, batch)
    assert model.seen == [None, None, None, None, 3, 3, 3, 6, 6]
    assert train[0].memory.before(6) is not None
    assert not train[0].memory.before(6).requires_grad


def test_slowness_is_added_to_the_loss_of_training() -> None:
    """Counts grow by one a step, so the mean squared difference is 1; of one state there is none."""
    long, short = Windows(TEXT, 2, 4), Windows(TEXT, 2, 1)
    for windows, expected in ((long, 0.5), (short, 0.0)):
        plain, slow = (
            stepped(LanguageModule(slowness=weight), Counter(), next(iter(windows))) for weight in (0.0, 0.5)
        )
        assert (slow - plain).item() == pytest.approx(expected)


def test_slowness_needs_states() -> None:
    with pytest.raises(
        SpaceError, match=r"slowness compares the hidden states .*Windows\(text, batch_size\)"
    ):
        stepped(LanguageModule(slowness=1.0), bigrams(), torch.tensor([[0, 1, 0]]))


def test_windows_need_a_recurrent_model() -> None:
    with pytest.raises(SpaceError, match=r"for a window of text; expected \(logits, state\)"):
        stepped(LanguageModule(), bigrams(), next(iter(Windows(TEXT, 2, 3))))


@pytest.mark.parametrize(
    ("text", "batch_size", "words"),
    [
        (TEXT.float(), 2, "a vector of word numbers"),
        (TEXT[None], 2, "a vector of word numbers"),
        (TEXT, 9, "batch_size=9 must be an integer from 1 to 8"),
        (TEXT, 0, "batch_size=0"),
    ],
)
def test_texts_that_do_not_fit(text: Tensor, batch_size: int, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        Windows(text, batch_size)


# ---- the recipe of recurrent networks


class Recorded(Callback):
    """Learning rates and weights at each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.weights: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.weights.append(module.model.weight.detach().clone())
        assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5

    def __deepcopy__(self, memo: Any) -> Recorded:
        return self  # evaluators copy their callbacks


def test_rates_follow_the_length_of_windows(quiet: Any) -> None:
    recorded = Recorded()
    evaluator = Language(
        0.5, 0.0, torch.optim.SGD, train_dataloaders=Windows(TEXT, 2, 3), max_epochs=1,
        callbacks=[RateByLength(6), recorded], **quiet,
    )  # fmt: skip
    evaluator.fit(Counter())
    assert recorded.rates == [0.25, 0.25, 0.5 / 6]  # windows of 3, 3 and 1
    with pytest.raises(SpaceError, match=r"a batch is a Tensor\. Use Windows"):
        RateByLength().on_train_batch_start(None, None, TEXT, 0)  # type: ignore[arg-type]


def test_weights_are_averaged_once_the_loss_stops_falling(quiet: Any) -> None:
    """The mean of the weights after each step since the switch, in validation and in the end."""
    recorded, average = Recorded(), AverageOnPlateau(patience=1)
    average.__class__ = type("Same", (AverageOnPlateau,), {"__deepcopy__": lambda self, memo: self})
    losses = iter([3.0, 2.0, 2.5, 3.5, 1.0])

    class Scripted(LanguageModule):
        """Validation losses as written; the network validates as it is, or with the mean."""

        validated: ClassVar[list[Tensor]] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.validated.append(self.model.weight.detach().clone())
            self.log("val_loss", next(losses))

    windows = Windows(TEXT, 2, 8)  # one window a pass
    evaluator = Lightning(
        Scripted(0.5, 0.0, torch.optim.SGD), train_dataloaders=windows, val_dataloaders=windows,
        max_epochs=5, callbacks=[recorded, average], num_sanity_val_steps=0, **quiet,
    )  # fmt: skip
    model = Counter()
    evaluator.fit(model)
    steps = recorded.weights
    # 3.0 and 2.0 are compared with nothing, 2.5 with 3.0, and 3.5 with 2.0: there it switches.
    assert average.losses == [3.0, 2.0, 2.5, 3.5, 1.0]
    for seen, own in zip(Scripted.validated[:4], steps, strict=False):
        assert torch.equal(seen, own)
    assert torch.equal(Scripted.validated[4], steps[4])  # the first step since
    assert torch.equal(model.weight, steps[4])


def test_the_mean_after_the_switch(quiet: Any) -> None:
    recorded, average = Recorded(), AverageOnPlateau()
    average.__class__ = type("Same", (AverageOnPlateau,), {"__deepcopy__": lambda self, memo: self})
    average.switched = True
    evaluator = Language(
        0.5, 0.0, torch.optim.SGD, train_dataloaders=Windows(TEXT, 2, 2), max_epochs=1,
        callbacks=[recorded, average], **quiet,
    )  # fmt: skip
    model = Counter()
    evaluator.fit(model)
    mean = torch.stack(recorded.weights).mean(0)
    torch.testing.assert_close(model.weight, mean)
    again = AverageOnPlateau()
    again.load_state_dict(average.state_dict())
    assert again.switched


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
