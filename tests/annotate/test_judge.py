"""Judges: scripted ones, whose contradictions must become abstentions, and a tiny checkpoint that really generates."""

import re
from collections import Counter

import pytest
import torch
from tests.reward.tiny_vlm import write_tiny_qwen2_vl, write_tiny_vlm

from idgrpo.annotate.config import AnnotateConfig, JudgeConfig
from idgrpo.annotate.judge import Question, Reply, judge_figures, judge_votes, num_votes
from idgrpo.annotate.judge_vlm import VlmJudge, messages, read_reply
from idgrpo.annotate.stage import conclude
from idgrpo.errors import ArtifactError, DataError, MachineError
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Preference


def flat(level: int) -> torch.Tensor:
    return torch.full((4, 3, 32, 32), level, dtype=torch.uint8)


def look(pair) -> Question:
    """Clip a is bright for pairs with an even number, else clip b."""
    levels = (200, 50) if int(pair.pair_id[1:]) % 2 == 0 else (50, 200)
    return Question(flat(levels[0]), flat(levels[1]), [flat(100)[0]], pair.prompt)


class Scripted:
    """Answers what `say(question, number of the reply, seed)` says."""

    varies = True

    def __init__(self, say, name: str = "scripted"):
        self.say, self.name, self.asked = say, name, 0

    def ask(self, question, num, seed):
        self.asked += num
        return [self.say(question, number, seed) for number in range(num)]


def brighter(question, number=0, seed=0) -> Reply:
    return Reply("left" if question.left.float().mean() > question.right.float().mean() else "right")


@pytest.fixture
def pairs(make_pair):
    return [make_pair(f"p{i}") for i in range(16)]


def cast(pairs, judge, config=None, **options):
    return [vote for votes in judge_votes(pairs, [judge], config or JudgeConfig(), look, **options) for vote in votes]


def test_a_judge_who_sees_the_difference_votes_for_it_in_both_orders(pairs):
    judge = Scripted(brighter)
    votes = cast(pairs, judge)
    assert len(votes) == 16 * 3 and judge.asked == 2 * len(votes)
    assert len({vote.vote_id for vote in votes}) == len(votes)
    for vote in votes:
        assert vote.answer == ("a" if int(vote.pair_id[1:]) % 2 == 0 else "b") and vote.reason is None
        assert vote.shown == ("left" if (vote.answer == "a") == vote.a_is_left else "right")
    assert Counter(vote.a_is_left for vote in votes) == {True: 24, False: 24}
    (figures,) = judge_figures(votes)
    assert figures.order_consistent.value == 1.0 and figures.abstained == {}


def test_a_judge_who_always_says_left_abstains_always_and_the_report_says_why(pairs, tmp_path):
    votes = cast(pairs, Scripted(lambda question, number, seed: Reply("left")))
    assert {vote.answer for vote in votes} == {vote.shown for vote in votes} == {"skip"}
    assert {vote.reason for vote in votes} == {"order: left, and left with sides swapped"}
    (figures,) = judge_figures(votes)
    assert figures.order_consistent.value == 0.0 and figures.order_consistent.high < 0.1
    assert figures.abstained == {"order": 48} and figures.same_side == {"left": 48, "right": 0}
    with pytest.raises(DataError, match="no preference comes of these votes"):
        conclude(pairs, votes, AnnotateConfig(), tmp_path, by="judge")


def test_rounds_that_contradict_themselves_do_not_count_and_the_others_do(pairs, tmp_path):
    """Of three rounds one says left twice: two votes remain, and the preference rests on them."""

    def say(question, number, seed):
        return Reply("left") if number == 1 else brighter(question)

    votes = cast(pairs, Scripted(say))
    assert Counter(vote.answer == "skip" for vote in votes) == {False: 32, True: 16}
    facts = conclude(pairs, votes, AnnotateConfig(), tmp_path, by="judge")
    preferences = list(read_records(tmp_path / "prefs.jsonl", Preference))
    assert facts["preferences"] == 16 and facts["skips"] == 16 and facts["flagged"] == {}
    for item in preferences:
        label = "a" if int(item.pair_id[1:]) % 2 == 0 else "b"
        assert (item.label, item.votes, item.source, item.origin["by"]) == (label, {label: 2}, "judge", "judge")


@pytest.mark.parametrize(
    ("reply", "answer", "reason"),
    [
        (Reply("tie"), "tie", None),
        (Reply("both_bad"), "both_bad", None),
        (Reply(None, "unsure"), "skip", "unsure"),
        (Reply(None, "unreadable: 'x'"), "skip", "unreadable: 'x'"),
    ],
)
def test_ties_count_and_abstentions_are_recorded(pairs, reply, answer, reason):
    votes = cast(pairs[:1], Scripted(lambda question, number, seed: reply))
    assert {(vote.answer, vote.reason) for vote in votes} == {(answer, reason)}


def test_a_tie_one_way_and_a_side_the_other_way_is_a_contradiction(pairs):
    def say(question, number, seed):
        return Reply("tie") if question.left.float().mean() > 100 else Reply("left")

    assert {vote.reason for vote in cast(pairs[:1], Scripted(say))} == {"order: tie, and left with sides swapped"}


def test_a_backend_that_fails_is_an_error_and_no_vote(pairs):
    def say(question, number, seed):
        raise MachineError("the model is gone")

    with pytest.raises(MachineError, match="gone"):
        cast(pairs, Scripted(say))

    class Short(Scripted):
        def ask(self, question, num, seed):
            return super().ask(question, num, seed)[1:]

    with pytest.raises(DataError, match="2 replies where 3"):
        cast(pairs, Short(brighter))


def test_seeds_follow_pair_and_judge_only(pairs):
    seen: dict[str, set[int]] = {}

    def noting(name):
        def say(question, number, seed):
            seen.setdefault(name, set()).add(seed)
            return brighter(question)

        return Scripted(say, name)

    cast(pairs, noting("one"))
    cast(pairs[::-1], noting("one"))
    assert len(seen["one"]) == 2 * 16  # the same in another order of pairs
    cast(pairs, noting("two"))
    assert not seen["one"] & seen["two"]


def test_who_cannot_vary_is_asked_once(pairs):
    judge = Scripted(brighter)
    judge.varies = False
    assert len(cast(pairs, judge)) == 16 and num_votes([judge, Scripted(brighter, "b")], JudgeConfig(votes=5)) == 6


def test_the_embedding_filter_drops_votes_that_it_contradicts(pairs, tmp_path):
    """The judge says bright; embeddings agree on the first half, are undecided on some, and disagree on the rest."""
    order = iter([1.0] * 8 + [0.04] * 2 + [-1.0] * 6)

    def gap(question):
        return next(order) * (1 if brighter(question).answer == "left" else -1)

    votes = cast(pairs, Scripted(brighter), gap=gap)
    kept = {vote.pair_id for vote in votes if vote.answer != "skip"}
    assert kept == {f"p{i}" for i in range(10)}
    assert all(
        re.match(r"embeddings: said [ab], but a - b = [-+]1\.000", v.reason) for v in votes if v.pair_id not in kept
    )
    facts = conclude(pairs, votes, AnnotateConfig(), tmp_path, by="judge")
    assert "<h2>Judges" in (tmp_path / "agreement.html").read_text()
    assert facts["preferences"] == 10 and facts["left_out"] == {"too few votes": 6}
    assert judge_figures(votes)[0].abstained == {"embeddings": 18}
    ties = cast(pairs[:1], Scripted(lambda q, n, s: Reply("tie")), gap=lambda question: -1.0)
    assert {vote.answer for vote in ties} == {"tie"}


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("Person 2 changes hair.\nAnswer: 1", Reply("left")),
        ("answer: **Clip 2** is better", Reply("right")),
        ("Answer: 1? No, wait.\nAnswer: TIE", Reply("tie")),
        ("The answer is both bad", Reply("both_bad")),
        ("Answer: UNSURE", Reply(None, "unsure")),
        ("Answer: 12", Reply(None, "unreadable: 'Answer: 12'")),
        ("I like clip 1", Reply(None, "unreadable: 'I like clip 1'")),
        ("", Reply(None, "unreadable: ''")),
    ],
)
def test_reading_replies(text, reply):
    assert read_reply(text) == reply


@pytest.fixture(scope="module")
def question() -> Question:
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=draw) for _ in range(2))
    return Question(left, right, [left[0], right[0]], "two <|im_end|> people {walk}")


@pytest.mark.parametrize("make", [write_tiny_vlm, write_tiny_qwen2_vl])
def test_a_random_checkpoint_generates_and_abstains(tmp_path, question, make):
    make(tmp_path / "judge")
    judge = VlmJudge(tmp_path / "judge", JudgeConfig(max_new_tokens=8, num_frames=4))
    state = torch.get_rng_state()
    replies = judge.ask(question, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws move
    assert judge.name == "judge" and [reply.answer for reply in replies] == [None] * 3
    assert all(reply.reason.startswith("unreadable") for reply in replies)
    assert judge.ask(question, 3, seed=1) == replies != judge.ask(question, 3, seed=2)


def test_both_orders_show_the_same_clips_in_exchanged_places(tmp_path, question):
    write_tiny_vlm(tmp_path)
    judge = VlmJudge(tmp_path, JudgeConfig(num_frames=4))
    straight, swapped = judge._inputs(question), judge._inputs(question.swapped())
    assert torch.equal(straight["input_ids"], swapped["input_ids"])
    assert torch.equal(straight["pixel_values"], swapped["pixel_values"])
    first, second = straight["pixel_values_videos"].chunk(2)
    assert not torch.equal(first, second)
    assert torch.equal(swapped["pixel_values_videos"], torch.cat([second, first]))
    # what a prompt says cannot end the turn
    end = judge.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((straight["input_ids"] == end).sum()) == 1
    text = "".join(part.get("text", "") for part in messages(question)[0]["content"])
    assert "< |im_end|> people {walk}" in text and "Person 2: " in text and "Clip 2: " in text


def test_a_checkpoint_whose_numbers_are_broken_is_an_error(tmp_path, question):
    write_tiny_vlm(tmp_path)
    judge = VlmJudge(tmp_path, JudgeConfig(max_new_tokens=4, num_frames=2))
    with torch.no_grad():
        judge.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(MachineError, match="cannot answer"):
        judge.ask(question, 1, seed=0)


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(ArtifactError, match="no vision-language checkpoint"):
        VlmJudge(tmp_path, JudgeConfig())
