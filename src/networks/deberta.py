"""The published sequence transformer: a DeBERTa-v2 (He et al. 2021) over the slices of a series.

Only weights that tools/import_published.py brought need it, and the package transformers.
"""

from types import ModuleType

import torch
from torch import Tensor, nn

from src.labels import LABELS
from src.networks.pooling import gem_pool
from src.script import UserError

VERSION = "5.24.0"  # of transformers, tested; 4.57.6 gives the same numbers
FEED_FORWARD = 1024  # channels, whatever the width


class PublishedTransformer(nn.Module):
    """The features of a series' slices -> 14 logits. Its weights have the published names."""

    def __init__(
        self, channels: int, layers: int, heads: int, dropout: float, attention_dropout: float
    ):
        super().__init__()
        self.transformer = new_deberta(channels, layers, heads, dropout, attention_dropout)
        self.cls_embedding = nn.Parameter(torch.randn(1, 1, channels) * channels**-0.5)
        self.pool = nn.ParameterDict({"p": torch.full((1,), 3.0)})
        self.fc = nn.Sequential(
            nn.LayerNorm(2 * channels),
            nn.Linear(2 * channels, channels),
            nn.LayerNorm(channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(channels, len(LABELS)),
        )

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        """features: (B, T, C); present: (B, T) bool -> (B, 14). Positions in mm do not count."""
        if torch.jit.is_tracing():  # a file of ONNX drops what nobody reads
            features = features + 0 * positions[..., None]
        batch, _, _ = features.shape
        cls = self.cls_embedding.expand(batch, 1, -1)  # (B, 1, C)
        everywhere = torch.cat([present.new_ones(batch, 1), present], dim=1)  # (B, 1 + T)
        with torch.autocast(features.device.type, enabled=False):  # small beside the encoder
            x = torch.cat([cls, features.float()], dim=1)  # (B, 1 + T, C)
            read = self.transformer(inputs_embeds=x, attention_mask=everywhere.float())
            x = read.last_hidden_state  # (B, 1 + T, C)
            pooled = gem_pool(x, everywhere, self.pool["p"])  # (B, C), of the CLS token, too
            return self.fc(torch.cat([pooled, x[:, 0]], dim=1))


def new_deberta(
    channels: int, layers: int, heads: int, dropout: float, attention_dropout: float
) -> nn.Module:
    """Return an untrained DebertaV2Model. The rest of its configuration is deberta-v3-base's."""
    package = transformers()
    config = package.DebertaV2Config(
        hidden_size=channels,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
        hidden_act="relu",
        conv_act="relu",
        conv_kernel_size=3,
        vocab_size=3,  # no words are read: the features take the place of their embeddings
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=256,
        max_relative_positions=-1,
        max_position_embeddings=512,
        position_biased_input=False,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        layer_norm_eps=1e-7,
    )
    return package.DebertaV2Model(config)


def transformers() -> ModuleType:
    """Import the package transformers; raise UserError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "the published weights need the package transformers: "
            f"pip install transformers=={VERSION}"
        ) from error
    return transformers
