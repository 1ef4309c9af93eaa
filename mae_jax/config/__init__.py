"""Configs of runs, studies and sweeps: fields, loading, validation, and derived values.

Config files and notebooks need only the names exported here.
"""

from mae_jax.config.fields import defaults, probe_of, study_defaults, sweep_defaults
from mae_jax.config.loading import flatten, init_of, load, one_of, parse_arg
from mae_jax.config.naming import default_workdir
from mae_jax.config.tasks import EVALUATIONS, QUICK, TASKS

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
