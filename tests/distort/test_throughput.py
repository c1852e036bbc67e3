"""Frames per second of compositing on real-sized video against reading and writing alone. Run with `-m bench -s`."""

import logging
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from idgrpo.distort.contract import Scene
from idgrpo.distort.located import locate
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, material_of
from idgrpo.distort.registry import DISTORTIONS, load_distortion
from idgrpo.video.read import read_video
from idgrpo.video.write import write_video

log = logging.getLogger(__name__)


@pytest.mark.bench
@pytest.mark.parametrize("name", [name for name, entry in DISTORTIONS.items() if not entry.needs_generator])
def test_compositing_costs_at_most_as_much_as_decoding_and_encoding(name, disc_clip, disc_finder, tmp_path):
    large = torch.nn.functional.interpolate(disc_clip.float(), scale_factor=5, mode="bilinear").round().to(torch.uint8)
    write_video(tmp_path / "in.mp4", large)
    references = [
        disc_finder.embed_reference(torch.tensor(c)[:, None, None].expand(3, 4, 4))
        for c in ((200, 60, 60), (60, 80, 200))
    ]
    located = locate(disc_clip, references, disc_finder)
    located = type(located)(located.boxes * 5, located.seen, located.angles, located.embeddings, located.similarity)
    material_of(large[:, [1, 0, 2]], located, 0).save(tmp_path / "green.npz")
    gallery = Gallery([GalleryEntry("green", "green", located.embeddings[0], tmp_path / "green.npz")])

    def once(work) -> float:
        start = time.process_time()
        clip = read_video(Path(tmp_path / "in.mp4"))
        sides = work(clip)
        for index, side in enumerate(sides):
            write_video(tmp_path / f"{index}.mp4", side)
        return time.process_time() - start

    def distorted(clip):
        scene = Scene(clip, MaskPainter(clip, located, ["red", "blue"], gallery), [clip[0], clip[0]])
        outcome = load_distortion(name)(scene, 0.7, np.random.default_rng(0))
        return outcome.better, outcome.worse

    torch.set_num_threads(1)
    bare = min(once(lambda clip: (clip, clip)) for _ in range(2))
    full = min(once(partial(distorted)) for _ in range(2))
    num_frames = len(large)
    log.warning(
        "%s: %.1f frames/s, decode + encode alone %.1f, ratio %.2f",
        name,
        num_frames / full,
        num_frames / bare,
        bare / full,
    )
    assert bare / full >= 0.5
