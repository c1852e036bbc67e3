# %% [markdown]
# The whole loop from Python, on the embedded world: every stage is a function that gives an artifact.
# The same calls run as commands (`idgrpo sample`, `idgrpo distort`, ..); both find what the other made.
# Run it as a script, or cell by cell. Artifacts go to `./idgrpo-store`, or where $IDGRPO_STORE says.

# %%
import sys

from idgrpo import stages

# %% Cases (who should appear, and what they do), and videos of a base.
cases = stages.cases()
samples = stages.sample(cases, base="tiny-phantom", settings={"num_per_case": 2})

# %% Preferences: identity damaged in known ways, and votes of simulated annotators.
damaged = stages.distort(samples, settings={"people.finder": "tiny"})
voted = stages.annotate([samples], by="oracle")

# %% A reward model. `score` takes videos, the photos of each person, and prompts.
rm = stages.train_rm([damaged, voted])
model = stages.load_reward_model(rm)
first = stages.read_samples(samples)[0]
video, photos = stages.read_video(first.video), [stages.read_image(r.images[0]) for r in first.references]
(score,) = model.score([video], [photos], [first.prompt])
sys.stdout.write(f"reward of {first.id}: {score:.3f}\n")

# %% A tuned policy, and videos before and after from the same noise.
policy = stages.train_policy("tiny-phantom", cases, rm, settings={"num_updates": 2})
new = {"seed": 1000}
before = stages.sample(cases, base="tiny-phantom", settings=new, name="before")
after = stages.sample(cases, policy=policy, settings=new, name="after")

# %% The comparison, and the tuned base itself for code of one's own.
report = stages.evaluate({"base": before, "tuned": after}, reward=rm)
sys.stdout.write(f"report: {report.path / 'report.html'}\n")
tuned = stages.load_tuned_base(policy)
sys.stdout.write(f"{tuned.name} with {policy.ref}\n")

# %% What came from what. Videos of any other tool are evaluated by `stages.evaluate(videos={"base": folder}, cases=cases)`.
other = stages.evaluate(videos={"base": before.path / "videos"}, cases=cases, name="by-folder")
for artifact in (cases, samples, damaged, voted, rm, policy, before, after, report, other):
    sys.stdout.write(f"{artifact.ref:<28} {artifact.digest}\n")
