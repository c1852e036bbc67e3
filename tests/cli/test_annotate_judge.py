"""`idgrpo annotate --by judge` through the command line: reward models and checkpoints as judges."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from tests.reward.tiny_vlm import write_tiny_vlm

from idgrpo.cli.main import run
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Pair, Preference, Vote
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork, save_network
from idgrpo.reward.score import RewardFailure, RewardModel
from idgrpo.store.store import Store
from idgrpo.video.read import read_image, read_video


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Four cases: the true clip and another case's clip, which shows the wrong people."""
    from idgrpo.annotate.config import PairsConfig
    from idgrpo.annotate.pairs import make_pairs
    from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

    folder = tmp_path_factory.mktemp("world")
    samples = write_true_samples(folder, write_cases(folder, make_cases(4, seed=5)))
    wrong = [
        sample.model_copy(update={"id": f"{sample.id}-wrong", "video": samples[i - 1].video, "seed": sample.seed + 1})
        for i, sample in enumerate(samples)
    ]
    write_records(folder / "pairs.jsonl", make_pairs([*samples, *wrong], PairsConfig()))
    return folder / "pairs.jsonl"


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> Path:
    """A reward model directory with a random backbone and head."""
    from idgrpo.reward.backbone import load_backbone

    folder = tmp_path_factory.mktemp("rm")
    vlm = write_tiny_vlm(folder / "vlm", carried={"num_frames": 4, "min_pixels": 1024, "max_pixels": 1024})
    builder = InputBuilder.load(vlm)
    backbone = load_backbone(vlm)
    from idgrpo.reward.parts import add_token_rows

    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    network = RewardNetwork(backbone, backbone.get_input_embeddings().weight.shape[1])
    save_network(network, builder, {}, folder / "judge-rm", copy_from=None)
    return folder / "judge-rm"


@pytest.fixture
def annotate(tmp_path, pairs, capsys):
    def call(*arguments: str) -> tuple[int, dict, str]:
        code = run(
            [
                "annotate",
                "--pairs",
                str(pairs),
                "--by",
                "judge",
                "--store",
                str(tmp_path / "store"),
                "--json",
                *arguments,
            ]
        )
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return call


def votes_of(tmp_path) -> list[Vote]:
    return list(read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote, unique="vote_id"))


def gaps(reward: Path, pairs: Path) -> dict[str, float]:
    model = RewardModel.load(reward)
    found = {}
    for pair in read_records(pairs, Pair):
        photos = [read_image(reference.images[0]) for reference in pair.references]
        a, b = model.score([read_video(pair.video_a), read_video(pair.video_b)], [photos] * 2, [pair.prompt] * 2)
        found[pair.pair_id] = a - b
    return found


def test_a_reward_model_judges_by_its_scores(annotate, tmp_path, pairs, reward):
    code, document, err = annotate("--judge", str(reward))
    assert code == 0 and "was changed" not in err, err
    expected = {name: "a" if gap > 0 else "b" for name, gap in gaps(reward, pairs).items()}
    votes = votes_of(tmp_path)
    assert {vote.pair_id: vote.answer for vote in votes} == expected and len(votes) == 4  # asked once: it cannot vary
    assert {vote.annotator for vote in votes} == {"judge-rm"}
    assert document["judges"][0]["order_consistent"]["value"] == 1.0
    store = Store(tmp_path / "store")
    preferences = list(read_records(store.resolve("preferences").file("prefs.jsonl"), Preference))
    assert {item.source for item in preferences} == {"judge"}
    assert annotate("--judge", str(reward))[1]["artifact"] == document["artifact"]  # found, not judged again


def test_a_reward_model_of_the_store_and_its_tie_threshold(annotate, tmp_path, pairs, reward):
    import shutil

    widths = sorted(abs(gap) for gap in gaps(reward, pairs).values())
    store = Store(tmp_path / "store")
    with store.publish("rm", "tying", inputs={}, config={}) as draft:
        shutil.copytree(reward, draft.path, dirs_exist_ok=True)
        card = json.loads((draft.path / "reward.json").read_text())
        (draft.path / "reward.json").write_text(json.dumps({**card, "tie_threshold": (widths[1] + widths[2]) / 2}))
    code, document, err = annotate("--judge", "rm")
    assert code == 0, err
    assert document["label_shares"]["tie"] == 0.5
    assert {vote.annotator for vote in votes_of(tmp_path)} == {"rm/tying@v1"}
    inputs = store.resolve("votes").manifest.inputs
    assert inputs["judge0"].ref == "rm/tying@v1"


def test_a_clip_that_cannot_be_scored_is_an_error_and_no_vote(annotate, tmp_path, reward, monkeypatch):
    monkeypatch.setattr(RewardModel, "score", lambda self, *given: [RewardFailure("no frames"), 1.0])
    code, document, _ = annotate("--judge", str(reward))
    assert code == 3 and "judge 'judge-rm' cannot score a clip: no frames" in document["error"]["message"]
    assert not list((tmp_path / "store").rglob("votes.jsonl"))


def test_an_interrupted_session_goes_on(annotate, tmp_path, reward, monkeypatch):
    from idgrpo.stages import judging as judges

    true_look, seen = judges.look, []

    def look(pair):
        seen.append(pair.pair_id)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return true_look(pair)

    monkeypatch.setattr(judges, "look", look)
    code, document, _ = annotate("--judge", str(reward))
    assert code == 75 and "run the same command again" in document["error"]["fix"]
    done = sorted((tmp_path / "store").rglob("judged/*.jsonl"))
    assert len(done) == len(seen) == 2, "the stop is heard before the next pair"
    draft = done[0].with_name(".0000002.jsonl.0.part")
    draft.write_text('{"vote_id": "cut o')  # as a kill in the middle of a write leaves it
    code, _, err = annotate("--judge", str(reward))
    assert code == 0, err
    assert len(seen) == 2 + 2 and sorted(set(seen)) == sorted(vote.pair_id for vote in votes_of(tmp_path))
    straight = {vote.vote_id: (vote.answer, vote.a_is_left) for vote in votes_of(tmp_path)}
    assert annotate("--judge", str(reward), "--force")[0] == 0
    assert {vote.vote_id: (vote.answer, vote.a_is_left) for vote in votes_of(tmp_path)} == straight


def test_the_embedding_filter(annotate, tmp_path, pairs, reward):
    """The finder knows which clip shows the right people: a random judge's votes for the wrong one are dropped."""
    code, document, err = annotate("--judge", str(reward), "--set", "judge.finder=tiny")
    right = {
        pair.pair_id: "b" if pair.origin["a"]["sample"].endswith("-wrong") else "a"
        for pair in read_records(pairs, Pair)
    }
    judged = {name: "a" if gap > 0 else "b" for name, gap in gaps(reward, pairs).items()}
    votes = votes_of(tmp_path)
    assert {v.pair_id for v in votes if v.answer == "skip"} == {name for name in right if right[name] != judged[name]}
    assert all(re.match(r"embeddings: said [ab], but a - b = ", v.reason) for v in votes if v.answer == "skip")
    kept = sum(right[name] == judged[name] for name in right)
    assert (code, document.get("preferences", 0)) == ((0, kept) if kept else (3, 0)), err


def test_a_random_checkpoint_and_a_reward_model_as_a_panel(annotate, tmp_path, reward):
    vlm = write_tiny_vlm(tmp_path / "random-vlm")
    code, document, err = annotate(
        "--judge", str(vlm), "--judge", str(reward), "--set", "judge.max_new_tokens=4", "--set", "judge.num_frames=2"
    )
    assert code == 0, err
    votes = votes_of(tmp_path)
    assert len(votes) == 4 * (3 + 1)
    assert {vote.reason.partition(":")[0] for vote in votes if vote.annotator == "random-vlm"} == {"unreadable"}
    assert {row["judge"]: row["num_voted"] for row in document["judges"]} == {"random-vlm": 0, "judge-rm": 4}
    assert document["preferences"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "needs to know who judges"),
        (("--judge", "rm"), 4, "train-rm"),
        (("--judge", "./nowhere"), 4, "neither a directory"),
        (("--judge", "tiny-vlm", "--judge", "tiny-vlm"), 2, "same name"),
        (("--judge", "tiny-vlm", "--by", "oracle"), 2, "--by judge"),
        (("--judge", "tiny-vlm", "--set", "judge.vots=1"), 2, "votes"),
    ],
)
def test_wrong_input_is_refused(annotate, arguments, code, says):
    got, _, err = annotate(*arguments)
    assert got == code and says in err
