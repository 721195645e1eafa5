# Sourced by compare_selectors.sh and cpd_descriptors.sh: the pools of both studies, and what learns from each.

pool_settings() { # NAME: sets pool and learner, overrides of msmlff compare, and cutoff, Å of the learner
    case $1 in
        organics) pool=(pool=organics pool.path=organics_gfn2xtb) cutoff=4.0 learner=(learner.channels=24) ;;
        dense_hydrogen_pbe) pool=(pool=dense_hydrogen_pbe pool.path=dense_hydrogen_pbe) cutoff=2.5 learner=(learner.channels=32 learner.l_max=2) ;;
        dense_hydrogen) pool=(pool=dense_hydrogen) cutoff=2.5 learner=(learner.channels=32 learner.l_max=2) ;;
        *)
            echo "there is no pool $1: write organics, dense_hydrogen_pbe or dense_hydrogen" >&2
            return 2
            ;;
    esac
    learner=("learner.cutoff=$cutoff" "${learner[@]}")
}
