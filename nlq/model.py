"""The network: a pretrained encoder reads the linked question, a small decoder writes the program.

Source of the encoder: all-MiniLM-L6-v2 (Wang et al. 2020, MiniLM; Reimers and Gurevych 2019), 6 layers, 384 wide. The decoder is a
pre-norm transformer (Vaswani et al. 2017) whose vocabulary is the language of programs; its embeddings are tied to its outputs and start
from the encoder's vectors of the tokens' names, so that `customers.membership_tier` begins near "membership tier of customers".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nlq.program import MAX_TOKENS
from nlq.vocabulary import tokens


@dataclass(frozen=True)
class ModelConfig:
    """Sizes. `width` of the decoder, `heads` x (width / heads); `encoder_layers` keeps the first so many layers, None all."""

    width: int = 384
    layers: int = 3
    heads: int = 6
    inner: int = 1024
    dropout: float = 0.1
    vocabulary: int = 0
    encoder_layers: int | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, H, L, D/H)."""
        b, length, d = x.shape
        return x.view(b, length, self.heads, d // self.heads).transpose(1, 2)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.k(x)), self.split(self.v(x))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, L, D) over keys (B, H, S, D/H); mask broadcastable to (B, H, L, S), added to the scores."""
        out = functional.scaled_dot_product_attention(self.split(self.q(x)), k, v, attn_mask=mask)
        b, h, length, d = out.shape
        return self.o(out.transpose(1, 2).reshape(b, length, h * d))


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.own, self.cross = Attention(config.width, config.heads), Attention(config.width, config.heads)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.up, self.down = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, own_mask: Tensor | None, memory: tuple[Tensor, Tensor], memory_mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = self.norms[0](x)
        k, v = self.own.keys(h)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.dropout(self.own(h, k, v, own_mask))
        x = x + self.dropout(self.cross(self.norms[1](x), *memory, memory_mask))
        h = functional.gelu(self.up(self.norms[2](x)))
        return x + self.dropout(self.down(h)), (k, v)


class TextToSql(nn.Module):
    """Encoder and decoder. `encoder` is a transformers model that takes ids and mask and gives `last_hidden_state`."""

    def __init__(self, encoder: nn.Module, config: ModelConfig, encoder_width: int) -> None:
        super().__init__()
        self.config = config
        self.first_mark = 0  # of the rows of the word embedding that training may change
        self.encoder = encoder
        self.bridge = nn.Identity() if encoder_width == config.width else nn.Linear(encoder_width, config.width)
        self.words = nn.Embedding(config.vocabulary or len(tokens()), config.width)
        nn.init.normal_(self.words.weight, std=0.05)
        self.positions = nn.Embedding(MAX_TOKENS, config.width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.last = nn.LayerNorm(config.width)
        self.bias = nn.Parameter(torch.zeros(self.words.num_embeddings))
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Memory float (B, L, width) of ids int64 (B, L) and mask int64 (B, L)."""
        return self.bridge(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state)

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of every layer's cross attention: two of (layers, B, H, L, D/H)."""
        pairs = [layer.cross.keys(encoded) for layer in self._layers()]
        return torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def forward(self, ids: Tensor, mask: Tensor, program: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) of the token after each of program int64 (B, T), teacher forced."""
        encoded = self.encode(ids, mask)
        length = program.shape[1]
        x = self.dropout(self.words(program) + self.positions.weight[:length])
        causal = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        memory_mask = self.added(mask, x.dtype)
        for layer in self._layers():
            x, _ = layer(x, None, causal, layer.cross.keys(encoded), memory_mask)
        return self.logits(x)

    @staticmethod
    def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
        return ((1 - mask[:, None, None, :]) * -1e4).to(dtype)

    def logits(self, x: Tensor) -> Tensor:
        return functional.linear(self.last(x), self.words.weight) + self.bias

    def step(
        self, token: Tensor, position: Tensor, past_k: Tensor, past_v: Tensor, memory_k: Tensor, memory_v: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of N beams of one question.

        Args:
            token, position: int64 (N,) and (1,).
            past_k, past_v: (layers, N, H, t, D/H), t >= 0.
            memory_k, memory_v: (layers, 1, H, L, D/H); mask int64 (1, L).

        Returns:
            log probabilities (N, vocabulary) and the longer past.
        """
        x = (self.words(token) + self.positions(position)).unsqueeze(1)
        memory_mask = self.added(mask, x.dtype)
        n = token.shape[0]
        ks, vs = [], []
        for i, layer in enumerate(self.layers):
            held = tuple(m[i].expand(n, -1, -1, -1) for m in (memory_k, memory_v))
            x, (k, v) = layer(x, (past_k[i], past_v[i]), None, held, memory_mask)
            ks.append(k)
            vs.append(v)
        return torch.log_softmax(self.logits(x)[:, 0].float(), -1), torch.stack(ks), torch.stack(vs)


def load_encoder(base: str | Path, layers: int | None = None) -> tuple[nn.Module, int]:
    """An encoder and its width, from a folder or a hub's name: of an encoder-decoder checkpoint its encoder, else the model.

    Raises:
        ArtifactError: it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel

    from contracts.errors import ArtifactError

    try:
        config = AutoConfig.from_pretrained(str(base))
        if not config.is_encoder_decoder:
            model = AutoModel.from_pretrained(str(base), add_pooling_layer=False, dtype=torch.float32, attn_implementation="sdpa")
        else:
            model = AutoModel.from_pretrained(str(base), dtype=torch.float32).get_encoder()
    except (OSError, ValueError, KeyError, TypeError) as exc:
        how = "Give a folder of a Hugging Face checkpoint, or a name when the hub is in reach"
        raise ArtifactError(f"cannot load the encoder {base}: {exc}. {how}") from exc
    if layers is not None and hasattr(model, "encoder"):
        model.encoder.layer = model.encoder.layer[:layers]
    return model, int(getattr(config, "hidden_size", getattr(config, "d_model", 0)))
