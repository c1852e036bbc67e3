import pytest
import torch

from idgrpo.tinyworld.background import background_rows
from idgrpo.tinyworld.cases import make_cases, scene_of, true_clip
from idgrpo.tinyworld.render import backdrop


@pytest.mark.parametrize("num_people", [1, 3])
def test_rows_without_people_are_found_behind_people(num_people):
    by_median = []
    for item in make_cases(10, 5, "test", num_people):
        scenes, _ = scene_of(item.case.seed, num_people)
        clip = true_clip(item.case).pixels[0]
        truth = (backdrop(scenes.place, scenes.horizon)[0] * scenes.light).clamp(0, 1)
        assert (background_rows(clip) - truth).abs().max() < 0.1
        by_median.append((clip.permute(1, 2, 0, 3).flatten(2).median(-1).values - truth).abs().max())
    assert (min(by_median) > 0.1) == (num_people == 3)  # why the median will not do


def test_colours_a_little_off_are_followed_and_other_worlds_keep_their_median():
    clip = true_clip(make_cases(1, 6, "test")[0].case).pixels[0]
    shift = background_rows((clip * 0.95).clamp(0, 1)) - background_rows(clip) * 0.95
    assert shift.abs().max() < 0.02
    magenta = torch.tensor([0.9, 0.0, 0.9]).view(1, 3, 1, 1).expand(9, 3, 32, 32)
    assert torch.allclose(background_rows(magenta), magenta[0, :, :, 0])
