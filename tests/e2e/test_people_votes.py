"""Votes on who is wrong, from the oracle's answers to the reward model that learnt from them, by the real command line.

The clips are such that the vote on the pair hides it: of two people one is a stranger in each clip, another one in either, so
that nearly all votes are ties. The labels teach nothing, the answers about people do.
"""

import json
from pathlib import Path

import pytest

from idgrpo.cli.main import run
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Pair, Preference
from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_CASES = 96


def write_pairs(folder: Path) -> Path:
    """Write the true clips of cases in which one of the people is replaced by somebody of the next case, as pairs."""
    cases = write_cases(folder, make_cases(NUM_CASES, 3))
    films: dict[str, list[str]] = {}
    for name, kept in (("first", (True, False)), ("second", (False, True))):
        shown = []
        for case, other in zip(cases, cases[1:] + cases[:1], strict=True):
            people = [
                own if keep else stranger
                for own, stranger, keep in zip(case.references, other.references, kept, strict=True)
            ]
            shown.append(case.model_copy(update={"references": people}))
        films[name] = [sample.video for sample in write_true_samples(folder / name, shown)]
    pairs = []
    for index, case in enumerate(cases):
        sides = ("first", "second") if index % 2 else ("second", "first")
        videos = {f"video_{side}": films[name][index] for side, name in zip("ab", sides, strict=True)}
        told = case.model_dump(include={"prompt"}) | {"references": case.references} | videos
        pairs.append(Pair(pair_id=f"pair-{index}", case_id=case.id, **told))
    write_records(folder / "pairs.jsonl", pairs)
    return folder / "pairs.jsonl"


def test_a_reward_model_learns_who_is_wrong_where_votes_on_pairs_hide_it(tmp_path, capsys):
    def call(*words: str) -> dict:
        capsys.readouterr()
        code = run([*words, "--store", str(tmp_path / "store"), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    pairs = write_pairs(tmp_path / "world")
    votes = call(
        "annotate",
        "--by",
        "oracle",
        "--pairs",
        str(pairs),
        "--set",
        "ask_people=true",
        "--set",
        "oracle.annotator.tie_width=0.3",
    )
    found = list(read_records(Path(votes["path"]) / "prefs.jsonl", Preference))
    assert all(pair.people is not None for pair in found) and votes["label_shares"]["tie"] > 0.9
    cards = [
        call("train-rm", "--set", f"loss.people={weight}", "--name", f"people-{weight}", "--set", "data.test_share=0.4")
        for weight in (0, 1)
    ]
    without, weighed = (card["card"]["probes"]["person_alone"] for card in cards)
    # measured: 0 and 19 of 19 held-out pairs; a head that met ties alone stays zero and orders nobody
    assert without["num_clips"] == weighed["num_clips"] >= 15
    assert without["pass_rate"] <= 0.6 and weighed["pass_rate"] >= 0.9
