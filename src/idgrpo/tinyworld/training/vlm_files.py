"""The tiny vision-language model: architecture, word tokenizer, processor files and its reward preprocessing."""

import json
from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from idgrpo.tinyworld.people import ATTRIBUTES
from idgrpo.tinyworld.training.text import word_tokenizer

MAX_PEOPLE = 3
WIDTH = 128
ROPE_THETA = 4.0  # small, for pictures are four tokens wide: at 1000, columns would differ by 0.01 rad and be one place
TOKENS_PER_SECOND, SECOND_PER_GRID = 16, 0.125  # two positions between two frames
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
RUBRIC = tuple(f"<|r{{index}}_{name.replace(' ', '_')}|>" for name in ATTRIBUTES)
MARKERS = tuple(f"<|ref_{index}|>" for index in range(1, MAX_PEOPLE + 1))
RUBRIC_TOKENS = tuple(token.format(index=index) for index in range(1, MAX_PEOPLE + 1) for token in RUBRIC)
REWARD = "<|SA_reward|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image_pad|>{% elif part['type'] == 'video' %}<|video_pad|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
PREPROCESSING = {
    "num_frames": 4,
    "min_pixels": 1024,
    "max_pixels": 1024,
    "fps": 16,
    "tokens_per_second": TOKENS_PER_SECOND,
    "second_per_grid": SECOND_PER_GRID,
    "template_name": "tiny_v1",
    "template_text": "{references}{video}{rubric}" + REWARD,
    "reference_text": "<|ref_{index}|>{image}",
    "rubric_text": "".join(RUBRIC),
    "include_prompt": False,
    "special_tokens": [*MARKERS, *RUBRIC_TOKENS, REWARD],
    "image_text": "<|image_pad|>",
    "video_text": "<|video_pad|>",
    "max_references": MAX_PEOPLE,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Make the word tokenizer with the vision, marker, rubric and reward tokens in its vocabulary."""
    words = word_tokenizer(extra=(*VISION, *MARKERS, *RUBRIC_TOKENS, REWARD))
    words.add_tokens([*VISION, *MARKERS, *RUBRIC_TOKENS, REWARD], special_tokens=True)
    words.chat_template = CHAT_TEMPLATE
    words.model_max_length = 512
    return words


def new_model(words: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Make the untrained model; every matrix starts at deviation 1 / sqrt(fan-in)."""
    ids = {token: words.convert_tokens_to_ids(token) for token in VISION}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 192, "num_heads": 4, "patch_size": 4, "temporal_patch_size": 1,
            "spatial_merge_size": 2, "window_size": 32, "fullatt_block_indexes": [0, 1], "out_hidden_size": WIDTH,
            "tokens_per_second": TOKENS_PER_SECOND,
        },
        text_config={
            "vocab_size": len(words), "hidden_size": WIDTH, "intermediate_size": 320, "num_hidden_layers": 5,
            "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": [4, 6, 6]},
            "pad_token_id": words.pad_token_id, "bos_token_id": None, "eos_token_id": words.eos_token_id,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5 if "embed_tokens" in name else parameter[0].numel() ** -0.5)
    return model


def save_vlm(model: Qwen2_5_VLForConditionalGeneration, words: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a directory that transformers loads by itself, in float16, with the reward preprocessing beside it."""
    geometry = {
        "patch_size": 4, "merge_size": 2, "temporal_patch_size": 1, "size": {"shortest_edge": 1024, "longest_edge": 1024},
    }  # fmt: skip
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**geometry, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )
    state = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(out, state_dict=state)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float16"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    processor.save_pretrained(out)
    (out / "idgrpo_reward.json").write_text(json.dumps(PREPROCESSING, indent=1) + "\n")
