"""Runs one run of a study, as a task of a job array. tools/slurm/study.sh calls it.

    python tools/slurm/cell.py --config=FILE --workdir=DIR --stage=pretrain|finetune [--count | --number=N]

Call it with --count first: this prints the number of runs and creates the study's directory.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from absl import flags
from ml_collections import ConfigDict

from mae_jax import main
from mae_jax.config.fields import QUICK
from mae_jax.config.naming import default_workdir
from mae_jax.runtime.command import say
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

_STAGE = flags.DEFINE_enum("stage", "finetune", ["pretrain", "finetune"], "Stage of the study.")
_NUMBER = flags.DEFINE_integer("number", 0, "Index of the run within the stage, from 0.")
_COUNT = flags.DEFINE_bool("count", False, "Print the number of runs in the stage and exit.")


def run(config: ConfigDict, workdir: str | None = None) -> None:
    """Runs one cell, or prints the number of cells. Raises UserError if the config is not a study."""
    from mae_jax.data.splits import DataCache
    from mae_jax.rundir import contents
    from mae_jax.runtime import machine, processes
    from mae_jax.study import cells, images_seen, label_study
    from mae_jax.study.results import summary
    from mae_jax.study.validation import validate_study
    from mae_jax.train import loop

    if config.get("task") != "study":
        raise UserError(f"task={config.get('task')} is not a study; use a study's config, such as configs/study.py")
    study = validate_study(config)
    directory = Path(workdir or default_workdir(study))
    trained = images_seen.equal(study, directory, cells.runs(study, directory), DataCache())
    # Quick probes are left to the study's own command, which computes the frozen encoder's features once.
    trained = [each for each in trained if each[1].task not in QUICK]
    runs = [each for each in trained if (each[1].task == "pretrain") == (_STAGE.value == "pretrain")]
    directory.mkdir(parents=True, exist_ok=True)
    label_study.keep_study(study, directory, leader=_COUNT.value)  # written before the tasks, which compare
    if _COUNT.value:
        print(len(runs))
        return
    if not 0 <= _NUMBER.value < len(runs):
        raise UserError(
            f"--number={_NUMBER.value} is out of range; the study has {count(len(runs), 'run')} in stage "
            f"{_STAGE.value}, counted from 0"
        )
    wanted = runs[_NUMBER.value][1]
    before = [place for place, _ in cells.pretrainings(study, directory) if str(place.resolve()) == wanted.init_from]
    if before and not (before[0] / contents.RESULTS).exists():
        raise UserError(
            f"{wanted.name} would start from {before[0]}, which is not finished; finish that run first, or use the "
            f"study's ordinary command, which computes everything missing"
        )
    machine.keep_memory()
    processes.start_processes()
    ((place, cell),) = label_study.configured([runs[_NUMBER.value]])
    results = loop.run(cell, place)
    say(f"{cell.name}: {summary(results)}")


if __name__ == "__main__":
    main.cli(command=run)  # the same flags, messages and exit codes
