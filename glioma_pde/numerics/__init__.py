"""Kernels on arrays: diffusion, taxis, elliptic solves, time steps. No biology here."""
