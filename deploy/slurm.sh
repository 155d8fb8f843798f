#!/bin/bash
# A search as a Slurm job that outlives its allocation:
#
#   sbatch deploy/slurm.sh act_cifar80no --name mine --trials 64
#   CONDITIONS="sym20 sym80 asym40" sbatch --array=0-2 deploy/slurm.sh act_cifar80no     # a job per noise condition
#
# The words after the script are those of `python -m tune_lnl.search`. Shortly before the time is over, or when the job is
# preempted, Slurm sends a signal; the search stops, with a checkpoint of every running trial, and the job is queued
# again. The next start continues with --resume. docs/slurm.md explains the rest.
#
#SBATCH --job-name=tune_lnl
#SBATCH --time=12:00:00
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
##SBATCH --gres=gpu:1

set -u
PYTHON=${PYTHON:-python}
words=("$@")

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ] && [ -n "${CONDITIONS:-}" ]; then
    read -r -a conditions <<<"$CONDITIONS"
    condition=${conditions[$SLURM_ARRAY_TASK_ID]:?"CONDITIONS names fewer conditions than the array has tasks"}
    words+=(--condition "$condition" --name "$(basename "${1%.yaml}")-$condition")
fi

# Where the run is: the last --name and --results-dir count, as in Python.
results=results
name=$(basename "${1%.yaml}")
for ((i = 0; i < ${#words[@]}; i++)); do
    case ${words[i]} in
        --name) name=${words[i + 1]:-} ;;
        --name=*) name=${words[i]#*=} ;;
        --results-dir) results=${words[i + 1]:-} ;;
        --results-dir=*) results=${words[i]#*=} ;;
    esac
done
# A requeued job continues its run. In object storage the search itself looks whether there is one.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && { [ -d "$results/$name" ] || [[ $results == *://* ]]; }; then
    words+=(--resume)
fi

asked=0
stop() {
    asked=1
    [ -n "${search:-}" ] && kill -TERM "$search" 2>/dev/null
}
trap stop USR1 TERM

"$PYTHON" -m tune_lnl.search "${words[@]}" &
search=$!
code=143
while kill -0 "$search" 2>/dev/null; do
    wait "$search" # ends early, with more than 128, when a signal comes
    code=$?
done
wait "$search" 2>/dev/null
last=$?
[ "$last" -ne 127 ] && code=$last

# 130: interrupted, and can go on; 143: ended before it handled signals. Any other code is its own end.
if [ "$asked" -eq 1 ] && { [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; }; then
    echo "the time is nearly over: queued again, to continue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
