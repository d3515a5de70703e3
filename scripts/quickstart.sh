#!/usr/bin/env bash
# Makes the environment, installs, and runs the main job: three arms of stem-cell therapy in the MNI152 brain.
# Results (HDF5, figures) go to results/brain_stem_cell_therapy. Further arguments go to `glioma-pde run`; their paths are
# those of the folder it is called from.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" atlas
cd "$caller"
exec glioma-pde run "$root/configs/brain_stem_cell_therapy.toml" --out "$root/results/brain_stem_cell_therapy" --jobs 2 "$@"
