#!/usr/bin/env bash
# Dense hydrogen as in arXiv 2604.03027: models of 200 chosen frames and of all, then 1000 K over the densities with each.
# Started again, it goes on.
#   scripts/hydrogen_study.sh DATA [OUT]     DATA: folder with dense_hydrogen_pbe
# In the environment: STEPS (of training), MD_STEPS (0.5 fs), SEEDS, DATASETS, DENSITIES (0: all), STARTS (frames a density),
# JOBS (processes of one thread).
set -euo pipefail
data=$(cd "${1:?folder with dense_hydrogen_pbe}" && pwd)
out=${2:-hydrogen}
root=$(cd "$(dirname "$0")/.." && pwd)
export python=${PYTHON_BIN:-$root/.venv/bin/python}
export root out MD_STEPS=${MD_STEPS:-2000}
export OMP_NUM_THREADS=1
jobs=${JOBS:-2}
mkdir -p "$out"
out=$(cd "$out" && pwd)

scales="[{cutoff: 2.5, channels: 16, l_max: 2, radial_mlp: [16, 16, 8]}]"

train() { # POOL, then overrides of the pool; a training that diverges is a failure that the page counts
    "$python" "$root/train.py" -m model=msmace model.channels=16 model.hidden_l_max=0 "model.scales=$scales" \
        "data=${DATASETS:-cpd_200,random_200,direct_200,full}" "seed=${SEEDS:-1,2,3}" "data.selection_seed=\${seed}" \
        "training.steps=${STEPS:-1000}" training.validations=5 threads=1 logger=files report=false gate=false \
        hydra/launcher=joblib "hydra.launcher.n_jobs=$jobs" \
        "hydra.sweep.dir=$out/$1/models" "hydra.sweep.subdir=\${data.name}/seed\${seed}" "${@:2}" \
        || echo "some trainings of $1 failed" >&2
}

md() { # POOL NAME/SEED: all starts in one batch, then what is seen
    local folder=$out/$1/md/$2 status=""
    mkdir -p "$folder"
    [ ! -f "$folder/record.json" ] || status=$(sed -n 's/^ *"status": "\(.*\)".*/\1/p' "$folder/record.json")
    if [[ $status != finished && $status != diverged ]]; then
        if [ -f "$folder/restart.safetensors" ]; then
            "$python" -m msmlff.app simulate "resume=$folder" || true
        else
            "$python" -m msmlff.app simulate "model=$out/$1/models/$2" "system=$out/$1/starts.extxyz" index=all \
                ensemble=nvt ensemble.thermostat_time=50 temperature=1000 timestep=0.5 "steps=$MD_STEPS" "seed=${2##*seed}" \
                output.every=20 output.thermo_every=20 output.format=hdf5 output.velocities=false picture=false threads=1 \
                "hydra.run.dir=$folder" || true # all replicas failed: counted by the page
        fi
    fi
    [ -f "$folder/observed.json" ] || "$python" "$root/scripts/hydrogen_observe.py" observe "$folder" "$out/$1/labels.json"
}
export -f md

study() { # POOL TEST_FRAMES DENSITIES POOL_FRAMES (empty: not looked at), then overrides of the pool
    mkdir -p "$out/$1"
    [ -f "$out/$1/starts.extxyz" ] || "$python" "$root/scripts/hydrogen_observe.py" starts "$2" "$out/$1" \
        --densities "${DENSITIES:-$3}" --starts "${STARTS:-1}" ${4:+--pool "$4"}
    train "$1" "${@:5}"
    (cd "$out/$1/models" && ls -d */seed*/model.safetensors) | sed 's|/model.safetensors||' \
        | xargs -P "$jobs" -I{} bash -ec 'md "$@"' _ "$1" {}
}

study dense_hydrogen "$root/msmlff/data/pools/dense_hydrogen/test.extxyz.gz" 12 "" pool=dense_hydrogen
pbe=$data/dense_hydrogen_pbe
study dense_hydrogen_pbe "$pbe/test.extxyz.gz" 0 "$pbe/pool_575.extxyz.gz" pool=dense_hydrogen_pbe "pool.path=$pbe"
"$python" "$root/scripts/hydrogen_page.py" "$out"
