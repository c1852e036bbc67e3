"""Which mix of preferences makes the best reward model of the embedded world? Three seeds, people never seen in training.

30 % "human" pairs (clips of both bases, ordered by the oracle, one label in ten reversed) and 70 % synthetic ones
(distortions of true clips), a third of both with three people. Prints the table and writes it to $REWARD_TABLE if set:

    pytest -s -m bench tests/bench/test_reward_mix.py -k full      # about 35 CPU minutes
    pytest -s -m bench tests/bench/test_reward_mix.py -k small     # shows that it runs; its figures mean nothing
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from idgrpo.cli.demo_reward import test_figures as figures_of
from idgrpo.cli.main import run
from idgrpo.store.store import Store
from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3 * 3600)]

BASES = ("tiny-phantom", "tiny-vace")
PAIRS_PER_CASE, PAIRS_PER_CLIP = 8, 4
FLIPPED = {"skill": 0.9, "noise": 0.0}  # of the labels of decided pairs, one in ten is wrong
RECIPES = {
    "cosine + teacher": ["data.mix=cosine", "data.teacher=true"],
    "random": ["data.mix=random", "data.random_share=0.7"],
    "human-only": ["data.mix=human-only"],
}
PROBES = ("reference_order", "stranger_reference", "static_copy", "missing_person")


@dataclass(frozen=True)
class Scale:
    """Cases for human pairs, true clips for synthetic pairs, cases to test on (each: two people, three people)."""

    cases: tuple[int, int]
    clips: tuple[int, int]
    tests: int
    seeds: int


SCALES = {"small": Scale((6, 4), (6, 6), 4, 1), "full": Scale((110, 55), (512, 256), 64, 3)}


class Place:
    """A store and the commands that fill it."""

    def __init__(self, folder: Path, capsys):
        self.store = Store(folder)
        self.capsys = capsys

    def command(self, *arguments: str) -> dict:
        self.capsys.readouterr()
        code = run([*arguments, "--store", str(self.store.root), "--json"])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    def cases(self, split: str, num: int, num_people: int, seed: int) -> str:
        with self.store.publish("cases", f"{split}-{num_people}-{seed}", inputs={}, config={}) as draft:
            write_cases(draft.path, make_cases(num, seed, split, num_people))
        return draft.artifact.ref

    def distorted(self, split: str, num: int, num_people: int, seed: int) -> str:
        cases = make_cases(num, seed, split, num_people)
        name = f"{split}-{num_people}"
        with self.store.publish("samples", f"true-{name}", inputs={}, config={}) as draft:
            write_true_samples(draft.path, write_cases(draft.path, cases))
        command = ["distort", "--data", draft.artifact.ref, "--per-video", str(PAIRS_PER_CLIP)]
        return self.command(*command, "--name", name, "--set", "strength.low=0.5")["artifact"]

    def sampled(self, cases: str, name: str) -> list[str]:
        command = ["sample", "--cases", cases, "--num-per-case", "3", "--seed", "0"]
        return [self.command(*command, "--base", base, "--name", f"{base}-{name}")["artifact"] for base in BASES]

    def human(self, samples: list[str], name: str) -> str:
        settings = ["oracle.num_annotators=1", "oracle.overlap=1", "oracle.repeat_share=0", "aggregate.method=majority"]
        settings += [f"oracle.annotator.{key}={value}" for key, value in FLIPPED.items()]
        settings += [f"pairs.per_case={PAIRS_PER_CASE}"]
        given = [part for ref in samples for part in ("--samples", ref)]
        sets = [part for setting in settings for part in ("--set", setting)]
        return self.command("annotate", *given, "--by", "oracle", "--name", name, *sets)["artifact"]


def material(place: Place, scale: Scale) -> tuple[list[str], dict[int, tuple[str, list[str]]]]:
    """Return the training preferences and, by number of people, test distortions and test clips of both bases."""
    training, tests = [], {}
    for num_people, num_cases, num_clips in zip((2, 3), scale.cases, scale.clips, strict=True):
        drawn = place.sampled(place.cases("train", num_cases, num_people, 10 + num_people), f"train-{num_people}")
        training.append(place.human(drawn, f"human-{num_people}"))
        training.append(place.distorted("train", num_clips, num_people, 20 + num_people))
        unseen = place.sampled(place.cases("test", scale.tests, num_people, 30 + num_people), f"test-{num_people}")
        tests[num_people] = (place.distorted("test", scale.tests, num_people, 40 + num_people), unseen)
    return training, tests


def measured(place: Place, training: list[str], tests: dict, recipe: str, seed: int) -> dict:
    """Train once and return the row of figures."""
    data = [part for ref in training for part in ("--data", ref)]
    sets = [part for setting in RECIPES[recipe] for part in ("--set", setting)]
    trained = place.command("train-rm", *data, *sets, "--seed", str(seed), "--name", f"{recipe.split()[0]}-{seed}")
    card = trained["card"]
    row = {"recipe": recipe, "seed": seed, "pairs": card["num_training_pairs"]}
    row["kept"] = card["teacher"]["kept_share"] if "teacher" in card else None
    for num_people, (damaged, unseen) in tests.items():
        found = figures_of(place.store, trained["artifact"], damaged, unseen)
        row |= {
            f"damaged {num_people}": found["rm_accuracy_decided"],
            f"generated {num_people}": found["rm_accuracy_generated"],
        }
        row |= {
            f"num damaged {num_people}": found["num_distortion_pairs"],
            f"num generated {num_people}": found["num_generated_pairs"],
        }
    return row | {probe: card["probes"].get(probe, {}).get("pass_rate") for probe in PROBES}  # fmt: skip


def table(rows: list[dict]) -> str:
    """Return the rows as lines of text, with the mean of each recipe."""
    keys = ["damaged 2", "damaged 3", "generated 2", "generated 3", *PROBES]

    def line(name: str, values: list[float | None]) -> str:
        return f"{name:<24}" + "".join(f"{'-' if v is None else f'{v:.3f}':>20}" for v in values)

    lines = [f"{'mix, seed':<24}" + "".join(f"{key:>20}" for key in keys)]
    for recipe in RECIPES:
        own = [row for row in rows if row["recipe"] == recipe]
        lines += [line(f"{recipe} {row['seed']}", [row[key] for key in keys]) for row in own]
        lines.append(line(f"{recipe} mean", [mean([row[key] for row in own]) for key in keys]))
    sizes = ", ".join(f"{key[4:]}: {rows[0][key]} pairs" for key in rows[0] if key.startswith("num "))
    return "\n".join([*lines, sizes])


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def overall(rows: list[dict], recipe: str) -> float:
    own = [row for row in rows if row["recipe"] == recipe]
    return mean([row[key] for row in own for key in row if key.startswith(("damaged", "generated"))])


@pytest.mark.parametrize("name", SCALES)
def test_which_mix_wins(tmp_path, capsys, name) -> None:
    place, scale = Place(tmp_path / "store", capsys), SCALES[name]
    training, tests = material(place, scale)
    rows = [measured(place, training, tests, recipe, seed) for recipe in RECIPES for seed in range(scale.seeds)]
    with capsys.disabled():
        print(f"\n{table(rows)}")
    if out := os.environ.get("REWARD_TABLE"):
        Path(out).write_text(json.dumps(rows, indent=1) + "\n")
    if name == "small":
        assert all(0 <= row[key] <= 1 for row in rows for key in row if key.startswith(("damaged", "generated")))
        return
    best = [row for row in rows if row["recipe"] == "cosine + teacher"]
    for num_people in tests:
        assert mean([row[f"damaged {num_people}"] for row in best]) >= 0.97
        assert mean([row[f"generated {num_people}"] for row in best]) >= 0.90
    for row in best:
        assert all(row[probe] is None or row[probe] >= 0.9 for probe in PROBES)
    assert overall(rows, "cosine + teacher") > max(overall(rows, "random"), overall(rows, "human-only"))
