"""The model card and the way to a hub, without a network."""

import json

import pytest
from tests.cli.test_artifacts_out import shelf  # noqa: F401 a store with one policy

from idgrpo.cli.main import run
from idgrpo.evaluate.document import Comparison, Estimate, MeasureInfo, Report, SampleDocument, VariantDocument, Verdict
from idgrpo.stages.card import hub_name

GAIN = Estimate(value=0.1, low=0.05, high=0.15, num_cases=40)


def report_of(policy: str) -> Report:
    """A report of 40 cases in which the policy is better and something is to be watched."""
    info = MeasureInfo("identity", "Identity", "higher", "identity", "Who is who.")
    mean = Estimate(value=0.4, low=0.3, high=0.5, num_cases=40)
    entry = Comparison(
        base=0.4, tuned=0.5, difference=GAIN, relative=None, win_rate=GAIN, effect_size=None, p_value=0.001, p_holm=None,
        detectable=None, verdict="better",
    )  # fmt: skip
    sample = SampleDocument(
        variant="base",
        case_id="c",
        seed=0,
        prompt="Anna and Ben dance in the rain",
        video="v.mp4",
        references=[["a.png"]],
        values={},
    )
    return Report(
        title="t", finder="facenet", headline="identity", headlines=["identity"], reference_variant="base",
        variants=[VariantDocument(name=n, base="b", policy=p, num_samples=40) for n, p in (("base", None), ("tuned", policy))],
        num_cases=40, num_seeds=1, measures=[info], means={"base": {"identity": mean}, "tuned": {"identity": mean}},
        comparisons={"tuned": {"identity": entry}}, power_note="seen above 0.03",
        diagnostics=[Verdict(variant="tuned", name="Motion", level="alarm", text="motion fell")], samples=[sample],
    )  # fmt: skip


def test_the_card_says_base_data_measures_and_use(shelf, tmp_path, capsys):  # noqa: F811
    store, base = shelf
    words = [
        "artifacts",
        "export",
        "policy/tuned@v1",
        "--out",
        str(tmp_path / "lora.safetensors"),
        "--card",
        "--store",
        str(store.root),
    ]
    assert run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    bare = (tmp_path / "lora.md").read_text()
    assert document["card"] == str(tmp_path / "lora.md")
    assert "No report of the store measures this policy" in bare and base not in bare  # no path of this machine
    with store.publish("report", "r", inputs={}, config={}) as draft:
        (draft.path / "report.json").write_text(report_of("policy/tuned@v1").model_dump_json())
    assert run([*words, "--force"]) == 0
    card = (tmp_path / "lora.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\nlicense: other\n")
    assert 'pipe.load_lora_weights("lora.safetensors")' in card
    assert "| **Identity ↑** | **0.400** | **0.500** | **+0.100 [+0.050, +0.150]** |" in card
    assert (
        "- alarm: Motion: motion fell" in card and "*Anna and Ben dance in the rain*" in card and "## Licence" in card
    )
    assert (
        card.count("motion fell") == 1 and "\n40 cases, finder" in card
    )  # whether they were held out is not known here
    assert hub_name("vace") == "Wan-AI/Wan2.1-VACE-1.3B-diffusers" and hub_name("tiny-vace") is None
    assert hub_name("phantom") == "bytedance-research/Phantom"


@pytest.mark.parametrize(
    ("trained_on", "said"),
    [({"c", "d"}, "40 cases, **1 of them trained on**"), ({"d"}, "40 held-out cases"), (None, "40 cases,")],
)
def test_the_card_says_whether_its_cases_were_trained_on(trained_on, said):
    from idgrpo.stages.card import _measures

    assert f"\n{said}" in _measures(report_of("policy/tuned@v1"), trained_on)


def test_a_card_is_of_a_policy_only(tmp_path, capsys):
    (tmp_path / "prefs.jsonl").write_text("")
    words = ["artifacts", "export", str(tmp_path / "prefs.jsonl"), "--out", str(tmp_path / "x.jsonl"), "--card"]
    assert run([*words, "--store", str(tmp_path / "store")]) == 2
    assert "model card" in capsys.readouterr().err


def test_a_dry_run_tells_what_would_be_uploaded_without_a_network(shelf, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["artifacts", "push", "policy/tuned@v1", "team/two-people", "--store", str(shelf[0].root)]
    assert run([*words, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["files"]) == {"README.md", "policy.json", "pytorch_lora_weights.safetensors"}
    assert document["dry_run"] and document["private"] and "address" not in document
    newest = ["artifacts", "push", "policy", "team/two-people", "--store", str(shelf[0].root), "--dry-run"]
    assert run(newest) == 0 and capsys.readouterr().err.count("the newest") == 1
    assert 'load_lora_weights("pytorch_lora_weights.safetensors")' in document["card"]
    assert run(words) == 6  # offline
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    assert run(["artifacts", "push", "policy/tuned@v1", "no-owner", "--store", str(shelf[0].root), "--dry-run"]) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_push_is_one_commit_of_the_folder(shelf, capsys, monkeypatch, fails):  # noqa: F811
    import huggingface_hub

    seen = {}

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            if fails:
                raise RuntimeError("401 Client Error: log in first")
            seen.update(repo=repo_id, private=private)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            from pathlib import Path

            seen.update(files=sorted(p.name for p in Path(folder_path).iterdir()), message=commit_message)
            return f"https://hub/{repo_id}/tree/main"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    words = ["artifacts", "push", "policy/tuned@v1", "team/two-people", "--public", "--store", str(shelf[0].root)]
    assert run(words) == (6 if fails else 0)
    told = capsys.readouterr()
    if fails:
        assert "401 Client Error" in told.err and "hf auth login" in told.err
        return
    assert (
        seen["files"] == ["README.md", "policy.json", "pytorch_lora_weights.safetensors"] and seen["private"] is False
    )
    assert seen["message"] == "idgrpo: policy/tuned@v1" and "team/two-people" in told.out
