"""Schedules and steps of flow matching: pure functions, no state.

Reads: latents, velocities and sigmas. Writes: the next latents, and the log probability of a step.
"""

from idgrpo.plugins import Registry

_LAWS = {
    "wan": "idgrpo.flow.laws:wan_std",
    "flow": "idgrpo.flow.laws:flow_std",
    "dance": "idgrpo.flow.laws:dance_std",
    "cps": "idgrpo.flow.laws:cps_std",
}
LAWS = Registry("idgrpo.step_laws", _LAWS)
"""Stochastic laws by name; each is a function that gives the noise level of a step (see `laws.py`)."""

SOLVERS: dict[str, str] = {
    "euler": "idgrpo.flow.solver:EulerSolver",
    "second-order": "idgrpo.flow.solver:MultistepSolver",
}
"""Deterministic solvers by name."""
