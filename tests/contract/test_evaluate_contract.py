"""What every measure of the registry keeps to, whoever wrote it."""

import math

import pytest
from tests.evaluate.conftest import SCRIPTS, A, B, make_subject, person, subjects  # noqa: F401

from idgrpo.errors import UsageError
from idgrpo.evaluate import FIELD_MEASURES, MEASURES
from idgrpo.evaluate.measure import load_measures

ALL = {**MEASURES, **FIELD_MEASURES}


@pytest.mark.parametrize("name", ALL)
class TestEveryMeasure:
    def test_carries_its_name_title_and_definition(self, name):
        info = load_measures([name])[name].info
        assert info.name == name
        assert info.title
        assert len(info.definition) > 20
        assert info.better in ("higher", "lower", "neutral")
        assert (info.family == "field") == (name in FIELD_MEASURES)

    def test_gives_a_finite_number_or_none_on_every_counter_example(self, name, subjects):  # noqa: F811
        for script in SCRIPTS:
            value = load_measures([name])[name](subjects[script])
            assert value is None or math.isfinite(value), script

    def test_same_input_gives_the_same_number(self, name, subjects):  # noqa: F811
        function = load_measures([name])[name]
        assert function(subjects["crossing"]) == function(subjects["crossing"])

    def test_does_not_depend_on_the_order_of_references(self, name, make_subject):  # noqa: F811
        function = load_measures([name])[name]
        first = function(make_subject(SCRIPTS["faithful"], [A, B], [person(0, photo=1), person(1, photo=1)]))
        second = function(make_subject(SCRIPTS["faithful"], [B, A], [person(1, photo=1), person(0, photo=1)]))
        assert first == pytest.approx(second) if first is not None else second is None

    def test_takes_one_person_as_well(self, name, make_subject):  # noqa: F811
        value = load_measures([name])[name](make_subject(SCRIPTS["missing person"], [A]))
        assert value is None or math.isfinite(value)


def test_unknown_measures_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="identity"):
        load_measures(["identty"])
