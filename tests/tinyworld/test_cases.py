import torch

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Case
from idgrpo.tinyworld.cases import make_cases, scene_of, true_clip, write_cases, write_true_samples
from idgrpo.tinyworld.oracle import identity_by_template, track_scores
from idgrpo.tinyworld.people import is_held_out, person_code
from idgrpo.video.read import read_video


def test_cases_are_reproducible_and_splits_keep_people_apart():
    first, again = make_cases(5, 3, "test"), make_cases(5, 3, "test")
    assert [item.case for item in first] == [item.case for item in again]
    codes = [person_code(reference.person) for item in first for reference in item.case.references]
    assert bool(is_held_out(torch.tensor(codes)).all())


def test_people_of_a_case_are_different():
    drawn = make_cases(50, 2, "eval")[-1].case  # the first draw for this case gave one person twice
    assert drawn.id == "eval-2-0049" and len({reference.person for reference in drawn.references}) == 2


def test_written_cases_and_true_samples_read_back(tmp_path):
    cases = write_cases(tmp_path, make_cases(2, 0))
    assert list(read_records(tmp_path / "cases.jsonl", Case)) == cases
    sample = write_true_samples(tmp_path, cases)[0]
    clip = read_video(sample.video)
    expected = (true_clip(cases[0]).pixels[0] * 255).round().byte()
    assert torch.equal(clip, expected)


def test_prompt_names_the_leftmost_reference_first():
    for seed in range(6):
        scenes, prompt = scene_of(seed, 2)
        leftmost = int(scenes.x[0, :, 0].argmin())
        assert prompt.split()[0] == ("one", "two")[leftmost]


def test_the_oracle_tells_right_people_from_wrong_swapped_and_late_swapped_ones():
    cases = [item.case for item in make_cases(12, 1, "test")]
    others = cases[1:] + cases[:1]
    right, wrong = [], []
    for case, other in zip(cases, others, strict=True):
        clip = (true_clip(case).pixels[0] * 255).byte()
        right.append(identity_by_template([clip], [case.references])[0])
        wrong.append(identity_by_template([clip], [other.references])[0])
    right, wrong = torch.tensor(right), torch.tensor(wrong)
    assert right.mean() > 0.6
    assert wrong.mean() < 0.35
    assert (right.mean(1) > wrong.mean(1)).all()


def test_people_exchanged_half_way_score_lower_than_right_ones():
    lower = 0
    for item in make_cases(10, 2):
        case = item.case
        swapped = case.model_copy(update={"references": case.references[::-1]})
        right = (true_clip(case).pixels[0] * 255).byte()
        late = torch.cat([right[:5], (true_clip(swapped).pixels[0] * 255).byte()[5:]])
        people = [reference.person for reference in case.references]
        lower += float(track_scores(late, people).mean()) < float(track_scores(right, people).mean()) - 0.03
    assert lower >= 9
