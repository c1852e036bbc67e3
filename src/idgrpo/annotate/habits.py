"""A model of annotators: how often each says what, estimated together with the true classes."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from idgrpo.annotate.table import CLASSES, MIRROR, VoteTable

NUM_CLASSES = len(CLASSES)


@dataclass(frozen=True)
class Habits:
    """What the model found."""

    posterior: np.ndarray  # float64 [pair, class]: how likely each class is the true one
    confusion: np.ndarray  # float64 [annotator, true class, answer]: rows sum to 1
    prior: np.ndarray  # float64 [class]
    num_rounds: int
    converged: bool


def estimate_habits(
    table: VoteTable, *, smoothing: float = 1.0, max_rounds: int = 200, tolerance: float = 1e-6
) -> Habits:
    """Interval true classes and confusion tables by expectation-maximisation (Dawid and Skene 1979).

    P(votes, class t of a pair) = prior[t] * prod over votes of confusion[annotator, t, answer]. Two things differ from
    the paper. Which clip is called `a` is a coin flip, so prior and confusion are tied under swapping a and b: half the
    parameters, and no annotator can seem to prefer a name. Each confusion row carries `smoothing` pseudo-votes spread
    like the whole panel's row, so an annotator with few votes looks like the average one. Starts from vote shares.
    """
    votes = table.opinions
    num_pairs, num_annotators = len(table.pairs), len(table.annotators)
    counts = votes.counts().astype(np.float64)
    voted = counts.sum(1) > 0
    posterior = np.where(voted[:, None], counts, 1.0)
    posterior /= posterior.sum(1, keepdims=True)
    confusion, prior = _maximise(votes, posterior, voted, num_annotators, smoothing)
    num_rounds, converged = 0, False
    for num_rounds in range(1, max_rounds + 1):  # noqa: B007 the last value is reported
        before = posterior
        posterior = _expect(votes, confusion, prior, num_pairs)
        confusion, prior = _maximise(votes, posterior, voted, num_annotators, smoothing)
        if np.abs(posterior - before).max(initial=0.0) < tolerance:
            converged = True
            break
    return Habits(posterior, confusion, prior, num_rounds, converged)


def _expect(votes: VoteTable, confusion: np.ndarray, prior: np.ndarray, num_pairs: int) -> np.ndarray:
    log_likelihood = np.log(confusion)[votes.annotator, :, votes.answer]  # [vote, true class]
    log_posterior = np.tile(np.log(prior), (num_pairs, 1))
    for true in range(NUM_CLASSES):
        log_posterior[:, true] += np.bincount(votes.pair, log_likelihood[:, true], minlength=num_pairs)
    log_posterior -= log_posterior.max(1, keepdims=True)
    posterior = np.exp(log_posterior)
    return posterior / posterior.sum(1, keepdims=True)


def _maximise(
    votes: VoteTable, posterior: np.ndarray, voted: np.ndarray, num_annotators: int, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    counts = np.zeros((num_annotators, NUM_CLASSES, NUM_CLASSES))
    cell = votes.annotator * NUM_CLASSES + votes.answer
    for true in range(NUM_CLASSES):
        weight = posterior[votes.pair, true]
        counts[:, true] = np.bincount(cell, weight, minlength=num_annotators * NUM_CLASSES).reshape(-1, NUM_CLASSES)
    counts += counts[:, MIRROR][:, :, MIRROR]
    panel = counts.sum(0) + 0.02 + 0.94 * np.eye(NUM_CLASSES)  # a class nobody met: answered right, mostly
    panel /= panel.sum(1, keepdims=True)
    counts += smoothing * panel
    prior = posterior[voted].sum(0) + 0.5
    prior = prior + prior[MIRROR]
    return counts / counts.sum(2, keepdims=True), prior / prior.sum()


def skills(table: VoteTable, habits: Habits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give each annotator's skill, its standard error on the logit scale and the votes for a side: each [annotator].

    Skill = of the answers for a side on pairs that have a better side, the share for the better one; 0.5 is guessing.
    The error is that of maximum likelihood, from the scores of all annotators together (empirical Fisher information),
    so that it grows when few others vouch for the truth. Infinite where there is no vote for a side.
    """
    votes = table.opinions
    num_annotators = len(table.annotators)
    for_side = votes.answer < 2
    right, wrong = habits.confusion[:, 0, 0], habits.confusion[:, 0, 1]
    skill = right / (right + wrong)
    pair, annotator, answer = votes.pair[for_side], votes.annotator[for_side], votes.answer[for_side]
    own, other = habits.posterior[pair, answer], habits.posterior[pair, 1 - answer]
    score = own * (1 - skill[annotator]) - other * skill[annotator]  # d log P(votes) / d logit(skill)
    scores = csr_array((score, (pair, annotator)), shape=(len(table.pairs), num_annotators))
    information = (scores.T @ scores).toarray()
    num_votes = np.bincount(annotator, minlength=num_annotators)
    error = np.full(num_annotators, np.inf)
    seen = np.flatnonzero(num_votes)
    if len(seen):
        known = information[np.ix_(seen, seen)] + 1e-9 * np.eye(len(seen))
        error[seen] = np.sqrt(np.maximum(np.diag(np.linalg.pinv(known, hermitian=True)), 0.0))
    return skill, error, num_votes
