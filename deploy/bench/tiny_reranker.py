"""A cross-encoder of TinyBERT's shape with random weights: what it says is noise, what it costs is not."""

from __future__ import annotations

import shutil
from pathlib import Path


def build(folder: Path) -> Path:
    """2 layers, 128 wide, with the embedding model's tokenizer of 30,522 pieces; returns the folder of its files."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    from memory.embedding.embedder import Embedder

    torch.manual_seed(1)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source := Embedder().folder() / name).exists():
            shutil.copyfile(source, folder / name)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=512,
        num_labels=1,
        # Wide enough that its scores differ as a trained model's do; in narrower ones all pairs are nearly the same.
        initializer_range=0.1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(folder))
    return folder
