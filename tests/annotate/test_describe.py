"""Precise prompts: what a model says becomes one clause a person, from pixels to a cases artifact through the command line."""

import json
from pathlib import Path

import pytest
import torch
from tests.reward.tiny_vlm import write_tiny_vlm

from idgrpo.annotate.describe import MAX_WORDS, VlmDescriber, clause, describe_photos, make_precise, precise_prompt
from idgrpo.cli.main import run
from idgrpo.errors import DataError
from idgrpo.records.cases import read_cases
from idgrpo.records.models import Case, Reference
from idgrpo.run.dealing import Dealing
from idgrpo.store.store import Store
from idgrpo.video.write import write_image


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("A tall man, grey beard.", "A tall man, grey beard"),
        ('\n  "a woman in red"\nShe smiles.', "a woman in red"),
        ("---\n12\nan old man", "an old man"),
        (" ... ", ""),
        ("word, " * MAX_WORDS + "end", ", ".join(["word"] * MAX_WORDS)),
    ],
)
def test_one_clause_is_kept(said, kept):
    assert clause(said) == kept


def test_a_prompt_names_people_in_the_order_of_their_references():
    assert precise_prompt("Two dance. ", ["a man", "a girl"]) == "Two dance. Person 1: a man. Person 2: a girl."


def flat(level: int) -> torch.Tensor:
    return torch.full((3, 32, 32), level, dtype=torch.uint8)


def case(folder: Path, name: str, *levels: int) -> Case:
    for level in levels:
        write_image(folder / f"{level}.png", flat(level))
    people = [Reference(person=f"p{level}", images=[str(folder / f"{level}.png")]) for level in levels]
    return Case(id=name, prompt="they walk", references=people)


def test_a_photo_is_asked_about_once_and_silence_is_an_error(tmp_path):
    asked = []

    def describe(photo):
        asked.append(int(photo.float().mean()))
        return "" if asked[-1] < 10 else f"someone of {asked[-1]}"

    cases = [case(tmp_path, "a", 40, 200), case(tmp_path, "b", 200, 0)]
    photos = [reference.images[0] for one in cases for reference in one.references]
    said = describe_photos(photos, describe, tmp_path / "said", Dealing())
    assert make_precise(cases[0], said).prompt == "they walk. Person 1: someone of 40. Person 2: someone of 200."
    with pytest.raises(DataError, match=r"case 'b'.*said nothing about .*0\.png"):
        make_precise(cases[1], said)
    assert describe_photos(photos, describe, tmp_path / "said", Dealing()) == said and asked == [40, 200, 0]


def teach(folder: Path) -> Path:
    """Fine-tune a random checkpoint until it calls a bright photo `pale` and a dark one `dark`."""
    write_tiny_vlm(folder)
    describer = VlmDescriber(folder)
    seen: list[dict] = []
    generate, tokenizer = describer.model.generate, describer.processor.tokenizer
    describer.model.generate = lambda **inputs: seen.append(inputs) or inputs["input_ids"]
    for level in (40, 210):
        describer(flat(level))
    describer.model.generate = generate
    optimizer = torch.optim.AdamW(describer.model.parameters(), lr=3e-3)
    for step in range(60):
        said = tokenizer(("dark", "pale")[step % 2] + "<|im_end|>", return_tensors="pt").input_ids
        inputs = {k: v for k, v in seen[step % 2].items() if k not in ("do_sample", "max_new_tokens")}
        inputs["input_ids"] = torch.cat([inputs["input_ids"], said], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(said)], 1)
        logits = describer.model(**inputs).logits[0, -said.shape[1] - 1 : -1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, said[0]).backward()
        optimizer.step()
    describer.model.save_pretrained(folder)
    return folder


def test_the_command_makes_a_new_version_and_finds_it_again(tmp_path, capsys):
    vlm, store = teach(tmp_path / "vlm"), tmp_path / "store"
    shelf = Store(store)
    with shelf.publish("cases", "mine", inputs={}, config={}) as draft:
        lines = [case(tmp_path, "a", 40, 210).model_dump_json(), case(tmp_path, "b", 210).model_dump_json()]
        (draft.path / "cases.jsonl").write_text("\n".join(lines) + "\n")
    arguments = ["artifacts", "describe-people", "--vlm", str(vlm), "--device", "cpu", "--store", str(store), "--json"]
    assert run([*arguments, "cases"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == "cases/mine@v2"
    prompts = [item.prompt for item in read_cases(shelf.resolve("cases").file("cases.jsonl"))]
    assert prompts == ["they walk. Person 1: dark. Person 2: pale.", "they walk. Person 1: pale."]
    assert run([*arguments, "cases/mine@v1"]) == 0
    assert json.loads(capsys.readouterr().out)["artifact"] == "cases/mine@v2"
    assert len(list(shelf.list("cases"))) == 2
    assert run([*arguments, "cases"]) == 2
    assert "describes its people already" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    assert run(["artifacts", "describe-people", "--store", str(tmp_path), "--json"]) == 2
    assert "--vlm" in json.loads(capsys.readouterr().out)["error"]["fix"]
