#!/usr/bin/env bash
# CPD with other descriptors, kernel widths and neighbour counts: docs/cpd_descriptors.md. Started again, it goes on.
#   scripts/cpd_descriptors.sh DATA [OUT]     DATA: folder with organics_gfn2xtb and dense_hydrogen_pbe
#   POOLS=organics,dense_hydrogen scripts/cpd_descriptors.sh DATA     these pools alone
set -euo pipefail
data=${1:?folder with organics_gfn2xtb and dense_hydrogen_pbe}
out=${2:-cpd_descriptors}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}
export OMP_NUM_THREADS=1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$data"

. "$root/scripts/pools.sh"
pools=${POOLS:-organics,dense_hydrogen_pbe,dense_hydrogen}

study() { # POOL
    local name=$1
    pool_settings "$name"
    compare() { # NAME, then overrides
        "$python" -m msmlff.app compare "hydra.sweep.dir=$out/$name/$1" "budgets=[25,100,400]" "${pool[@]}" "${learner[@]}" "${@:2}"
    }
    compare default selector=random,cpd
    compare default selector=cpd selector.bandwidth=0.5,1.0,2.0
    compare default selector=cpd selector.density=knn selector.neighbors=3,10,30
    compare seed1 selector=random,cpd descriptor.seed=1
    compare channels64 selector=random,cpd descriptor.channels=64
    compare cutoff2.5 selector=random,cpd descriptor.cutoff=2.5
    compare layers1 selector=random,cpd descriptor.layers=1
    # a model of few labels, as there is one in a loop of labelling
    [ -f "$out/$name/model/model.safetensors" ] || "$python" "$root/train.py" "${pool[@]}" data=random_25 model=msmace model.channels=16 \
        model.hidden_l_max=0 "model.scales=[{cutoff: $cutoff, channels: 16, l_max: 2, radial_mlp: [16, 16, 8]}]" training.steps=300 threads=1 \
        logger=files report=false gate=false "hydra.run.dir=$out/$name/model"
    compare trained selector=random,cpd descriptor=model "descriptor.path=$out/$name/model"
}

for name in ${pools//,/ }; do pool_settings "$name"; done # a wrong name is refused before the first study
for name in ${pools//,/ }; do study "$name"; done
"$python" "$root/scripts/cpd_descriptors_page.py" "$out"
