#!/usr/bin/env bash
# CPD with other descriptors, kernel widths and neighbour counts: docs/cpd_descriptors.md. Started again, it goes on.
#   scripts/cpd_descriptors.sh DATA [OUT]     DATA: folder with organics_gfn2xtb and dense_hydrogen_pbe
set -euo pipefail
data=${1:?folder with organics_gfn2xtb and dense_hydrogen_pbe}
out=${2:-cpd_descriptors}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}
export OMP_NUM_THREADS=1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$data"

study() { # POOL SCALE, then overrides of the pool and of the learner
    local name=$1 scale=$2 pool=() learner=() word
    shift 2
    for word in "$@"; do if [[ $word == learner.* ]]; then learner+=("$word"); else pool+=("$word"); fi; done
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
        model.hidden_l_max=0 "model.scales=[{cutoff: $scale, channels: 16, l_max: 2, radial_mlp: [16, 16, 8]}]" training.steps=300 threads=1 \
        logger=files report=false gate=false "hydra.run.dir=$out/$name/model"
    compare trained selector=random,cpd descriptor=model "descriptor.path=$out/$name/model"
}

hydrogen=(learner.cutoff=2.5 learner.channels=32 learner.l_max=2)
study organics 4.0 pool=organics pool.path=organics_gfn2xtb learner.cutoff=4.0 learner.channels=24
study dense_hydrogen_pbe 2.5 pool=dense_hydrogen_pbe pool.path=dense_hydrogen_pbe "${hydrogen[@]}"
study dense_hydrogen 2.5 pool=dense_hydrogen "${hydrogen[@]}"
"$python" "$root/scripts/cpd_descriptors_page.py" "$out"
