"""Speed of the tumour step and of the whole therapy step: ``python -m benchmarks``; see README.md beside this file."""
