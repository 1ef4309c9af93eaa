# again COMMAND: runs it, and where it stopped with its state saved (exit code 75) puts the job back into the queue.
again() {
  "$@"
  local code=$?
  if [ $code -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 120 # Slurm ends this one
  fi
  exit $code
}
