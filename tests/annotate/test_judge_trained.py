"""A tiny checkpoint taught to compare: the whole way from pixels to generated text to votes, through the command line."""

import json
from pathlib import Path

import pytest
import torch
from tests.reward.tiny_vlm import write_tiny_vlm

from idgrpo.annotate.config import JudgeConfig
from idgrpo.annotate.judge import Question
from idgrpo.annotate.judge_vlm import VlmJudge
from idgrpo.cli.main import run
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Pair, Preference, Reference, Vote
from idgrpo.store.store import Store
from idgrpo.video.write import write_image, write_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SETTINGS = ("--set", "judge.num_frames=2", "--set", "judge.max_new_tokens=12", "--set", "judge.temperature=0.2")


def clip(level: int, draw: torch.Generator) -> torch.Tensor:
    return (torch.randn(4, 3, 32, 32, generator=draw) * 10 + level).clamp(0, 255).to(torch.uint8)


def teach(folder: Path, num_steps: int, answer) -> Path:
    """Fine-tune a random checkpoint until it says `answer(left is brighter)` as its last line."""
    write_tiny_vlm(folder)
    judge = VlmJudge(folder, JudgeConfig(num_frames=2))
    draw, tokenizer = torch.Generator().manual_seed(0), judge.processor.tokenizer
    optimizer = torch.optim.AdamW(judge.model.parameters(), lr=3e-3)
    for _ in range(num_steps):
        bright = bool(torch.rand((), generator=draw) < 0.5)
        levels = (210, 40) if bright else (40, 210)
        inputs = judge._inputs(
            Question(clip(levels[0], draw), clip(levels[1], draw), [clip(128, draw)[0]], "one walks")
        )
        said = tokenizer(f"Answer: {answer(bright)}<|im_end|>", return_tensors="pt").input_ids
        inputs["input_ids"] = torch.cat([inputs["input_ids"], said], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(said)], 1)
        logits = judge.model(**inputs).logits[0, -said.shape[1] - 1 : -1]
        losses = torch.nn.functional.cross_entropy(logits, said[0], reduction="none")
        optimizer.zero_grad()
        (losses.mean() + losses[-2]).backward()  # the token that matters counts twice
        torch.nn.utils.clip_grad_norm_(judge.model.parameters(), 1.0)
        optimizer.step()
    judge.model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Six pairs; clip a is the brighter one in the even ones."""
    folder, draw = tmp_path_factory.mktemp("pairs"), torch.Generator().manual_seed(1)
    write_image(folder / "face.png", clip(128, draw)[0])
    records = []
    for i in range(6):
        for side, level in zip("ab", (210, 40) if i % 2 == 0 else (40, 210), strict=True):
            write_video(folder / f"{i}{side}.mp4", clip(level, draw))
        records.append(Pair(
            pair_id=f"p{i}", case_id=f"c{i}", prompt="one walks", video_a=str(folder / f"{i}a.mp4"),
            video_b=str(folder / f"{i}b.mp4"), references=[Reference(person="p", images=[str(folder / "face.png")])],
        ))  # fmt: skip
    write_records(folder / "pairs.jsonl", records)
    return folder / "pairs.jsonl"


def annotate(tmp_path, pairs, judge, capsys) -> tuple[int, dict]:
    code = run(["annotate", "--pairs", str(pairs), "--by", "judge", "--judge", str(judge), "--store",
                str(tmp_path / "store"), "--json", *SETTINGS])  # fmt: skip
    return code, json.loads(capsys.readouterr().out)


def test_a_checkpoint_that_compares_gives_the_right_preferences(tmp_path, pairs, capsys):
    judge = teach(tmp_path / "seeing", 120, lambda bright: "1" if bright else "2")
    code, document = annotate(tmp_path, pairs, judge, capsys)
    assert code == 0 and document["preferences"] == 6 and document["votes"] == 18
    assert document["judges"][0]["order_consistent"]["value"] > 0.9
    store = Store(tmp_path / "store")
    found = list(read_records(store.resolve("preferences").file("prefs.jsonl"), Preference))
    assert [item.label for item in found] == ["a", "b", "a", "b", "a", "b"]
    assert {item.source for item in found} == {"judge"}


def test_a_checkpoint_that_always_says_one_side_only_abstains(tmp_path, pairs, capsys):
    judge = teach(tmp_path / "blind", 40, lambda bright: "1")
    code, document = annotate(tmp_path, pairs, judge, capsys)
    assert code == 3 and "no preference comes of these votes" in document["error"]["message"]
    votes = list(read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote))
    assert len(votes) == 18 and {vote.answer for vote in votes} == {"skip"}
    assert sum(vote.reason.startswith("order: left, and left") for vote in votes) >= 15
