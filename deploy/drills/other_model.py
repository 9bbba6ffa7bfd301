"""A second embedding model, made of the first one: of another dimension, and weaker, but it knows what words mean."""

from __future__ import annotations

from pathlib import Path

DIMENSION = 192
HEADS = 6


def build_other_model(folder: Path) -> Path:
    """The default model's words, each by its 192 strongest components, meaned over a text; saved in `folder`.

    Its one layer adds nothing to what comes in: the model is a bag of words, with the first one's tokenizer.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    from memory.embedding.model import DEFAULT_MODEL, resolve_model

    installed = str(resolve_model(DEFAULT_MODEL))
    words = AutoModel.from_pretrained(installed).get_input_embeddings().weight.detach()
    _, _, components = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    config = BertConfig(vocab_size=len(words), hidden_size=DIMENSION, num_hidden_layers=1, num_attention_heads=HEADS,
                        intermediate_size=DIMENSION, max_position_embeddings=512)  # fmt: skip
    model = BertModel(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        model.get_input_embeddings().weight.copy_((words - words.mean(0)) @ components[:DIMENSION].T)
    inside = folder / "inside"
    model.save_pretrained(inside)
    AutoTokenizer.from_pretrained(installed).save_pretrained(inside)
    transformer = Transformer(str(inside), max_seq_length=512)
    modules = [transformer, Pooling(DIMENSION, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "whole"))
    return folder / "whole"
