"""The sizes of a transformer, as its checkpoint's config gives them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TransformerConfig"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The fields of a checkpoint's `transformer` config that the model depends on."""

    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    in_channels: int
    out_channels: int
    caption_channels: int
    norm_eps: float = 1e-6
    positional_embedding_theta: float = 10_000.0
    positional_embedding_max_pos: tuple[int, int, int] = (20, 2048, 2048)
    timestep_scale_multiplier: float = 1_000.0
    causal_temporal_positioning: bool = False

    @property
    def inner_dim(self) -> int:
        """The width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim
