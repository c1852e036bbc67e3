"""Put a trained transformer into a folder that diffusers loads by itself: both bases share one VAE and text encoder."""

import json
import os
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel, WanVACETransformer3DModel

SHARED = ("vae", "text_encoder", "tokenizer")
CLASSES = {"phantom": (WanTransformer3DModel, "WanPipeline"), "vace": (WanVACETransformer3DModel, "WanVACEPipeline")}
SHIFT = 3.0


def assemble(family: str, trained: Path, checkpoints: Path) -> Path:
    """Write `checkpoints/tiny-<family>` in float16; the shared parts are relative links into `tiny-wan`."""
    model_class, pipeline = CLASSES[family]
    out = checkpoints / f"tiny-{family}"
    out.mkdir(parents=True, exist_ok=True)
    model_class.from_pretrained(trained).half().save_pretrained(out / "transformer")
    config = json.loads((out / "transformer" / "config.json").read_text())
    config.pop("_name_or_path", None)  # where it was trained is nobody's business
    (out / "transformer" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(out / "scheduler")
    for part in SHARED:
        if not (out / part).exists():
            os.symlink(Path("..") / "tiny-wan" / part, out / part)
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", model_class.__name__],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return out
