import pytest
import torch
from tiny_checkpoints import SIZE

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.generate import SampleJob, draw_noise, generate, jobs_of, sample_latents
from idgrpo.errors import DataError, MachineError, StoppedError
from idgrpo.records.models import Case, Reference

COUNTS = {"one": 1, "three": 3, "two": 2}
SIZED = {"width": SIZE.width, "height": SIZE.height, "frames": SIZE.frames}


@pytest.fixture
def cases():
    return [
        Case(
            id=name,
            prompt=f"{name} people walk",
            references=[Reference(person=f"p{k}", images=[f"{k}.png"]) for k in range(count)],
        )
        for name, count in COUNTS.items()
    ]


@pytest.fixture
def read(photos):
    return lambda case: photos[: len(case.references)]


def frames_of(base, jobs, read, **sampler):
    config = SamplerConfig(**({"num_steps": 3} | SIZED | sampler))
    return {(clip.case.id, clip.seed): clip.frames for clip in generate(base, jobs, sampler=config, read=read)}


@pytest.mark.parametrize("extra", [{}, {"solver": "second-order"}, {"law": "wan"}, {"law": "cps", "guidance": 3.0}])
def test_a_clip_depends_on_case_and_seed_alone(base, cases, read, extra):
    jobs = jobs_of(cases, seed=5, num_per_case=2)
    together = frames_of(base, jobs, read, batch_size=4, **extra)
    for job in (jobs[0], jobs[3]):
        alone = frames_of(base, [job], read, batch_size=1, **extra)[job.case.id, job.seed]
        assert alone.shape == (9, 3, 32, 32)
        assert alone.dtype == torch.uint8
        assert int((alone.int() - together[job.case.id, job.seed].int()).abs().max()) <= 1


@pytest.mark.parametrize("extra", [{}, {"solver": "second-order"}, {"law": "wan"}])
def test_clean_latents_of_a_mixed_batch_equal_the_case_alone(base, photos, extra):
    config = SamplerConfig(num_steps=4, guidance=3.0, **SIZED, **extra)
    conditions = [base.encode(f"{count} people", photos[:count], SIZE) for count in (1, 3, 2, 4)]
    names = [(7, f"case-{index}") for index in range(4)]

    def latents(members):
        batch = base.collate([conditions[k] for k in members])
        noise = draw_noise(base, batch, [("noise", *names[k]) for k in members])
        return sample_latents(base, batch, noise, config, [names[k] for k in members])

    together = latents(range(4))
    for index in range(4):
        alone = latents([index])
        padding = together.shape[2] - alone.shape[2]
        assert float((alone - together[index : index + 1, :, padding:]).abs().max()) < 1e-5


def test_no_room_for_the_videos_is_said_before_any_is_made(phantom, cases, read, tmp_path, monkeypatch):
    from idgrpo.bases.sampling import sample_to_folder

    monkeypatch.setattr("idgrpo.run.machine.free_disk_bytes", lambda path: 2 * 3 * 3 * 32 * 32 * 9 - 1)
    config = SamplerConfig(num_steps=1, **SIZED)
    with pytest.raises(MachineError, match="the disk has 0 MiB left"):
        sample_to_folder(phantom, jobs_of(cases), tmp_path, sampler=config, lossless=True, read=read)
    assert not list(tmp_path.rglob("*.mp4"))
    assert len(sample_to_folder(phantom, jobs_of(cases), tmp_path, sampler=config, lossless=False, read=read)) == 3


def test_seeds_and_cases_give_different_clips(phantom, cases, read):
    clips = list(frames_of(phantom, jobs_of(cases[:2], seed=0, num_per_case=2), read).values())
    assert all(not torch.equal(a, b) for i, a in enumerate(clips) for b in clips[:i])


def test_a_stochastic_law_is_a_function_of_the_seed_too(phantom, cases, read):
    jobs = [SampleJob(cases[0], 0)]
    first = frames_of(phantom, jobs, read, law="wan")["one", 0]
    assert torch.equal(first, frames_of(phantom, jobs, read, law="wan")["one", 0])
    assert not torch.equal(first, frames_of(phantom, jobs, read)["one", 0])


def test_noise_of_a_name_is_the_same_in_every_batch(vace, cases, photos):
    conditions = [vace.encode(case.prompt, photos[: len(case.references)], SIZE) for case in cases]
    names = [("noise", 0, case.id) for case in cases]
    together = draw_noise(vace, vace.collate(conditions), names)
    for index, (condition, name) in enumerate(zip(conditions, names, strict=True)):
        alone = draw_noise(vace, vace.collate([condition]), [name])
        padding = together.shape[2] - alone.shape[2]
        assert torch.equal(together[index : index + 1, :, padding:], alone)
        assert not together[index, :, :padding].any()


def test_seeds_come_from_the_case_unless_told(cases):
    own = [cases[0].model_copy(update={"seed": 7}), cases[1]]
    assert [job.seed for job in jobs_of(own, num_per_case=2)] == [7, 8, 0, 1]
    assert [job.seed for job in jobs_of(own, seed=3)] == [3, 3]


def test_errors_name_the_case(phantom, cases):
    with pytest.raises(DataError, match="case 'one': reference 1 is 9x8 px"):
        frames_of(phantom, jobs_of(cases), lambda _case: [torch.zeros(3, 8, 9, dtype=torch.uint8)])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stopped_run_goes_on_and_ends_the_same(phantom, cases, photos, read, tmp_path, batch_size):
    from idgrpo.bases.sampling import sample_to_folder

    config = SamplerConfig(num_steps=2, batch_size=batch_size, **SIZED)
    jobs = jobs_of(cases, num_per_case=2)
    whole = sample_to_folder(phantom, jobs, tmp_path / "whole", sampler=config, read=read)

    def stop():
        if len(list((tmp_path / "parts" / "videos").glob("*.mp4"))) == 3:
            raise StoppedError("stop")

    with pytest.raises(StoppedError):
        sample_to_folder(phantom, jobs, tmp_path / "parts", sampler=config, read=read, check=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "videos").iterdir()}
    assert len(kept) == 3
    parts = sample_to_folder(phantom, jobs, tmp_path / "parts", sampler=config, read=read)
    for name, time_ns in kept.items():
        assert (tmp_path / "parts" / "videos" / name).stat().st_mtime_ns == time_ns
    for a, b in zip(whole, parts, strict=True):
        assert a.model_copy(update={"video": ""}) == b.model_copy(update={"video": ""})
        with open(a.video, "rb") as x, open(b.video, "rb") as y:
            assert x.read() == y.read()


def test_what_is_missing_is_made_in_the_batches_of_the_whole(phantom, cases, read, monkeypatch):
    """The last bits of a clip depend on how many are made together: a resumed run must not make smaller batches."""
    jobs, config = jobs_of(cases, num_per_case=2), SamplerConfig(num_steps=1, batch_size=3, **SIZED)
    sizes, collate = [], phantom.collate
    monkeypatch.setattr(phantom, "collate", lambda found, **given: sizes.append(len(found)) or collate(found, **given))
    whole = {(clip.case.id, clip.seed): clip.frames for clip in generate(phantom, jobs, sampler=config, read=read)}
    in_all, made = list(sizes), list(whole)[:4]
    sizes.clear()
    is_made = lambda job: (job.case.id, job.seed) in made  # noqa: E731
    rest = {(c.case.id, c.seed): c.frames for c in generate(phantom, jobs, sampler=config, read=read, made=is_made)}
    assert sizes == in_all[1:] and rest.keys() == whole.keys() - set(made)
    assert all(torch.equal(frames, whole[name]) for name, frames in rest.items())
    assert not list(generate(phantom, jobs, sampler=config, read=read, made=lambda job: True))


def test_file_names_are_safe_and_stay_apart():
    from idgrpo.bases.sampling import sample_id

    assert sample_id("case-1", 3) == "case-1--s3"
    assert "/" not in sample_id("../a/b", 0)
    assert sample_id("a/b", 0) != sample_id("a_b", 0) != sample_id("a:b", 0)
