#!/usr/bin/env bash
# Crystals of nickel and of aluminium by models trained on EAM labels, beside arXiv 2311.05407. Started again, it goes on.
#   scripts/metals_study.sh DATA [OUT]     DATA: folder with eam/Ni-Nb_1.eam.fs and eam/Al1.eam.fs
set -euo pipefail
data=$(cd "${1:?folder with eam/Ni-Nb_1.eam.fs and eam/Al1.eam.fs}" && pwd)
out=${2:-metals}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}
seeds=${SEEDS:-1,2,3}
steps=${STEPS:-4000}
export OMP_NUM_THREADS=1
mkdir -p "$out"
out=$(cd "$out" && pwd)

try() { # COMMAND: a run that diverges, or a model without minima (exit code 1), is counted on the page
    "$@" || { local code=$?; [ "$code" -eq 1 ] || exit "$code"; }
}

"$python" "$root/scripts/metals_sample.py" "$data/eam" "$out/pools" --steps "${MD_STEPS:-50}"

train() { # METAL
    try "$python" "$root/train.py" -m pool=files pool.name="$1" pool.path="$out/pools/$1" "pool.require=[energy,forces,stress]" \
        pool.level=EAM data=full model=msmace model.channels=16 model.hidden_l_max=0 \
        "model.scales=[{cutoff: 3.6, channels: 16, l_max: 2, radial_mlp: [16, 16, 8]}, {cutoff: 5.1, channels: 8, l_max: 1, radial_mlp: [16, 8]}]" \
        "seed=$seeds" threads=1 logger=files report=false gate=false training.steps="$steps" training.validations=5 training.loss.stress.weight=3000 \
        hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" "hydra.sweep.dir=$out/runs/$1" "hydra.sweep.subdir=seed\${seed}"
}

relax() { # METAL NAME MODEL ELEMENT
    local folder=$out/crystals/$1/$2
    if [ -f "$folder/crystals.json" ]; then return; fi
    try "$python" -m msmlff.app relax "models=$3" "crystals=[$4]" threads=1 "hydra.run.dir=$folder"
}

study() { # METAL ELEMENT EAM
    train "$1"
    relax "$1" eam "$data/eam/$3" "$2"
    for seed in ${seeds//,/ }; do
        if grep -qs '"status": "finished"' "$out/runs/$1/seed$seed/record.json"; then relax "$1" "seed$seed" "$out/runs/$1/seed$seed" "$2"; fi
    done
}

study nickel Ni Ni-Nb_1.eam.fs
study aluminium Al Al1.eam.fs
"$python" "$root/scripts/metals_page.py" "$out"
