import pytest
import torch

from idgrpo.errors import DataError
from idgrpo.tinyworld.people import (
    NUM_CHOICES,
    NUM_PEOPLE,
    attributes_of,
    code_of,
    describe,
    draw_people,
    is_held_out,
    person_code,
    person_id,
)


def test_codes_and_attributes_are_inverse_for_everybody():
    codes = torch.arange(NUM_PEOPLE)
    attributes = attributes_of(codes)
    assert torch.equal(code_of(attributes), codes)
    assert torch.equal(attributes.amax(0) + 1, torch.tensor(NUM_CHOICES))
    assert torch.tensor(NUM_CHOICES).prod() == NUM_PEOPLE


def test_train_and_held_out_people_never_meet():
    generator = torch.Generator().manual_seed(0)
    train = set(draw_people(generator, (4000,), held_out=False).tolist())
    held_out = set(draw_people(generator, (4000,), held_out=True).tolist())
    assert not train & held_out
    assert 0.18 < is_held_out(torch.arange(NUM_PEOPLE)).float().mean() < 0.22


@pytest.mark.parametrize("person", ["tiny-99999", "tiny-1x", "anna", "tiny-"])
def test_foreign_person_ids_are_named(person):
    with pytest.raises(DataError, match=person):
        person_code(person)


def test_ids_round_trip_and_people_can_be_described():
    assert person_code(person_id(1234)) == 1234
    assert describe(0) == "small light person with short black hair, plain crimson shirt and charcoal trousers"
