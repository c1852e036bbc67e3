import torch

from idgrpo.tinyworld.cases import make_cases, scene_of, true_clip
from idgrpo.tinyworld.oracle import track_attributes, track_scores
from idgrpo.tinyworld.parts import TURNS, WIDTH_PX, attribute_probabilities, figures_of_any_colour, fit_colours
from idgrpo.tinyworld.people import HAIR, SHIRT, SKIN, TROUSERS, attributes_of, code_of, person_code, person_id
from idgrpo.tinyworld.render import portraits
from idgrpo.tinyworld.spotting import PAD_PX, spot


def clip_of(case):
    return (true_clip(case).pixels[0] * 255).round().byte()


def test_fitting_a_drawn_figure_gives_back_its_colours():
    figures = figures_of_any_colour()
    index = int(((figures.shapes == torch.tensor([1, 2, 2])).all(1) & (figures.turn == TURNS[1])).nonzero())
    colours = torch.stack([HAIR[5], SKIN[3], SHIRT[1], TROUSERS[4]])  # [part, channel]
    behind = torch.full((1, 3, figures.alpha.shape[1]), 0.6)
    drawn = (figures.parts[index] @ colours).T[None]
    window = drawn + figures.fixed[index] + (1 - figures.alpha[index]) * behind
    found, error = fit_colours(window, behind)
    assert (found[0, index].T - colours).abs().max() < 0.06  # the ridge pulls a little towards black
    assert int(error[0].argmin()) == index
    probabilities = attribute_probabilities(window, behind, colour_deviation=0.2, shape_error=0.3)
    assert [int(p.argmax()) for p in probabilities] == [3, 5, 1, 1, 2, 4, 2]


def test_people_are_found_where_they_stand_without_knowing_them():
    errors = []
    for item in make_cases(12, 5, "test"):
        scenes, _ = scene_of(item.case.seed, 2)
        tracks = torch.stack([track.x for track in spot(clip_of(item.case).float() / 255, 2)])
        middle = tracks - PAD_PX + WIDTH_PX / 2
        errors.append(min(float((middle[list(o)] - scenes.x[0]).abs().mean()) for o in ((0, 1), (1, 0))))
    assert sorted(errors)[len(errors) // 2] < 0.5 and sum(errors) / len(errors) < 1.5


def test_one_changed_attribute_costs_that_attribute_and_no_other():
    drops = torch.zeros(7)
    cases = [item.case for item in make_cases(8, 6, "test")]
    for case in cases:
        people = [reference.person for reference in case.references]
        right = track_attributes(clip_of(case), people).mean(1)
        attributes = attributes_of(torch.tensor(person_code(people[0])))
        shirt = attributes.clone()
        shirt[3] = (shirt[3] + 3) % 8
        asked = [person_id(int(code_of(shirt))), people[1]]
        drops += right[0] - track_attributes(clip_of(case), asked).mean(1)[0]
    drops /= len(cases)
    assert drops[3] > 0.4
    assert drops[[0, 1, 2, 4, 5, 6]].abs().max() < 0.15


def test_three_people_and_one_person_are_judged_too():
    for num_people in (1, 3):
        scene = [item.case for item in make_cases(6, 7, "test", num_people=num_people)]
        others = scene[1:] + scene[:1]
        gaps = []
        for case, other in zip(scene, others, strict=True):
            right, wrong = (
                float(track_scores(clip_of(case), [r.person for r in c.references]).mean()) for c in (case, other)
            )
            gaps.append(right - wrong)
        assert min(gaps) > 0 and sum(gaps) / len(gaps) > 0.3


def test_a_missing_person_counts_nothing():
    case = make_cases(1, 8, "test")[0].case
    empty = (portraits(torch.tensor([0])) * 0 + 0.5).mul(255).byte().expand(9, -1, -1, -1)
    scores = track_scores(empty, [reference.person for reference in case.references])
    assert scores.abs().max() < 0.05
