"""The objectives of the tasks, one file each. `config.tasks.TRAITS` names the objective of a task."""
