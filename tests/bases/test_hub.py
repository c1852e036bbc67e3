"""Public bases in the hub's own cache: found by name and commit, recorded in the manifest, refused when they are not right."""

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from PIL import Image

from idgrpo.bases.entries import family_of
from idgrpo.bases.inventory import at_hand, revisions_of_entry
from idgrpo.bases.load import load_base, resolve_entry
from idgrpo.bases.weights import WEIGHTS_ENV
from idgrpo.cli.main import run
from idgrpo.errors import MachineError, UsageError
from idgrpo.store.store import Store

OLD, NEW, OTHER = "a" * 40, "b" * 40, "c" * 40
PARTS = {"transformer", "vae", "text_encoder", "tokenizer"}


def snapshot(cache, repository, commit, source, *, is_main=True):
    """Lay a folder into the hub's cache as one snapshot of a repository."""
    root = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(source, root / "snapshots" / commit)
    if is_main:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(commit)


@pytest.fixture
def cache(checkpoints, tmp_path, monkeypatch):
    """Make a hub cache with VACE in two commits, Phantom's file, and its companion."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    vace = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
    snapshot(folder, vace, OLD, checkpoints / "vace", is_main=False)
    snapshot(folder, vace, NEW, checkpoints / "vace")
    original = tmp_path / "original"
    shutil.copytree(checkpoints / "original", original)
    shutil.move(original / "Wan2.1-T2V-1.3B-Diffusers", tmp_path / "companion")
    snapshot(folder, "bytedance-research/Phantom", NEW, original)
    snapshot(folder, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", OTHER, tmp_path / "companion")
    return folder


@pytest.fixture
def sample(cache, tmp_path, capsys):
    """Run `idgrpo sample --json` on two cases with photos of 64 px."""
    lines = []
    for number, people in enumerate((["ann"], ["ann", "bob"])):
        for person in people:
            Image.new("RGB", (80, 64), (sum(person.encode()) % 256, 90, 30 * number)).save(tmp_path / f"{person}.png")
        references = [{"person": person, "images": [f"{person}.png"]} for person in people]
        lines.append(json.dumps({"id": f"case-{number}", "prompt": "a man", "references": references}))
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))

    def call(*words):
        fixed = ["sample", "--cases", str(tmp_path / "cases.jsonl"), "--store", str(tmp_path / "store"), "--json"]
        code = run([*fixed, "--size", "32x32x5", "--steps", "2", "--device", "cpu", *words])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_a_name_takes_what_main_is_and_a_commit_pins(cache):
    assert load_base("vace").entry.revision == NEW
    assert load_base(f"vace@{OLD}").entry.revision == OLD
    assert load_base("vace@main").entry.revision == NEW, "the commit is recorded, not the branch"
    assert revisions_of_entry(resolve_entry(f"vace@{OLD}")) == dict.fromkeys(PARTS, OLD)
    shared = dict.fromkeys(PARTS - {"transformer"}, OTHER)
    assert revisions_of_entry(resolve_entry("phantom")) == {"transformer": NEW} | shared
    assert at_hand("phantom")["revisions"]["transformer"] == NEW


def test_a_commit_that_is_not_here_is_named_in_the_command_that_gets_it(cache, checkpoints, tmp_path, monkeypatch):
    with pytest.raises(MachineError) as caught:
        load_base(f"vace@{OTHER}")
    assert caught.value.fix == f"hf download Wan-AI/Wan2.1-VACE-1.3B-diffusers --revision {OTHER}"
    with pytest.raises(MachineError) as caught:
        load_base(f"phantom@{OLD}")
    assert f"hf download bytedance-research/Phantom --revision {OLD} Phantom-Wan-1.3B.pth && " in caught.value.fix
    shutil.copytree(checkpoints / "vace", tmp_path / "weights" / "Wan2.1-VACE-1.3B-diffusers")
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path / "weights"))
    assert load_base("vace").entry.revision is None, "a copy does not say which commit it is"
    with pytest.raises(MachineError):
        load_base(f"vace@{OTHER}")


def test_what_ships_with_idgrpo_has_no_revision():
    with pytest.raises(UsageError, match="has no revisions"):
        resolve_entry("tiny-vace@abc")


@pytest.mark.parametrize(("base", "words"), [("vace", ["--set", f"revision={OLD}"]), ("phantom", [])])
def test_sampling_from_the_public_formats_records_the_commits(sample, tmp_path, base, words):
    code, document = sample("--base", base, *words)
    assert code == 0, document
    artifact = Store(tmp_path / "store").resolve(document["artifact"])
    config = artifact.manifest.config
    assert config["revisions"]["transformer"] == (OLD if base == "vace" else NEW)
    assert config["revisions"]["vae"] == (OLD if base == "vace" else OTHER)
    assert config["revision"] == (OLD if base == "vace" else None)
    records = [json.loads(line) for line in artifact.file("samples.jsonl").read_text().splitlines()]
    assert {record["sampler"]["revision"] for record in records} == {config["revisions"]["transformer"]}
    from idgrpo.video.probe import probe

    facts = probe(artifact.path / records[0]["video"])
    assert (facts.codec, facts.pix_fmt, facts.frames, facts.width) == ("h264", "yuv420p", 5, 32)
    assert len(list((artifact.path / "contact_sheets").glob("*.png"))) == 2
    assert sample("--base", base, *words)[1]["artifact"] == document["artifact"], "the same command makes nothing twice"


def test_wrong_input_for_a_public_base_has_its_exit_code(sample, cache, tmp_path):
    code, document = sample("--base", "tiny-phantom", "--set", "revision=abc")
    assert code == 2 and "no revisions" in document["error"]["message"]
    code, document = sample("--base", f"vace@{OLD}", "--set", f"revision={NEW}")
    assert code == 2 and "called by name alone" in document["error"]["message"]
    Image.new("RGB", (80, 63)).save(tmp_path / "bob.png")
    code, document = sample("--base", "vace")
    assert code == 3 and "reference 2 is 80x63 px" in document["error"]["message"]
    assert "at least 64 px" in document["error"]["message"]
    Image.new("RGB", (80, 64)).save(tmp_path / "bob.png")  # photos are read before the transformer is
    (checkpoint,) = cache.glob("models--bytedance-research--Phantom/snapshots/*/Phantom-Wan-1.3B.pth")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    code, document = sample("--base", "phantom")
    assert code == 4 and str(checkpoint) in document["error"]["message"]
    torch.save({"encoder.weight": torch.zeros(3)}, checkpoint)
    code, document = sample("--base", "phantom")
    assert code == 4 and "missing: " in document["error"]["message"] and "1 unexpected" in document["error"]["message"]
    config = next(cache.glob(f"models--Wan-AI--Wan2.1-VACE*/snapshots/{NEW}/transformer/config.json"))
    config.write_text(config.read_text().replace("WanVACETransformer3DModel", "WanTransformer3DModel"))
    code, document = sample("--base", "vace")
    assert code == 2 and "this base needs a WanVACETransformer3DModel" in document["error"]["message"]
    assert not list(Path(tmp_path / "store").glob("artifacts/*/*/v*"))


def test_doctor_tells_where_each_part_lies_and_what_a_sample_costs(cache, capsys):
    assert run(["doctor", "--base", "phantom"]) == 0
    told = capsys.readouterr().out
    assert f"transformer: revision {NEW}" in told and f"vae: revision {OTHER}" in told
    assert "tokens" in told and "TFLOP per sample" in told and "GiB" in told
    assert run(["doctor", "--base", "phantom", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out)["checks"] if row["what"] == "base phantom")
    assert row["ok"] and row["revisions"]["transformer"] == NEW and row["cost"]["num_branches"] == 3
    shutil.rmtree(next(cache.glob("models--Wan-AI--Wan2.1-T2V*")))
    assert run(["doctor", "--base", "phantom"]) == 6
    assert "its vae is not on this machine" in capsys.readouterr().out


def downloaded(cache, repository, commit, source, patterns):
    """Lay what `hf download REPOSITORY --include PATTERNS` leaves: blobs, links, the ref, and the list of all files."""
    tree = pytest.importorskip("huggingface_hub._tree_cache")
    from huggingface_hub.utils import filter_repo_objects

    root = cache / f"models--{repository.replace('/', '--')}"
    files = {str(path.relative_to(source)): path for path in sorted(source.rglob("*")) if path.is_file()}
    for name in filter_repo_objects(files, allow_patterns=patterns):
        blob = root / "blobs" / hashlib.sha256(name.encode()).hexdigest()
        link = root / "snapshots" / commit / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[name], blob)
        link.symlink_to(blob)
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    entries = {
        name: tree.TreeCacheEntry(
            size=path.stat().st_size, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None
        )
        for name, path in files.items()
    }
    tree.write_tree_cache(str(root), commit, entries)


@pytest.fixture
def partial(checkpoints, tmp_path, monkeypatch):
    """Make a hub cache as the commands in `entries.py` leave it: of each repository only the files that are needed."""
    cache = tmp_path / "partial"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    phantom = shutil.copytree(checkpoints / "original", tmp_path / "repository")
    shutil.move(phantom / "Wan2.1-T2V-1.3B-Diffusers", tmp_path / "shared")
    (phantom / "Phantom_Wan_14B-00001-of-00006.safetensors").write_bytes(b"not downloaded")
    (phantom / "README.md").write_text("not downloaded")
    (tmp_path / "shared" / "transformer").mkdir()
    (tmp_path / "shared" / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"not downloaded")
    include = ["model_index.json", "vae/*", "text_encoder/*", "tokenizer/*"]
    downloaded(cache, "bytedance-research/Phantom", NEW, phantom, ["Phantom-Wan-1.3B.pth", "config.json"])
    downloaded(cache, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", OTHER, tmp_path / "shared", include)
    return cache


def test_a_patterned_download_satisfies_a_base(partial):
    with pytest.raises(huggingface_hub.errors.IncompleteSnapshotError):
        huggingface_hub.snapshot_download("bytedance-research/Phantom", local_files_only=True)
    assert load_base("phantom").entry.revision == NEW
    assert load_base(f"phantom@{NEW}").entry.revision == NEW
    assert at_hand("phantom")["ready"]


def test_a_download_that_was_cut_short_is_missing(partial):
    next(partial.glob("models--Wan-AI*/snapshots/*/vae/*.safetensors")).unlink()
    with pytest.raises(MachineError, match="its vae is not on this machine"):
        load_base("phantom")


def test_a_whole_base_needs_no_file_but_its_parts(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    source = shutil.copytree(checkpoints / "vace", tmp_path / "repository")
    (source / "assets").mkdir()
    (source / "assets" / "picture.png").write_bytes(b"not downloaded")
    include = [f"{part}/*" for part in ("transformer", "vae", "text_encoder", "tokenizer")]
    downloaded(tmp_path / "cache", "Wan-AI/Wan2.1-VACE-1.3B-diffusers", NEW, source, include)
    assert load_base("vace").entry.revision == NEW


def test_a_commit_and_a_file_have_the_settings_of_their_own_base(cache, checkpoints):
    (file,) = cache.glob("models--bytedance-research--Phantom/snapshots/*/Phantom-Wan-1.3B.pth")
    assert family_of(f"phantom@{NEW}") == family_of("phantom") == "phantom"
    assert family_of("phantom-14b@main") == "phantom-14b"
    assert family_of(str(file)) == family_of(str(checkpoints / "phantom")) == "tiny-phantom"
    assert family_of(str(checkpoints / "vace")) == "tiny-vace"
    with pytest.raises(UsageError, match="did you mean 'phantom'"):
        family_of("phantm")


@pytest.mark.parametrize(("width", "name"), [(1536, "phantom"), (5120, "phantom-14b")])
def test_a_file_of_public_width_is_known_as_phantom(tmp_path, width, name):
    torch.save({"patch_embedding.weight": torch.zeros(width, 16, 1, 2, 2)}, tmp_path / "tuned.pth")
    assert family_of(str(tmp_path / "tuned.pth")) == name
    assert resolve_entry(str(tmp_path / "tuned.pth")).shift == 5.0
