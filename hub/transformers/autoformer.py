"""The AutoFormer space: vision transformers with chosen width and depth, and heads and MLP of every layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from spacelang import Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError, require_number, require_one_of

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

_NNI_NAMES = {
    r"^cls_token\.cls_token$": "class_token.token",
    r"^pos_embed\.pos_embed$": "class_token.position",
    r"\.embeddings_table_v$": ".vertical",
    r"\.embeddings_table_h$": ".horizontal",
}


class AutoFormer(PublishedSpace):
    """The space of AutoFormer. The default is the tiny one; see `AutoFormer.preset("base")` for the others.

    Decisions: `embed_dim` and `depth` of the network, `mlp_ratio_{i}` and `num_head_{i}` of each layer; sizes
    are slices of shared weights. A head has `head_dim` channels at every width, attention uses relative
    positions, and the classifier reads the mean of the patches. Source: arXiv:2107.00651.

    Args:
        search_embed_dim: Candidates for the width.
        search_mlp_ratio: Candidates for the MLP's hidden size, as a multiple of the width.
        search_num_heads: Candidates for the number of heads.
        search_depth: Candidates for the number of layers.
        num_classes: Number of classes.
        image_size: Height and width of the images, a multiple of `patch_size`.
        patch_size: Height and width of a patch.
        in_channels: Channels of the images.
        head_dim: Channels of a head.
        dropout: Dropout of every branch.
        drop_path_prob: Drop-path rate of the last layer of the deepest network; it rises linearly from 0.

    Raises:
        SpaceError: `image_size` is not a multiple of `patch_size`.
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
        require_number("drop_path_prob", drop_path_prob, least=0, below=1)

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

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of NNI under the names of this network."""
        converted = dict(weights)
        for theirs, ours in _NNI_NAMES.items():
            converted = {re.sub(theirs, ours, name): tensor for name, tensor in converted.items()}
        return converted

    @classmethod
    def preset(cls, name: str, **arguments: Any) -> Self:
        """Make a published space: "tiny", "small" or "base".

        Args:
            name: A key of `PRESETS`.
            arguments: Further constructor arguments, or arguments in place of the preset's.

        Raises:
            SpaceError: the name is unknown.
        """
        require_one_of("preset", name, PRESETS)
        given: dict[str, Any] = {**PRESETS[name], **arguments}
        return cls(**given)
