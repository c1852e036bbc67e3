"""Records, videos and pictures that are broken or missing: every stage names them, and works once they are mended."""

import shutil

import pytest
from tests.e2e.place import STAGES, Place

READS = {
    "annotate": "samples.jsonl",
    "distort": "samples.jsonl",
    "train-rm": "prefs.jsonl",
    "train-policy": "cases.jsonl",
    "sample": "cases.jsonl",
    "eval": "samples.jsonl",
}
BROKEN_LINES = {
    "torn": (lambda line: line[:40], "not valid JSON"),
    "unknown field": (lambda line: line.replace('"prompt"', '"promt"'), "field 'promt': unknown (did you mean 'prompt'?)"),
    "no references": (lambda line: line.replace('"references"', '"people"'), "field 'references': field required"),
}  # fmt: skip
NO_VIDEOS = {
    "text": lambda whole: b"not a video\n" * 50,
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[: len(whole) // 2],
}
WATCHING = ("annotate", "train-rm", "eval")  # distort leaves a bad clip out and says so: below


@pytest.mark.parametrize("stage", STAGES)
def test_a_malformed_third_line_is_named_and_once_mended_the_stage_works(stage, place):
    file = place.root / READS[stage]
    whole = file.read_text()
    for change, says in BROKEN_LINES.values():
        break_third_line(file, change)
        place.refuses(place.words(stage), 3, f"{file}:3: ", says)
        file.write_text(whole)
    place.works(place.words(stage))


def test_a_malformed_third_line_of_every_other_file_is_named(place):
    artifacts = place.store.root / "artifacts"
    pairs = shutil.copyfile(artifacts / "pairs/oracle/v0001/pairs.jsonl", artifacts / "pairs.jsonl")
    votes = shutil.copyfile(artifacts / "votes/oracle/v0001/votes.jsonl", place.root / "votes.jsonl")
    pairs = shutil.move(pairs, place.root / "pairs.jsonl")
    store = ["--name", "again", "--store", str(place.store.root)]
    gold = [
        "annotate",
        "--samples",
        "samples/samples",
        "--samples",
        "samples/wrong",
        "--gold",
        f"{place.root}/prefs.jsonl",
    ]
    for file, words in (
        (pairs, ["annotate", "--by", "oracle", "--pairs", str(pairs)]),
        (votes, ["annotate", "--by", "oracle", "--pairs", "pairs", "--votes", str(votes)]),
        (place.root / "prefs.jsonl", gold),
        (place.root / "cases.jsonl", ["eval", "--videos", f"x={place.root}/videos", "--cases", f"{place.root}/cases.jsonl"]),
        (place.root / "cases.jsonl", ["eval", "--base", "tiny-phantom", "--cases", f"{place.root}/cases.jsonl"]),
    ):  # fmt: skip
        whole = file.read_text()
        break_third_line(file, lambda line: line.replace('_id"', '_it"').replace('"prompt"', '"promt"'))
        place.refuses([*words, *store], 3, f"{file}:3: field '")
        file.write_text(whole)


def test_a_wrong_label_names_the_known_ones(place):
    file = place.root / "prefs.jsonl"
    break_third_line(file, lambda line: line.replace('"label":"a"', '"label":"left"'))
    place.refuses(place.words("train-rm"), 3, f"{file}:3: field 'label': 'left' is not known", "both_bad")


@pytest.mark.parametrize("kind", [*NO_VIDEOS, "missing"])
def test_a_video_that_is_none_is_named_and_once_mended_the_stage_works(kind, place):
    clip = clips_of(place)[0]
    whole = clip.read_bytes()
    for stage in WATCHING:
        if kind == "missing":
            clip.unlink()
        else:
            clip.write_bytes(NO_VIDEOS[kind](whole))
        place.refuses(place.words(stage), 3, str(clip))
        clip.write_bytes(whole)
        place.works(place.words(stage))


def test_videos_of_any_tool_that_are_none_are_named(place):
    clip = clips_of(place)[0]
    words = ["eval", "--videos", f"x={place.root}/videos", "--cases", f"{place.root}/cases.jsonl"]
    words += ["--store", str(place.store.root), "--name", "again"]
    whole = clip.read_bytes()
    for change in NO_VIDEOS.values():
        clip.write_bytes(change(whole))
        place.refuses(words, 3, str(clip))
    clip.write_bytes(whole)
    place.works(words)


def test_the_page_refuses_clips_it_cannot_show_before_anybody_votes(place):
    clip = clips_of(place)[0]
    clip.write_text("not a video")
    words = ["annotate", "--samples", f"{place.root}/samples.jsonl", "--samples", f"{place.root}/wrong.jsonl"]
    words += ["--port", "0", "--store", str(place.store.root)]
    place.refuses(words, 3, f"{clip}: not a readable video")


@pytest.mark.parametrize("kind", [*NO_VIDEOS, "missing"])
def test_distort_says_which_clip_it_left_out_and_takes_it_once_mended(kind, place):
    first, *others = clips_of(place)
    whole = first.read_bytes()
    if kind == "missing":
        first.unlink()
    else:
        first.write_bytes(NO_VIDEOS[kind](whole))
    answer = place.run(place.words("distort"))
    assert answer.code == 0 and answer.document["clips_used"] == len(others)
    assert "skipped 1 of 3 clips" in answer.err and str(first) in answer.err
    first.write_bytes(whole)
    assert place.works(place.words("distort"))["clips_used"] == len(others) + 1


def test_distort_refuses_when_no_clip_is_a_video(place):
    whole = {clip: clip.read_bytes() for clip in clips_of(place)}
    for clip in whole:
        clip.write_text("no")
    place.refuses(place.words("distort"), 3, "no pair could be made from 3 clips", str(next(iter(whole))))
    for clip, content in whole.items():
        clip.write_bytes(content)
    place.works(place.words("distort"))


@pytest.mark.parametrize("stage", ["train-rm", "train-policy", "sample", "eval"])
def test_a_reference_that_is_missing_or_no_picture_is_named_and_once_mended_the_stage_works(stage, place):
    portrait = portraits_of(place)[0]
    whole = portrait.read_bytes()
    portrait.write_text("no picture")
    answer = place.refuses(place.words(stage), 3, str(portrait), "not a readable image")
    told = answer.document["error"]["message"].splitlines()
    assert all(line.count(f"{portrait}: ") <= 1 for line in told), "named once for each line of the data that needs it"
    portrait.unlink()
    place.refuses(place.words(stage), 3, str(portrait))
    portrait.write_bytes(whole)
    place.works(place.words(stage))


def test_people_are_not_asked_about_a_reference_that_is_missing(place):
    portrait = portraits_of(place)[0]
    portrait.unlink()
    words = ["annotate", "--samples", f"{place.root}/samples.jsonl", "--samples", f"{place.root}/wrong.jsonl"]
    words += ["--port", "0", "--transcode", "--store", str(place.store.root)]
    place.refuses(words, 3, f"{portrait}: there is no such file")


def test_distort_says_whose_reference_is_missing_and_takes_the_clip_once_it_is_back(place):
    portrait = portraits_of(place)[0]
    whole = portrait.read_bytes()
    portrait.unlink()
    answer = place.run(place.words("distort"))
    assert answer.code == 0 and answer.document["clips_used"] == 2
    assert "skipped 1 of 3 clips" in answer.err and str(portrait) in answer.err
    portrait.write_bytes(whole)
    assert place.works(place.words("distort"))["clips_used"] == 3


def break_third_line(file, change):
    lines = file.read_text().splitlines()
    assert change(lines[2]) != lines[2]
    lines[2] = change(lines[2])
    file.write_text("\n".join(lines) + "\n")


def clips_of(place: Place):
    return sorted((place.root / "videos").iterdir())


def portraits_of(place: Place):
    return sorted((place.root / "portraits").glob("*-0.png"))
