"""An artifact with one changed byte: whoever needs it refuses it with exit 4 and names the file; restored, it serves again."""

import pytest
from tests.e2e.place import TINY_POLICY

ANNOTATE = ["annotate", "--by", "oracle"]
SAMPLES = ["--samples", "samples/samples", "--samples", "samples/wrong"]
POLICY = ["train-policy", "--base", "tiny-phantom", "--cases", "cases", "--rm", "rm", *TINY_POLICY]
SAMPLE = ["sample", "--base", "tiny-phantom", "--cases", "cases", "--steps", "2"]
EVAL = ["eval", "--samples", "base=samples/wrong", "--samples", "tuned=samples/samples"]
CLIP = "samples/samples/v0001/videos/train-5-0001-true.mp4"
WEIGHTS = "rm/rm/v0001/model.safetensors"
ADAPTER = "policy/tiny-phantom/v0001/pytorch_lora_weights.safetensors"
READERS = [
    ([*ANNOTATE, *SAMPLES], ["samples/wrong/v0001/samples.jsonl", CLIP]),
    ([*ANNOTATE, "--pairs", "pairs"], ["pairs/oracle/v0001/pairs.jsonl"]),
    ([*ANNOTATE, "--pairs", "pairs", "--votes", "votes"], ["votes/oracle/v0001/votes.jsonl"]),
    ([*ANNOTATE, *SAMPLES, "--least-sure", "rm", "--set", "pairs.per_case=1"], [WEIGHTS]),
    (["distort", "--data", "samples/samples"], ["samples/samples/v0001/samples.jsonl", CLIP]),
    (["train-rm", "--data", "preferences/pairs", "--set", "head.epochs=1"], ["preferences/pairs/v0001/prefs.jsonl"]),
    ([*POLICY, "--init", "policy"], ["cases/world/v0001/cases.jsonl", WEIGHTS, ADAPTER]),
    ([*SAMPLE, "--policy", "policy"], ["cases/world/v0001/cases.jsonl", ADAPTER]),
    ([*EVAL, "--reward", "rm", "--compare", "report"], [CLIP, WEIGHTS, "report/eval/v0001/report.json"]),
]


def flip(path) -> bytes:
    """Change one bit in the middle of a file, which keeps its length; gives what was there."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    return whole


@pytest.mark.parametrize("words, files", READERS, ids=lambda item: " ".join(item)[:40])
def test_a_changed_byte_is_named_and_the_restored_artifact_serves(words, files, place):
    words = [*words, "--name", "again", "--store", str(place.store.root)]
    for name in files:
        path = place.store.root / "artifacts" / name
        kind, owner, _, inside = name.split("/", 3)
        whole = flip(path)
        place.refuses(words, 4, f"{kind}/{owner}@v1 is damaged", inside, str(path.parents[inside.count("/")]))
        path.write_bytes(whole)
    place.works(words)


def test_artifacts_finds_the_changed_byte(place):
    path = place.store.root / "artifacts" / WEIGHTS
    store = ["--store", str(place.store.root)]
    whole = flip(path)
    for words in (["show", "rm"], ["verify", "rm"], ["verify"]):
        place.refuses(["artifacts", *words, *store], 4, "rm/rm@v1 is damaged", "model.safetensors")
    assert place.run(["artifacts", "list", *store]).code == 0
    path.write_bytes(whole)
    assert place.run(["artifacts", "verify", *store]).code == 0


def test_a_changed_manifest_is_no_manifest(place):
    path = place.store.root / "artifacts/rm/rm/v0001/manifest.json"
    store = ["--store", str(place.store.root)]
    for change in (lambda text: text.replace('"head"', '"full"'), lambda text: text[: len(text) // 2]):
        whole = path.read_text()
        assert change(whole) != whole
        path.write_text(change(whole))
        place.refuses(["artifacts", "verify", "rm", *store], 4, "rm/rm@v1", str(path))
        place.refuses(place.words("train-policy"), 4, str(path))
        path.write_text(whole)
    assert place.run(["artifacts", "verify", "rm", *store]).code == 0


def test_a_file_that_is_gone_is_named(place):
    path = place.store.root / "artifacts" / ADAPTER
    whole = path.read_bytes()
    path.unlink()
    place.refuses([*SAMPLE, "--policy", "policy", "--store", str(place.store.root)], 4, f"{path.name} is missing")
    path.write_bytes(whole)
