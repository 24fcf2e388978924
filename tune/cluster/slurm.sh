#!/bin/bash
# A search on SLURM, as `lfvd-tune slurm` prints it; slurm.md beside the template describes it. Submit: `sbatch THIS_FILE`.
# What only your site knows goes on that command line, where it beats the lines below, for instance
# `sbatch --partition=P --account=A --mem=100G THIS_FILE`.
#SBATCH --job-name=@job@
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=@nodes@
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@cpus@
#SBATCH --gpus-per-node=@gpus@
#SBATCH --time=@time@
# A node that dies takes its own trials with it, not the job.
#SBATCH --no-kill
# So many seconds before the time limit the search is wound down; then the job goes back into the queue.
#SBATCH --signal=B:TERM@240
#SBATCH --requeue

set -uo pipefail

# All of these must lie where every node sees them under the same path.
environment=@environment@
results=@results@
data=@data@
search=(lfvd-tune search @plan@ --data "$data" --name @name@ --results "$results")

export PATH=$environment:$PATH
scratch=/tmp/lfvd-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}  # on each node; short, since socket names are built on it
ray=() driver='' signalled='' lost=''

# Ray's nodes trust whoever holds this token: a file that only its owner can read.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$results/.ray-token-$SLURM_JOB_ID
# A node that stops answering is given up within ten seconds, not after more than a minute.
export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=1500 RAY_health_check_failure_threshold=3
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # when Ray is ended here, the search has ended: there is nothing to wait for

# ray_node FOLDER OPTION...: a Ray node until SIGTERM. Ray takes free ports, so that other jobs on the host are not in the way.
ray_node() {
    mkdir -m 700 "$1" || exit
    ray start --block --disable-usage-stats --temp-dir="$1" --num-cpus=@cpus@ --num-gpus=@gpus@ \
        --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 "${@:2}" &
    trap 'kill $!' TERM
    while kill -0 $! 2>/dev/null; do wait $!; done
    rm -rf "$1"
}

# start NODE FOLDER OPTION...: ray_node there. A step of its own for each, so that a lost node ends no other.
start() {
    srun --export=ALL --nodes=1 --ntasks=1 --cpus-per-task=@cpus@ --nodelist="$1" \
        bash -c "$(declare -f ray_node); "'ray_node "$@"' ray_node "${@:2}" &
    ray+=($!)
}

stop_ray() {
    if [[ ${#ray[@]} -gt 0 ]]; then
        scancel --quiet --signal=TERM "$SLURM_JOB_ID"  # to the steps; not to this script
        (sleep 30; kill -KILL "${ray[@]}") &>/dev/null &  # a node that fell silent would be waited for
        wait "${ray[@]}"
        ray=()
    fi
    rm -f "$RAY_AUTH_TOKEN_PATH"
}

# At the time limit's warning the job is RUNNING, and goes back into the queue when the search has wound down; a search that
# hangs is ended in time for that, and loses nothing by it. A cancelled job is no longer RUNNING: it has seconds, and stays away.
wind_down() {
    [[ $driver ]] || { echo 'ended before the search began' >&2; exit 130; }
    for _ in 1 2 3 4 5; do  # a controller under load may not answer at once
        signalled=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T 2>/dev/null) && [[ $signalled ]] && break
        sleep 2
    done
    [[ $signalled == C* ]] && patience=10 || { signalled=RUNNING patience=120; }
    kill "$driver" 2>/dev/null
    (sleep "$patience"; kill "$driver"; sleep 10; kill -KILL "$driver") &>/dev/null &
}

trap stop_ray EXIT
trap wind_down TERM
mkdir -p "$results"
(umask 077; python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH") || exit

head=(--head --port=0 --include-dashboard=false)
# Where grpcio is installed, the head also opens Ray's client port, which has a fixed default.
python -c 'import grpc' 2>/dev/null && head+=(--ray-client-server-port=$((20000 + SLURM_JOB_ID % 10000)))
start "$SLURMD_NODENAME" "$scratch-0" "${head[@]}"
for ((second = 0; second < 180; second++)); do
    [[ ! -s $scratch-0/ray_current_cluster ]] || break
    kill -0 "${ray[0]}" 2>/dev/null || { echo 'the Ray head ended at once: see its output above' >&2; exit 1; }
    sleep 1
done
address=$(<"$scratch-0/ray_current_cluster") || { echo 'the Ray head did not come up within 180 s' >&2; exit 1; }
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    [[ $node == "$SLURMD_NODENAME" ]] || start "$node" "$scratch-${#ray[@]}" --address="$address"
done

# The search asks every node what it is, so let them join; one that does not is no reason to wait for ever.
python - "$address" "$SLURM_JOB_NUM_NODES" <<'END'
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 120
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]) and time.monotonic() < deadline:
    time.sleep(1)
END

epochs=$results/@name@/epochs.jsonl
trained() { stat --format=%s "$epochs" 2>/dev/null || echo 0; }
before=$(trained)
"${search[@]}" --address "$address" &
driver=$!
while kill -0 "$driver" 2>/dev/null; do wait "$driver"; done  # a signal ends one `wait`
wait "$driver"
status=$?
trap '' TERM
# Without its head, Ray ends the search on the spot, with whatever exit code.
kill -0 "${ray[0]}" 2>/dev/null || lost=1
stop_ray

if [[ ($signalled == RUNNING && $status -gt 2) || ($lost && $status -ne 0) ]]; then
    [[ $(trained) -gt $before ]] || { echo 'not one epoch came of this job: give it a longer --time' >&2; exit 1; }
    [[ $lost ]] && why='the Ray head was lost' || why='time is up'
    echo "$why after $SECONDS s: back into the queue, where the search goes on"
    scontrol requeue "$SLURM_JOB_ID" || { sleep 20; scontrol requeue "$SLURM_JOB_ID"; } ||
        echo 'this site requeues no jobs: submit the script again' >&2
elif [[ $status -eq 130 ]]; then
    echo 'to go on, submit this script again: the Ray cluster of this job has ended'
fi
exit "$status"
