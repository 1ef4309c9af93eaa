"""What a run, a study or a sweep is: fields, their checks, and what follows from them.

A config file of `configs/` needs these names alone.
"""

from mae_jax.config.fields import EVALUATIONS, QUICK, TASKS, defaults, probe_of, study_defaults, sweep_defaults
from mae_jax.config.loading import flatten, init_of, load, one_of, parse_arg
from mae_jax.config.naming import default_workdir

__all__ = [
    "EVALUATIONS",
    "QUICK",
    "TASKS",
    "default_workdir",
    "defaults",
    "flatten",
    "init_of",
    "load",
    "one_of",
    "parse_arg",
    "probe_of",
    "study_defaults",
    "sweep_defaults",
]
