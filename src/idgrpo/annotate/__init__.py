"""Reads pairs (or samples, from which it makes pairs) and asks people, models or simulated annotators which is better.
Writes votes (append-only) and the preferences aggregated from them, with a report on how far they can be trusted."""

# --by value -> the function that turns pairs into votes; import strings, so that listing them costs nothing
VOTERS = {
    "people": "idgrpo.annotate.session:serve_session",
    "oracle": "idgrpo.annotate.oracle:simulate_votes",
    "judge": "idgrpo.annotate.judge:judge_votes",
}
