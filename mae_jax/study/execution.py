"""Runs the runs of a study or sweep: pre-training first, then the others, one after the other or side by side."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from mae_jax.config.fields import RunConfig, StudyConfig, SweepConfig
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents
from mae_jax.rundir.trackers import refuse_missing as refuse_missing_trackers
from mae_jax.runtime import machine, processes, signals
from mae_jax.runtime.disk import OF_ONE_PATH, disk_line, exists
from mae_jax.runtime.errors import Stopped, StorageError, UserError
from mae_jax.runtime.progress import Progress, rough
from mae_jax.runtime.text import count
from mae_jax.study import plan, side_by_side
from mae_jax.study.attempt import attempt
from mae_jax.study.board import Board
from mae_jax.study.cells import Run
from mae_jax.study.team import Place, Team, call
from mae_jax.train import loop


def run_all(
    config: StudyConfig | SweepConfig,
    runs: Sequence[Run],
    progress: Progress,
    signals_received: list[int],
    cache: DataCache | None = None,
    gpus: Sequence[str] = (),
) -> dict[Path, RunConfig]:
    """Runs the unfinished ones of `runs`. Returns those that are still missing at the end.

    A run is missing if its config is refused, it diverges, another process uses it, its directory cannot be written, or
    its process is lost. The reason is printed, and the other runs continue, except those that need its weights. All
    images are opened before the first run starts, or none if all runs are finished; `cache` keeps them for further
    calls. `gpus` are those of `side_by_side.gpus`, `signals_received` is the list of `collect_signals`. Raises
    UserError for images or a config that cannot be used, StorageError if nothing can be written, and `errors.Stopped`
    after a signal.
    """
    refuse_missing_trackers(sorted({name for _, run in runs for name in run.log.trackers}))
    execution = _Execution(config, runs, progress, signals_received)
    if all(exists(directory / contents.RESULTS) for directory, _ in runs):
        execution.again(cache or DataCache())
        return execution.missing
    with tempfile.TemporaryDirectory(prefix="mae_jax_") as folder:
        if gpus:
            execution.on_gpus(gpus, folder)
        else:
            execution.here(cache or DataCache(), folder)
    return execution.missing


class _Execution:
    """The runs of one call of `run_all`, numbered from 0 in the order of the plan."""

    def __init__(
        self, config: StudyConfig | SweepConfig, runs: Sequence[Run], progress: Progress, signals_received: list[int]
    ):
        self.config, self.runs, self.progress, self.signals_received = config, runs, progress, signals_received
        self.missing: dict[Path, RunConfig] = {}
        self.nothing_changed = f"nothing was changed; {finished_of(runs)}"

    def again(self, cache: DataCache) -> None:
        """Reads the results of finished runs, without a plan. Images are opened only if a run must be recomputed."""
        self.progress.costs = [0.0] * len(self.runs)
        for number in range(len(self.runs)):
            self.run_here(number, cache)

    def here(self, cache: DataCache, folder: str) -> None:
        """Plans and pre-trains in this process, then runs the others here or in workers on their own cores."""
        for line in machine.devices():
            self.progress.say(line)
        with processes.at_once(self.nothing_changed):
            self.planned = plan.make(self.runs, cache, loop.checking(self.progress))
        self.describe()
        first, rest = self.split()
        for number in first:
            self.run_here(number, cache)
        todo = side_by_side.jobs(self.planned, rest)
        places = side_by_side.places(self.config, self.planned, todo)
        if places:
            with Team(places, side_by_side.keep(cache, folder)) as team:
                with processes.at_once(finished_of(self.runs)):
                    chosen = side_by_side.chosen(self.config, team, self.planned, todo, self.progress)
                if chosen:
                    self.run_in(team, todo)
                    rest = []
        for number in rest:
            self.run_here(number, cache)

    def on_gpus(self, gpus: Sequence[str], folder: str) -> None:
        """Plans and pre-trains in one worker with all GPUs, then runs the others in one worker per GPU."""
        with Team([Place(gpus=",".join(gpus))]) as team:
            with signals.interruptible(self.nothing_changed):
                board = Board([""], [0.0], self.progress.every_seconds, 1)
                (self.planned,) = call(team.workers, board, "plan", self.runs, folder)
            self.describe()
            first, rest = self.split()
            self.run_in(team, [[number] for number in first])
        todo = side_by_side.jobs(self.planned, rest)
        if todo:
            places = [Place(gpus=name) for name in gpus[: len(todo)]]
            self.progress.say(f"{count(len(places), 'run')} at once, each on its own GPU")
            with Team(places, side_by_side.images_in(folder)) as team:
                self.run_in(team, todo)

    def describe(self) -> None:
        """Prints the plan."""
        for line in plan.describe(self.planned):
            self.progress.say(line)
        self.progress.costs = [run.seconds for run in self.planned]

    def split(self) -> tuple[list[int], list[int]]:
        """The numbers of the runs that go first, which are finished or which others need, and of the rest."""
        early = [run.done or not run.config.traits.labeled for run in self.planned]
        return [k for k, first in enumerate(early) if first], [k for k, first in enumerate(early) if not first]

    def run_here(self, number: int, cache: DataCache) -> None:
        """Runs one run in this process."""
        if self.signals_received:
            raise signals.stopped(self.signals_received, finished_of(self.runs))
        directory, run = self.runs[number]
        if run.traits.updates:  # the others end within seconds
            self.progress.say(f"[{number + 1}/{len(self.runs)}] {run.name}")
        self.progress.run = number - 1
        outcome: str | Exception
        try:
            self.refuse_without_weights(number)
            outcome = attempt(directory, run, self.progress, cache, plan.cleaned_when_finished(run))
        except Stopped as stop:
            raise Stopped(f"{stop} ({finished_of(self.runs)})") from None
        except (UserError, OSError) as error:
            outcome = error
        self.note(number, outcome, self.progress)
        if self.progress.run < number:  # it was already finished, or never started
            self.progress.skip()

    def run_in(self, team: Team, todo: Sequence[side_by_side.Job]) -> None:
        """Runs all jobs in the workers of `team`."""
        names = [run.name for _, run in self.runs]
        board = Board(names, [run.seconds for run in self.planned], self.progress.every_seconds, len(team.workers))
        ready = []
        for job in todo:
            kept = []
            for number in job:
                try:
                    self.refuse_without_weights(number)
                    kept.append(number)
                except UserError as error:
                    self.note(number, error, board)
            ready += [kept] if kept else []

        def message(number: int) -> tuple[str, Path, RunConfig, bool]:
            directory, run = self.runs[number]
            return "run", directory, run, plan.cleaned_when_finished(run)

        for number, outcome in team.do(ready, message, board, self.signals_received):
            self.note(number, outcome, board)
        if self.signals_received:
            raise signals.stopped(self.signals_received, finished_of(self.runs))

    def refuse_without_weights(self, number: int) -> None:
        """Raises UserError if a run needs the weights of a missing one."""
        start = self.runs[number][1].init_from
        before = [run for place, run in self.missing.items() if str(place.resolve()) == start]
        if before:
            raise UserError(f"it needs the weights of {before[0].name}, which is missing")

    def note(self, number: int, outcome: str | Exception, progress: Progress | Board) -> None:
        """Prints the outcome of a run, and notes it if it is missing. Raises a bug, and what stops all runs."""
        directory, run = self.runs[number]
        if isinstance(outcome, Exception):
            one_path = isinstance(outcome, OSError) and outcome.errno in OF_ONE_PATH and jax.process_count() == 1
            if isinstance(outcome, StorageError) or not (isinstance(outcome, UserError) or one_path):
                raise outcome
            self.missing[directory] = run
            outcome = f"missing: {disk_line(outcome) if isinstance(outcome, OSError) else outcome}"
        left = progress.seconds_left()
        more = f" · about {rough(left)} left" if left else ""
        progress.say(f"[{number + 1}/{len(self.runs)}] {run.name}: {outcome}{more}")


def finished_of(runs: Sequence[Run]) -> str:
    """Text such as "3 of 12 runs are finished", according to the results in their directories."""
    finished = sum(exists(directory / contents.RESULTS) for directory, _ in runs)
    return f"{finished} of {count(len(runs), 'run')} {'is' if finished == 1 else 'are'} finished"
