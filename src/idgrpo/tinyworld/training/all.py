"""Train every shipped checkpoint in order: `python -m idgrpo.tinyworld.training.all [OUT]` (`make tinyworld`).

Finished parts are kept: remove a folder under OUT/.state to train that part again.
"""

import logging
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from idgrpo.tinyworld.training import finder, generators, vae, vlm
from idgrpo.tinyworld.training.assemble import assemble
from idgrpo.tinyworld.training.text import save_text_encoder

log = logging.getLogger(__name__)
CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
NUM_CLIPS = 24_576
STEPS = {"phantom": 6000, "vace": 4500}


def main(checkpoints: Path) -> None:
    """Train autoencoder, both generators, the finder and the vision-language model into `checkpoints`."""
    work = checkpoints / ".state"
    work.mkdir(parents=True, exist_ok=True)
    wan = checkpoints / "tiny-wan"
    if not (work / "vae").exists():
        vae.train(work / "vae", cache=work / "clips.pt")
        AutoencoderKLWan.from_pretrained(work / "vae").half().save_pretrained(wan / "vae")
        save_text_encoder(wan)
    for family, steps in STEPS.items():
        if not (work / family).exists():
            pool = generators.make_latents(wan / "vae", NUM_CLIPS, seed=11, cache=work / "latents.pt")
            generators.train(family, pool, generators.PromptEncoder(wan)(pool.prompts), work / family, steps=steps)
            assemble(family, work / family, checkpoints)
    if not (checkpoints / "tiny-finder").exists():
        finder.train(checkpoints / "tiny-finder", wan / "vae")
    if not (work / "vlm").exists():
        vlm.train(work / "vlm", checkpoints, checkpoints / "tiny-vlm")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)  # gradients of tokens that hardly matter are denormal: three times slower
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKPOINTS)
