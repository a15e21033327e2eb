#!/usr/bin/env bash
# Everything that wants a GPU, in one call of under 9 minutes: the tests that skip without one, the benchmark of a joint
# step at the paper's networks and batch 40, the data loader's rate, a short run whose loss must fall, and its resumption.
#   bash scripts/gpu_check.sh [FOLDER]     # writes FOLDER/gpu_check.log (default: gpu_check); PYTHON chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu_check}" && cd "${1:-gpu_check}" && pwd)
python=${PYTHON:-$PWD/.venv/bin/python}
samples=${BATCH:-40}
exec > >(tee "$out/gpu_check.log") 2>&1

step() { echo; echo "== $* ($(date -u +%H:%M:%S))"; }
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
[ -n "$device" ] || [ -n "${WITHOUT_GPU:-}" ] || { echo "gpu_check: torch sees no CUDA GPU here." >&2; exit 1; }
echo "$(date -u +%F) ${device:-no GPU}, $(nproc) CPU cores, torch $("$python" -c 'import torch; print(torch.__version__)')"

step tests
timeout 90 "$python" -m pytest tests/noiseda_model/test_gpu.py

failed=
step a joint step
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True timeout 320 "$python" scripts/benchmark.py step --batch "$samples" \
    --only fp32 'bf16, channels last, compiled' --hinge closed open --rounds 4 --equal 5 --json "$out/step.json" \
    || failed+=" (a joint step)"

step the data loader
timeout 35 "$python" scripts/benchmark.py data --images 20 --rounds 3 --seconds 0.2 || failed+=" (the data loader)"

step a short run
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" scripts/make_demo_data.py "$work/data"
train() {
    (cd "$work" && timeout 35 "$python" "$OLDPWD/scripts/train.py" -opt "$OLDPWD/options/train/train_demo_adapted.yml" \
        --auto_resume --force_yml name=check path:pretrain_network_g=none train:engine:precision=bf16 \
        logger:print_freq=10 logger:save_checkpoint_freq=100 "$@" 2>&1) | tee -a "$work/log" | grep -E 'iter: .*(10|00), |Resum|error' || true
}
train train:total_iter=200
train train:total_iter=300
grep -o 'l_pix: [^ ]*' "$work/log" | awk '{ value[NR] = $2 }
    END { for (i = 1; i <= 5; i++) { first += value[i]; last += value[NR - i + 1] }
          printf "l_pix, means of the first and last five lines: %.4f -> %.4f\n", first / 5, last / 5
          exit !(NR == 30 && last < first) }'
grep -q 'Resuming training from epoch: 0, iter: 200' "$work/log"
[ -z "$failed" ] || { echo "gpu_check: failed or not done in its time:$failed" >&2; exit 1; }
step "done, all well"
