#!/usr/bin/env bash
# How long clusters of molecules stay whole in hot dynamics, with and without bond stretching. Started again, it goes on.
#   scripts/survival_study.sh DATA [OUT]     DATA: folder with organics_gfn2xtb
set -euo pipefail
data=$(cd "${1:?folder with organics_gfn2xtb}" && pwd)
out=${2:-survival}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}
seeds=${SEEDS:-1,2}
steps=${STEPS:-4000}
jobs=${JOBS:-2}
kelvin=${TEMPERATURES:-800}
replicas=$(($(wc -w <<< "$kelvin") * ${REPLICAS:-10}))
temperatures=$(for t in $kelvin; do for _ in $(seq "${REPLICAS:-10}"); do echo "$t"; done; done | paste -sd,)
export OMP_NUM_THREADS=1
mkdir -p "$out"
out=$(cd "$out" && pwd)

try() { # COMMAND: a run that fails or diverges (exit code 1) is counted on the page; the study goes on
    "$@" || { local code=$?; [ "$code" -eq 1 ] || exit "$code"; }
}

"$python" "$root/scripts/survival_prepare.py" "$data/organics_gfn2xtb" "$out/start" --processes "$jobs" \
    --frames "${FRAMES:-250}" --temperatures $kelvin --reference-steps "${REFERENCE_STEPS:-4000}"

train() { # ARM
    try "$python" "$root/train.py" -m pool=organics "pool.path=$out/start" "pool.train=[$1.extxyz.gz]" "pool.val=[val.extxyz.gz]" \
        "pool.test=[test.extxyz.gz]" pool.keys.group=part pool.group_label=part \
        data=full model=msmace model.channels=16 model.hidden_l_max=0 \
        "model.scales=[{cutoff: 3.0, channels: 16, l_max: 2, radial_mlp: [16, 16, 8]}, {cutoff: 5.0, channels: 8, l_max: 1, radial_mlp: [16, 8]}]" \
        "model.zbl=${ZBL:-true}" "seed=$seeds" threads=1 logger=files report=false gate=false training.steps="$steps" training.validations=5 \
        hydra/launcher=joblib "hydra.launcher.n_jobs=$jobs" "hydra.sweep.dir=$out/runs/$1" "hydra.sweep.subdir=seed\${seed}"
}

simulate() { # ARM SEED
    local run=$out/runs/$1/seed$2 folder=$out/md/$1/seed$2
    if ! grep -qs '"status": "finished"' "$run/record.json"; then return; fi
    if grep -qsE '"status": "(finished|diverged)"' "$folder/record.json"; then return; fi
    if [ -f "$folder/restart.safetensors" ]; then
        try "$python" -m msmlff.app simulate "resume=$folder"
        return
    fi
    try "$python" -m msmlff.app simulate "models=$run" "system=$out/start/equilibrium.extxyz" "replicas=$replicas" "seed=$2" \
        ensemble=nvt ensemble.thermostat=langevin "temperature=[$temperatures]" timestep=0.5 "steps=${MD_STEPS:-50000}" threads=1 \
        output.every=50 output.thermo_every=500 output.format=hdf5 output.velocities=false "hydra.run.dir=$folder"
}
export -f simulate try
export out python replicas temperatures

for arm in plain stretched; do train "$arm"; done
for seed in ${seeds//,/ }; do
    for arm in plain stretched; do echo "$arm $seed"; done
done | xargs -P "$jobs" -L 1 bash -c 'simulate "$@"' simulate
"$python" "$root/scripts/survival_page.py" "$out"
