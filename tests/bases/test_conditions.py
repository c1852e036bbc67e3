import torch
from tiny_checkpoints import SIZE

from idgrpo.bases.conditions import ConditionCache, condition_key

PROMPT = "a man and a woman"


def counted(base, monkeypatch):
    calls = []
    encode = base.encode
    monkeypatch.setattr(base, "encode", lambda *arguments: calls.append(1) or encode(*arguments))
    return calls


def same(a, b):
    names = ("text", "negative", "references", "background")
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in pairs)


def test_the_same_case_is_encoded_once(base, photos, monkeypatch):
    calls, cache = counted(base, monkeypatch), ConditionCache()
    first = cache.encode(base, PROMPT, photos[:2], SIZE)
    assert cache.encode(base, PROMPT, [photo.clone() for photo in photos[:2]], SIZE) is first
    assert len(calls) == 1


def test_anything_that_matters_makes_another_key(base, photos):
    keys = {
        condition_key(base, PROMPT, photos[:2], SIZE),
        condition_key(base, PROMPT + " ", photos[:2], SIZE),
        condition_key(base, PROMPT, photos[1::-1], SIZE),
        condition_key(base, PROMPT, photos[:1], SIZE),
        condition_key(base, PROMPT, photos[:2], SIZE._replace(frames=5)),
        condition_key(base, PROMPT, [photos[0], 255 - photos[1]], SIZE),
    }
    assert len(keys) == 6


def test_disk_gives_the_same_bits_to_the_next_process(base, photos, monkeypatch, tmp_path):
    first = ConditionCache(tmp_path).encode(base, PROMPT, photos[:2], SIZE)
    calls = counted(base, monkeypatch)
    again = ConditionCache(tmp_path).encode(base, PROMPT, photos[:2], SIZE)
    assert same(first, again)
    assert not calls


def test_a_damaged_entry_is_made_again(phantom, photos, monkeypatch, tmp_path):
    first = ConditionCache(tmp_path).encode(phantom, PROMPT, photos[:1], SIZE)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    calls = counted(phantom, monkeypatch)
    assert same(first, ConditionCache(tmp_path).encode(phantom, PROMPT, photos[:1], SIZE))
    assert len(calls) == 1


def test_memory_is_bounded(phantom, photos, monkeypatch):
    calls, cache = counted(phantom, monkeypatch), ConditionCache(max_items=2)
    for prompt in ("a man", "a woman", "two people", "a man"):
        cache.encode(phantom, prompt, photos[:1], SIZE)
    assert len(calls) == 4
    cache.encode(phantom, "two people", photos[:1], SIZE)
    assert len(calls) == 4
