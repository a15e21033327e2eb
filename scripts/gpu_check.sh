#!/usr/bin/env bash
# Everything that wants a GPU, in one call of under 9 minutes: the tests that skip without one, a short run whose loss must
# fall, its resumption, the data loader's rate, and the benchmark of a joint step at the paper's networks and batch 40.
#   bash scripts/gpu_check.sh [FOLDER]     # writes FOLDER/gpu_check.log (default: gpu_check); PYTHON chooses the interpreter
# A part that fails, or is not done in its time, is named at the end; the others are done all the same.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu_check}" && cd "${1:-gpu_check}" && pwd) || exit 1
python=${PYTHON:-$PWD/.venv/bin/python}
[[ $python != */* || $python == /* ]] || python=$PWD/$python
samples=${BATCH:-40}
exec > >(tee "$out/gpu_check.log") 2>&1

step() { echo; echo "== $* ($(date -u +%H:%M:%S))"; }
failed=()
check() {  # check NAME COMMAND...
    local name=$1
    shift
    "$@" || { echo "-- $name: failed, or not done in its time" >&2; failed+=("$name"); }
}

command -v "$python" > /dev/null || { echo "gpu_check: there is no $python; PYTHON=... names another." >&2; exit 1; }
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
[ -n "$device" ] || [ -n "${WITHOUT_GPU:-}" ] || { echo "gpu_check: torch sees no CUDA GPU here." >&2; exit 1; }
echo "$(date -u +%F) ${device:-no GPU}, $(nproc) CPU cores, torch $("$python" -c 'import torch; print(torch.__version__)')"

compiled='bf16, channels last, compiled'
joint_step=("$python" scripts/benchmark.py step --batch "$samples")
# Compiling takes minutes, and torch keeps its result: begun first, done beside what is not timed.
timeout 330 "${joint_step[@]}" --only "$compiled" --rounds 1 --equal 0 > "$out/compiling.log" 2>&1 &
compiling=$!
work=$(mktemp -d)
trap 'kill $compiling 2> /dev/null; rm -rf "$work"' EXIT

step tests
check tests timeout 150 "$python" -m pytest tests/noiseda_model/test_gpu.py

step a short run
log=$out/short_run.log
: > "$log"
train() {
    (cd "$work" && timeout 75 "$python" "$OLDPWD/scripts/train.py" -opt "$OLDPWD/options/train/train_demo_adapted.yml" \
        --auto_resume --force_yml name=check path:pretrain_network_g=none train:engine:precision=bf16 \
        logger:print_freq=10 logger:save_checkpoint_freq=50 "$@" >> "$log" 2>&1) || { tail -n 20 "$log"; return 1; }
}
loss_falls() {
    grep -o 'l_pix: [^ ]*' "$log" | awk '{ value[NR] = $2 }
        END { for (i = 1; i <= 5; i++) { first += value[i]; last += value[NR - i + 1] }
              printf "l_pix, means of the first and last five of %d lines: %.4f -> %.4f\n", NR, first / 5, last / 5
              exit !(NR == 15 && last < first) }'
}
check "demo data" timeout 20 "$python" scripts/make_demo_data.py "$work/data"
check "a short run" train train:total_iter=100
check "its resumption" train train:total_iter=150
check "resumption at iteration 100" grep 'Resuming training from epoch: 0, iter: 100' "$log"
check "a falling loss" loss_falls

step compiling, begun at the start
check compiling wait $compiling
grep 'first two steps' "$out/compiling.log"

step the data loader
check "the data loader" timeout 30 "$python" scripts/benchmark.py data --images 20 --rounds 3 --seconds 0.2

step a joint step
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True check "a joint step" timeout 150 "${joint_step[@]}" --only fp32 "$compiled" \
    --hinge closed open --rounds 4 --equal 5 --json "$out/step.json"

[ ${#failed[@]} -eq 0 ] || { printf -v names '%s, ' "${failed[@]}"; echo "gpu_check: failed or not done in its time: ${names%, }" >&2; exit 1; }
step "done, all well"
