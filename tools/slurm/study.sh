#!/bin/bash
# Submits a study as job arrays, one run per task, followed by the report:
#   tools/slurm/study.sh --config=configs/demo.py --workdir=runs/demo [--config.FIELD=VALUE ...]
# Set further sbatch options in SBATCH_OPTIONS, for example SBATCH_OPTIONS="--partition=gpu --gpus=1".
set -euo pipefail
submit() { sbatch --parsable ${SBATCH_OPTIONS:-} "$@"; }

after=""
for stage in pretrain finetune; do
  runs=$(python tools/slurm/cell.py --stage=$stage --count "$@")
  [ "$runs" -gt 0 ] || continue
  job=$(submit $after --job-name="$stage" --array="0-$((runs - 1))" tools/slurm/cell.sbatch --stage=$stage "$@")
  echo "$stage: job $job, $runs runs"
  after="--dependency=afterany:$job"
done
# The study's ordinary command writes the report. If a task failed, it first computes what is missing.
job=$(submit $after --job-name=report --output=slurm-%x-%j.log --wrap="$(printf '%q ' python -m mae_jax.main "$@")")
echo "report: job $job"
