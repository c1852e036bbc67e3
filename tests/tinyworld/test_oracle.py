from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from idgrpo.tinyworld.cases import make_cases, scene_of, true_clip, write_cases, write_true_samples
from idgrpo.tinyworld.oracle import fates, track_attributes, track_scores
from idgrpo.tinyworld.parts import (
    HEIGHT_PX,
    RIDGE,
    TURNS,
    WIDTH_PX,
    attribute_probabilities,
    figures_of_any_colour,
    fit_colours,
)
from idgrpo.tinyworld.people import HAIR, SHIRT, SKIN, TROUSERS, attributes_of, code_of, person_code, person_id
from idgrpo.tinyworld.render import portraits
from idgrpo.tinyworld.spotting import BELOW_PX, FIRST_ROW, PAD_PX, _evidence, spot


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


@pytest.mark.parametrize(("num_people", "found"), [(2, 0.99), (3, 0.92)])
def test_people_are_found_where_they_stand_without_knowing_them(num_people, found):
    near = []
    for item in make_cases(16, 5, "test", num_people):
        scenes, _ = scene_of(item.case.seed, num_people)
        tracks = torch.stack([track.x for track in spot(clip_of(item.case).float() / 255, num_people)])
        gaps = (tracks[:, None] - PAD_PX + WIDTH_PX / 2 - scenes.x[0]).abs()  # [track, person, frame]
        people = list(range(num_people))
        best = min(permutations(people), key=lambda order: float(gaps[list(order), people].sum()))
        near.append((gaps[list(best), people] < 2).float().mean())
    assert torch.stack(near).mean() >= found


@pytest.mark.parametrize(("y", "x"), [(0, 0), (5, 2), (8, 15), (13, 30)])
def test_evidence_is_the_error_that_a_fit_to_the_pixels_inside_explains(y, x):
    generator = torch.Generator().manual_seed(y)
    clip = torch.rand(1, 3, 32, 32, generator=generator, dtype=torch.float64)
    rows = torch.rand(3, 32, generator=generator, dtype=torch.float64)

    def padded(picture):
        return F.pad(picture, (PAD_PX, PAD_PX, PAD_PX, BELOW_PX), mode="replicate")

    def window(picture):
        top = y + FIRST_ROW
        return picture[..., top : top + HEIGHT_PX, x : x + WIDTH_PX].flatten(-2)

    picture, backdrop = padded(clip), padded(rows.view(1, 3, -1, 1).expand_as(clip))
    inside = window(F.pad(torch.ones(32, 32), (PAD_PX, PAD_PX, PAD_PX, BELOW_PX))).double()
    ahead, behind = window(picture[0]) * inside, window(backdrop[0]) * inside  # [channel, p]
    figures = figures_of_any_colour()
    explained = []
    for index in (figures.turn == 0).nonzero().flatten().tolist():
        parts, alpha, fixed = (v[index].double() for v in (figures.parts, figures.alpha, figures.fixed))
        parts, target = parts * inside[:, None], ahead - (1 - alpha) * behind - fixed * inside
        gram = parts.T @ parts + RIDGE * torch.eye(4, dtype=torch.float64)
        gain = torch.einsum("cp,pk,kl,ql,cq->", target, parts, gram.inverse(), parts, target)
        explained.append((ahead - behind).square().sum() - target.square().sum() + gain)
    evidence, figure = _evidence(picture.float(), backdrop[0, :, :, 0].float())
    assert evidence[0, y, x] == pytest.approx(max(explained).item(), abs=1e-2)
    assert int(figure[0, y, x]) == int(torch.stack(explained).argmax())


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


def test_the_oracle_says_who_is_wrong_in_a_clip(tmp_path):
    samples = write_true_samples(tmp_path / "two", write_cases(tmp_path / "two", make_cases(8, 6, "test")))
    people = [tuple(reference.person for reference in sample.references) for sample in samples]
    told = [fates(sample.video, own) for sample, own in zip(samples, people, strict=True)]
    assert sum(fate == "kept" for one in told for fate in one) >= 15
    strangers = [fates(sample.video, other) for sample, other in zip(samples, people[1:] + people[:1], strict=True)]
    assert sum(fate in ("changed", "mixed") for one in strangers for fate in one) >= 15
    # the first person asked for beside a stranger of whom nothing is there: one kept, one not
    halves = [fates(s.video, (own[0], other[1])) for s, own, other in zip(samples, people, people[1:], strict=False)]
    assert sum(one[0] == "kept" and one[1] != "kept" for one in halves) >= 6
    alone = write_true_samples(tmp_path / "one", write_cases(tmp_path / "one", make_cases(6, 6, "test", 1)))
    asked = [fates(s.video, (s.references[0].person, people[0][1])) for s in alone]
    assert sum(set(one) == {"kept", "missing"} for one in asked) >= 5
    # one person stands in both places: the other one is mixed with them
    cases = write_cases(tmp_path / "twice", make_cases(8, 6, "test"))
    doubled = [case.model_copy(update={"references": case.references[:1] * 2}) for case in cases]
    twice = [
        fates(s.video, own) for s, own in zip(write_true_samples(tmp_path / "twice", doubled), people, strict=True)
    ]
    assert sum(one == ("kept", "mixed") for one in twice) >= 7
