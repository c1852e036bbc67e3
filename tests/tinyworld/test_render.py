import torch

from idgrpo.tinyworld.people import attributes_of, code_of, draw_people
from idgrpo.tinyworld.render import portraits, render
from idgrpo.tinyworld.scene import MOTIONS, draw_scenes, prompts


def scenes_and_codes(num=6, people=2, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return draw_scenes(generator, num, people), draw_people(generator, (num, people), held_out=False)


def test_a_batch_equals_its_single_scenes():
    scenes, codes = scenes_and_codes()
    together = render(scenes, codes)
    for row in range(len(scenes)):
        alone = render(scenes[row : row + 1], codes[row : row + 1])
        torch.testing.assert_close(together.pixels[row : row + 1], alone.pixels, atol=1e-6, rtol=0)


def test_visible_shares_add_up_to_at_most_one_and_nearer_people_hide_others():
    scenes, codes = scenes_and_codes(16, 3)
    clips = render(scenes, codes)
    assert clips.visible.sum(1).max() <= 1 + 1e-5
    nearest = scenes.depth.argmax(1)
    rows = torch.arange(len(scenes))
    torch.testing.assert_close(clips.visible[rows, nearest], clips.alone[rows, nearest])


def test_presence_zero_removes_a_person_and_only_that_person():
    scenes, codes = scenes_and_codes()
    presence = torch.ones(len(scenes), 2, scenes.num_frames)
    presence[:, 0] = 0
    full, gone = render(scenes, codes), render(scenes, codes, presence=presence)
    assert gone.visible[:, 0].abs().max() == 0
    far = full.alone[:, 0] < 1e-3
    change = (full.pixels - gone.pixels).abs().amax(2)
    assert change[far].max() < 2e-3
    assert change[~far].max() > 0.2


def test_mixing_reaches_both_ends():
    scenes, codes = scenes_and_codes()
    other = codes.flip(1)
    ends = {
        share: render(scenes, codes, other=other, mix=torch.full((len(scenes), 2, scenes.num_frames), share)).pixels
        for share in (0.0, 1.0)
    }
    torch.testing.assert_close(ends[0.0], render(scenes, codes).pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(ends[1.0], render(scenes, other).pixels, atol=1e-5, rtol=0)


def test_every_attribute_shows():
    base = attributes_of(torch.tensor(12_345))
    for index in range(len(base)):
        changed = base.clone()
        changed[index] = (changed[index] + 1) % 3
        a, b = portraits(code_of(base)), portraits(code_of(changed))
        assert (a - b).abs().max() > 0.1, index


def test_second_portraits_differ_but_show_the_same_person():
    code = torch.tensor([77])
    first, second = portraits(code), portraits(code, torch.Generator().manual_seed(1))
    assert 0.003 < (first - second).abs().mean() < 0.2


def test_prompts_name_people_from_left_to_right():
    scenes, _ = scenes_and_codes()
    order = torch.tensor([[1, 0]] * len(scenes))
    for line, plain in zip(prompts(scenes, order), prompts(scenes), strict=True):
        assert line.startswith("two and one ") and plain.startswith("one and two ")
        assert any(motion in line for motion in MOTIONS)
