"""Supervised fine-tuning on stored clips: closed-form gradient, levels, what is kept of preferences, cache, exact resume."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_base import SIZE, FakeBase, gathered
from pydantic import ValidationError
from safetensors.torch import load_file
from test_policy_training import SETTINGS, checkpoint, digest, numbers  # noqa: F401

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.load import load_base
from idgrpo.errors import DataError, StoppedError, UsageError
from idgrpo.policy.clips import (
    best_of_cases,
    check_clips,
    check_files,
    clip_size,
    preferred,
    read_clip,
    read_clips,
    read_pairs,
)
from idgrpo.policy.config import PolicyConfig, PolicyRewardConfig, SizeConfig, WindowConfig
from idgrpo.policy.figures import PhaseTimer
from idgrpo.policy.keys import meaning
from idgrpo.policy.recipes import merge, recipe
from idgrpo.policy.scoring import RewardScorer
from idgrpo.policy.stored import ClipBook, noise_level
from idgrpo.policy.train import train
from idgrpo.policy.trainer import Trainer
from idgrpo.policy.weights import snapshot, trained_weights
from idgrpo.records.models import Preference, Reference
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings, PlainEngine
from idgrpo.run.folder import RunFolder
from idgrpo.video.write import write_image, write_video

SFT = {
    "method": "sft",
    "num_updates": 5,
    "clips": {"num_per_update": 4},
    "rollout": {"num_steps": 6, "window": {"size": 1, "first": 0, "last": 5}},
    "kl": {"weight": 0.0},
    "preview": {"every": 0},
    "checkpoint": {"every": 2},
    "optimizer": {"lr": 1e-2},
    "reward": {"retry_wait_s": 0.0},
}


def write_samples(folder: Path, num: int = 6, size: tuple[int, int, int] = (5, 8, 8), per_case: int = 1) -> Path:
    """Write samples.jsonl with clips of moving noise, of one person and two people by turns; give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(num):
        case = index // per_case
        source = torch.Generator().manual_seed(index)
        frames, height, width = size
        write_video(
            folder / f"clip-{index}.mp4",
            torch.randint(0, 255, (frames, 3, height, width), dtype=torch.uint8, generator=source),
            lossless=True,
        )
        references = []
        for person in range(1 + case % 2):
            image = folder / f"case-{case}-{person}.png"
            portrait = torch.Generator().manual_seed(100 * case + person)
            write_image(image, torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=portrait))
            references.append({"person": image.stem, "images": [image.name]})
        lines.append(
            {
                "id": f"clip-{index}",
                "case_id": f"case-{case}",
                "prompt": "p" * (case + 1),
                "references": references,
                "video": f"clip-{index}.mp4",
                "base": "world",
                "seed": 0,
            }
        )
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_trainer(tmp_path, base=None, world=None, **changes):
    base = base or FakeBase()
    config = PolicyConfig.model_validate(merge(SFT, changes))
    clips = read_clips(write_samples(tmp_path / "data"))
    book = ClipBook(base, clips, SIZE, tmp_path / "clips")
    world = world or World()
    book.encode(World())
    weights = trained_weights(base.transformer)
    engine = PlainEngine(weights, OptimizerSettings(1e-2, (0.9, 0.999), 1e-8, 0.0, 1.0), world)
    return Trainer(base, book, None, config, engine, start=snapshot(weights), folder=tmp_path)


# -- the loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [False, True])
def test_the_gradient_is_that_of_flow_matching_by_hand(tmp_path, slots):
    """v = c (gain x + mix x + shift t), c = 0.5 + sigma; L = mean (v - u)^2 / 2: every derivative is written out in float64."""
    base = FakeBase(slots)
    trainer = make_trainer(tmp_path, base, loss={"micro_batch": 3})
    data = trainer.source.data(0, PhaseTimer(), lambda: False)
    trainer.replay.run(data.batches, data.total_pairs, lambda loss, last: loss.backward())
    got = {name: p.grad.double() for name, p in base.transformer.named_parameters()}

    net = {name: p.detach().double() for name, p in base.transformer.named_parameters()}
    expected = {name: torch.zeros_like(value) for name, value in net.items()}
    seen = 0
    for pairs in gathered(data):
        for row in range(len(pairs.advantage)):
            video = slice(pairs.batch.num_slots, None)
            sigma = float(pairs.sigma[row])
            x, clean = (value[row, :, video].double() for value in (pairs.x, pairs.x_next))
            noise = (x - (1 - sigma) * clean) / sigma
            text = pairs.batch.text[row].double().mean()
            c = 0.5 + sigma
            v = c * (net["gain"] * x + torch.einsum("cfhw,cd->dfhw", x, net["mix"]) + net["shift"] * text)
            error = (v - (noise - clean)) / x.numel() / data.total_pairs
            expected["gain"] += (error * c * x).sum()
            expected["mix"] += c * torch.einsum("dfhw,cfhw->cd", error, x)
            expected["shift"] += (error * c * text).sum()
            seen += 1
    assert seen == data.total_pairs == 4
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=2e-5, atol=1e-7)


def test_the_figure_is_the_matching_error_and_it_falls(tmp_path):
    trainer = make_trainer(tmp_path, num_updates=60)
    rows = [trainer.update() for _ in range(60)]
    errors = [row["matching_error"] for row in rows]
    assert sum(errors[-20:]) < sum(errors[:20])
    assert rows[0]["epoch"] == 0 and rows[1]["epoch"] == 1  # six clips, four an update
    assert "log_ratio_max" not in rows[0] and rows[0]["samples_per_second"] > 0


def test_levels_fill_the_windows_range_evenly():
    window = WindowConfig(size=1, first=0, last=6)
    assert noise_level(1.0, window, 8, 3.0) == 1.0
    u = 1 - 6 / 8
    assert noise_level(0.0, window, 8, 3.0) == pytest.approx(3 * u / (1 + 2 * u))
    high = WindowConfig(size=1, first=0, last=3)
    assert noise_level(0.0, high, 8, 3.0) == pytest.approx(noise_level(0.5, window, 8, 3.0))


def test_two_levels_of_a_clip_and_every_clip_once_an_update(tmp_path):
    trainer = make_trainer(tmp_path, rollout={"window": {"size": 2}})
    data = trainer.source.data(3, PhaseTimer(), lambda: False)
    sigmas = torch.cat([pairs.sigma for pairs in gathered(data)])
    assert data.total_pairs == len(sigmas) == 8 and len(set(sigmas.tolist())) == 8
    clean = torch.cat([pairs.x_next.flatten(1) for pairs in gathered(data)])
    assert len({tuple(row.tolist()) for row in clean}) == 4
    again = trainer.source.data(3, PhaseTimer(), lambda: False)
    assert all(torch.equal(a.x, b.x) for a, b in zip(gathered(data), gathered(again), strict=True))


def test_ranks_share_an_update_and_together_see_what_one_sees(tmp_path):
    whole = make_trainer(tmp_path / "one").source.data(1, PhaseTimer(), lambda: False)
    parts = [
        make_trainer(tmp_path / f"r{rank}", world=World(rank, 2)).source.data(1, PhaseTimer(), lambda: False)
        for rank in range(2)
    ]
    noised = lambda data: sorted(tuple(row.tolist()) for pairs in gathered(data) for row in pairs.x.flatten(1))  # noqa: E731
    assert noised(whole) == sorted([*noised(parts[0]), *noised(parts[1])])
    assert [part.total_pairs for part in parts] == [4, 4]


def test_the_kl_holds_the_policy_at_its_start(tmp_path):
    def moved(weight):
        trainer = make_trainer(tmp_path / str(weight), kl={"weight": weight, "reference": "start"}, num_updates=10)
        for _ in range(10):
            figures = trainer.update()
        return sum(float((trainer.weights[n].detach() - v).abs().sum()) for n, v in trainer.start.items()), figures

    free, _ = moved(0.0)
    held, figures = moved(100.0)
    assert held < 0.5 * free and figures["kl"] > 0


# -- which clips -------------------------------------------------------------------------------------------------------


def preference(pair, a, b, label, case="c"):
    people = [Reference(person="p", images=["/p.png"])]
    return Preference(
        pair_id=pair, case_id=case, prompt="x", references=people, video_a=a, video_b=b, label=label, source="human"
    )


def write_rows(path: Path, *rows: Preference) -> Path:
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return path


def test_of_preferences_the_clips_that_won_more_than_they_lost(tmp_path):
    rows = [
        preference("1", "/a.mp4", "/b.mp4", "a"),
        preference("2", "/b.mp4", "/c.mp4", "a"),
        preference("3", "/d.mp4", "/a.mp4", "tie"),
        preference("4", "/e.mp4", "/f.mp4", "both_bad"),
        preference("5", "/g.mp4", "/h.mp4", "b", case="other"),
    ]
    clips = preferred(read_pairs(write_rows(tmp_path / "p.jsonl", *rows)))  # b won one and lost one
    assert [(str(clip.video), clip.case.id) for clip in clips] == [("/a.mp4", "c"), ("/h.mp4", "other")]
    assert [clip.id for clip in clips] == [
        "1.a",
        "5.b",
    ]  # a name in the data: a path would make draws the machine's own
    one_each = write_rows(tmp_path / "torn.jsonl", rows[0], preference("6", "/a.mp4", "/b.mp4", "b"))
    with pytest.raises(DataError, match=r"torn.jsonl: in 2 preferences no clip was preferred more often than not"):
        preferred(read_pairs(one_each))


def test_preferences_to_judge_by_are_not_learnt_from(tmp_path, caplog):
    """SFT took the clips of every split; DPO left those of test and validation out."""
    rows = [preference("1", "/a.mp4", "/b.mp4", "a"), preference("2", "/c.mp4", "/d.mp4", "a")]
    rows[1] = rows[1].model_copy(update={"split": "test"})
    assert [clip.id for clip in preferred(read_pairs(write_rows(tmp_path / "p.jsonl", *rows)))] == ["1.a"]
    assert "1 of 2 preferences are learnt from; left out: 1 of the test split" in caplog.text
    with pytest.raises(DataError, match="none of 1 preferences can be learnt from") as error:
        read_pairs(write_rows(tmp_path / "p.jsonl", *rows[1:]))
    assert "rows of the train split" in error.value.fix


def test_one_video_of_two_cases_is_a_clip_of_each(tmp_path):
    """Clips were known by their video: all preferences of one got the prompt and the people of the first."""
    rows = [preference("1", "/a.mp4", "/b.mp4", "a"), preference("2", "/a.mp4", "/b.mp4", "a", case="other")]
    assert [clip.case.id for clip in preferred(read_pairs(write_rows(tmp_path / "p.jsonl", *rows)))] == ["c", "other"]
    best = write_samples(tmp_path / "samples", num=2)
    clips = [replace(clip, case=clip.case.model_copy(update={"id": "same"})) for clip in read_clips(best)]
    scorer = RewardScorer(lambda videos, *_: [1.0] * len(videos), PolicyRewardConfig(retry_wait_s=0.0))
    assert len(best_of_cases(clips, scorer, tmp_path / "run", World())) == 2  # two prompts under one id are two cases


def test_copies_of_photos_in_another_folder_are_the_same_case(tmp_path):
    """Of one case two best clips were kept where a stage had copied its photos."""
    first, second = (read_clips(write_samples(tmp_path / name, num=1))[0] for name in ("here", "there"))
    assert first.case != second.case and first.who == second.who and first.shown != second.shown
    clips = [first, replace(second, id="other")]
    scorer = RewardScorer(lambda videos, *_: [1.0] * len(videos), PolicyRewardConfig(retry_wait_s=0.0))
    assert len(best_of_cases(clips, scorer, tmp_path / "run", World())) == 1


def test_what_cannot_be_read_is_told_with_file_line_and_field(tmp_path):
    path = write_samples(tmp_path, num=3)
    (tmp_path / "clip-1.mp4").unlink()
    (tmp_path / "case-2-0.png").write_bytes(b"no picture")
    path.write_text("\n" + path.read_text())
    with pytest.raises(DataError) as error:
        check_files(read_clips(path), 4)
    first, second = error.value.message.splitlines()
    assert first.startswith(f"{path}:3: field 'video': ") and second.startswith(
        f"{path}:4: field 'references.0.images': "
    )
    assert "clip-1.mp4" in first and "case-2-0.png" in second and "put the files back" in error.value.fix


def test_who_is_asked_for_is_checked_by_line(tmp_path):
    """A sample of nobody ended in a traceback; one of too many people was told when it was encoded."""
    path = write_samples(tmp_path, num=2)
    with pytest.raises(DataError, match=rf"{path}:2: field 'references': 2 people, the base takes at most 1"):
        check_files(read_clips(path), 1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["references"] = []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=rf"{path}:2: field 'references': .*at least 1"):
        read_clips(path)


def test_a_clip_that_is_damaged_inside_is_told_by_its_line(tmp_path):
    path = write_samples(tmp_path, num=1)
    (clip,) = read_clips(path)
    clip.video.write_bytes(b"no video")
    with pytest.raises(DataError, match=rf"{path}:1: field 'video': .*clip-0.mp4"):
        read_clip(clip, VideoSize(8, 8, 5))


def test_clips_of_another_size_are_told_with_their_lines(tmp_path):
    path = write_samples(tmp_path, num=2)
    other = write_samples(tmp_path / "other", num=1, size=(5, 16, 16))
    path.write_text(path.read_text() + other.read_text().replace("clip-0", "other/clip-0"))
    with pytest.raises(DataError, match=rf"{path}:3: field 'video': .*clip-0.mp4 is 16x16x5, this run trains at 8x8x5"):
        clip_size(read_clips_of(path), SizeConfig())
    with pytest.raises(DataError, match=rf"{path}:1: field 'video'"):
        clip_size(read_clips_of(path)[:2], SizeConfig(width=16))


def read_clips_of(path: Path):
    lines = [json.loads(line) | {"id": str(number)} for number, line in enumerate(path.read_text().splitlines())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_clips(path)


def test_a_clip_against_itself_is_no_preference(tmp_path):
    with pytest.raises(DataError, match=r"p.jsonl:1: field 'video_b': the same clip as video_a"):
        read_pairs(write_rows(tmp_path / "p.jsonl", preference("1", "/a.mp4", "/x/../a.mp4", "a")))


def test_the_best_clip_of_each_case_by_the_reward_scored_once(tmp_path):
    clips = read_clips(write_samples(tmp_path, num=6, per_case=3))
    calls = []

    def reward(videos, references, prompts):
        calls.append(len(videos))
        return [None if len(calls) == 1 and k == 2 else float(v.float().mean()) for k, v in enumerate(videos)]

    def brightness(clip):
        from idgrpo.video.read import read_video

        return float(read_video(clip.video).float().mean())

    scorer = RewardScorer(reward, PolicyRewardConfig(retry_wait_s=0.0))
    best = best_of_cases(clips, scorer, tmp_path / "run", World())
    assert [clip.id for clip in best] == [max(part, key=brightness).id for part in (clips[:3], clips[3:])]
    num_calls = len(calls)
    assert best_of_cases(clips, scorer, tmp_path / "run", World()) == best and len(calls) == num_calls

    def broken(videos, references, prompts):
        return [None] * len(videos)

    with pytest.raises(StoppedError, match="only 0 of 6 clips could be scored"):
        best_of_cases(clips, RewardScorer(broken, PolicyRewardConfig(retry_wait_s=0.0)), tmp_path / "other", World())


def test_what_cannot_be_dealt_out_is_refused_with_the_arithmetic():
    with pytest.raises(UsageError, match="takes 16 different clips, but there are 6"):
        check_clips(6, 16, 1)
    with pytest.raises(UsageError, match=r"5 clips an update do not divide over 2 ranks \(5 % 2 = 1\)") as error:
        check_clips(6, 5, 2)
    assert "clips.num_per_update=4" in error.value.fix


# -- whole runs --------------------------------------------------------------------------------------------------------


def run_stage(checkpoint, data, folder, resume=False, reward=None, **changes):  # noqa: F811
    config = PolicyConfig.model_validate(merge(SFT | {"lora": {"rank": 2}}, changes))
    with RunFolder.open(folder, config.model_dump()) as run:
        return train(load_base(str(checkpoint)), read_clips(data), reward, config, run, out=folder / "out")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_samples(tmp_path_factory.mktemp("clips"), size=(5, 32, 32))


def test_a_run_leaves_an_adapter_that_grpo_starts_from(checkpoint, data, tmp_path):  # noqa: F811
    figures = run_stage(checkpoint, data, tmp_path)
    assert figures["updates"] == 5 and {"matching_first", "matching_last"} <= figures.keys()
    assert json.loads((tmp_path / "out" / "policy.json").read_text())["size"] == {
        "width": 32,
        "height": 32,
        "frames": 5,
    }
    assert (tmp_path / "out" / "curves.png").is_file()
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert not [key for row in rows for key in row if meaning(key) is None]
    assert len(list((tmp_path / "clips").glob("*.safetensors"))) == 6
    weights = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert any(float(value.abs().max()) > 0 for name, value in weights.items() if "lora_B" in name)


def test_sigkill_and_resume_end_alike(checkpoint, data, tmp_path):  # noqa: F811
    run_stage(checkpoint, data, tmp_path / "whole")
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[4:]; import test_sft;"
        "test_sft.run_stage(*map(Path, sys.argv[1:4]), resume=True)"
    )
    command = [sys.executable, "-c", script, str(checkpoint), str(data), str(tmp_path / "killed"), *sys.path]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    log = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed" / "clips").iterdir()}
    run_stage(checkpoint, data, tmp_path / "killed", resume=True)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert stamps == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed" / "clips").iterdir()}  # not again


def test_clips_of_another_size_and_material_of_the_other_method_are_refused(checkpoint, data, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match="is 32x32x5, this run trains at 16x32x5"):
        run_stage(checkpoint, data, tmp_path / "size", size={"width": 16})
    with pytest.raises(UsageError, match="learns from cases and a reward"):
        run_stage(checkpoint, data, tmp_path / "method", method="grpo", clips={"num_per_update": 16})
    with pytest.raises(UsageError, match=r"clips\.keep=best needs a reward model"):
        run_stage(checkpoint, data, tmp_path / "best", clips={"keep": "best"})
    assert SETTINGS["num_updates"]  # the settings of GRPO stay as they are


@pytest.mark.parametrize("base", ["tiny-phantom", "tiny-vace", "vace", "phantom"])
@pytest.mark.parametrize("name", ["default", "paper", "full"])
def test_every_recipe_has_a_form_for_stored_clips(base, name):
    config = recipe(name, base, method="sft")
    assert config.method == "sft" and config.kl.weight == 0 and config.rollout.window.size == 1
    assert config.train == ("full" if name == "full" else "lora")
    assert config.optimizer.lr < recipe("default", base, method="sft").optimizer.lr or name != "full"
    assert (config.clips.guidance, config.num_updates) == ((3.0, 120) if base.startswith("tiny") else (0.0, 1000))


# -- people told apart -------------------------------------------------------------------------------------------------


class ReferenceBase(FakeBase):
    """Its velocity also reads the references: the first one's value minus half of the last one's."""

    def encode(self, prompt, references, size):
        values = torch.tensor([float(image.float().mean()) / 255 for image in references])
        condition = super().encode(prompt, references, size)
        return replace(condition, references=values[None, :, None, None].expand(4, -1, 2, 2))

    def velocity(self, latents, sigma, batch, guidance):
        who = torch.stack([v[0, 0, 0, 0] - 0.5 * v[0, -1, 0, 0] for v in batch.visual])
        return super().velocity(latents, sigma, batch, guidance) + who[:, None, None, None, None]


def test_guidance_moves_the_target_along_what_tells_people_apart(tmp_path):
    base = ReferenceBase()
    trainer = make_trainer(tmp_path, base, clips={"guidance": 2.0}, kl={"reference": "start"})
    with torch.no_grad():
        trainer.weights["gain"].mul_(1.5)  # the policy has moved: the target is the reference's all the same
    data = trainer.source.data(0, PhaseTimer(), lambda: False)
    seen = []
    for pairs in gathered(data):
        target = trainer.replay._target(pairs)
        for row, count in enumerate(pairs.batch.num_references):
            moved = (target - pairs.x_next)[row]
            if count == 1:
                assert moved.abs().max() == 0
                continue
            first, last = (float(pairs.batch.visual[row][0, k, 0, 0]) for k in (0, -1))
            person = float(pairs.rival.visual[row][0, 0, 0, 0])
            assert person in (first, last) and float(pairs.rival.visual[row][0, 1, 0, 0]) == person
            difference = (first - 0.5 * last) - 0.5 * person  # v0(c) - v0(c_i), everything else cancels
            torch.testing.assert_close(
                moved, torch.full_like(moved, -2.0 * float(pairs.sigma[row]) * difference), rtol=1e-4, atol=1e-6
            )
            seen.append(count)
    assert seen
    plain = make_trainer(tmp_path / "plain", ReferenceBase()).source.data(0, PhaseTimer(), lambda: False)
    assert all(pairs.rival is None for pairs in gathered(plain))


def test_without_a_share_of_the_clip_the_target_is_the_references_own_guess_moved(tmp_path):
    base = ReferenceBase()
    settings = {"guidance": 2.0, "share": 0.25}
    trainer = make_trainer(tmp_path, base, clips=settings, kl={"reference": "start"})
    for pairs in gathered(trainer.source.data(0, PhaseTimer(), lambda: False)):
        with torch.no_grad():
            own, doubled = (
                pairs.x - pairs.sigma.float()[:, None, None, None, None] * base.velocity(pairs.x, pairs.sigma, b, None)
                for b in (pairs.batch, pairs.rival)
            )
        expected = 0.25 * pairs.x_next + 0.75 * own + 2.0 * (own - doubled)
        torch.testing.assert_close(trainer.replay._target(pairs), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValidationError, match="teaches nothing"):
        PolicyConfig.model_validate({"method": "sft", "clips": {"share": 0.5}})


def test_guidance_of_whole_or_swapped_weights_is_refused_under_zero_3():
    setting = {"method": "sft", "engine": {"zero": 3}, "kl": {"weight": 0.0}, "clips": {"guidance": 1.0}}
    assert PolicyConfig.model_validate(setting)
    with pytest.raises(ValidationError, match=r"clips\.guidance=0"):
        PolicyConfig.model_validate(setting | {"train": "full"})
