#!/usr/bin/env bash
# Makes the environment, installs, and runs the main job: three arms of stem-cell therapy in the MNI152 brain.
# Results (HDF5, figures) go to results/brain_stem_cell_therapy. Further arguments go to `glioma-pde run`.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" atlas
exec glioma-pde run configs/brain_stem_cell_therapy.toml --out results/brain_stem_cell_therapy "$@"
