"""The text side of the tiny bases: a word tokenizer and a random, frozen UMT5 encoder.

Its embeddings tell words and their order apart, which is all that eight-word prompts need; nothing is learnt in it.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from idgrpo.tinyworld.people import ATTRIBUTES
from idgrpo.tinyworld.scene import MOTIONS, NUMBER_WORDS, PLACES

TEXT_LENGTH = 16
TEXT_WIDTH = 64


def words() -> list[str]:
    """List the words that prompts of this world use, descriptions of people included."""
    phrases = [*NUMBER_WORDS, *MOTIONS, *PLACES, *(value for values in ATTRIBUTES.values() for value in values)]
    phrases += ["a and in the is are with person people hair shirt trousers skin scene , . : ;"]
    return sorted({word for phrase in phrases for word in phrase.split()})


def word_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words that ends every text with `</s>`."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *extra, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_LENGTH
    )


def save_text_encoder(out: Path, seed: int = 0) -> None:
    """Write `tokenizer/` and `text_encoder/` under `out`."""
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(out / "tokenizer")
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8, relative_attention_max_distance=16, dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    encoder = UMT5EncoderModel(config)
    with torch.no_grad():
        # The family's default initialisation makes the layers nearly mute next to the word embeddings.
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 2:
                embedding = "shared" in name or "embed_tokens" in name or "relative_attention_bias" in name
                parameter.normal_(0, 1.0 if embedding else parameter.shape[1] ** -0.5)
    encoder.half().save_pretrained(out / "text_encoder")


@torch.no_grad()
def encode_text(encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> torch.Tensor:
    """Encode prompts to [batch, TEXT_LENGTH, width], zero behind the last token, as the Wan pipelines do."""
    batch = tokenizer(prompts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    hidden = encoder(batch.input_ids, batch.attention_mask).last_hidden_state
    return hidden * batch.attention_mask.unsqueeze(-1)
