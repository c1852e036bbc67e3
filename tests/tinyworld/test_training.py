"""The training scripts: what they restate of the libraries must agree with the libraries, and they must learn."""

from dataclasses import replace

import torch
from diffusers import AutoencoderKLWan

from idgrpo.evaluate.texture import mean_sharpness
from idgrpo.reward.backbone import hidden_states, load_backbone
from idgrpo.reward.data import frozen_copy
from idgrpo.tinyworld.cases import make_cases, true_clip
from idgrpo.tinyworld.people import NUM_CHOICES, attributes_of, code_of
from idgrpo.tinyworld.render import portraits
from idgrpo.tinyworld.training import vlm_judged
from idgrpo.tinyworld.training.damage import damage
from idgrpo.tinyworld.training.optimizer import orthogonalise
from idgrpo.tinyworld.training.pool import to_bytes
from idgrpo.tinyworld.training.vlm import balance, run_stage, stages
from idgrpo.tinyworld.training.vlm_copies import with_copies
from idgrpo.tinyworld.training.vlm_heads import look_back
from idgrpo.tinyworld.training.vlm_judged import CLIPS_PER_CASE, JudgedClips, judge
from idgrpo.tinyworld.training.vlm_losses import Pupil, reading_loss, vision_loss
from idgrpo.tinyworld.training.vlm_truth import best_match, draw_lesson, look
from idgrpo.tinyworld.training.wan_vae import decode, encode, new_vae, whole_clip


def test_whole_clip_passes_equal_the_chunked_ones_of_the_library():
    torch.manual_seed(0)
    vae: AutoencoderKLWan = new_vae()
    for parameter in vae.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    pixels = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        clip = vae.decode(latents).sample
        whole_clip(vae)
        torch.testing.assert_close(encode(vae, pixels), latents, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(decode(vae, latents).clamp(-1, 1), clip, atol=2e-5, rtol=1e-4)


def test_orthogonalised_gradients_have_singular_values_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(48, 20, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5 and values.max() < 1.3


def test_damage_keeps_the_asked_share_and_shapes():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(25_920, (400, 2), generator=generator)
    shown = damage(codes, generator, 9)
    untouched = (shown == codes.unsqueeze(-1)).all((1, 2)).float().mean()
    assert shown.shape == (400, 2, 9)
    assert 0.45 < untouched < 0.62


def test_lessons_match_references_to_the_slot_that_shows_them():
    asked = torch.tensor([[[0] * 7, [1] * 7]])
    shown = asked.flip(1).unsqueeze(2).expand(-1, -1, 4, -1)
    assert best_match(asked, shown, torch.ones(1, 2, 4)).tolist() == [[1, 0]]
    lesson = draw_lesson(torch.Generator().manual_seed(1), 8, 3)
    assert lesson.videos.shape == (8, 4, 3, 32, 32) and lesson.videos.dtype == torch.uint8
    assert lesson.agreement.min() >= 0 and lesson.agreement.max() <= 1
    assert lesson.owner.max() <= 2


def test_lessons_tell_who_is_who_frame_by_frame_and_what_changed_since_the_frame_before():
    lesson = draw_lesson(torch.Generator().manual_seed(2), 200, 3)
    slots = torch.arange(3).expand(200, 4, 3)
    assert torch.equal(lesson.named.sort(-1).values, slots)
    traded = (lesson.named != slots).any(-1) & (lesson.present > 0).all(1)
    assert 0.02 < traded.float().mean() < 0.3
    clean = traded[:, 1:] & ~traded[:, :-1] & (lesson.present > 0).all(1)[:, :-1]
    assert clean.any() and (~lesson.kept.all(-1).all(1))[clean].all()  # who trades places changes between two frames
    calm, restless = (
        draw_lesson(torch.Generator().manual_seed(3), 200, 2, restless=share).kept.all(-1).float().mean()
        for share in (0.0, 1.0)
    )
    assert restless < calm - 0.1
    still = draw_lesson(torch.Generator().manual_seed(3), 200, 2)
    same = (still.shown == still.shown[:, :, :1]).all(-1).all(-1)
    assert torch.equal(same, still.kept.all(-1).all(-1))


def judged_clips(codes: torch.Tensor) -> JudgedClips:
    """Four clips of noise per row of `codes`: the whole clip, track k stands in its corner and looks like person k."""
    codes = codes.repeat_interleave(CLIPS_PER_CASE, 0)
    num, people = codes.shape
    owner = torch.full((num, 9, 16), -1, dtype=torch.int8)
    owner[..., 0], owner[..., 15] = 0, 1
    choices = zip(attributes_of(codes).unbind(-1), NUM_CHOICES, strict=True)
    shown = torch.cat([torch.nn.functional.one_hot(a, n) for a, n in choices], -1)
    shown = shown.half().unsqueeze(1).expand(-1, 9, -1, -1)
    videos = torch.randint(0, 256, (num, 9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return JudgedClips(videos, codes, shown, torch.ones(num, 9, people), torch.zeros(num, 9, dtype=torch.bool), owner)


def test_every_stage_of_the_reader_s_lesson_plan_trains_what_it_should():
    torch.manual_seed(0)
    pupil = Pupil()
    plan = stages(draw_lesson, {n: judged_clips(torch.arange(6 * n).view(6, n)) for n in (2, 3)})
    assert [stage.name for stage in plan] == ["A", "look", "seen", "B", "C", "tower", "D", "E", "F", "G"]
    balance(pupil, torch.Generator().manual_seed(0))
    for stage in plan:
        if stage.name == "tower":
            pupil.deepen_tower()
        if stage.name == "F":
            pupil.deepen_language_model()
        before = {name: value.clone() for name, value in pupil.model.model.state_dict().items()}
        run_stage(pupil, replace(stage, num_steps=2), seed=1)
        moved = {name for name, value in pupil.model.model.state_dict().items() if not torch.equal(value, before[name])}
        assert any("visual" in name for name in moved) == (stage.tower_rate > 0)
        assert any("language_model" in name for name in moved) == (stage.name in "BCDEFG")
    assert all(any(f"language_model.layers.{layer}." in name for name in moved) for layer in range(7))  # the last stage


def test_a_tower_that_grows_sees_what_it_saw_before_and_is_held_to_it(tmp_path):
    torch.manual_seed(0)
    pupil, lesson = Pupil(), draw_lesson(torch.Generator().manual_seed(1), 4, 2)
    before = vision_loss(pupil, lesson)
    pupil.deepen_tower()
    after = vision_loss(pupil, lesson)
    assert len(pupil.model.model.visual.blocks) == 4 and set(after) - set(before) == {"moved"}
    assert after["moved"] == 0 and all(torch.equal(after[name], value) for name, value in before.items())
    torch.nn.init.normal_(pupil.model.model.visual.blocks[-1].attn.proj.weight)
    assert vision_loss(pupil, lesson)["moved"] > 0.01
    pupil.save(tmp_path / "grown")  # the files tell how deep it is
    tower = load_backbone(tmp_path / "grown").visual
    assert torch.equal(tower.blocks[-1].attn.proj.weight, pupil.model.model.visual.blocks[-1].attn.proj.weight.half())


def test_a_language_model_that_grows_judges_as_before(tmp_path):
    torch.manual_seed(0)
    pupil, lesson = Pupil(), draw_lesson(torch.Generator().manual_seed(1), 4, 2)
    before = reading_loss(pupil, lesson)
    pupil.deepen_language_model()
    after = reading_loss(pupil, lesson)
    assert len(pupil.model.model.language_model.layers) == 7 and after == before
    torch.nn.init.normal_(pupil.added[-1].mlp.down_proj.weight)  # between the clip's answers and the rubric's
    grown = reading_loss(pupil, lesson)
    assert {name for name, value in grown.items() if value != before[name]} == {"rubric", "reward", "weighed"}
    pupil.save(tmp_path / "grown")  # the files tell how deep it is
    layers = load_backbone(tmp_path / "grown").language_model.layers
    assert torch.equal(layers[5].mlp.down_proj.weight, pupil.added[-1].mlp.down_proj.weight.half())


def test_copies_of_the_photos_are_lessons_in_which_nobody_is_kept():
    for lesson in (
        draw_lesson(torch.Generator().manual_seed(1), 200, 2),
        judged_clips(torch.arange(12).view(6, 2)).draw(torch.Generator().manual_seed(1), 200),
    ):
        copied = with_copies(lesson, torch.Generator().manual_seed(2))
        rows = (copied.videos != lesson.videos).flatten(1).any(1)
        assert 2 < rows.sum() < 30
        row = int(rows.nonzero()[0])
        assert torch.equal(copied.videos[row], frozen_copy(lesson.videos[row], list(lesson.references[row])))
        assert (copied.owner[rows] == -1).all() and (copied.agreement[rows] == 0).all()
        assert torch.equal(copied.owner[~rows], lesson.owner[~rows])
        assert torch.equal(copied.agreement[~rows], lesson.agreement[~rows])


def test_heads_that_look_back_find_the_same_column_of_the_frame_before():
    torch.manual_seed(0)
    pupil = Pupil()
    look_back(pupil.model.model.language_model)
    lesson = draw_lesson(torch.Generator().manual_seed(4), 4, 2)
    inputs = pupil.builder.build(lesson.videos, lesson.references, [""] * 4, order="given")
    pupil.model.set_attn_implementation("eager")
    seen = []
    attention = pupil.model.model.language_model.layers[1].self_attn
    attention.register_forward_hook(lambda module, given, result: seen.append(result[1]))
    hidden_states(pupil.model.model, inputs)
    of_clip = inputs["input_ids"][0] == pupil.model.config.video_token_id
    cells = of_clip.nonzero()[:, 0].view(4, 4, 4)  # frame, row, column
    column, anywhere = seen[0][:, -2], seen[0][:, -1]
    for now, before in zip(cells[1:], cells[:-1], strict=True):
        for weights, keys in ((column, before), (anywhere, before)):
            assert weights[:, now.flatten()][:, :, keys.flatten()].sum(-1).mean() > 0.95
        own = torch.stack([column[:, now[:, c]][:, :, before[:, c]].sum(-1) for c in range(4)])
        assert own.mean() > 0.7


def test_what_belongs_to_a_person_stays_together_when_people_are_shuffled_and_clips_mirrored(monkeypatch):
    monkeypatch.setattr(vlm_judged, "ASKED_ANEW", 0.0)
    codes = torch.tensor([[5, 900], [77, 4000]])
    judged, drawn, sides = judged_clips(codes), set(), set()
    for seed in range(6):
        lesson = judged.draw(torch.Generator().manual_seed(seed), 8)
        assert torch.equal(lesson.references[0], lesson.references[3])  # clips of one case, to be compared
        assert torch.equal(lesson.agreement, torch.ones(8, 2, 7))
        for row in range(8):
            for person in range(2):
                code = code_of(lesson.asked[row, person])
                index = codes.flatten().tolist().index(int(code))
                assert torch.equal(lesson.references[row, person], to_bytes(portraits(code)))
                best = [int(p.argmax()) for p in lesson.shown[row, 0, person].split(NUM_CHOICES)]
                assert best == lesson.asked[row, person].tolist()
                cell = int((lesson.owner[row, 0] == person).nonzero())
                assert cell in ((0, 3) if index % 2 == 0 else (15, 12))
                drawn.add(int(code))
                sides.add(cell)
    assert drawn == {5, 900, 77, 4000} and sides == {0, 3, 12, 15}


def test_the_oracle_judges_again_when_other_people_are_asked_for(monkeypatch):
    monkeypatch.setattr(vlm_judged, "ASKED_ANEW", 1.0)
    codes = torch.tensor([[5, 900], [77, 4000]])
    lesson = judged_clips(codes).draw(torch.Generator().manual_seed(0), 400)
    anew = torch.tensor([not set(case) <= set(codes.flatten().tolist()) for case in code_of(lesson.asked).tolist()])
    assert 0.2 < anew.float().mean() < 1
    same = (lesson.shown > 0).float()[:, 0]  # every frame shows the same
    at = torch.tensor(NUM_CHOICES).cumsum(0) - torch.tensor(NUM_CHOICES)
    hit = same.gather(-1, lesson.asked + at)
    assert torch.equal(lesson.agreement == 1, hit == 1) and lesson.agreement[hit == 0].max() == 0


def test_the_oracle_s_opinion_of_a_true_clip_names_who_is_there(monkeypatch):
    monkeypatch.setattr(vlm_judged, "ASKED_ANEW", 0.0)
    case = make_cases(1, 3, "test")[0].case
    clip = (true_clip(case).pixels[0] * 255).round().byte()
    row = judge(clip, [reference.person for reference in case.references])
    assert row["videos"].shape == (9, 3, 32, 32) and row["owner"].shape == (9, 16) and row["shown"].shape == (9, 2, 32)
    assert {-1, 0, 1} == set(row["owner"].flatten().tolist())
    judged = JudgedClips(**{k: v.expand(CLIPS_PER_CASE, *v.shape) for k, v in row.items()})
    lesson = judged.draw(torch.Generator().manual_seed(3), CLIPS_PER_CASE)
    shirts = lesson.shown[0].split(NUM_CHOICES, -1)[3].mean(0).argmax(-1)
    assert shirts.tolist() == lesson.asked[0, :, 3].tolist() and lesson.agreement[0].mean() > 0.4


def test_a_look_makes_clips_softer_and_sharper_and_leaves_them_people():
    case = make_cases(1, 3, "test")[0].case
    clip = true_clip(case).pixels[0]
    seen = look(clip.expand(40, *clip.shape), torch.Generator().manual_seed(0))
    sharpness = torch.tensor([mean_sharpness(to_bytes(one)) for one in seen]) / mean_sharpness(to_bytes(clip))
    assert sharpness.min() < 0.95 and sharpness.max() > 1.1
    assert (seen - clip).abs().mean((1, 2, 3, 4)).max() < 0.06


def test_the_reward_token_is_taught_what_the_rubric_tokens_say():
    torch.manual_seed(0)
    pupil, generator = Pupil(), torch.Generator().manual_seed(0)
    loss = reading_loss(pupil, draw_lesson(generator, 4, 2))["weighed"]
    loss.backward()
    assert pupil.heads.reward.weight.grad is not None and pupil.heads.rubric.weight.grad is None
