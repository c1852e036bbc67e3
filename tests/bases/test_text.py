import pytest
import torch

from idgrpo.bases.entries import WAN_NEGATIVE_PROMPT
from idgrpo.bases.text import checked_prompt, clean_prompt
from idgrpo.errors import DataError, MachineError


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a man \n\t walks ", "a man walks"),
        ("Tom &amp;amp; Ann", "Tom & Ann"),
        ("“hi” it’s", '"hi" it\'s'),
        ("ＡＢ，c　d", "AB,c d"),
        ("", ""),
    ],
)
def test_cleaning(raw, cleaned):
    assert clean_prompt(raw) == cleaned


def test_negative_prompt_gets_narrow_commas_and_keeps_its_characters():
    cleaned = clean_prompt(WAN_NEGATIVE_PROMPT)
    assert "，" not in cleaned
    assert cleaned.count(",") == WAN_NEGATIVE_PROMPT.count("，")
    assert cleaned.startswith("色调艳丽,过曝")


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "&nbsp;"])
def test_empty_prompts_are_refused(prompt):
    with pytest.raises(DataError, match="empty"):
        checked_prompt(prompt)


def test_padding_is_zero_and_has_the_models_length(phantom):
    short, long = phantom.text_encoder.encode(["a man", "a " * 40])
    assert short.shape == long.shape == (16, 16)
    assert short[:3].abs().sum(1).min() > 0
    assert not short[3:].any()  # two words and the end token
    assert long.abs().sum(1).min() > 0, "longer prompts are cut"


def test_a_prompt_does_not_depend_on_its_neighbours(phantom):
    together = phantom.text_encoder.encode(["a man", "a woman with red hair and a green shirt"])
    alone = phantom.text_encoder.encode(["a man"])
    assert torch.allclose(together[:1], alone, atol=1e-6)


def test_an_embedding_that_is_not_the_shared_table_is_refused(phantom, monkeypatch):
    """What transformers 5.0 to 5.2 give: the encoder has a fresh table of its own."""
    from transformers import UMT5EncoderModel

    read = UMT5EncoderModel.from_pretrained

    def untied(*arguments, **keywords):
        model, info = read(*arguments, **keywords)
        table = torch.nn.Embedding(*model.shared.weight.shape)
        model.encoder.embed_tokens = table
        return model, info

    phantom.text_encoder.release()
    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", untied)
    monkeypatch.setattr("transformers.__version__", "5.1.0")
    with pytest.raises(MachineError, match=r"transformers 5\.1\.0 reads .*text_encoder") as caught:
        phantom.text_encoder.encode(["a man"])
    assert "transformers>=5.3" in caught.value.fix
    assert not phantom.text_encoder.loaded
