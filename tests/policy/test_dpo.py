"""Preferences between stored clips: closed-form gradients in float64, what is left out and said, ranks, exact resume."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_base import SIZE, FakeBase, gathered
from pydantic import ValidationError
from test_policy_training import checkpoint, digest, numbers  # noqa: F401
from test_sft import SFT, write_samples

from idgrpo.bases.load import load_base
from idgrpo.errors import DataError, UsageError
from idgrpo.policy.alarms import alarms
from idgrpo.policy.clips import read_clips, read_pairs
from idgrpo.policy.config import DpoConfig, PolicyConfig
from idgrpo.policy.cost import work_of_update
from idgrpo.policy.dpo import PairBook
from idgrpo.policy.figures import PhaseTimer
from idgrpo.policy.keys import meaning
from idgrpo.policy.loss import dpo_terms
from idgrpo.policy.recipes import merge, recipe
from idgrpo.policy.replay import gained_density
from idgrpo.policy.train import train
from idgrpo.policy.trainer import Trainer
from idgrpo.policy.weights import save_weights, snapshot, trained_weights
from idgrpo.records.models import Preference
from idgrpo.reward.losses import TIE, A, B
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings, PlainEngine
from idgrpo.run.folder import RunFolder

DPO = merge(SFT, {"method": "dpo", "clips": {"num_per_update": 2}, "kl": {"reference": "start"}, "dpo": {"beta": 20.0}})


def write_preferences(folder: Path, labels=("a", "b", "a", "b"), size=(5, 8, 8), **of_rows) -> Path:
    """Write a preference a case between its two clips; of_rows: further fields, one value a row."""
    samples = read_clips(write_samples(folder, num=2 * len(labels), size=size, per_case=2))
    lines = []
    for number, label in enumerate(labels):
        a, b = samples[2 * number : 2 * number + 2]
        row = {
            "pair_id": f"pair-{number}",
            "case_id": a.case.id,
            "prompt": a.case.prompt,
            "references": [reference.model_dump() for reference in a.case.references],
            "video_a": str(a.video),
            "video_b": str(b.video),
            "label": label,
            "source": "human",
        }
        lines.append(Preference.model_validate(row | {key: values[number] for key, values in of_rows.items()}))
    path = folder / "prefs.jsonl"
    path.write_text("".join(line.model_dump_json() + "\n" for line in lines))
    return path


def make_trainer(tmp_path, base=None, world=None, labels=("a", "b", "a", "b"), **changes):
    base = base or FakeBase()
    config = PolicyConfig.model_validate(merge(DPO, changes))
    book = PairBook(
        base, read_pairs(write_preferences(tmp_path / "data", labels), config.dpo), SIZE, tmp_path / "clips"
    )
    book.encode(World())
    weights = trained_weights(base.transformer)
    engine = PlainEngine(weights, OptimizerSettings(1e-3, (0.9, 0.999), 1e-8, 0.0, 1.0), world or World())
    return Trainer(base, book, None, config, engine, start=snapshot(weights), folder=tmp_path)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_flow_dpo_in_value_and_gradient():
    """-log sig(-(beta/2) [|v_w - u_w|^2 - |r_w - u_w|^2 - (|v_l - u_l|^2 - |r_l - u_l|^2)]) by hand, in float64."""
    source, beta = torch.Generator().manual_seed(0), 3.0
    v, r, u = torch.randn(3, 4, 2, 3, 4, 4, generator=source, dtype=torch.float64)
    v.requires_grad_()

    labels = torch.tensor([A, B])
    x, sigma = (
        torch.randn(4, 2, 3, 4, 4, generator=source, dtype=torch.float64),
        torch.full((4, 1, 1, 1, 1), 0.7).double(),
    )
    clean = x - sigma * u
    gained = gained_density(clean, x - sigma * v, x - sigma * r, sigma, None)
    terms = dpo_terms(gained, labels, DpoConfig(beta=beta))
    errors = [(x - u).square().mean((1, 2, 3, 4)) for x in (v, r)]
    gained = errors[0] - errors[1]
    first, second = gained[0] - gained[1], gained[3] - gained[2]  # of the second preference b is the better one
    expected = torch.stack([-torch.log(torch.sigmoid(-beta / 2 * d)) for d in (first, second)])
    torch.testing.assert_close(terms.loss, expected, rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad(terms.loss.sum(), v)
    by_hand = torch.zeros_like(v)
    for lead, better, worse in ((first, 0, 1), (second, 3, 2)):
        pull = beta / 2 * torch.sigmoid(beta / 2 * lead) * 2 / u[0].numel()
        by_hand[better], by_hand[worse] = pull * (v - u)[better], -pull * (v - u)[worse]
    torch.testing.assert_close(got, by_hand.detach(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(terms.lead, torch.stack([-beta / 2 * first, -beta / 2 * second]).detach())
    torch.testing.assert_close(terms.better, torch.stack([-gained[0], -gained[3]]).detach() / 2)
    torch.testing.assert_close(terms.worse, torch.stack([-gained[1], -gained[2]]).detach() / 2)


def test_a_tie_pulls_both_scores_together_where_the_loss_knows_ties():
    gained = torch.tensor([0.2, -0.1], dtype=torch.float64, requires_grad=True)
    setting = DpoConfig(beta=2.0, loss="rao_kupper", theta=2.0)
    terms = dpo_terms(gained, torch.tensor([TIE]), setting)
    a, b = (1 / (1 + math.exp(-sign * 0.6 + math.log(2))) for sign in (1, -1))
    assert float(terms.loss) == pytest.approx(-math.log((4 - 1) * a * b))
    terms.loss.sum().backward()
    assert gained.grad[0] > 0 > gained.grad[1]  # descent lowers the higher one
    assert bool(terms.lead.isnan().all())


@pytest.mark.parametrize("slots", [False, True])
def test_the_gradient_of_an_update_by_hand(tmp_path, slots):
    """v = c (gain x + mix x + shift t), c = 0.5 + sigma; every derivative is written out in float64."""
    base = FakeBase(slots)
    trainer = make_trainer(tmp_path, base, loss={"micro_batch": 3})
    with torch.no_grad():
        trainer.weights["gain"].mul_(1.3)  # the policy has left its reference: no gap is zero
    data = trainer.source.data(0, PhaseTimer(), lambda: False)
    trainer.replay.run(data.batches, data.total_pairs, lambda loss, last: loss.backward())
    got = {name: p.grad.double() for name, p in base.transformer.named_parameters()}

    net = {name: p.detach().double() for name, p in base.transformer.named_parameters()}
    start = {name: value.double() for name, value in trainer.start.items()}
    expected = {name: torch.zeros_like(value) for name, value in net.items()}
    seen = 0
    for pairs in gathered(data):
        assert len(pairs.labels) == 1  # three rows hold one preference
        gained, slopes = [], []
        for row in range(2):
            video = slice(pairs.batch.num_slots, None)
            sigma = float(pairs.sigma[row])
            x, clean = (value[row, :, video].double() for value in (pairs.x, pairs.x_next))
            truth = (x - (1 - sigma) * clean) / sigma - clean
            text, c = pairs.batch.text[row].double().mean(), 0.5 + sigma
            errors = []
            for weights in (net, start):
                mixed = torch.einsum("cfhw,cd->dfhw", x, weights["mix"])
                errors.append(c * (weights["gain"] * x + mixed + weights["shift"] * text) - truth)
            gained.append((errors[1].square().mean() - errors[0].square().mean()) / 2)
            e = errors[0] / x.numel()
            slopes.append(
                {
                    "gain": -(e * c * x).sum(),
                    "mix": -c * torch.einsum("dfhw,cfhw->cd", e, x),
                    "shift": -(e * c * text).sum(),
                }
            )
        sign = 1 if int(pairs.labels[0]) == A else -1
        beta = trainer.config.dpo.beta
        pull = -sign * beta * torch.sigmoid(-sign * beta * (gained[0] - gained[1])) / data.total_pairs
        for name in expected:
            expected[name] += pull * (slopes[0][name] - slopes[1][name])
        seen += 1
    assert seen == data.total_pairs == 2
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=2e-5, atol=1e-7)


def test_both_clips_get_one_level_and_one_noise(tmp_path):
    for pairs in gathered(make_trainer(tmp_path, rollout={"window": {"size": 2}}).source.data(0, PhaseTimer(), bool)):
        sigma = pairs.sigma.float()[:, None, None, None, None]
        noise = (pairs.x - (1 - sigma) * pairs.x_next) / sigma
        torch.testing.assert_close(noise[0::2], noise[1::2], rtol=1e-3, atol=1e-4)
        assert torch.equal(pairs.sigma[0::2], pairs.sigma[1::2])
        assert not torch.equal(pairs.x_next[0::2], pairs.x_next[1::2])


def test_an_untrained_policy_loses_ln_2_and_learns_what_was_preferred(tmp_path):
    trainer = make_trainer(tmp_path, num_updates=60, clips={"num_per_update": 4})
    book = trainer.source.book
    for pair, (a, b) in zip(book.preferences, book.sides, strict=True):  # the better clips have twice the contrast
        better = a if pair.label == A else b
        save_weights(tmp_path / "clips" / f"{better:06d}.safetensors", {"latents": 2 * book.latents(better)})
    rows = [trainer.update() for _ in range(60)]
    assert rows[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["preference_accuracy"] == 0.5 and rows[0]["gain_better"] == pytest.approx(0, abs=1e-7)
    assert rows[0]["samples_per_second"] > 0 and "log_ratio_max" not in rows[0]
    late = rows[-20:]
    assert sum(row["preference_accuracy"] for row in late) / 20 > 0.6
    assert sum(row["preference_loss"] for row in late) / 20 < rows[0]["preference_loss"]
    assert not [key for key in rows[0] if meaning(key) is None]


def test_the_kl_is_a_mean_over_preferences_however_they_are_batched(tmp_path):
    def first_kl(number, **changes):
        trainer = make_trainer(tmp_path / str(number), kl={"weight": 1.0}, clips={"num_per_update": 4}, **changes)
        with torch.no_grad():
            trainer.weights["gain"].mul_(1.2)
        return trainer.update()

    one, other = first_kl(0), first_kl(1, loss={"micro_batch": 2})
    assert one["kl"] == pytest.approx(other["kl"], rel=1e-5) and one["kl"] > 0
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_ranks_share_an_update_and_together_see_what_one_sees(tmp_path):
    whole = make_trainer(tmp_path / "one").source.data(1, PhaseTimer(), bool)
    parts = [make_trainer(tmp_path / f"r{r}", world=World(r, 2)).source.data(1, PhaseTimer(), bool) for r in (0, 1)]
    noised = lambda data: sorted(tuple(row.tolist()) for pairs in gathered(data) for row in pairs.x.flatten(1))  # noqa: E731
    assert noised(whole) == sorted([*noised(parts[0]), *noised(parts[1])])
    assert [part.total_pairs for part in parts] == [2, 2]


# -- which preferences -------------------------------------------------------------------------------------------------


def test_ties_both_bad_and_other_splits_are_left_out_and_said(tmp_path, caplog):
    labels = ("a", "tie", "both_bad", "b", "a")
    path = write_preferences(tmp_path, labels, split=(None, None, None, "train", "test"))
    kept = read_pairs(path, DpoConfig())
    assert [(pair.id, pair.label) for pair in kept] == [("pair-0", A), ("pair-3", B)]
    assert "2 of 5 preferences are learnt from; left out: 1 both_bad, 1 of the test split, 1 ties" in caplog.text
    with_ties = read_pairs(path, DpoConfig(loss="davidson"))
    assert [pair.label for pair in with_ties] == [A, TIE, B]
    assert [pair.label for pair in read_pairs(path, DpoConfig(loss="davidson", both_bad="tie"))] == [A, TIE, TIE, B]
    path = write_preferences(tmp_path / "ties", ("tie", "both_bad"))
    with pytest.raises(DataError, match=r"none of 2 preferences can be learnt from \(1 both_bad, 1 ties\)") as error:
        read_pairs(path, DpoConfig())
    assert "--set dpo.loss=rao_kupper" in error.value.fix
    path = write_preferences(tmp_path / "bad", ("both_bad",))
    for setting, fix in [
        (DpoConfig(), "(labels a and b), or learn from ties: --set dpo.loss=rao_kupper --set dpo.both_bad=tie"),
        (DpoConfig(loss="davidson"), "or learn from ties: --set dpo.both_bad=tie"),
        (None, "give decided pairs (labels a and b)"),
    ]:
        with pytest.raises(DataError, match=r"none of 1 preferences can be learnt from \(1 both_bad\)") as error:
            read_pairs(path, setting)
        assert error.value.fix.endswith(fix)
    path = write_preferences(tmp_path / "both", ("tie", "a"), split=(None, "test"))
    with pytest.raises(DataError) as error:
        read_pairs(path)
    assert (
        error.value.fix
        == "give rows of the train split, or rows without a split, or give decided pairs (labels a and b)"
    )
    path.write_text("\n")
    with pytest.raises(DataError, match=r"none of 0 preferences can be learnt from \(there are none\)") as error:
        read_pairs(path, DpoConfig())
    assert "idgrpo annotate" in error.value.fix


def test_a_clip_of_several_preferences_is_encoded_once(tmp_path):
    path = write_preferences(tmp_path, ("a", "b"))
    first = Preference.model_validate_json(path.read_text().splitlines()[0])
    again = first.model_copy(update={"pair_id": "again", "label": "b"})
    path.write_text(path.read_text() + again.model_dump_json() + "\n")
    book = PairBook(FakeBase(), read_pairs(path, DpoConfig()), SIZE, tmp_path / "clips")
    book.encode(World())
    assert len(book.preferences) == 3 and len(list((tmp_path / "clips").glob("*.safetensors"))) == 4
    assert book.sides[2] == book.sides[0]


def test_one_video_in_preferences_of_two_cases_keeps_both_prompts(tmp_path):
    """All of a video's preferences got the prompt and the people of the last."""
    path = write_preferences(tmp_path, ("a", "b"))
    first = Preference.model_validate_json(path.read_text().splitlines()[0])
    other = first.model_copy(update={"pair_id": "other", "case_id": "other", "prompt": "somebody else"})
    path.write_text(path.read_text() + other.model_dump_json() + "\n")
    pairs = read_pairs(path, DpoConfig())
    book = PairBook(FakeBase(), pairs, SIZE, tmp_path / "clips")
    assert [book.clips[book.sides[k][0]].case.prompt for k in (0, 2)] == [first.prompt, "somebody else"]
    assert len(book) == 6


def test_settings_of_another_method_are_refused():
    for wrong, message in [
        ({"method": "sft", "dpo": {"beta": 1.0}}, "they have no effect on sft"),
        ({"method": "dpo", "clips": {"guidance": 2.0}}, "only num_per_update"),
        ({"method": "dpo", "dpo": {"loss": "hinge"}}, "known: rao_kupper"),
        ({"method": "dpo", "dpo": {"both_bad": "tie"}}, "dpo.both_bad=tie has no effect: dpo.loss=bradley_terry"),
        ({"method": "dpo", "kl": {"weight": 0.0, "reference": "start"}, "engine": {"zero": 3}}, "ZeRO 3"),
    ]:
        with pytest.raises(ValidationError, match=message):
            PolicyConfig.model_validate(wrong)


@pytest.mark.parametrize("base", ["tiny-phantom", "vace"])
@pytest.mark.parametrize("name", ["default", "full"])
def test_recipes_have_a_form_for_preferences(base, name):
    config = recipe(name, base, method="dpo")
    assert config.method == "dpo" and config.kl.weight == 0 and not config.advantage.controls
    work = work_of_update(config, 2)
    assert work.samples == 2 * config.clips.num_per_update == work.reference_steps and work.scored_sets == 0


def test_better_clips_that_become_less_likely_raise_an_alarm():
    rows = [{"gain_better": -1e-3, "gain_worse": -3e-3}] * 30
    assert any("less likely than under the reference" in alarm for alarm in alarms(rows))
    assert not alarms(rows[:29]) and not alarms([{"gain_better": 1e-3, "gain_worse": -3e-3}] * 30)


# -- whole runs --------------------------------------------------------------------------------------------------------


def run_stage(checkpoint, data, folder, **changes):  # noqa: F811
    config = PolicyConfig.model_validate(merge(DPO | {"lora": {"rank": 2}, "kl": {"weight": 0.0}}, changes))
    with RunFolder.open(folder, config.model_dump()) as run:
        return train(load_base(str(checkpoint)), read_pairs(data, config.dpo), None, config, run, out=folder / "out")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("pairs"), size=(5, 32, 32))


def test_sigkill_and_resume_end_alike(checkpoint, data, tmp_path):  # noqa: F811
    figures = run_stage(checkpoint, data, tmp_path / "whole")
    assert figures["updates"] == 5 and {"preference_first", "preference_last"} <= figures.keys()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "out" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)  # adapters off are the reference
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[4:]; import test_dpo;"
        "test_dpo.run_stage(*map(Path, sys.argv[1:4]))"
    )
    command = [sys.executable, "-c", script, str(checkpoint), str(data), str(tmp_path / "killed"), *sys.path]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    log = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_stage(checkpoint, data, tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_material_of_another_method_is_refused(checkpoint, data, tmp_path):  # noqa: F811
    with pytest.raises(UsageError, match="learns from stored clips"):
        run_stage(checkpoint, data, tmp_path / "sft", method="sft", dpo={"beta": 500.0})
    with pytest.raises(UsageError, match="9 different preferences, but there are 4"):
        run_stage(checkpoint, data, tmp_path / "many", clips={"num_per_update": 9})
