#!/usr/bin/env bash
# The networks that docs/selection.md ranks. Finished ones are kept, so it may be stopped and started again.
#     bash scripts/selection_study.sh FOLDER
# FOLDER/datasets must hold bsds500_train.lmdb, bsds500_val.lmdb and polyu_train_noisy.lmdb (docs/data.md); experiments
# appear in FOLDER.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$repo/.venv/bin/python}
cd "$1"

train() {  # OPTION_FILE NAME ITERATIONS SAVED_EVERY OPTION...
    local file=$1 name=$2 iterations=$3 every=$4
    shift 4
    [ -f "experiments/$name/models/net_g_latest.pth" ] && return
    "$python" "$repo/scripts/train.py" -opt "$repo/options/train/$file.yml" --force_yml "name=$name" \
        "train:total_iter=$iterations" "logger:save_checkpoint_freq=$every" logger:use_tb_logger=false \
        datasets:train:dataroot_gt=datasets/bsds500_train.lmdb datasets:train:batch_size_per_gpu=4 \
        datasets:train:num_worker_per_gpu=0 datasets:train:persistent_workers=false "$@" > "$name.log" 2>&1 \
        || { tail -n 20 "$name.log" >&2; exit 1; }
    grep 'iter:  ' "$name.log" | tail -n 1
}

vanilla() {  # NAME DEGRADATION
    train train_demo_vanilla "$1" 1000 250 "datasets:train:degradation=$2"
}

adapt() {  # DOMAIN START BETA: from iteration 1000 of the vanilla network START
    train train_demo_adapted "$1_from_$2_beta$3" 100 50 "datasets:train:dataroot_real=datasets/$1" \
        "train:diffusion_opt:beta=$3" "path:pretrain_network_g=experiments/$2/models/net_g_1000.pth" \
        datasets:train:gt_size=32
}

[ -d datasets/truth ] || "$python" "$repo/scripts/make_selection_data.py" datasets/bsds500_val.lmdb datasets
for sigma in 75 50 25; do
    vanilla "awgn$sigma" "{type: awgn, sigma: [0, $sigma]}"
done
vanilla correlated '{type: correlated_noise, sigma: 15, blur: 1.0, quality: 90}'  # as in make_selection_data.py
vanilla camera '{type: camera, shot: [0.0003, 0.006]}'
for domain in correlated_train camera_train polyu_train_noisy.lmdb; do
    adapt $domain awgn75 2
    adapt $domain awgn75 20
    adapt $domain awgn25 2
done
