#!/usr/bin/env bash
# Adapt a small denoiser to photos of another camera and show what it gained. No download beyond the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
repo=$PWD
python=$repo/.venv/bin/python
mkdir -p demo && cd demo

echo "demo: 1/6 writing the photos"
"$python" "$repo/scripts/make_demo_data.py" data
step=2
for network in vanilla adapted matched oracle; do
    echo "demo: $step/6 training the $network network (log: demo/$network.log)"
    "$python" "$repo/scripts/train.py" -opt "$repo/options/train/train_demo_$network.yml" > "$network.log" 2>&1 \
        || { tail -n 20 "$network.log" >&2; exit 1; }
    grep 'iter:' "$network.log" | tail -n 1
    step=$((step + 1))
done
echo "demo: 6/6 restoring held-out photos of the target camera"
"$python" "$repo/scripts/compare.py" -opt "$repo/options/train/train_demo_vanilla.yml" --out . --show 3 \
    --lq data/target_test/degraded --gt data/target_test/truth \
    vanilla=experiments/demo_vanilla/models/net_g_latest.pth \
    adapted=experiments/demo_adapted/models/net_g_latest.pth \
    matched=experiments/demo_matched/models/net_g_latest.pth \
    oracle=experiments/demo_oracle/models/net_g_latest.pth
echo "demo: look at demo/comparison.png; networks in demo/experiments, curves: tensorboard --logdir demo/tb_logger"
echo "demo: degraded is the input, vanilla knows Gaussian noise only, adapted (the paper's method) has also seen target"
echo "demo: photos without truth, matched was trained on noise measured in them, oracle on the target's own noise."
echo "demo: All four had 1500 restoration iterations."
