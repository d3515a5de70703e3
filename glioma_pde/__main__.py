"""``python -m glioma_pde``."""

from .cli import main

raise SystemExit(main())
