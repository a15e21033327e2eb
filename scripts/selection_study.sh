#!/usr/bin/env bash
# The networks that docs/selection.md ranks. Finished ones are kept, so it may be stopped and started again.
#     bash scripts/selection_study.sh FOLDER
# FOLDER/datasets must hold bsds500_train and bsds500_val (clean photos) and polyu_train (PolyU's noisy ones); experiments
# appear in FOLDER.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$repo/.venv/bin/python}
cd "$1"

train() {  # KIND NAME ITERATIONS SAVED_EVERY OPTION...: an option file of the demo, with other data
    local kind=$1 name=$2 iterations=$3 every=$4
    shift 4
    [ -f "experiments/$name/models/net_g_latest.pth" ] && return
    "$python" "$repo/scripts/train.py" -opt "$repo/options/train/train_demo_$kind.yml" --force_yml "name=$name" \
        "train:total_iter=$iterations" "logger:save_checkpoint_freq=$every" logger:use_tb_logger=false \
        datasets:train:dataroot_gt=datasets/bsds500_train train:engine:precision=bf16 \
        datasets:train:num_worker_per_gpu=0 datasets:train:persistent_workers=false "$@" > "$name.log" 2>&1 \
        || { tail -n 20 "$name.log" >&2; exit 1; }
    grep 'iter:  ' "$name.log" | tail -n 1
}

adapt() {  # DOMAIN START BETA: 400 iterations from iteration 1000 of the vanilla network START
    train adapted "$1_$2_beta$3" 400 200 "datasets:train:dataroot_real=datasets/$1_train" \
        "train:diffusion_opt:beta=$3" "path:pretrain_network_g=experiments/$2/models/net_g_1000.pth"
}

[ -d datasets/truth ] || "$python" "$repo/scripts/make_selection_data.py" datasets/bsds500_val datasets
for sigma in 75 25 50 15; do
    train vanilla "vanilla$sigma" 2000 250 "datasets:train:degradation:sigma=[0,$sigma]"
done
train vanilla vanilla75_seed1 1000 250 manual_seed=1
for domain in correlated camera; do
    adapt $domain vanilla75 2
    adapt $domain vanilla25 2
    adapt $domain vanilla75 10
    adapt $domain vanilla75 0.2
done
train oracle correlated_oracle 1000 500 'datasets:train:degradation={type: correlated_noise, sigma: 15, blur: 1.0, quality: 90}'
train oracle camera_oracle 1000 500 'datasets:train:degradation={type: camera, shot: [0.0003, 0.006]}'
adapt polyu vanilla75 2
