"""Text encoders with a small vocabulary of whole words, in the layout of Stable Diffusion XL."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

LENGTH, WIDTH = 12, 32


def tokenizer(folder: Path, words: list[str]) -> Any:
    """Write a vocabulary into `folder` in which each of `words` is a token, and read it.

    Other words are spelt by their letters.

    Raises
    ------
    ValueError
        If a word is split: its merges clash with those of one before it, and it should come first.
    """
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        done = parts[0]
        for part in parts[1:]:
            merges.append(f"{done} {part}")
            done += part
            vocabulary.append(done)
    # Words that begin alike share merges.
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    merges = list(dict.fromkeys(merges))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    found = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)
    for word in words:
        if len(found(word).input_ids) != 3:
            raise ValueError(f"`{word}` is not one token: {found.tokenize(word)}.")
    return found


def encoders(words: Any, seed: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return two text encoders with random weights, which tell words and their places apart.

    They are not trained: the UNet learns what their embeddings stand for.
    """
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=2 * WIDTH,
        projection_dim=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, hidden_act="gelu",
    )  # fmt: skip
    pair = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    for encoder in pair:
        # As they are made, words would be a fiftieth of what layers add to them.
        for name, value in encoder.named_parameters():
            if "embedding.weight" in name:
                torch.nn.init.normal_(value, std=1.0 if "token" in name else 0.3)
    return pair


@torch.no_grad()
def embed(
    words: Any, pair: tuple[CLIPTextModel, CLIPTextModelWithProjection], texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed texts as Stable Diffusion XL does; an empty one as zeros."""
    tokens = words(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    outputs = [encoder(tokens, output_hidden_states=True) for encoder in pair]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    pooled = outputs[1].text_embeds
    is_empty = torch.tensor([not text for text in texts])
    return hidden * ~is_empty[:, None, None], pooled * ~is_empty[:, None]
