"""The AutoFormer space: vision transformers of chosen width and depth, heads and MLP of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from spacelang import Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError, closest, quoted

from ..operations.cell_operations import check_probability
from ..operations.transformer_operations import ElasticClassToken, TransformerLayer
from ..published import PublishedSpace

PRESETS: dict[str, dict[str, tuple[float, ...]]] = {
    "tiny": {
        "search_embed_dim": (192, 216, 240),
        "search_mlp_ratio": (3.0, 3.5, 4.0),
        "search_num_heads": (3, 4),
        "search_depth": (12, 13, 14),
    },
    "small": {
        "search_embed_dim": (320, 384, 448),
        "search_mlp_ratio": (3.0, 3.5, 4.0),
        "search_num_heads": (5, 6, 7),
        "search_depth": (12, 13, 14),
    },
    "base": {
        "search_embed_dim": (528, 576, 624),
        "search_mlp_ratio": (3.0, 3.5, 4.0),
        "search_num_heads": (8, 9, 10),
        "search_depth": (14, 15, 16),
    },
}
"""Published spaces by name, as constructor arguments."""


class AutoFormer(PublishedSpace):
    """The space of AutoFormer; the default is its tiny one, `AutoFormer.preset("base")` names the others.

    Decisions: `embed_dim` and `depth` of the network, `mlp_ratio_{i}` and `num_head_{i}` of each layer; sizes
    are slices of shared weights. A head has `head_dim` channels whatever the width, attention knows relative
    positions, and the classifier sees the mean of the patches. Source: arXiv:2107.00651.

    Args:
        search_embed_dim: candidates of the width.
        search_mlp_ratio: candidates of the MLP's hidden size, as a multiple of the width.
        search_num_heads: candidates of the number of heads.
        search_depth: candidates of the number of layers.
        num_classes: number of classes.
        image_size: height and width of the images, a multiple of `patch_size`.
        patch_size: height and width of a patch.
        in_channels: channels of the images.
        head_dim: channels of a head.
        dropout: dropout of every branch.
        drop_path_prob: drop-path rate of the last layer of the deepest network; it rises linearly from 0.

    Raises:
        SpaceError: `image_size` is no multiple of `patch_size`.
    """

    def __init__(
        self,
        search_embed_dim: Sequence[int] = (192, 216, 240),
        search_mlp_ratio: Sequence[float] = (3.0, 3.5, 4.0),
        search_num_heads: Sequence[int] = (3, 4),
        search_depth: Sequence[int] = (12, 13, 14),
        *,
        num_classes: int = 1000,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        head_dim: int = 64,
        dropout: float = 0.0,
        drop_path_prob: float = 0.0,
    ) -> None:
        super().__init__()
        size, rest = divmod(image_size, patch_size)
        if size < 1 or rest:
            raise SpaceError(
                f"image_size must be a multiple of patch_size; got image_size={image_size}, "
                f"patch_size={patch_size}."
            )
        embed_dim = value_choice(search_embed_dim, label="embed_dim")
        last_layer = max(max(search_depth) - 1, 1)
        drop_path_prob = check_probability(drop_path_prob)

        def layer(index: int) -> TransformerLayer:
            return TransformerLayer(
                embed_dim,
                value_choice(search_num_heads, label=f"num_head_{index}"),
                value_choice(search_mlp_ratio, label=f"mlp_ratio_{index}"),
                head_dim=head_dim,
                size=size,
                dropout=dropout,
                drop_path=drop_path_prob * index / last_layer,
            )

        self.patch_embed = space_nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)
        self.class_token = ElasticClassToken(size * size, embed_dim)
        self.blocks = Repeat(layer, depth=value_choice(search_depth, label="depth"))
        self.norm = space_nn.LayerNorm(embed_dim)
        self.head = space_nn.Linear(embed_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, in_channels, image_size, image_size) -> (B, num_classes)."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = self.norm(self.blocks(self.class_token(patches)))  # (B, N + 1, D)
        logits: Tensor = self.head(tokens[:, 1:].mean(dim=1))
        return logits

    @classmethod
    def preset(cls, name: str, **arguments: Any) -> Self:
        """Make a published space: "tiny", "small" or "base".

        Args:
            name: a key of `PRESETS`.
            arguments: further constructor arguments, or some in place of the preset's.

        Raises:
            SpaceError: unknown name.
        """
        if name not in PRESETS:
            raise SpaceError(
                f"AutoFormer has presets {quoted(PRESETS)}; got {name!r}.{closest(name, PRESETS)}"
            )
        given: dict[str, Any] = {**PRESETS[name], **arguments}
        return cls(**given)
