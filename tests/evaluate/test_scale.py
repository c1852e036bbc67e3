"""A thousand videos on two cores: memory stays bounded, a second run looks at nothing, speed beside decoding alone."""

import resource
import time

import pytest
from tests.evaluate.conftest import NAMES, NUM_FRAMES, PlantedFinder

from idgrpo.evaluate.config import EvaluateConfig
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.video.read import read_video


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.bench
def test_a_thousand_videos(make_samples, tmp_path, capsys):
    scripts = [NAMES[i % len(NAMES)] for i in range(500)]
    variants = {"base": make_samples("base", scripts), "tuned": make_samples("tuned", list(reversed(scripts)))}
    warm = {name: samples[:20] for name, samples in variants.items()}
    evaluate(warm, PlantedFinder(), EvaluateConfig())
    before = peak_mib()

    started = time.process_time()
    for samples in variants.values():
        for sample in samples:
            read_video(sample.video)
    decode_s = time.process_time() - started

    started = time.process_time()
    report = evaluate(variants, PlantedFinder(), EvaluateConfig(), cache_folder=tmp_path / "cache")
    first_s = time.process_time() - started
    started = time.process_time()
    again = PlantedFinder()
    evaluate(variants, again, EvaluateConfig(), cache_folder=tmp_path / "cache")
    again_s = time.process_time() - started

    frames = 1000 * NUM_FRAMES
    with capsys.disabled():
        print(
            f"\n1,000 videos of {NUM_FRAMES} frames: decode alone {frames / decode_s:.0f} frames per cpu-s, evaluation "
            f"{frames / first_s:.0f}, again from the cache {frames / again_s:.0f}; memory grew by {peak_mib() - before:.0f} MiB"
        )
    assert report.num_cases == 500
    assert again.num_clips == 0
    assert again_s < first_s / 2
    assert peak_mib() - before < 300
