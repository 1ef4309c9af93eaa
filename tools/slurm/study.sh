#!/bin/bash
# A study as job arrays, one run per task, and the report after them:
#   tools/slurm/study.sh --config=configs/demo.py --workdir=runs/demo [--config.FIELD=VALUE ...]
# What sbatch should know besides stands in SBATCH_OPTIONS, for example SBATCH_OPTIONS="--partition=gpu --gpus=1".
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
# The ordinary command finds every run finished and writes the report; it does what is missing, should a task have failed.
job=$(submit $after --job-name=report --output=slurm-%x-%j.log --wrap="$(printf '%q ' python -m mae_jax.main "$@")")
echo "report: job $job"
