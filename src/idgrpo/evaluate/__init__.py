"""Finished videos -> measures that cannot be fooled. Reads samples (base and tuned, same cases and seeds) and references.

Writes a report: report.json, report.html (self-contained), contact_sheet.png, table.md, table.tex; caches observations.
"""

MEASURES: dict[str, str] = {
    "identity": "idgrpo.evaluate.identity:identity",
    "worst": "idgrpo.evaluate.identity:worst",
    "separation": "idgrpo.evaluate.identity:separation",
    "wrong_reference": "idgrpo.evaluate.identity:wrong_reference",
    "margin": "idgrpo.evaluate.identity:margin",
    "confusion": "idgrpo.evaluate.identity:confusion",
    "swap_rate": "idgrpo.evaluate.presence:swap_rate",
    "coverage": "idgrpo.evaluate.presence:coverage",
    "count_accuracy": "idgrpo.evaluate.presence:count_accuracy",
    "face_area": "idgrpo.evaluate.presence:face_area",
    "face_detail": "idgrpo.evaluate.presence:face_detail",
    "drift": "idgrpo.evaluate.change:drift",
    "copy_paste": "idgrpo.evaluate.change:copy_paste",
    "copied": "idgrpo.evaluate.change:copied",
    "dynamic_degree": "idgrpo.evaluate.motion:dynamic_degree",
    "sharpness": "idgrpo.evaluate.texture:sharpness",
    "ripple": "idgrpo.evaluate.texture:ripple",
    "saturation": "idgrpo.evaluate.texture:saturation",
}
"""Our measures: functions of a Subject; each carries its title and direction (`measure.py`)."""

FIELD_MEASURES: dict[str, str] = {
    "facesim_largest": "idgrpo.evaluate.field:facesim_largest",
    "best_pair": "idgrpo.evaluate.field:best_pair",
    "per_frame_hungarian": "idgrpo.evaluate.field:per_frame_hungarian",
    "single_face_consistency": "idgrpo.evaluate.field:single_face_consistency",
    "dynamic_share": "idgrpo.evaluate.field:dynamic_share",
}
"""What other projects report, for comparison; their faults are in their docstrings and shown by tests."""

SCORERS: dict[str, str] = {"identity_by_template": "idgrpo.tinyworld.oracle:identity_by_template"}
"""Measures that need the pixels: function(clips, references) -> one score per person and clip. Chosen by configuration."""
