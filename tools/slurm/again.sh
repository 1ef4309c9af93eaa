# again COMMAND: runs the command. If it stopped with its state saved (exit code 75), the job is requeued.
again() {
  "$@"
  local code=$?
  if [ $code -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 120 # until Slurm ends this job
  fi
  exit $code
}
