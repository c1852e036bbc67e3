"""`idgrpo artifacts export` of policies and `prune`, through the command line."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bases"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tiny_checkpoints
import torch
from safetensors.torch import load_file

from idgrpo.bases import lora
from idgrpo.bases.export import adapter_of_comfy, read_adapter
from idgrpo.bases.load import load_base
from idgrpo.cli.main import run
from idgrpo.store.store import Store


@pytest.fixture(scope="module", params=["vace", "phantom"])
def shelf(request, tmp_path_factory):
    """Give (store, path of a base) with one policy of that base in the store."""
    root = tmp_path_factory.mktemp(request.param)
    folder = tiny_checkpoints.write_diffusers_base(root / "base", request.param)
    base = load_base(str(folder))
    lora.attach(base, rank=4, alpha=6.0, seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(lora.trainable_parameters(base)):
            parameter.copy_(tiny_checkpoints.draw(tuple(parameter.shape), number) * 0.1)
    store = Store(root / "store")
    with store.publish("policy", "tuned", inputs={}, config={}) as draft:
        lora.save_adapter(base, draft.path)
        (draft.path / "policy.json").write_text(json.dumps({"base": str(folder)}))
    return store, str(folder)


@pytest.fixture
def export(shelf, tmp_path, capsys):
    def call(*words, ref="policy@v1"):
        capsys.readouterr()
        code = run(["artifacts", "export", ref, *map(str, words), "--store", str(shelf[0].root), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_the_diffusers_file_is_the_adapter_with_its_scale(shelf, export, tmp_path):
    out = tmp_path / "new" / "mine.safetensors"
    code, document = export("--format", "diffusers", "--out", out)
    assert code == 0
    assert (document["policy"], document["rank"], document["alpha"]) == ("policy/tuned@v1", 4, 6.0)
    assert document["size_bytes"] == out.stat().st_size
    base = load_base(shelf[1])
    lora.load_adapter(base, out)
    assert len(lora.lora_layers(base)) == document["num_layers"]
    again = lora.save_adapter(base, tmp_path / "again")
    assert again.read_bytes() == out.read_bytes()


def test_the_comfyui_file_holds_the_same_adapter_under_comfyuis_names(shelf, export, tmp_path):
    out = tmp_path / "mine.safetensors"
    code, document = export("--format", "comfyui", "--out", out)
    assert code == 0 and document["format"] == "comfyui"
    state = load_file(out)
    assert all(key.startswith("diffusion_model.") for key in state)
    assert len(state) == 3 * document["num_layers"], "A, B and alpha of each layer"
    back, published = adapter_of_comfy(state), read_adapter(shelf[0].resolve("policy").path)
    assert (back.alpha, back.rank) == (published.alpha, published.rank) == (6.0, 4)
    assert back.state.keys() == published.state.keys()
    assert all(torch.equal(back.state[key], value) for key, value in published.state.items())


def test_an_adapter_in_bfloat16_and_whole_weights_with_it(shelf, export, tmp_path):
    out = tmp_path / "half.safetensors"
    code, document = export("--dtype", "bfloat16", "--out", out)
    assert code == 0, document
    assert {value.dtype for value in load_file(out).values()} == {torch.bfloat16}
    code, document = export("--merged", shelf[1], "--out", tmp_path / "merged")
    assert code == 0, document
    assert document["size_bytes"] > out.stat().st_size
    (weights,) = (tmp_path / "merged").rglob("*.safetensors")
    base = load_base(shelf[1])
    own, merged = base.transformer.state_dict(), load_file(weights)
    assert merged.keys() == own.keys()
    assert any(not torch.equal(merged[key], own[key]) for key in own), "the policy is in them"
    assert export("--dtype", "float8", "--out", tmp_path / "x")[0] == 2


def test_refusals_have_their_exit_codes_and_leave_nothing(shelf, export, tmp_path):
    out = tmp_path / "a.safetensors"
    assert export("--out", out, "--format", "onnx")[0] == 2
    assert export("--out", out, ref="policy@v7")[0] == 4
    assert export("--out", out, ref=str(tmp_path))[0] == 4
    assert export("--out", tmp_path)[0] == 2
    assert export()[0] == 2
    (tmp_path / "file").touch()
    assert export("--out", tmp_path / "file" / "a.safetensors")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    code, document = export("--out", tmp_path / "file")
    assert code == 2 and "--force" in document["error"]["fix"]
    assert export("--out", tmp_path / "file", "--force")[0] == 0
    adapter = shelf[0].resolve("policy").path / lora.WEIGHTS_FILE
    whole = adapter.read_bytes()
    adapter.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, document = export("--out", out, "--format", "comfyui")
    adapter.write_bytes(whole)
    assert code == 4 and "has changed" in document["error"]["message"]
    assert not out.exists()


def test_an_adapter_of_something_else_is_refused(tmp_path, capsys):
    from safetensors.torch import save_file

    folder = tmp_path / "adapter"
    folder.mkdir()
    for key, says in (
        ("base_model.model.blocks.0.attn1.to_q.lora_A.weight", "no adapter in diffusers' format"),
        ("transformer.blocks.0.attn9.to_q.lora_A.weight", "no layer for blocks.0.attn9"),
    ):
        save_file({key: torch.zeros(2, 2)}, folder / lora.WEIGHTS_FILE)
        words = ["artifacts", "export", str(folder), "--format", "comfyui", "--out", str(tmp_path / "x")]
        assert run(words) == 4
        assert says in capsys.readouterr().err


def test_prune_shows_then_removes_and_spares_what_others_came_from(tmp_path, capsys):
    store, where = Store(tmp_path), ["--store", str(tmp_path)]
    for number in range(3):
        with store.publish("cases", "c", inputs={}, config={"n": number}) as draft:
            (draft.path / "cases.jsonl").write_text(str(number))
        if number == 0:
            with store.publish("rm", "r", inputs={"cases": draft.artifact}, config={}) as made:
                (made.path / "w").write_text("x")
    assert run(["artifacts", "prune", "--dry-run", *where]) == 0
    told = capsys.readouterr().out
    assert "would remove cases/c@v2" in told and "keeps cases/c@v1: rm/r@v1 was made from it" in told
    assert len(list(store.list())) == 4
    assert run(["artifacts", "prune", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["removed"] == ["cases/c@v2"] and document["size_bytes"] > 0
    assert {artifact.ref for artifact in store.list()} == {"cases/c@v1", "cases/c@v3", "rm/r@v1"}
    assert run(["artifacts", "prune", "robots", *where]) == 2
    assert run(["artifacts", "prune", "--keep", "0", *where]) == 2


@pytest.mark.parametrize("words", [["list"], ["verify"], ["prune"], ["show", "rm"], ["lineage", "rm"]])
def test_a_file_is_no_store(words, tmp_path, capsys):
    (tmp_path / "x").touch()
    assert run(["artifacts", *words, "--store", str(tmp_path / "x")]) == 2
    assert "is a file, a store is a folder" in capsys.readouterr().err
